"""The work that clones would each do again, done once in the build.

Called by ``session`` at the end of a build: indexes whose sort order is another here,
freezing and statistics, and catalogs that held secrets rewritten so that nothing of
them is left in free space. A page that a clone need not touch stays shared.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres import collations, server

if TYPE_CHECKING:
    import psycopg

    from reconciler.engines.base import BuildWork, InstalledServer

# Shared by all databases; they held password hashes, connection strings or settings.
_SHARED = ("pg_authid", "pg_subscription", "pg_db_role_setting")
# Per database; a histogram in pg_statistic repeats values of rows, those of pg_authid too.
_LOCAL = (
    "pg_user_mapping",
    "pg_foreign_server",
    "pg_foreign_data_wrapper",
    "pg_foreign_table",
    "pg_statistic",
    "pg_statistic_ext_data",
)
# ANALYZE leaves the old statistics of a table that is empty by now; so all of them go first.
_FORGET = ("DELETE FROM pg_statistic", "DELETE FROM pg_statistic_ext_data")
# The large tables one by one, so that several connections can share them; ANALYZE alone knows partitioned ones.
_LARGE_TABLES = """
SELECT format('VACUUM (FREEZE, ANALYZE, INDEX_CLEANUP ON) %%s', oid::regclass) FROM pg_class
WHERE relkind IN ('r', 'm') AND relpersistence <> 't' AND oid <> ALL(%s) AND pg_relation_size(oid) > %s
ORDER BY pg_relation_size(oid) DESC
"""
_PARTITIONED = """
SELECT format('ANALYZE %%s', oid::regclass) FROM pg_class
WHERE relkind = 'p' AND NOT relispartition AND oid <> ALL(%s)
"""
# ANALYZE of a table with a foreign one among its partitions or heirs would ask the other server for rows.
_REACHING_OUT = """
WITH RECURSIVE above(oid) AS (
    SELECT inhparent FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE relkind = 'f'
  UNION SELECT inhparent FROM pg_inherits JOIN above ON above.oid = inhrelid
)
SELECT oid FROM above
"""
_LOCAL_TABLES = """
SELECT format('ANALYZE %%s', oid::regclass) FROM pg_class
WHERE relkind IN ('r', 'm') AND relpersistence <> 't' AND oid <> ALL(%s)
"""
_LARGE_BYTES = 64 << 20
"""Smaller tables are not worth a connection of their own."""
# What the server counted since the build began.
_WRITTEN = """
SELECT format('VACUUM (FREEZE, ANALYZE) %%s', oid::regclass) FROM pg_class
WHERE relkind IN ('r', 'm') AND relpersistence <> 't' AND oid <> ALL(%s) AND oid >= 16384
  AND pg_stat_get_tuples_inserted(oid) + pg_stat_get_tuples_updated(oid) + pg_stat_get_tuples_deleted(oid) > 0
"""


def settle_cluster(work: BuildWork, installed: InstalledServer, *, masked: bool = False) -> dict[str, str]:
    """Settle every database; return facts for the snapshot's manifest.

    A copy of a mirror is the next one of many: it keeps what production did for its own
    files, so that it costs what was changed and not what there is; where it is ``masked``,
    dead rows are taken off their pages all the same, and all statistics are made anew.
    """
    used: set[str] = set()
    with server.connect(work, "template1") as conn:
        names = server.connectable_databases(conn)
    for name in names:
        work.progress(f"vacuuming {name}")
        with server.connect(work, name) as conn:
            if work.source.kind == "mirror":
                used |= _settle_mirrored(work, conn, masked=masked)
            else:
                used |= _settle_database(work, conn)
    with server.connect(work, "template1") as conn:
        _rewrite(conn, _SHARED)
        if work.source.kind != "mirror":
            freeze_catalogs(conn)
        conn.execute("CHECKPOINT")
    return collations.record(used, installed)


def _settle_database(work: BuildWork, conn: psycopg.Connection) -> set[str]:
    collations.repair(conn)
    used = collations.dependencies(conn)
    for statement in _FORGET:
        conn.execute(sql.SQL(statement))
    _vacuum(work, conn)
    work.cancel.check()
    _rewrite(conn, _LOCAL)
    freeze_catalogs(conn)
    return used


def _settle_mirrored(work: BuildWork, conn: psycopg.Connection, *, masked: bool) -> set[str]:
    """Settle what the build has written; freezing more would change pages that are as production has them."""
    collations.repair(conn)
    used = collations.dependencies(conn)
    reaching_out = [row[0] for row in conn.execute(_REACHING_OUT).fetchall()]
    if masked:
        for forget in _FORGET:
            conn.execute(sql.SQL(forget))
        work.cancel.check()
        _leave_alone_what_is_visible(conn)
        conn.execute("VACUUM (INDEX_CLEANUP ON)")
    queries = (_LOCAL_TABLES if masked else _WRITTEN, _PARTITIONED)
    for (statement,) in [row for query in queries for row in conn.execute(query, [reaching_out]).fetchall()]:
        work.cancel.check()
        conn.execute(sql.SQL(statement))
    _rewrite(conn, _LOCAL)
    return used


def _leave_alone_what_is_visible(conn: psycopg.Connection) -> None:
    """Let VACUUM pass over pages without dead rows: in an old table it would freeze them, in each copy again.

    It reads all of a table that was frozen long ago, and since version 18 some of any other
    ("vacuum_max_eager_freeze_failure_rate" in the manual).
    """
    conn.execute("SELECT set_config(name, max_val, false) FROM pg_settings WHERE name ~ '^vacuum_.*freeze_table_age$'")
    conn.execute(
        "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'vacuum_max_eager_freeze_failure_rate'"
    )


def _vacuum(work: BuildWork, conn: psycopg.Connection) -> None:
    """Vacuum, freeze and analyse a database: large tables by up to ``jobs`` connections, then all that is left."""
    reaching_out = [row[0] for row in conn.execute(_REACHING_OUT).fetchall()]
    large = [row[0] for row in conn.execute(_LARGE_TABLES, [reaching_out, _LARGE_BYTES]).fetchall()]
    lanes = min(work.jobs, len(large))
    if lanes > 1:
        queue: SimpleQueue[str] = SimpleQueue()
        for statement in large:
            queue.put(statement)
        with ThreadPoolExecutor(lanes) as pool:
            for lane in [pool.submit(_own_lane, work, conn.info.dbname, queue) for _ in range(lanes)]:
                lane.result()
    work.cancel.check()
    conn.execute(  # passes over what is frozen already
        "VACUUM (FREEZE, INDEX_CLEANUP ON)" if reaching_out else "VACUUM (FREEZE, ANALYZE, INDEX_CLEANUP ON)"
    )
    for query in (_LOCAL_TABLES, _PARTITIONED) if reaching_out else (_PARTITIONED,):
        for (statement,) in conn.execute(query, [reaching_out]).fetchall():
            conn.execute(sql.SQL(statement))


def _own_lane(work: BuildWork, database: str, queue: SimpleQueue[str]) -> None:
    with server.connect(work, database) as conn:
        while not queue.empty():
            work.cancel.check()
            try:
                statement = queue.get_nowait()
            except Empty:
                return
            conn.execute(sql.SQL(statement))


def _rewrite(conn: psycopg.Connection, tables: tuple[str, ...]) -> None:
    for table in tables:
        conn.execute(sql.SQL("VACUUM (FULL, FREEZE) pg_catalog.{}").format(sql.Identifier(table)))


def freeze_catalogs(conn: psycopg.Connection) -> None:
    """Freeze what the statements before wrote into catalogs; without ANALYZE, which writes again."""
    rows = conn.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid < 16384").fetchall()
    conn.execute(sql.SQL("VACUUM (FREEZE, INDEX_CLEANUP ON) " + ", ".join(row[0] for row in rows)))
