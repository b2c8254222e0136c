"""Some values of every column, for discovery.

Called by the session for a build that is thrown away. It reads a bounded part of each
table and changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.mysql.link import quoted
from reconciler.engines.mysql.masking.introspect import read_schema
from reconciler.masking.classify.profiles import DOCUMENT_LENGTH, LENGTH, VALUES, DatabaseProfile, Drawn
from reconciler.masking.schema import Family

if TYPE_CHECKING:
    from reconciler.engines.mysql.link import Link
    from reconciler.masking.schema import Column, Table, TableName
    from reconciler.proc import CancelToken

_UNREAD = frozenset({Family.BYTES, Family.OTHER})
"""Families whose values tell nothing."""


def profile_database(admin: Link, database: str, cancel: CancelToken) -> DatabaseProfile:
    """Return the schema of a database and at most :data:`VALUES` values of each column."""
    schema = read_schema(admin, database)
    drawn: dict[tuple[TableName, str], Drawn] = {}
    for table in schema.tables:
        cancel.check()
        drawn.update(_draw(admin, table))
    return DatabaseProfile(schema, drawn)


def _draw(admin: Link, table: Table) -> dict[tuple[TableName, str], Drawn]:
    wanted = [column for column in table.columns if column.family not in _UNREAD]
    if not wanted:
        return {}
    words = ", ".join(f"LEFT(CAST({quoted(column.name)} AS CHAR), {_length(column)})" for column in wanted)
    place = f"{quoted(table.name.schema)}.{quoted(table.name.name)}"
    rows = admin.rows(f"SELECT {words} FROM {place} LIMIT {VALUES}")
    return {
        (table.name, column.name): Drawn(tuple(str(row[at]) for row in rows if row[at] is not None), len(rows))
        for at, column in enumerate(wanted)
    }


def _length(column: Column) -> int:
    return DOCUMENT_LENGTH if column.family in (Family.JSON, Family.TEXT) and column.length is None else LENGTH
