"""Dates, times and numbers that move by a keyed amount or are rounded down, as SQL.

Called by :mod:`.expressions`; computes what :mod:`reconciler.masking.offsets` does. Values
that the reference cannot hold (infinity, years before 1 and after 9999, NaN) have rules
of their own: infinity and NaN stay, far years move towards ours.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres.masking import keys
from reconciler.engines.postgres.masking.keys import ONCE, once
from reconciler.masking import offsets
from reconciler.masking.schema import Family
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from reconciler.ids import SecretName
    from reconciler.masking.schema import Column
    from reconciler.spec.masking_policy import Column as Method

_FLOATS = {"real", "double precision", "real[]", "double precision[]"}
_LARGEST_REAL = Decimal("3.4028234e38")
_YEARS = ("0001-01-01", "10000-01-01")


def masked(
    method: Method, value: sql.Composable, column: Column, source: sql.Composable, secret: SecretName
) -> sql.Composable:
    """Return the moved value of the column's (or its elements') base type; NULL for NULL.

    ``source`` is the text that decides about the amount: the value's own, or another column's.
    """
    match method:
        case spec.ShiftDays():
            return _shift(value, column, _offset(source, secret, "shift", method.shift_days), days=True)
        case spec.Shift() if column.family is Family.DATE:
            return _shift(value, column, _offset(source, secret, "shift", method.shift.days), days=True)
        case spec.Shift():
            seconds = int(method.shift.total_seconds())
            return _shift(value, column, _offset(source, secret, "shift", seconds), days=False)
        case spec.Noise():
            return _noise(value, column, _offset(source, secret, "noise", offsets.NOISE_STEPS), method.noise)
        case spec.Bucket():
            return _bucket(method.bucket, value, column)
        case _:
            raise TypeError(type(method).__name__)


def exact_number(value: sql.Composable, column: Column) -> sql.Composable:
    """Return a number as numeric; of a binary one 15 digits, as the reference has it."""
    return sql.SQL("{}::float8::numeric" if _is_float(column) else "{}::numeric").format(value)


def _is_float(column: Column) -> bool:
    """Tell whether the column's numbers are binary ones; what a domain hides counts as decimal."""
    return column.type in _FLOATS


def _offset(source: sql.Composable, secret: SecretName, tag: str, largest: int) -> sql.Composable:
    hash_ = keys.digest(source, secret, tag)
    drawn = sql.SQL("mod({number}, {range}) - {largest}").format(
        number=keys.number(ONCE, 0, offsets.OFFSET_BYTES), range=sql.Literal(2 * largest), largest=sql.Literal(largest)
    )
    return once(once(hash_, drawn), sql.SQL("h.v + (h.v >= 0)::integer"))


def _shift(value: sql.Composable, column: Column, offset: sql.Composable, *, days: bool) -> sql.Composable:
    if column.family is Family.DATE:
        moved, back = (sql.SQL("{} {} h.v::integer").format(value, sql.SQL(sign)) for sign in "+-")
        far: sql.Composable = sql.SQL("abs(h.v)::integer")
    else:
        unit = sql.SQL("interval '86400 seconds'" if days else "interval '1 second'")
        moved, back = (sql.SQL("{} {} h.v * {}").format(value, sql.SQL(sign), unit) for sign in "+-")
        far = sql.SQL("abs(h.v) * {}").format(unit)
    body = sql.SQL(
        "CASE WHEN NOT isfinite({value}) THEN {value} WHEN {value} < {first} THEN {value} + {far}"
        " WHEN {value} >= {end} THEN {value} - {far}"
        " WHEN {moved} < {first} OR {moved} >= {end} THEN {back} ELSE {moved} END"
    ).format(
        value=value,
        moved=moved,
        back=back,
        far=far,
        first=sql.Literal(_YEARS[0]),
        end=sql.Literal(_YEARS[1]),
    )
    return sql.SQL("CASE WHEN {value} IS NOT NULL THEN {body} END").format(value=value, body=once(offset, body))


def _noise(value: sql.Composable, column: Column, steps: sql.Composable, percent: float) -> sql.Composable:
    noisy = once(steps, _noisy(value, column, percent))
    return sql.SQL("CASE WHEN {} IS NOT NULL THEN {} END").format(value, noisy)


def _noisy(value: sql.Composable, column: Column, percent: float) -> sql.Composable:
    if _is_float(column):
        return sql.SQL(
            "{value}::float8 * (1.0::float8 + CASE WHEN abs({value}::float8) > 1e37 THEN -abs(h.v) ELSE h.v END"
            " * {percent}::float8 / 1e8::float8)"
        ).format(value=value, percent=sql.Literal(repr(percent)))
    exact = sql.SQL("({value}::numeric + {value}::numeric * h.v * {percent}::numeric * 0.00000001)").format(
        value=value, percent=sql.Literal(repr(percent))
    )
    if column.family is Family.INTEGER:
        return _within(sql.SQL("round({})").format(exact), *_limits(column))
    scale = sql.Literal(column.digits[1]) if column.digits else sql.SQL("scale({}::numeric)").format(value)
    return sql.SQL("CASE WHEN scale({value}::numeric) IS NULL THEN {value}::numeric ELSE {within} END").format(
        value=value, within=_within(sql.SQL("round({}, {})").format(exact, scale), *_limits(column))
    )


def _bucket(step: float | str, value: sql.Composable, column: Column) -> sql.Composable:
    if isinstance(step, str):
        return _beginning(step, value, column)
    exact = sql.SQL("{}::numeric").format(sql.Literal(repr(step)))
    number = exact_number(value, column)
    remainder = sql.SQL("mod(mod({number}, {step}) + {step}, {step})").format(number=number, step=exact)
    floor = _within(sql.SQL("{} - {}").format(number, remainder), *_limits(column))
    return sql.SQL("CASE WHEN scale({number}) IS NULL THEN {number} ELSE {floor} END").format(
        number=number, floor=floor
    )


def _beginning(unit: str, value: sql.Composable, column: Column) -> sql.Composable:
    zone = "with time zone" in column.type
    return sql.SQL(
        "date_trunc({unit}, {value}::timestamptz AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'"
        if zone
        else "date_trunc({unit}, {value}::timestamp)"
    ).format(unit=sql.Literal(unit), value=value)


def _limits(column: Column) -> tuple[str | None, str | None]:
    if column.family is Family.INTEGER:
        limit = 1 << (8 * (column.integer_bytes or 8) - 1)
        return str(-limit), str(limit - 1)
    if column.digits is not None:
        highest = offsets.highest(column.digits)
    elif _is_float(column):
        highest = _LARGEST_REAL if column.type.startswith("real") else offsets.LARGEST_FLOAT
    else:
        return None, None
    return f"-{highest}", str(highest)


def _within(value: sql.Composable, lowest: str | None, highest: str | None) -> sql.Composable:
    if lowest is not None:
        value = sql.SQL("greatest({}, {}::numeric)").format(value, sql.Literal(lowest))
    if highest is not None:
        value = sql.SQL("least({}, {}::numeric)").format(value, sql.Literal(highest))
    return value
