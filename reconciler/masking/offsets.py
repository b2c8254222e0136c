"""Dates, times and numbers that move by a keyed amount, or are rounded down.

The reference of what engines compute. An offset is never 0, and the same for the same
input; with ``by`` the input is another column's value, so that a row's dates move together.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import TYPE_CHECKING

from reconciler.masking.keyed import decimal_of, keyed, number

if TYPE_CHECKING:
    from reconciler.masking.schema import Column

OFFSET_BYTES = 6
NOISE_STEPS = 1_000_000
"""A change is that many steps at most; a step is the percentage divided by it."""
_EXACT = Context(prec=2000)
_MONTHS = {"month": 1, "quarter": 3, "year": 12, "decade": 120}


def offset(text: str, key: bytes, tag: str, largest: int) -> int:
    """Return a number between ``-largest`` and ``largest`` that is not 0."""
    drawn = number(keyed(key, tag, text), 0, OFFSET_BYTES) % (2 * largest) - largest
    return drawn + (drawn >= 0)


def shifted(value: date | datetime, amount: timedelta) -> date | datetime:
    """Return the moved value; the other way where it would leave the years 1 to 9999."""
    try:
        return value + amount
    except OverflowError:
        return value - amount


def noisy_integer(value: int, steps: int, percent: float, column: Column) -> int:
    """Return a whole number changed by so many steps, rounded half away from zero, within its type."""
    result = int(_noisy(Decimal(value), steps, percent).quantize(Decimal(1), ROUND_HALF_UP, _EXACT))
    limit = 1 << (8 * (column.integer_bytes or 8) - 1)
    return min(max(result, -limit), limit - 1)


def noisy_decimal(value: Decimal, steps: int, percent: float, column: Column) -> Decimal:
    """Return a number changed by so many steps, with its column's scale, or its own."""
    if not value.is_finite():
        return value
    exponent = value.as_tuple().exponent
    scale = column.digits[1] if column.digits else max(0, -int(exponent))
    result = _noisy(value, steps, percent).quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, _EXACT)
    if column.digits is None:
        return result
    limit = highest(column.digits)
    return min(max(result, -limit), limit)


def highest(digits: tuple[int, int]) -> Decimal:
    """Return the largest number of a precision and scale: 999.99 for (5, 2)."""
    return Decimal("9" * digits[0]).scaleb(-digits[1], _EXACT)


def _noisy(value: Decimal, steps: int, percent: float) -> Decimal:
    change = _EXACT.multiply(Decimal(steps), Decimal(repr(percent)))
    factor = _EXACT.scaleb(change, -8)  # steps are millionths, percent hundredths
    return _EXACT.add(value, _EXACT.multiply(value, factor))


def bucket_number(value: Decimal, step: float, column: Column) -> Decimal:
    """Return the largest multiple of the step that is not above the value, or the lowest number of a limited column."""
    if not value.is_finite():
        return value
    exact = Decimal(repr(step))
    remainder = _EXACT.remainder(value, exact)
    floor = _EXACT.subtract(value, _EXACT.add(remainder, exact) if remainder < 0 else remainder)
    return floor if column.digits is None else max(floor, -highest(column.digits))


def bucket_time(value: date | datetime, unit: str) -> date | datetime:
    """Return the beginning of the hour, day, week (Monday), month, …, in UTC if the value has a zone."""
    if isinstance(value, datetime):
        utc = value if value.tzinfo is None else value.astimezone(UTC)
        if unit == "hour":
            return utc.replace(minute=0, second=0, microsecond=0)
        start = _first_day(utc.date(), unit)
        return datetime(start.year, start.month, start.day, tzinfo=utc.tzinfo)
    return _first_day(value, unit)


def _first_day(day: date, unit: str) -> date:
    if unit == "day":
        return day
    if unit == "week":
        return day - timedelta(days=day.weekday())
    months = (day.year * 12 + day.month - 1) // _MONTHS[unit] * _MONTHS[unit]
    return date(months // 12, months % 12 + 1, 1)


def bucket_float(value: float, step: float, column: Column) -> float:
    """Return what :func:`bucket_number` does, within what floating-point numbers can be."""
    floor = bucket_number(decimal_of(value), step, column)
    return float(min(max(floor, -LARGEST_FLOAT), LARGEST_FLOAT)) if floor.is_finite() else float(floor)


LARGEST_FLOAT = Decimal("1.7976931348623157e308")


def noisy_float(value: float, steps: int, percent: float) -> float:
    """Return a floating-point number changed by so many steps; one near the end of its range only towards 0."""
    if abs(value) > _NEAR_OVERFLOW:
        steps = -abs(steps)
    return value * (1.0 + steps * percent / 1e8)


_NEAR_OVERFLOW = 1e37
"""Below the largest ``real``, so that both sizes of floating-point numbers behave alike."""
