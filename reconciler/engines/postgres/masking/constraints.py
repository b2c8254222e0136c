"""What the database insists on, asked of the masked rows: NOT NULL, CHECK and foreign keys.

Called by :mod:`.stage`. No constraint is taken down to be made again: the rows were
exchanged behind all of them, so they stand as they were, and only have to be true. Asks
on connections of the builder, because CHECK constraints call functions of users; those
find names as in any session of the database (its own search_path).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking.query import SCHEMA, unused_name
from reconciler.errors import MaskingError
from reconciler.masking.schema import TableName

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from psycopg.sql import Composable

    from reconciler.engines.postgres.masking.shape import Relation, RowCheck

# Those of partitions follow from that of their parent. One that was never validated may be broken.
_FOREIGN_KEYS = """
SELECT k.conname, k.conrelid::int8, fn.nspname, f.relname, f.relkind = 'p', k.confrelid::int8, pn.nspname, p.relname,
    p.relkind = 'p', k.confmatchtype = 'f', {temporal}, ARRAY(
        SELECT ARRAY[fa.attname, pa.attname, onsp.nspname, o.oprname, ln.nspname, l.collname]::text[]
        FROM unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY AS u(f, p, o, place)
        JOIN pg_attribute fa ON fa.attrelid = k.conrelid AND fa.attnum = u.f
        JOIN pg_attribute pa ON pa.attrelid = k.confrelid AND pa.attnum = u.p
        JOIN pg_operator o ON o.oid = u.o JOIN pg_namespace onsp ON onsp.oid = o.oprnamespace
        LEFT JOIN pg_collation l ON l.oid = pa.attcollation LEFT JOIN pg_namespace ln ON ln.oid = l.collnamespace
        ORDER BY u.place), pg_table_size(f.oid)
FROM pg_constraint k JOIN pg_class f ON f.oid = k.conrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND k.convalidated ORDER BY fn.nspname, f.relname, k.conname
"""
_ABOVE = """
WITH RECURSIVE above(oid, root) AS (
    SELECT c.oid, c.oid FROM pg_class c WHERE c.oid = ANY(%s::oid[])
  UNION SELECT above.oid, i.inhparent FROM above JOIN pg_inherits i ON i.inhrelid = above.root
    JOIN pg_class p ON p.oid = i.inhparent AND p.relkind = 'p'
)
SELECT oid::int8, root::int8 FROM above
"""
_TEMPORAL = 180000
_Pair = tuple[str, str, str, str, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key with masked columns; ``pairs`` are (column, target, operator's schema and name, collation)."""

    name: str
    table: TableName
    partitioned: bool
    target: TableName
    target_partitioned: bool
    full: bool
    pairs: tuple[_Pair, ...]
    bytes: int


def masked_references(conn: psycopg.Connection, masked: Collection[tuple[int, str]]) -> tuple[Reference, ...]:
    """Return the validated foreign keys with a masked column, (oid of table, column), on either side.

    Raises:
        MaskingError: one of them is about periods: whether it holds cannot be asked.

    """
    above = conn.execute(_ABOVE, [list({oid for oid, _ in masked})]).fetchall()
    touched = {(root, name) for oid, root in above for table, name in masked if table == oid}
    temporal = "k.conperiod" if conn.info.server_version >= _TEMPORAL else "false"
    found = []
    for name, oid, *table, parted, target_oid, schema, target, target_parted, full, period, pairs, size in conn.execute(
        _FOREIGN_KEYS.format(temporal=temporal).encode()
    ).fetchall():
        if not any((oid, pair[0]) in touched or (target_oid, pair[1]) in touched for pair in pairs):
            continue
        reference = Reference(
            name=name,
            table=TableName(*table),
            partitioned=parted,
            target=TableName(schema, target),
            target_partitioned=target_parted,
            full=full,
            pairs=tuple(map(tuple, pairs)),
            bytes=size,
        )
        if period:
            raise MaskingError(
                f"database {conn.info.dbname}: the foreign key {name} of {reference.table} is about periods, and"
                " columns of it are masked, which cannot be checked",
                hint="keep its columns, or drop the key in a script",
            )
        found.append(reference)
    return tuple(found)


def check_reference(conn: psycopg.Connection, reference: Reference) -> None:
    """Insist that a foreign key holds, by the query of the server itself (RI_Initial_Check in ri_triggers.c).

    Raises:
        MaskingError: a row refers to nothing.

    """
    given = [sql.SQL("f.{} IS NOT NULL").format(sql.Identifier(pair[0])) for pair in reference.pairs]
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} f WHERE ({}) AND NOT EXISTS (SELECT FROM {} p WHERE {}))").format(
        _table(reference.table, partitioned=reference.partitioned),
        sql.SQL(" OR " if reference.full else " AND ").join(given),
        _table(reference.target, partitioned=reference.target_partitioned),
        sql.SQL(" AND ").join(map(_equal, reference.pairs)),
    )
    row = conn.execute(query).fetchone()
    if row is None or row[0]:
        columns = ", ".join(pair[0] for pair in reference.pairs)
        targets = ", ".join(pair[1] for pair in reference.pairs)
        raise MaskingError(
            f"database {conn.info.dbname}: after masking, rows of {reference.table} violate the foreign key"
            f" {reference.name} ({columns}) to {reference.target} ({targets})",
            hint="give the columns of both sides the same deterministic rule, without conditions",
        )


def _table(name: TableName, *, partitioned: bool) -> Composable:
    return sql.SQL("{}" if partitioned else "ONLY {}").format(sql.Identifier(*name))


def _equal(pair: _Pair) -> Composable:
    column, target, schema, operator, collation_schema, collation = pair
    collate: Composable = sql.SQL("")
    if collation_schema is not None and collation is not None:
        collate = sql.SQL(" COLLATE {}").format(sql.Identifier(collation_schema, collation))
    return sql.SQL("p.{} OPERATOR({}.{}) f.{}{}").format(
        sql.Identifier(target), sql.Identifier(schema), sql.SQL(operator), sql.Identifier(column), collate
    )


def count_rows(conn: psycopg.Connection, stage: sql.Identifier, columns: Sequence[str]) -> tuple[int, list[int]]:
    """Count staged rows, and NULLs per column."""
    asked = [sql.SQL("count(*)"), *(sql.SQL("count({})").format(sql.Identifier(name)) for name in columns)]
    row = conn.execute(sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(asked), stage)).fetchone()
    assert row is not None  # noqa: S101 - an aggregate
    return row[0], [row[0] - given for given in row[1:]]


def check_rows(
    admin: psycopg.Connection,
    builder: psycopg.Connection,
    relation: Relation,
    stage: sql.Identifier,
    columns: Sequence[str],
) -> tuple[int, list[int]]:
    """Count staged rows, and NULLs per masked column, in one scan that asks the constraints that this concerns.

    Those of domains, NOT NULL and CHECK. The question is a view, made by ``admin``:
    names in it mean what they mean to the server, whatever the path on which the
    functions that it calls look for theirs.

    Raises:
        MaskingError: a row violates one of them.

    """
    changed = {one.number for one in relation.attributes if one.name in columns or one.generated}
    checks = [one for one in relation.checks if not one.columns or one.columns & (changed | {0})]
    names = [*columns, *(one.name for one in relation.attributes if one.generated and not one.dropped)]
    asked = [sql.SQL("count(*)"), *(sql.SQL("count({})").format(sql.Identifier(name)) for name in names)]
    asked += [sql.SQL("count(*) FILTER (WHERE (") + sql.SQL(one.expression) + sql.SQL(") IS FALSE)") for one in checks]
    numbered = [sql.SQL("{} AS {}").format(one, sql.Identifier(f"a{place}")) for place, one in enumerate(asked)]
    question = sql.Identifier(SCHEMA, f"c_{relation.oid}")
    select = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(numbered), _typed(relation, stage, checks))
    admin.execute(sql.SQL("CREATE VIEW {} AS {}").format(question, select), binary=True)
    admin.execute(sql.SQL("ALTER VIEW {} OWNER TO {}").format(question, sql.Identifier(server.BUILDER)))
    row = _answer(builder, relation, question)
    admin.execute(sql.SQL("DROP VIEW {}").format(question))
    rows, filled, broken = row[0], row[1 : 1 + len(names)], row[1 + len(names) :]
    where = f"database {builder.info.dbname}: masked rows of {relation.name} violate"
    for name, given in zip(names, filled, strict=True):
        if given != rows and name in relation.not_null:
            hint = f"give {relation.name}.{name} a rule whose values are not NULL"
            raise MaskingError(f"{where} NOT NULL of column {name}", hint=hint)
    for check, number in zip(checks, broken, strict=True):
        if number:
            concerned = ", ".join(one.name for one in relation.attributes if one.number in check.columns)
            hint = f"give columns of it another rule: {concerned}"
            raise MaskingError(f"{where} the constraint {check.name} in {number} of {rows}", hint=hint)
    return rows, [rows - given for given in filled[: len(columns)]]


def _typed(relation: Relation, stage: sql.Identifier, checks: Sequence[RowCheck]) -> Composable:
    """Return staged rows as those of the table, under its name: of its own types, with its virtual columns."""
    present = [one for one in relation.attributes if not one.dropped]
    columns = [
        sql.SQL("CAST(s.{name} AS {type}) AS {name}").format(name=sql.Identifier(one.name), type=sql.SQL(one.type))
        if one.stored.type != one.type
        else sql.Identifier("s", one.name)
        for one in present
        if one.generated != "v"
    ]
    virtual = [
        sql.SQL("CAST(({}) AS {}) AS {}").format(sql.SQL(one.expression), sql.SQL(one.type), sql.Identifier(one.name))
        for one in present
        if one.generated == "v" and one.expression is not None
    ]
    rows = sql.SQL("SELECT {} FROM {} AS s").format(sql.SQL(", ").join(columns), stage)
    if virtual:
        rows = sql.SQL("SELECT v.*, {} FROM ({}) AS v").format(sql.SQL(", ").join(virtual), rows)
    alias = sql.Identifier(relation.name.name)
    if not any(0 in one.columns for one in checks):
        return sql.SQL("({}) AS {}").format(rows, alias)
    whole = sql.Identifier(
        unused_name(relation, "row")
    )  # a check that takes the whole row wants one of the table's type
    return sql.SQL(
        "(SELECT CAST(ROW({names}) AS {table}) AS {whole} FROM ({rows}) AS r) AS r,"
        " LATERAL pg_catalog.unnest(ARRAY[r.{whole}]) AS {alias}"
    ).format(
        names=sql.SQL(", ").join(sql.Identifier("r", one.name) for one in present),
        table=sql.Identifier(*relation.name),
        whole=whole,
        rows=rows,
        alias=alias,
    )


def _answer(builder: psycopg.Connection, relation: Relation, question: sql.Identifier) -> tuple[int, ...]:
    try:
        with builder.transaction():
            builder.execute("SET LOCAL search_path TO DEFAULT")
            row = builder.execute(sql.SQL("SELECT * FROM {}").format(question)).fetchone()
    except (psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation) as error:
        domain, name = error.diag.datatype_name, error.diag.constraint_name
        if domain is None:
            raise
        columns = ", ".join(one.name for one in relation.attributes if one.type.rpartition(".")[2].strip('"') == domain)
        where = f"database {builder.info.dbname}: masked rows of {relation.name} violate"
        what = f"the constraint {name} of the domain {domain}" if name else f"NOT NULL of the domain {domain}"
        raise MaskingError(f"{where} {what}", hint=f"give another rule to columns of that type: {columns}") from None
    assert row is not None  # noqa: S101 - an aggregate
    return tuple(row)
