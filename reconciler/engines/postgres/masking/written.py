"""Old rows elsewhere: tables that scripts wrote, and large objects.

What a script deleted or updated stays in the file of its table as dead rows, until the
table is rewritten. The server counts what is written; :mod:`.stage` lets the counts of
tables begin anew that it rewrote itself, and :mod:`.run` has everything else rewritten
once, after the last script. Rows that were dead before the build began are counted
nowhere: see :mod:`reconciler.engines.postgres.remains`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres.masking.lanes import Lanes, Piece
from reconciler.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Collection

    import psycopg

    from reconciler.engines.base import BuildWork
    from reconciler.engines.postgres.masking.lanes import Lane

_FLUSH_AT_ONCE = 150000
_LEAVING_SECONDS = 30.0
_OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
# Counted since the server started; rows of transactions that failed are dead as well.
_WRITTEN = """
SELECT n.nspname, c.relname, pg_table_size(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
  AND (c.oid >= 16384 OR c.oid = 'pg_catalog.pg_largeobject'::regclass)
  AND n.nspname NOT IN ('pg_toast', 'reconciler_masking') AND pg_table_size(c.oid) > 0
  AND (pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid) + pg_stat_get_dead_tuples(c.oid) > 0
    OR pg_stat_get_tuples_deleted(c.reltoastrelid) + pg_stat_get_dead_tuples(c.reltoastrelid) > 0)
"""
_LARGE_OBJECTS = "SELECT count(lo_unlink(oid)) FROM (SELECT oid FROM pg_largeobject_metadata LIMIT 1000) AS batch"
"""Each takes a lock until its transaction ends, and locks are few."""


def begin_anew(conn: psycopg.Connection, tables: Collection[int]) -> None:
    """Forget what was written to tables until now: their files were made anew, and have nothing old."""
    conn.execute("SELECT pg_stat_reset_single_table_counters(oid) FROM unnest(%s::oid[]) AS oid", [list(tables)])


def scrub_written(work: BuildWork, conn: psycopg.Connection) -> int:
    """Rewrite the tables of the connected database that were written and not just loaded; return how many.

    Sessions that wrote must be over: they report when they end, which is waited for.

    Raises:
        UnavailableError: another session does not end.

    """
    _await_reports(conn)
    rows = conn.execute(_WRITTEN).fetchall()
    pieces = [Piece(f"{schema}.{name}", size, (schema, name)) for schema, name, size in rows]
    Lanes(work, conn.info.dbname).run("rewriting", "tables that scripts wrote", pieces, _vacuum)
    return len(rows)


def _vacuum(lane: Lane, piece: Piece[tuple[str, str]]) -> None:
    lane.admin.execute(sql.SQL("VACUUM (FULL, FREEZE) {}").format(sql.Identifier(*piece.what)))


def _await_reports(conn: psycopg.Connection) -> None:
    deadline = time.monotonic() + _LEAVING_SECONDS
    while conn.execute(_OTHERS).fetchall()[0][0]:
        if time.monotonic() > deadline:
            raise UnavailableError(f"another session is connected to database {conn.info.dbname} of the build")
        time.sleep(0.01)
    if conn.info.server_version >= _FLUSH_AT_ONCE:
        conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("SELECT pg_stat_clear_snapshot()")


def remove_large_objects(work: BuildWork, conn: psycopg.Connection) -> None:
    """Remove all large objects of the connected database, and what is left of them in its catalogs."""
    while conn.execute(_LARGE_OBJECTS).fetchall()[0][0]:
        work.cancel.check()
    for catalog in ("pg_largeobject", "pg_largeobject_metadata"):
        conn.execute(sql.SQL("VACUUM (FULL, FREEZE) pg_catalog.{}").format(sql.Identifier(catalog)))
