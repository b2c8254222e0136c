"""Rows of a table as the text of an INSERT: written by the server that has them, byte for byte.

Called by :mod:`.transfer`. Pure but for the catalog that :func:`columns_of` asks. Both ends speak
``binary``, so that no character is converted: what a column holds arrives as it is, in whatever
encoding. The server makes the literals, since it does that faster than Python takes rows apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from reconciler.engines.mysql.link import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.mysql.link import Link, Row

_COLUMNS = """
SELECT column_name, data_type, coalesce(character_octet_length, 0), coalesce(generation_expression, '')
FROM information_schema.columns WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position
"""
_NUMBERS = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "double", "year"})
_AS_NUMBER = frozenset({"enum", "set", "bit"})
"""By their numbers even values are exact that no literal stands for, such as the empty one of an error."""
_BY_NAME = frozenset({"uuid", "inet4", "inet6"})
"""Their bytes mean something else when they are given as bytes."""
_UNBOUNDED = frozenset(
    {"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon"}
    | {"geometrycollection", "json", "vector"}
)
_ROW_BYTES = 65535
"""More than that only columns outside of the row hold (manual, "Limits on Table Column Count and Row Size")."""
LONG_BYTES = 4 << 20
"""Rows with longer values come column by column: a server makes no text above its ``max_allowed_packet``."""


class Kind(Enum):
    """How a value becomes a literal."""

    NUMBER = auto()
    FLOAT = auto()
    """As a double: the text of a float has six digits only."""
    ORDINAL = auto()
    BYTES = auto()
    NAME = auto()
    TEXT = auto()
    """Of MySQL's JSON, which takes no bytes."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column that has values of its own."""

    name: str
    kind: Kind
    long: bool


def columns_of(link: Link, database: str, table: str, *, history: bool) -> tuple[tuple[Column, ...], bool]:
    """Return the columns of a table that are not computed, and whether they are those of its history.

    With ``history``, wanted for a table that keeps it, these say when rows began and ended as well;
    not where that is told by numbers of transactions, which mean something in their own server only.
    """
    found = []
    periods = []
    for name, data_type, octets, expression in link.rows(_COLUMNS, database, table):
        kind = _kind(str(data_type))
        if str(expression).upper() in ("ROW START", "ROW END"):
            periods.append(Column(str(name), kind, long=False))
        elif not expression:
            found.append(Column(str(name), kind, long=int(octets) > _ROW_BYTES or data_type in _UNBOUNDED))
    if history and not periods:
        periods = [Column(name, Kind.BYTES, long=False) for name in ("row_start", "row_end")]
    history = history and all(one.kind is Kind.BYTES for one in periods)
    return ((*found, *periods), True) if history else (tuple(found), False)


def select(table: str, columns: Sequence[Column], *, history: bool = False, where: str = "") -> str:
    """Return the query of all rows of a table: one literal for each, or NULL and then its values one by one."""
    texts = ", ',', ".join(_literal(column) for column in columns)
    row = f"CONCAT('(', {texts}, ')')"
    wanted = row
    if any(column.long for column in columns):
        size = " + ".join(f"COALESCE(LENGTH({quoted(column.name)}), 0)" for column in columns if column.long)
        parts = ", ".join(f"IF({size} > {LONG_BYTES}, {_value(column)}, NULL)" for column in columns)
        wanted = f"IF({size} > {LONG_BYTES}, NULL, {row}), {parts}"
    period = " FOR SYSTEM_TIME ALL" if history else ""
    return f"SELECT {wanted} FROM {table}{period}{f' WHERE {where}' if where else ''}"  # noqa: S608 - quoted names


def literal(columns: Sequence[Column], row: Row) -> bytes:
    """Return the literal of a row that :func:`select` asked for."""
    if row[0] is not None:
        return bytes(row[0])
    return b"(" + b",".join(_escaped(column, value) for column, value in zip(columns, row[1:], strict=True)) + b")"


def insert(table: str, columns: Sequence[Column]) -> bytes:
    """Return the beginning of the statement that takes literals."""
    names = ", ".join(quoted(column.name) for column in columns)
    return f"INSERT INTO {table} ({names}) VALUES ".encode()  # noqa: S608 - quoted names


def _kind(data_type: str) -> Kind:
    if data_type in _NUMBERS:
        return Kind.NUMBER
    if data_type in _AS_NUMBER:
        return Kind.ORDINAL
    if data_type in _BY_NAME:
        return Kind.NAME
    return {"float": Kind.FLOAT, "json": Kind.TEXT}.get(data_type, Kind.BYTES)


def _literal(column: Column) -> str:
    match column.kind:
        case Kind.NUMBER | Kind.FLOAT | Kind.ORDINAL:
            return f"COALESCE({_value(column)}, 'NULL')"
        case Kind.NAME:
            return f"IF({quoted(column.name)} IS NULL, 'NULL', CONCAT('_latin1', QUOTE({_value(column)})))"
        case Kind.TEXT:
            return f"IF({quoted(column.name)} IS NULL, 'NULL', CONCAT('_utf8mb4', QUOTE({_value(column)})))"
        case _:
            return f"QUOTE({_value(column)})"  # of NULL it is the word


def _value(column: Column) -> str:
    name = quoted(column.name)
    match column.kind:
        case Kind.FLOAT:
            return f"CAST(CAST({name} AS DOUBLE) AS BINARY)"
        case Kind.ORDINAL:
            return f"CAST(CAST({name} AS UNSIGNED) AS BINARY)"
        case Kind.NAME | Kind.TEXT:
            return f"CAST(CONVERT({name} USING utf8mb4) AS BINARY)"
        case _:
            return f"CAST({name} AS BINARY)"


def _escaped(column: Column, value: object) -> bytes:
    if value is None:
        return b"NULL"
    text = value.encode() if isinstance(value, str) else bytes(value)  # type: ignore[call-overload] # bytes, or a text of them
    if column.kind in (Kind.NUMBER, Kind.FLOAT, Kind.ORDINAL):
        return bytes(text)
    prefix = {Kind.NAME: b"_latin1", Kind.TEXT: b"_utf8mb4"}.get(column.kind, b"")
    return prefix + b"'" + text.replace(b"\\", b"\\\\").replace(b"'", b"\\'") + b"'"
