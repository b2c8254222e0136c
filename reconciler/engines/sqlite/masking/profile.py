"""Some values of every column, for discovery.

Called by the session. It reads a bounded part of each table and changes nothing;
computed columns are not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.sqlite.databases import quoted
from reconciler.engines.sqlite.masking.introspect import read_schema
from reconciler.masking.classify.profiles import DOCUMENT_LENGTH, LENGTH, VALUES, DatabaseProfile, Drawn
from reconciler.masking.schema import Family

if TYPE_CHECKING:
    import sqlite3

    from reconciler.masking.schema import Column, Table, TableName
    from reconciler.proc import CancelToken

_UNREAD = frozenset({Family.BOOLEAN, Family.BYTES, Family.UUID})
"""Families whose values tell nothing."""
_DOCUMENTS = 50
_SMALL = 3 * VALUES
_SPARSE = 20
"""Fewer values than that of a column, and it is asked for what it has besides NULL."""


def profile_database(conn: sqlite3.Connection, database: str, cancel: CancelToken) -> DatabaseProfile:
    """Return the schema of a database and at most :data:`VALUES` values of each column."""
    schema = read_schema(conn, database)
    drawn: dict[tuple[TableName, str], Drawn] = {}
    for table in schema.tables:
        cancel.check()
        columns = [one for one in table.columns if not one.generated and one.family not in _UNREAD]
        if columns:
            drawn.update(_draw(conn, table, columns))
    return DatabaseProfile(schema, drawn)


def _draw(conn: sqlite3.Connection, table: Table, columns: list[Column]) -> dict[tuple[TableName, str], Drawn]:
    names = ", ".join(_expression(column) for column in columns)
    step = max(1, table.estimated_rows // _SMALL)
    part = "" if step == 1 else f" WHERE abs(random() % {step}) = 0"
    rows = conn.execute(f"SELECT {names} FROM {quoted(table.name.name)}{part} LIMIT {VALUES}").fetchall()
    found = {}
    for number, column in enumerate(columns):
        values = [text for row in rows if (text := row[number]) is not None]
        if len(values) < _SPARSE and len(rows) >= VALUES:
            where = f" WHERE {quoted(column.name)} IS NOT NULL LIMIT {VALUES}"
            more = conn.execute(f"SELECT {_expression(column)} FROM {quoted(table.name.name)}{where}")
            values = [text for (text,) in more if text is not None] or values
        most = _DOCUMENTS if column.family is Family.JSON else VALUES
        found[table.name, column.name] = Drawn(tuple(values[:most]), len(rows))
    return found


def _expression(column: Column) -> str:
    """Return a cell as text; bytes tell nothing."""
    name = quoted(column.name)
    most = DOCUMENT_LENGTH if column.family is Family.JSON else LENGTH
    return f"CASE WHEN typeof({name}) <> 'blob' THEN substr(CAST({name} AS TEXT), 1, {most}) END"
