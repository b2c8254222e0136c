"""What the rows of a table have of the values that are looked for: in its columns, and in its bytes.

Used by :mod:`.prove`. Values of a column are searched many at a time. What a file shows
besides are neighbours: a record of InnoDB is its columns without anything between them,
those of the primary key first (MariaDB's documentation, "InnoDB Row Formats"), so that the end of
one and the beginning of the next can look like a value. Records are put together here and searched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.mysql.link import quoted
from reconciler.engines.mysql.masking import sample
from reconciler.masking.live import Block
from reconciler.masking.schema import Family, TableName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reconciler.engines.mysql.link import Link
    from reconciler.masking.matcher import Search, ValueId
    from reconciler.masking.schema import Column, DatabaseSchema, Table

_AS_TEXT = frozenset({Family.TEXT, Family.JSON, Family.ENUM, Family.UUID})
_INDEXES = """
SELECT index_name, column_name FROM information_schema.statistics
WHERE table_schema = %s AND table_name = %s AND column_name IS NOT NULL ORDER BY index_name, seq_in_index
"""
_PRIMARY = "PRIMARY"


def in_columns(link: Link, table: Table, search: Search) -> dict[str, set[ValueId]]:
    """Return what is in the columns of a table, by column."""
    columns = table.columns
    blocks = [Block(search) for _ in columns]
    chosen = ", ".join(_read(column) for column in columns)
    place = sample.source(link, table.name)
    for row in link.stream(f"SELECT {chosen} FROM {place}"):
        for block, cell in zip(blocks, row, strict=True):
            if cell is not None:
                block.add(_bytes(cell))
    return {column.name: found for column, block in zip(columns, blocks, strict=True) if (found := block.end())}


def in_records(link: Link, table: Table, search: Search) -> set[ValueId]:
    """Return what is in the bytes of a table's records, and in those of its indexes."""
    block = Block(search)
    columns = {column.name: column for column in table.columns}
    for names in _records(link, table, list(columns)):
        chosen = ", ".join(_stored(columns[name]) for name in names)
        place = sample.source(link, table.name)
        for row in link.stream(f"SELECT {chosen} FROM {place}"):
            block.add(b"".join(_bytes(cell) for cell in row if cell is not None))
    return block.end()


def table_of(schemas: Iterable[DatabaseSchema], name: TableName) -> Table | None:
    """Return a table by its name."""
    return next((table for schema in schemas for table in schema.tables if table.name == name), None)


def _records(link: Link, table: Table, names: Sequence[str]) -> list[list[str]]:
    """Return the columns of records in their order: of the rows, and of each index with the primary key behind it."""
    indexes: dict[str, list[str]] = {}
    for index, column in link.rows(_INDEXES, table.name.schema, table.name.name):
        indexes.setdefault(str(index), []).append(str(column))
    key = indexes.pop(_PRIMARY, [])
    rest = [name for name in names if name not in key]
    return [list(names), rest, *([key] if key else []), *([*index, *key] for index in indexes.values())]


def _read(column: Column) -> str:
    name = f"t.{quoted(column.name)}"
    return f"CONVERT({name} USING utf8mb4)" if column.family in _AS_TEXT else name


def _stored(column: Column) -> str:
    """Return a value as the bytes that a record has of it; of what is no text, something else."""
    name = f"t.{quoted(column.name)}"
    if column.family in {Family.TEXT, Family.JSON, Family.BYTES}:
        return f"CAST({name} AS BINARY)"
    return "0x00FF00"


def _bytes(cell: object) -> bytes:
    return cell if isinstance(cell, bytes) else str(cell).encode("utf-8", "surrogatepass")
