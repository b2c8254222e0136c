"""What a cell holds, as a value of its column's family, and back: SQLite keeps dates and numbers in any form.

Used by :mod:`.functions` and :mod:`.sample`. A value goes back in the form that it came
in: a date that was text is text of the same layout, one that was a Unix time is one
(https://sqlite.org/lang_datefunc.html). Pure functions; values never show in an error.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any
from uuid import UUID

from reconciler.masking.keyed import canonical, decimal_of
from reconciler.masking.schema import Column, Family

if TYPE_CHECKING:
    from collections.abc import Callable

Cell = str | int | float | bytes | None
"""What SQLite hands out and takes."""

_WRITTEN = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)(?:(?P<between>[T ])(?P<time>\d\d:\d\d(?::\d\d(?:\.(?P<fraction>\d{1,9}))?)?)"
    r"(?P<zone>Z|[+-]\d\d:?\d\d)?)?"
)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - SQLite's times have no zone
_JULIAN_EPOCH = 2440587.5
_MILLISECONDS = 10**11
"""From which on a whole number counts milliseconds: as seconds it would be in the year 5138."""
_LAST_JULIAN = 5373484.5
"""The end of the year 9999."""


class UnfitError(Exception):
    """A cell holds what its column's method cannot be applied to; the message says of what kind, not what."""


@dataclass(frozen=True, slots=True)
class Typed:
    """A value of a family, the column as it is for this value, and how a result is written back."""

    value: object
    column: Column
    back: Callable[[object], Cell]


def typed(cell: Cell, column: Column) -> Typed:
    """Return what a cell holds.

    Raises:
        UnfitError: it is not of the column's family, and cannot be taken for text either.

    """
    if cell is None:
        return Typed(None, column, plain)
    reader = _READERS.get(column.family)
    return reader(cell, column) if reader is not None else Typed(cell, column, plain)


def canonical_of(cell: Cell, column: Column) -> str:
    """Return the text that stands for a cell, as of :func:`reconciler.masking.keyed.canonical`; empty for NULL."""
    if cell is None:
        return ""
    try:
        found = typed(cell, column)
    except UnfitError:
        return str(cell)
    value = found.value
    if isinstance(value, dict | list):
        return json.dumps(value, default=str, ensure_ascii=False)
    return canonical(value, found.column)


def plain(value: object) -> Cell:
    """Return a value as SQLite keeps it."""
    match value:
        case None | str() | float() | bytes():
            return value
        case bool() | int():
            return int(value)
        case Decimal():
            return int(value) if value == value.to_integral_value() and value.is_finite() else float(value)
        case datetime():
            return value.isoformat(" ")
        case dict() | list():
            return json.dumps(value, default=_number, ensure_ascii=False, separators=(",", ":"))
        case _:
            return str(value)


def _text(cell: str | float | bytes, column: Column) -> Typed:
    if isinstance(cell, str):
        return Typed(cell, column, plain)
    if isinstance(cell, bytes):
        try:
            text = cell.decode()
        except UnicodeDecodeError as error:
            raise UnfitError("bytes that are no text") from error
        return Typed(text, column, lambda value: value.encode() if isinstance(value, str) else plain(value))
    return Typed(canonical(cell, column), column, plain)


def _integer(cell: str | float | bytes, column: Column) -> Typed:
    if isinstance(cell, int):
        return Typed(cell, column, plain)
    if isinstance(cell, float):
        return Typed(decimal_of(cell), replace(column, family=Family.NUMBER, integer_bytes=None), plain)
    return _text(cell, replace(column, family=Family.TEXT, integer_bytes=None))


def _number_of(cell: str | float | bytes, column: Column) -> Typed:
    if column.digits is None and isinstance(cell, float):
        return Typed(cell, column, plain)
    if isinstance(cell, int | float):
        return Typed(Decimal(cell) if isinstance(cell, int) else decimal_of(cell), column, plain)
    text = _text(cell, replace(column, family=Family.TEXT))
    try:
        return Typed(Decimal(str(text.value)), column, lambda value: None if value is None else str(value))
    except InvalidOperation:
        return replace(text, column=replace(column, family=Family.TEXT, digits=None))


def _boolean(cell: str | float | bytes, column: Column) -> Typed:
    if isinstance(cell, int) and cell in (0, 1):
        return Typed(bool(cell), column, plain)
    return Typed(cell, column, plain)


def _bytes(cell: str | float | bytes, column: Column) -> Typed:
    if isinstance(cell, bytes):
        return Typed(cell, column, plain)
    return _text(cell, replace(column, family=Family.TEXT))


def _uuid(cell: str | float | bytes, column: Column) -> Typed:
    try:
        if isinstance(cell, bytes):
            return Typed(
                UUID(bytes=cell), column, lambda value: value.bytes if isinstance(value, UUID) else plain(value)
            )
        if isinstance(cell, str):
            return Typed(UUID(cell), column, _spelled_like(cell))
    except ValueError:
        pass
    raise UnfitError("something that is no UUID")


def _spelled_like(cell: str) -> Callable[[object], Cell]:
    def back(value: object) -> Cell:
        if not isinstance(value, UUID):
            return plain(value)
        text = str(value) if "-" in cell else value.hex
        return text.upper() if cell.upper() == cell != cell.lower() else text

    return back


def _json(cell: str | float | bytes, column: Column) -> Typed:
    try:
        document = json.loads(cell if isinstance(cell, str | bytes) else str(cell), parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise UnfitError("something that is no JSON text") from error
    if isinstance(cell, bytes):
        return Typed(document, column, lambda value: _document(value).encode())
    return Typed(document, column, _document)


def _document(value: object) -> str:
    return json.dumps(value, default=_number, ensure_ascii=False, separators=(",", ":"))


def _number(value: object) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def _moment(cell: str | float | bytes, column: Column) -> Typed:
    if isinstance(cell, bytes):
        raise UnfitError("bytes in place of a date")
    if isinstance(cell, str):
        return _written_moment(cell, column)
    column = replace(column, family=Family.TIME)
    try:
        if not isinstance(cell, int) and 0 < cell < _LAST_JULIAN:
            julian = _EPOCH + timedelta(days=cell - _JULIAN_EPOCH)
            return Typed(julian, column, lambda value: _since(value) / 86400 + _JULIAN_EPOCH if value else None)
        unit = 1000 if abs(cell) >= _MILLISECONDS else 1
        kind = type(cell)
        moment = _EPOCH + timedelta(seconds=cell / unit)
        return Typed(moment, column, lambda value: kind(round(_since(value) * unit, 6)) if value else None)
    except (OverflowError, ValueError) as error:
        raise UnfitError("a number that is no time") from error


def _since(value: object) -> float:
    if not isinstance(value, datetime):
        raise UnfitError("something that is no time")
    return (value - _EPOCH).total_seconds()


def _written_moment(cell: str, column: Column) -> Typed:
    found = _WRITTEN.fullmatch(cell.strip())
    if found is None:
        if not cell.strip():
            return Typed(cell, replace(column, family=Family.TEXT), plain)
        raise UnfitError("text that is no date of the form YYYY-MM-DD")
    try:
        if found["time"] is None:
            return Typed(date.fromisoformat(found["date"]), replace(column, family=Family.DATE), plain)
        moment = datetime.fromisoformat(cell.strip())
    except ValueError as error:
        raise UnfitError("text that is no date") from error
    return Typed(moment, replace(column, family=Family.TIME), lambda value: _like(found, value))


def _like(found: re.Match[str], value: object) -> Cell:
    """Write a time in the layout of another."""
    if not isinstance(value, datetime):
        return plain(value)
    if found["zone"] is not None:
        value = value.astimezone(UTC)
    colons = found["time"].count(":")
    text = value.strftime(f"{value.year:04d}-%m-%d{found['between']}%H:%M" + (":%S" if colons > 1 else ""))
    if found["fraction"] is not None:
        text += f".{value.microsecond:06d}".ljust(len(found["fraction"]) + 1, "0")[: len(found["fraction"]) + 1]
    zone = {None: "", "Z": "Z"}.get(found["zone"], "+00:00" if ":" in (found["zone"] or "") else "+0000")
    return text + zone


_READERS: dict[Family, Callable[[str | int | float | bytes, Column], Typed]] = {
    Family.TEXT: _text,
    Family.INTEGER: _integer,
    Family.NUMBER: _number_of,
    Family.BOOLEAN: _boolean,
    Family.BYTES: _bytes,
    Family.UUID: _uuid,
    Family.JSON: _json,
    Family.DATE: _moment,
    Family.TIME: _moment,
}
