"""What the rows of a database have of the values that are looked for: in its columns, and in its bytes.

Used by :mod:`.prove`. Values of a column are searched many at a time. What a file shows
besides are neighbours: a record is its cells without anything between them
(https://sqlite.org/fileformat.html, section 2.1), so that the end of one and the beginning
of the next can look like a value. Records are built here as the file has them, and searched.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from reconciler.engines.sqlite.databases import quoted
from reconciler.engines.sqlite.masking.introspect import SCHEMA, listed
from reconciler.masking.live import Block, Relation
from reconciler.masking.schema import TableName

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from reconciler.engines.sqlite.masking.cells import Cell
    from reconciler.masking.matcher import Search, ValueId

_SIZES = (1, 2, 3, 4, 6, 8)
"""Bytes of whole numbers, by their serial type."""
_REAL = 7


def relations(conn: sqlite3.Connection) -> tuple[Relation, ...]:
    """Return what holds rows in a database's file; what others are made of comes first."""
    users, shadows = [], []
    for one in listed(conn):
        if one.kind in ("table", "virtual"):
            users.append(Relation(TableName(SCHEMA, one.name)))
        elif one.kind == "shadow":
            shadows.append(Relation(TableName(SCHEMA, one.name), materialised=True))
    names = [
        row[0] for row in conn.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'sqlite\\_stat_' ESCAPE '\\'")
    ]
    statistics = [Relation(TableName(SCHEMA, name), materialised=True) for name in names]
    return (*users, Relation(TableName(SCHEMA, "sqlite_schema"), is_catalog=True), *shadows, *statistics)


def in_columns(conn: sqlite3.Connection, relation: Relation, search: Search) -> dict[str, set[ValueId]]:
    """Return what is in the columns of a table, by column."""
    names = [row[1] for row in conn.execute(f"PRAGMA table_xinfo({quoted(relation.name.name)})") if row[6] != 1]
    blocks = [Block(search) for _ in names]
    chosen = ", ".join(map(quoted, names))
    for row in conn.execute(f"SELECT {chosen} FROM {quoted(relation.name.name)}"):
        for block, cell in zip(blocks, row, strict=True):
            if cell is not None:
                block.add(_bytes(cell))
    return {name: found for name, block in zip(names, blocks, strict=True) if (found := block.end())}


def in_records(conn: sqlite3.Connection, relation: Relation, search: Search) -> set[ValueId]:
    """Return what is in the bytes of a table's records, and in those of its indexes."""
    block = Block(search)
    encoding = str(conn.execute("PRAGMA encoding").fetchone()[0])
    for cells in _stored(conn, relation.name.name):
        for row in conn.execute(f"SELECT {', '.join(cells)} FROM {quoted(relation.name.name)}"):
            block.add(record(row, encoding))
    return block.end()


def _stored(conn: sqlite3.Connection, table: str) -> Iterator[list[str]]:
    """Yield the cells of a table's records in their order, and those of each of its indexes.

    Another name of the rowid (INTEGER PRIMARY KEY) is NULL in the record.
    """
    columns = conn.execute(f"PRAGMA table_xinfo({quoted(table)})").fetchall()
    keys = [row for row in columns if row[5]]
    alias = keys[0][1] if len(keys) == 1 and keys[0][2].upper() == "INTEGER" else None
    stored = ["NULL" if row[1] == alias else quoted(row[1]) for row in columns if row[6] in (0, 3)]
    if stored:
        yield stored
    by_number = {row[0]: quoted(row[1]) for row in columns}
    for _number, name, *_rest in conn.execute(f"PRAGMA index_list({quoted(table)})").fetchall():
        cells = [by_number.get(row[1]) for row in conn.execute(f"PRAGMA index_xinfo({quoted(name)})")]
        known = [cell for cell in cells if cell is not None]
        if known:
            yield known


def record(row: Sequence[Cell], encoding: str = "UTF-8") -> bytes:
    """Return a row as a record: the header with its serial types, and the cells."""
    types, body = [], []
    for cell in row:
        kind, data = _serial(cell, encoding)
        types.append(_varint(kind))
        body.append(data)
    header = b"".join(types)
    return _varint(len(header) + 1) + header + b"".join(body)


def _serial(cell: Cell, encoding: str) -> tuple[int, bytes]:
    match cell:
        case None:
            return 0, b""
        case int():
            if cell in (0, 1):
                return 8 + cell, b""
            size = next(size for size in _SIZES if -(1 << (8 * size - 1)) <= cell < 1 << (8 * size - 1))
            return 1 + _SIZES.index(size), cell.to_bytes(size, "big", signed=True)
        case float():
            return _REAL, struct.pack(">d", cell)
        case bytes():
            return 12 + 2 * len(cell), cell
        case _:
            data = cell.encode(encoding, "surrogatepass")
            return 13 + 2 * len(data), data


def _varint(number: int) -> bytes:
    """Return a number as the file has it: seven bits a byte, the most significant first."""
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append((number & 0x7F) | 0x80)
    return bytes(reversed(digits))


def _bytes(cell: Cell) -> bytes:
    if isinstance(cell, bytes):
        return cell
    return str(cell).encode("utf-8", "surrogatepass")
