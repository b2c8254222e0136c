"""Some values of every column, for discovery: drawn by the superuser's connection from a private server.

Called by the session. It reads a bounded part of each table and changes nothing. Values
are written by their types' own output functions (``format('%s')``), never by a cast,
which a database may have redefined; computed columns are not read, as that would call
functions of the database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from reconciler.engines.postgres.masking.introspect import read_schema
from reconciler.masking.classify.profiles import DOCUMENT_LENGTH, LENGTH, VALUES, DatabaseProfile, Drawn
from reconciler.masking.schema import Family

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reconciler.masking.schema import Column, DatabaseSchema, Table, TableName
    from reconciler.proc import CancelToken

_UNREAD = frozenset({Family.BOOLEAN, Family.BYTES, Family.UUID, Family.ENUM})
"""Families whose values tell nothing."""
_DOCUMENTS = 50
_ELEMENTS = 10
"""Elements of one array that are looked at."""
_BETWEEN = "\x1f"
_SMALL = 2 * VALUES
_PAGES = 100_000
"""Estimated rows from which whole pages are sampled instead of rows."""
_SPARSE = 20
"""Fewer values than that of a column, and it is asked for what it has besides NULL."""
_PATIENCE = "2s"


def profile_database(conn: psycopg.Connection, database: str, cancel: CancelToken) -> DatabaseProfile:
    """Return the schema of the connected database and at most :data:`VALUES` values of each column."""
    conn.execute("SET datestyle = 'ISO, YMD'")
    conn.execute("SET bytea_output = 'hex'")
    schema = read_schema(conn, database)
    drawn: dict[tuple[TableName, str], Drawn] = {}
    for table in schema.tables:
        cancel.check()
        columns = _readable(table)
        if columns and not table.foreign and table.extension is None and not _is_part(table, schema):
            found = _draw(conn, table, columns)
            drawn.update({(table.name, column.name): found[column.name] for column in columns})
    return DatabaseProfile(schema, drawn)


def _readable(table: Table) -> list[Column]:
    return [column for column in table.columns if not column.generated and column.family not in _UNREAD]


def _is_part(table: Table, schema: DatabaseSchema) -> bool:
    """Whether its rows are read through the table that it is a partition of."""
    roots = {one.name for one in schema.tables if not one.has_rows}
    return any(parent in roots for parent in table.parents)


def _draw(conn: psycopg.Connection, table: Table, columns: Sequence[Column]) -> dict[str, Drawn]:
    names = sql.SQL(", ").join(_expression(column) for column in columns)
    rows = _rows(conn, table, names)
    found = {}
    for index, column in enumerate(columns):
        values = _values(column, (row[index] for row in rows))
        if len(values) < _SPARSE and len(rows) >= VALUES:
            values = _rare(conn, table, column) or values
        found[column.name] = Drawn(tuple(values[: _DOCUMENTS if column.family is Family.JSON else VALUES]), len(rows))
    return found


def _rows(conn: psycopg.Connection, table: Table, names: sql.Composable) -> list[tuple[str | bytes | None, ...]]:
    """Return rows of a table: all of a small one, a random part of a larger one."""
    rows: list[tuple[str | bytes | None, ...]] = []
    if table.estimated_rows > _SMALL or not table.has_rows:
        method = "SYSTEM" if table.estimated_rows > _PAGES else "BERNOULLI"
        percent = min(100.0, 300.0 * VALUES / max(table.estimated_rows, 1))
        rows = _query(conn, table, names, sql.SQL(f" TABLESAMPLE {method} ({{}})").format(percent), sql.SQL(""))
    return rows if len(rows) >= VALUES else _query(conn, table, names, sql.SQL(""), sql.SQL(""))


def _rare(conn: psycopg.Connection, table: Table, column: Column) -> list[str]:
    """Return what a column has besides NULL, as far as that is found soon."""
    where = sql.SQL(" WHERE t.{} IS NOT NULL").format(sql.Identifier(column.name))
    try:
        conn.execute(sql.SQL("SET statement_timeout = {}").format(_PATIENCE))
        return _values(column, (row[0] for row in _query(conn, table, _expression(column), sql.SQL(""), where)))
    except psycopg.errors.QueryCanceled:
        return []
    finally:
        conn.execute("SET statement_timeout = 0")


def _query(
    conn: psycopg.Connection, table: Table, names: sql.Composable, sample: sql.Composable, where: sql.Composable
) -> list[tuple[str | bytes | None, ...]]:
    text = sql.SQL("SELECT {} FROM {} t{}{} LIMIT {}").format(names, sql.Identifier(*table.name), sample, where, VALUES)
    return conn.execute(text).fetchall()


def _expression(column: Column) -> sql.Composable:
    name = sql.SQL("t.{}").format(sql.Identifier(column.name))
    if column.family is Family.JSON and not column.array:
        text = "CASE WHEN {0} IS NOT NULL AND pg_column_size({0}) <= {1} THEN left(format('%s', {0}), {1}) END"
        return sql.SQL(text).format(name, DOCUMENT_LENGTH)
    if column.array:
        text = "left(array_to_string({0}, {1}), {2})"
        return sql.SQL(text).format(name, _BETWEEN, _ELEMENTS * LENGTH)
    return sql.SQL("CASE WHEN {0} IS NOT NULL THEN left(format('%s', {0}), {1}) END").format(name, LENGTH)


def _values(column: Column, given: Iterable[str | bytes | None]) -> list[str]:
    texts = [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in given if value is not None
    ]
    if not column.array:
        return texts
    return [element[:LENGTH] for text in texts for element in text.split(_BETWEEN)[:_ELEMENTS]]
