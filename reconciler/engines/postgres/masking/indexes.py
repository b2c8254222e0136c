"""Indexes of rewritten tables: built anew, each from the masked rows alone.

Called by :mod:`.stage` once tables have their rows. An index that was invalid (left
by a failed CREATE INDEX CONCURRENTLY) is built as well, so that its file holds nothing
of before, and is invalid again afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.masking.schema import TableName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import psycopg

# Read before anything is changed: sizes are those of the old indexes.
_INDEXES = """
SELECT i.indexrelid::int8, n.nspname, c.relname, tn.nspname, t.relname, pg_relation_size(c.oid), i.indisunique,
    i.indisvalid, i.indisready, i.indislive,
    ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = i.indrelid
          AND a.attnum = ANY(i.indkey::int2[]) ORDER BY a.attnum)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
WHERE i.indrelid = ANY(%s::oid[]) ORDER BY pg_relation_size(c.oid) DESC, 1
"""
_RESTORE = """
UPDATE pg_index SET indisunique = %s, indisvalid = %s, indisready = %s, indislive = %s WHERE indexrelid = %s
"""


@dataclass(frozen=True, slots=True)
class Index:
    """An index as it was before its table was rewritten."""

    oid: int
    schema: str
    name: str
    table: TableName
    bytes: int
    unique: bool
    valid: bool
    ready: bool
    live: bool
    columns: Sequence[str]


def read(conn: psycopg.Connection, tables: Iterable[int]) -> tuple[Index, ...]:
    """Return all indexes of tables, largest first."""
    rows = conn.execute(_INDEXES, [list(tables)]).fetchall()
    return tuple(
        Index(oid, schema, name, TableName(table_schema, table), *facts)
        for oid, schema, name, table_schema, table, *facts in rows
    )


def rebuild(conn: psycopg.Connection, index: Index) -> None:
    """Build an index anew, and leave its flags as they were; an invalid one need not be unique."""
    good = index.valid and index.ready and index.live
    if not good:
        conn.execute("UPDATE pg_index SET indisunique = false WHERE indexrelid = %s", [index.oid])
    conn.execute(sql.SQL("REINDEX INDEX {}").format(sql.Identifier(index.schema, index.name)))
    if not good:
        conn.execute(_RESTORE, [index.unique, index.valid, index.ready, index.live, index.oid])
