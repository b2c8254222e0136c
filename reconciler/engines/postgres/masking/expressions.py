"""Each method as SQL: the value that a column gets, over the row ``t`` of its table.

Called by the staging of tables. An expression computes what :mod:`reconciler.masking.values`
does; it may stand in any SELECT over ``ONLY schema.table AS t`` on a connection that
:func:`open_keys` prepared, also in parallel plans. It never changes anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres.masking import functions, json_rules, moves, texts
from reconciler.engines.postgres.masking import keys as sessions
from reconciler.engines.postgres.masking.keys import ONCE, digest, once, subkey
from reconciler.engines.postgres.masking.query import Rows, table_rows
from reconciler.errors import MaskingError
from reconciler.masking import json_paths, values
from reconciler.masking.schema import Family
from reconciler.masking.vocabulary import as_text, gives_null_a_value, name_of
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composable

    from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, Keys, TableMasking
    from reconciler.masking.schema import Column
    from reconciler.spec.masking_policy import Column as Method

ROW = "t"
_MOVING = (spec.ShiftDays, spec.Shift, spec.Noise, spec.Bucket)


@dataclass(frozen=True, slots=True)
class Expression:
    """``sql`` is a scalar over the row ``t``; ``joins`` each find at most one row for it.

    It is cast to the column's type by whoever uses it, unless it is ``typed``. ``users``:
    it is an expression of a policy's author, which must not be computed beside the keys.
    """

    sql: Composable
    joins: tuple[Composable, ...] = ()
    users: bool = False
    typed: bool = False


def install(conn: psycopg.Connection, _keys: Keys, masking: DatabaseMasking) -> None:
    """Make schema, word lists and functions in a database, once, before its tables are masked; no key is stored.

    Raises:
        MaskingError: the database's encoding lacks characters of a word list.

    """
    functions.install(conn, (column.method for table in masking.tables for column in table.columns))


def open_keys(conn: psycopg.Connection, keys: Keys, _masking: DatabaseMasking) -> None:
    """Prepare a connection: with the keys as settings, and with what expressions rely on (UTC, ISO dates)."""
    sessions.open_keys(conn, keys)


def remove(conn: psycopg.Connection) -> None:
    """Drop the schema with everything in it."""
    functions.remove(conn)


def express(masking: ColumnMasking, table: TableMasking, rows: Rows | None = None) -> Expression:
    """Return what a column gets in rows that its rule selects; NULL kept as the method says.

    ``rows``: where they are read from, if not from the table itself.

    Raises:
        MaskingError: the method names a column that the table does not have.

    """
    value = _of_row(masking.column.name)
    if name_of(masking.method) == "shuffle":
        result, joins = _shuffled(masking, table, table_rows(table.name) if rows is None else rows)
        return Expression(result, joins, typed=True)
    if isinstance(masking.method, spec.Sql):
        written = sql.SQL("({}\n)").format(sql.SQL(masking.method.sql))
        return Expression(_keeping_null(written, value, masking.method), users=True)
    if masking.column.array and masking.method != "null":
        return Expression(_of_array(masking, table))
    return Expression(_of_value(masking, table, value))


def canonical(value: sql.Composable, column: Column) -> sql.Composable:
    """Return the text that stands for a value, as :func:`reconciler.masking.keyed.canonical` does; NULL for NULL."""
    match column.family:
        case Family.TEXT:
            text = sql.SQL('({}::text COLLATE "C")').format(value)
            return _folded(text) if column.folds_case else text
        case Family.NUMBER:
            return sql.SQL("trim_scale({})::text").format(moves.exact_number(value, column))
        case Family.BYTES:
            return sql.SQL("encode({}, 'hex')").format(value)
        case Family.JSON:
            return sql.SQL("{}::jsonb::text").format(value)
        case _:
            return sql.SQL("{}::text").format(value)


def _of_row(name: str) -> sql.Composable:
    return sql.Identifier(ROW, name)


def _folded(text: sql.Composable) -> sql.Composable:
    capitals, small = functions.folding()
    return once(
        text,
        sql.SQL("CASE WHEN octet_length(h.v) = length(h.v) THEN lower(h.v) ELSE translate(h.v, {}, {}) END").format(
            capitals, small
        ),
    )


def _keeping_null(result: sql.Composable, value: sql.Composable, method: Method) -> sql.Composable:
    if not (isinstance(method, str) or method.keep_null):
        return result
    return sql.SQL("CASE WHEN {} IS NOT NULL THEN {} END").format(value, result)


def _of_array(masking: ColumnMasking, table: TableMasking) -> sql.Composable:
    """Return the array of the masked elements; NULL for NULL."""
    value = _of_row(masking.column.name)
    return sql.SQL(
        "CASE WHEN {value} IS NOT NULL THEN ARRAY(SELECT {element}"
        " FROM unnest({plain}) WITH ORDINALITY AS r(e, at) ORDER BY r.at) END"
    ).format(
        value=value,
        element=_of_value(masking, table, sql.SQL("r.e")),
        plain=functions.call("one_dimension", value),
    )


def _of_value(masking: ColumnMasking, table: TableMasking, value: sql.Composable) -> sql.Composable:
    method, column = masking.method, masking.column
    if method == "null":
        return sql.SQL("NULL")
    if isinstance(method, spec.Fixed):
        return _keeping_null(_fixed(method, column), value, method)
    if isinstance(method, _MOVING):
        by = getattr(method, "by", None)
        source = canonical(value, column) if by is None else _other(by, masking, table)
        return moves.masked(method, value, column, source, masking.key)
    scope = texts.Scope(masking.key, column.length, _names(masking, table))
    if isinstance(method, spec.Json):
        node = json_paths.tree(method.json_)
        if node is None:
            raise _unusable(masking, table, "has paths that overlap or cannot be read")
        return json_rules.masked(node, sql.SQL("{}::jsonb").format(value), replace(scope, length=None))
    return _of_scalar(masking, value, scope)


def _of_scalar(masking: ColumnMasking, value: sql.Composable, scope: texts.Scope) -> sql.Composable:
    method, column = masking.method, masking.column
    for_null = not masking.keep_null and gives_null_a_value(method)
    text = canonical(value, column)
    if column.family is Family.TEXT:
        if column.folds_case:
            return once(text, texts.masked(method, ONCE, scope, for_null=for_null))
        return texts.masked(method, text, scope, for_null=for_null)
    if column.family in {Family.INTEGER, Family.NUMBER}:
        key = subkey(masking.key, "integer")
        return functions.call("preserve_integer", sql.SQL("{}::bigint").format(value), key)
    if for_null:
        text = sql.SQL("coalesce({}, '')").format(text)
    hashed = digest(text, masking.key, "hash")
    if column.family is Family.UUID:
        return sql.SQL(
            "overlay(overlay(left({}, 32) PLACING '4' FROM 13 FOR 1) PLACING '8' FROM 17 FOR 1)::uuid"
        ).format(texts.hexadecimal(hashed))
    length = (values.hash_options(method).length + 1) // 2
    cut = sql.SQL("substring({} FOR {})").format(hashed, sql.Literal(length))
    return sql.SQL("CASE WHEN {value} = ''::bytea THEN {value} ELSE {cut} END").format(value=value, cut=cut)


def _fixed(method: spec.Fixed, column: Column) -> sql.Composable:
    if column.family is Family.JSON:
        return sql.SQL("{}::jsonb").format(sql.Literal(json.dumps(method.fixed)))
    text = sql.Literal(as_text(method.fixed))
    return sql.SQL("convert_to({}, 'UTF8')" if column.family is Family.BYTES else "{}::text").format(text)


def _other(name: str, masking: ColumnMasking, table: TableMasking) -> sql.Composable:
    """Return another column of the row as text; an empty one for NULL."""
    return sql.SQL("coalesce({}, '')").format(canonical(_of_row(name), _column(name, masking, table)))


def _names(masking: ColumnMasking, table: TableMasking) -> tuple[sql.Composable, ...]:
    names = masking.method.names if isinstance(masking.method, spec.Text) else ()
    found = (_column(name, masking, table) for name in names)
    return tuple(sql.SQL('({}::text COLLATE "C")').format(_of_row(column.name)) for column in found)


def _column(name: str, masking: ColumnMasking, table: TableMasking) -> Column:
    for column in table.table.columns:
        if column.name == name:
            return column
    raise _unusable(masking, table, f"names the column {name}, which the table does not have")


def _unusable(masking: ColumnMasking, table: TableMasking, why: str) -> MaskingError:
    rule = f"the rule {name_of(masking.method)} of {table.name}.{masking.column.name}"
    return MaskingError(f"{rule} in policy {masking.policy} {why}", reason="MaskingUncovered")


_SHUFFLE = """
LEFT JOIN (
    SELECT t.ctid AS place, CASE WHEN row_number() OVER w = count(*) OVER (PARTITION BY {group})
        THEN first_value({value}) OVER w ELSE lead({value}) OVER w END AS value
    FROM {table} AS t WHERE {selected}
    WINDOW w AS (PARTITION BY {group} ORDER BY sha256({key} || convert_to(t.ctid::text, 'UTF8')))
) AS {alias} ({place}, {result}) ON {alias}.{place} = t.ctid"""
"""Each row takes the value of the next one in a keyed order, the last one that of the first: none keeps its own."""


def _grouping(column: Column) -> Composable:
    """Return what equal values of a column have in common, without operators that users made."""
    if column.folds_case or column.array or column.family in {Family.ENUM, Family.JSON, Family.OTHER}:
        return canonical(_of_row(column.name), column)
    return _of_row(column.name)


def _shuffled(
    masking: ColumnMasking, table: TableMasking, rows: Rows
) -> tuple[sql.Composable, tuple[sql.Composable, ...]]:
    method, value = masking.method, _of_row(masking.column.name)
    group: sql.Composable = sql.SQL("NULL")
    if isinstance(method, spec.Shuffle):
        group = _grouping(_column(method.shuffle.within, masking, table))
    conditions: list[Composable] = [sql.SQL("true")]
    if masking.when is not None:
        conditions = [_of_row(rows.selected[masking.when])]
    if masking.keep_null:
        conditions.append(sql.SQL("{} IS NOT NULL").format(value))
    alias, place, result = (
        sql.Identifier(f"reconciler {what} {masking.column.name}") for what in ("shuffle", "place", "value")
    )
    join = sql.SQL(_SHUFFLE).format(
        group=group,
        value=value,
        table=rows.source,
        selected=sql.SQL(" AND ").join(conditions),
        key=subkey(masking.key, "shuffle"),
        alias=alias,
        place=place,
        result=result,
    )
    return sql.SQL("{}.{}").format(alias, result), (join,)
