"""Rows beside a table, and the one step that makes them the table's.

Called by :mod:`.beside`, :mod:`.stage` and :mod:`.partitions`. Staged rows are a materialised view in
our own schema, because its REFRESH is what the server has for this: it plans in
parallel, writes frozen rows in the storage form that was asked for, skips WAL
(wal_level minimal), and runs expressions of policies and functions of users as the
builder, without superuser rights. :func:`take_over` then exchanges the files of the
table and of the view in the catalogs, as VACUUM FULL does inside the server
(swap_relation_files in cluster.c) and pg_repack from outside, and drops the view with
the original rows. The table keeps its oid, and no trigger, rule or policy ever sees a row.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking.query import SCHEMA, counting_function
from reconciler.errors import MaskingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg
    from psycopg.sql import Composable

    from reconciler.engines.postgres.masking.shape import Relation

_ROW_OPTIONS = re.compile(r"(?:fillfactor|toast_tuple_target)=\d+")
"""Options of a table that decide how rows are written; the others stay with it."""
_STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}
_COMPRESSION = {"p": "pglz", "l": "lz4"}
_ALL_FROZEN = 180000
"""Since this version pg_class counts frozen pages as well."""
_UNLIKE = """
SELECT coalesce(a.attname, b.attname) FROM (SELECT * FROM pg_attribute WHERE attrelid = %(table)s AND attnum > 0) a
FULL JOIN (SELECT * FROM pg_attribute WHERE attrelid = %(stage)s AND attnum > 0) b USING (attnum)
LEFT JOIN unnest(%(numbers)s::int2[], %(types)s::oid[]) AS s(attnum, type) USING (attnum)
WHERE a.attrelid IS NULL OR b.attrelid IS NULL OR NOT a.attisdropped
  AND (CASE b.atttypid WHEN s.type THEN s.type ELSE a.atttypid END, a.attlen, a.attalign, a.attbyval,
    a.attstorage) IS DISTINCT FROM (b.atttypid, b.attlen, b.attalign, b.attbyval, b.attstorage)
"""
_EXCHANGE = """
UPDATE pg_class x SET relfilenode = y.relfilenode, reltoastrelid = y.reltoastrelid, relpages = y.relpages,
    reltuples = y.reltuples, relallvisible = y.relallvisible, {frozen}
    relfrozenxid = y.relfrozenxid, relminmxid = y.relminmxid
FROM pg_class y
WHERE x.oid IN (%(table)s, %(stage)s) AND y.oid IN (%(table)s, %(stage)s) AND x.oid <> y.oid
"""
# TOAST is dropped with what it depends on.
_EXCHANGE_TOAST = """
UPDATE pg_depend SET refobjid = CASE refobjid WHEN %(table)s THEN %(stage)s::oid ELSE %(table)s::oid END
WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype = 'i'
  AND objid IN (SELECT reltoastrelid FROM pg_class WHERE oid IN (%(table)s, %(stage)s)) AND objid <> 0
"""
_TOAST_OPTIONS = """
UPDATE pg_class x SET reloptions = y.reloptions FROM pg_class y
WHERE x.oid = (SELECT reltoastrelid FROM pg_class WHERE oid = %(stage)s)
  AND y.oid = (SELECT reltoastrelid FROM pg_class WHERE oid = %(table)s)
"""
# What rows of before had in columns that were added with a default; the new rows have it themselves.
_FORGET_MISSING = """
UPDATE pg_attribute SET atthasmissing = false, attmissingval = NULL WHERE attrelid = %s AND atthasmissing
"""
# It was the builder's, which is dropped at the end of the build.
_ADOPT_TOAST = """
UPDATE pg_class SET relname = 'pg_toast_' || %(table)s || CASE relkind WHEN 'i' THEN '_index' ELSE '' END,
    relowner = (SELECT relowner FROM pg_class WHERE oid = %(table)s)
WHERE oid IN (SELECT reltoastrelid FROM pg_class WHERE oid = %(table)s UNION ALL
    SELECT i.indexrelid FROM pg_index i JOIN pg_class c ON c.reltoastrelid = i.indrelid WHERE c.oid = %(table)s)
"""


def stage_name(prefix: str, oid: int) -> sql.Identifier:
    """Return the name of staged rows."""
    return sql.Identifier(SCHEMA, f"{prefix}_{oid}")


def make_stage(conn: psycopg.Connection, stage: sql.Identifier, select: Composable, like: Relation | None) -> None:
    """Define staged rows, empty, with the storage form of ``like``; the builder owns them, and so runs their SQL.

    Raises:
        MaskingError: the table is stored by another access method than heap.

    """
    if like is not None and like.access_method != "heap":
        raise MaskingError(
            f"table {like.name} is stored by {like.access_method}; only tables stored by heap can be masked",
            hint="ALTER TABLE … SET ACCESS METHOD heap in a script, or drop the table",
        )
    create = sql.SQL("CREATE MATERIALIZED VIEW {} {} AS {} WITH NO DATA")
    # expressions of policies are in it: the extended protocol takes no second statement, which would be a superuser's
    conn.execute(create.format(stage, _form(like), select), binary=True)
    if like is not None:
        _set_storage(conn, stage, like)
    conn.execute(sql.SQL("ALTER MATERIALIZED VIEW {} OWNER TO {}").format(stage, sql.Identifier(server.BUILDER)))


def _form(like: Relation | None) -> Composable:
    """Return the clauses that make rows be written as those of a table are."""
    clauses: list[Composable] = [sql.SQL("USING heap")]
    options = [] if like is None else [option for option in like.options if _ROW_OPTIONS.fullmatch(option)]
    if options:
        clauses.append(sql.SQL(f"WITH ({', '.join(options)})"))
    if like is not None and like.tablespace is not None:
        clauses.append(sql.SQL("TABLESPACE {}").format(sql.Identifier(like.tablespace)))
    return sql.SQL(" ").join(clauses)


def _set_storage(conn: psycopg.Connection, stage: sql.Identifier, like: Relation) -> None:
    changes: list[Composable] = []
    for attribute in like.attributes:
        if attribute.dropped:
            continue
        column = sql.SQL("ALTER COLUMN {} SET ").format(sql.Identifier(attribute.name))
        if attribute.storage is not None:
            changes.append(column + sql.SQL(f"STORAGE {_STORAGE[attribute.storage]}"))
        if attribute.compression:
            changes.append(column + sql.SQL(f"COMPRESSION {_COMPRESSION[attribute.compression]}"))
    if changes:
        conn.execute(sql.SQL("ALTER MATERIALIZED VIEW {} {}").format(stage, sql.SQL(", ").join(changes)))


def fill_stage(conn: psycopg.Connection, stage: sql.Identifier, functions: Sequence[int]) -> list[int]:
    """Compute staged rows; return how often each counting function was called."""
    with conn.transaction():
        before = _calls(conn, functions)
        conn.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(stage))
        return [now - then for now, then in zip(_calls(conn, functions), before, strict=True)]


def empty_stage(conn: psycopg.Connection, stage: sql.Identifier) -> None:
    """Give back the room of staged rows that other ones were computed from, and depend on."""
    conn.execute(sql.SQL("REFRESH MATERIALIZED VIEW {} WITH NO DATA").format(stage))


def make_counting_functions(conn: psycopg.Connection, number: int) -> None:
    """Make functions whose calls the server counts (track_functions).

    Not allowed in parallel workers, they are called by the session itself, which sees
    its own calls at once (pg_stat_get_xact_function_calls).
    """
    plpgsql = conn.execute("SELECT 1 FROM pg_language WHERE lanname = 'plpgsql'").fetchone()
    language, body = ("plpgsql", "BEGIN RETURN true; END") if plpgsql else ("sql", "SELECT 1; SELECT true")
    for place in range(number):
        conn.execute(
            sql.SQL(
                f"CREATE OR REPLACE FUNCTION {{}}() RETURNS bool LANGUAGE {language}"
                " VOLATILE PARALLEL RESTRICTED AS {}"
            ).format(counting_function(place), sql.Literal(body))
        )


def _calls(conn: psycopg.Connection, functions: Sequence[int]) -> list[int]:
    if not functions:
        return []
    names = [f"{SCHEMA}.count_{number}()" for number in functions]
    rows = conn.execute(
        "SELECT coalesce(pg_stat_get_xact_function_calls(f.name::regprocedure), 0)"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS f(name, place) ORDER BY f.place",
        [names],
    ).fetchall()
    return [row[0] for row in rows]


def take_over(conn: psycopg.Connection, relation: Relation, stage: sql.Identifier) -> None:
    """Give a table the staged rows, and drop its own.

    Its indexes are marked as not usable: :func:`.indexes.rebuild` makes them anew.

    Raises:
        MaskingError: an expression has another type than its column.

    """
    kind = "MATERIALIZED VIEW"
    if relation.persistence == "u":
        stage, kind = _unlogged(conn, relation, stage), "TABLE"
    with conn.transaction():
        conn.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(*relation.name)))
        oids = {"table": relation.oid, "stage": _oid(conn, stage)}
        same = [one for one in relation.attributes if one.stored.same and not one.dropped]
        stored = {"numbers": [one.number for one in same], "types": [one.stored.oid for one in same]}
        unlike = ", ".join(row[0] for row in conn.execute(_UNLIKE, {**oids, **stored}).fetchall())
        if unlike:
            raise MaskingError(
                f"table {relation.name} of database {conn.info.dbname}: the masked values have another type than"
                f" their column: {unlike}"
            )
        conn.execute("UPDATE pg_index SET indisready = false, indisvalid = false WHERE indrelid = %s", [relation.oid])
        frozen = "relallfrozen = y.relallfrozen," if conn.info.server_version >= _ALL_FROZEN else ""
        conn.execute(_TOAST_OPTIONS, oids)
        conn.execute(_EXCHANGE_TOAST, oids)
        conn.execute(_EXCHANGE.format(frozen=frozen).encode(), oids)
        conn.execute(sql.SQL(f"DROP {kind} {{}}").format(stage))
        conn.execute(_ADOPT_TOAST, oids)
        conn.execute(_FORGET_MISSING, [relation.oid])


def _unlogged(conn: psycopg.Connection, relation: Relation, stage: sql.Identifier) -> sql.Identifier:
    """Copy staged rows into an unlogged table, which a materialised view cannot be; its rows need nothing computed."""
    copy = stage_name("u", relation.oid)
    like = sql.SQL("CREATE UNLOGGED TABLE {} (LIKE {} INCLUDING STORAGE INCLUDING COMPRESSION) {}")
    conn.execute(like.format(copy, stage, _form(relation)))
    conn.execute(sql.SQL("INSERT INTO {} SELECT * FROM ONLY {}").format(copy, stage))
    conn.execute(sql.SQL("DROP MATERIALIZED VIEW {}").format(stage))
    return copy


def _oid(conn: psycopg.Connection, name: sql.Identifier) -> int:
    row = conn.execute("SELECT %s::regclass::oid::int8", [name.as_string(conn)]).fetchone()
    assert row is not None  # noqa: S101 - the cast fails when there is no such name
    return int(row[0])
