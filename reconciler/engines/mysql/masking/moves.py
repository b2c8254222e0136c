"""Dates, times and numbers that move by a keyed amount or are rounded down, as SQL.

Called by :mod:`.expressions`; computes what :mod:`reconciler.masking.offsets` does. Binary
floating-point numbers are left to that module. Days that do not exist (``0000-00-00``)
say nothing and stay; a ``timestamp`` moves the other way where its years end.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from reconciler.engines.mysql.masking.keys import DIGEST, digest, number, once
from reconciler.masking import offsets
from reconciler.masking.schema import Family
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from reconciler.ids import SecretName
    from reconciler.masking.schema import Column
    from reconciler.spec.masking_policy import Column as Method

OFFSET = "@reconciler_offset"
_MOST_DIGITS = 28
"""Of a decimal number, with which its exact product still fits: the server has 65."""
_YEARS = ("0001-01-01 00:00:00", "9999-12-31 23:59:59.999999")
_OF_TIMESTAMP = ("1970-01-01 00:00:01", "2038-01-19 03:14:07")


def masked(  # noqa: PLR0911 - one form per method
    method: Method, value: str, column: Column, source: str, secret: SecretName
) -> str | None:
    """Return the moved value; NULL for NULL, None if that is not for SQL to compute.

    ``source`` is the text that decides about the amount: the value's own, or another column's.
    """
    match method:
        case spec.ShiftDays():
            return _shift(value, column, source, secret, method.shift_days, unit="DAY")
        case spec.Shift() if column.family is Family.DATE:
            return _shift(value, column, source, secret, method.shift.days, unit="DAY")
        case spec.Shift():
            return _shift(value, column, source, secret, int(method.shift.total_seconds()), unit="SECOND")
        case spec.Noise() if _exact(column):
            return _noise(method, value, column, source, secret)
        case spec.Bucket() if isinstance(method.bucket, str):
            return _beginning(method.bucket, value)
        case spec.Bucket() if _exact(column):
            return _bucket(float(method.bucket), value, column)
        case _:
            return None


def _exact(column: Column) -> bool:
    if column.family is Family.INTEGER:
        return True
    return column.digits is not None and column.digits[0] <= _MOST_DIGITS


def _moved(value: str, source: str, secret: SecretName, tag: str, largest: int, body: str) -> str:
    """Return ``body``, in which :data:`OFFSET` stands for a number up to ``largest`` that is not 0."""
    drawn = f"MOD({number(0, offsets.OFFSET_BYTES)}, {2 * largest}) - {largest}"
    inner = once(OFFSET, drawn, once(OFFSET, f"{OFFSET} + ({OFFSET} >= 0)", body))
    return f"IF({value} IS NULL, NULL, {once(DIGEST, digest(source, secret, tag), inner)})"


def _shift(value: str, column: Column, source: str, secret: SecretName, largest: int, *, unit: str) -> str:
    first, last = _OF_TIMESTAMP if column.type.startswith("timestamp") else _YEARS
    room = (f"TIMESTAMPDIFF({unit}, {value}, '{last}')", f"TIMESTAMPDIFF({unit}, '{first}', {value})")
    signed = f"IF({OFFSET} > {room[0]} OR -{OFFSET} > {room[1]}, -{OFFSET}, {OFFSET})"
    no_day = " OR ".join(f"{part}({value}) = 0" for part in ("YEAR", "MONTH", "DAYOFMONTH"))
    body = f"IF({no_day}, {value}, DATE_ADD({value}, INTERVAL {signed} {unit}))"
    return _moved(value, source, secret, "shift", largest, body)


def _noise(method: spec.Noise, value: str, column: Column, source: str, secret: SecretName) -> str:
    percent = format(Decimal(repr(method.noise)), "f")
    value = _signed(value, column)
    exact = f"{value} + {value} * {OFFSET} * {percent} * 0.00000001"
    scale = column.digits[1] if column.digits is not None else 0
    body = _within(f"ROUND({exact}, {scale})", column)
    return _moved(value, source, secret, "noise", offsets.NOISE_STEPS, body)


def _bucket(step: float, value: str, column: Column) -> str:
    exact, value = format(Decimal(repr(step)), "f"), _signed(value, column)
    return _within(f"{value} - MOD(MOD({value}, {exact}) + {exact}, {exact})", column)


def _signed(value: str, column: Column) -> str:
    """Return a number that can become less than 0 on the way."""
    return f"CAST({value} AS DECIMAL(20))" if column.family is Family.INTEGER else value


def _within(value: str, column: Column) -> str:
    if column.digits is not None:
        highest = format(offsets.highest(column.digits), "f")
        lowest = f"-{highest}"
    else:
        limit = 1 << (8 * (column.integer_bytes or 8) - 1)
        lowest, highest = str(-limit), str(limit - 1)
    if "unsigned" in column.type:
        lowest = "0"
    return f"LEAST(GREATEST({value}, {lowest}), {highest})"


def _beginning(unit: str, value: str) -> str:
    """Return the beginning of the hour, day, week (Monday), or what it is."""
    year, month = f"LPAD(YEAR({value}), 4, '0')", f"MONTH({value})"
    forms = {
        "hour": f"CONCAT(DATE({value}), ' ', LPAD(HOUR({value}), 2, '0'), ':00:00')",
        "day": f"CONVERT(DATE({value}) USING utf8mb4)",
        "week": f"CONVERT(DATE_SUB(DATE({value}), INTERVAL WEEKDAY({value}) DAY) USING utf8mb4)",
        "month": f"CONCAT({year}, '-', LPAD({month}, 2, '0'), '-01')",
        "quarter": f"CONCAT({year}, '-', LPAD(({month} - 1) DIV 3 * 3 + 1, 2, '0'), '-01')",
        "year": f"CONCAT({year}, '-01-01')",
        "decade": f"CONCAT(LPAD(YEAR({value}) DIV 10 * 10, 4, '0'), '-01-01')",
    }
    return f"IF(YEAR({value}) = 0 OR {value} IS NULL, {value}, {forms[unit]})"
