"""Materialised views: copies of rows, which are computed again from masked ones.

Called by :mod:`.stage` at the end of a database. One that was not populated stays so.
One that cannot be computed here is emptied and reported: it holds originals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from reconciler.engines.postgres import failures
from reconciler.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Collection

# What the rule of each view and materialised view reads; a function of users may read any table.
_READS = """
SELECT DISTINCT r.ev_class::int8, d.refobjid::int8, d.refclassid = 'pg_proc'::regclass
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class AND c.relkind IN ('v', 'm')
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
   OR d.refclassid = 'pg_proc'::regclass AND d.refobjid >= 16384
"""
# A view may read what lies below: partitions and heirs. Foreign ones are other servers.
_INHERITS = "SELECT inhparent::int8, inhrelid::int8 FROM pg_inherits"
_FOREIGN = "SELECT oid::int8 FROM pg_class WHERE relkind = 'f'"
_POPULATED = """
SELECT c.oid::int8, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'm' AND c.relispopulated AND n.nspname <> 'reconciler_masking' ORDER BY c.oid
"""
_Graph = dict[int, set[int]]


def refresh_all(conn: psycopg.Connection, rewritten: Collection[int]) -> tuple[list[str], list[int]]:
    """Compute what may show rewritten tables; return what had to be emptied, as text, and the oids of all.

    Raises:
        UnavailableError: the server cannot go on, for example for want of disk.

    """
    reads, opaque = _graph(conn)
    foreign = {row[0] for row in conn.execute(_FOREIGN).fetchall()}
    views = {oid: (schema, name) for oid, schema, name in conn.execute(_POPULATED).fetchall()}
    stale = [oid for oid in views if _reaches(reads, oid, set(rewritten) | opaque)]
    reports = []
    for oid in _in_order(reads, stale):
        why = "it reads another server" if _reaches(reads, oid, foreign) else _refresh(conn, views[oid])
        if why is not None:
            conn.execute(sql.SQL("REFRESH MATERIALIZED VIEW {} WITH NO DATA").format(sql.Identifier(*views[oid])))
            name = ".".join(views[oid])
            reports.append(f"database {conn.info.dbname}: the materialised view {name} was emptied: {why}")
    return reports, stale


def _refresh(conn: psycopg.Connection, name: tuple[str, str]) -> str | None:
    """Compute a materialised view; return why that is not possible."""
    try:
        conn.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(sql.Identifier(*name)))
    except psycopg.Error as error:
        told = failures.translation(error, rows=True)
        if not isinstance(told, PermanentError):
            raise told from None
        return f"it cannot be computed ({told.message})"
    return None


def _graph(conn: psycopg.Connection) -> tuple[_Graph, set[int]]:
    """Return what each view reads, and the views that call functions of users."""
    reads: _Graph = {}
    opaque: set[int] = set()
    for view, read, function in conn.execute(_READS).fetchall():
        if function:
            opaque.add(view)
        else:
            reads.setdefault(view, set()).add(read)
    for parent, child in conn.execute(_INHERITS).fetchall():
        reads.setdefault(parent, set()).add(child)
    return reads, opaque


def _reaches(reads: _Graph, start: int, wanted: Collection[int]) -> bool:
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        one = waiting.pop()
        if one in wanted:
            return True
        if one not in seen:
            seen.add(one)
            waiting += reads.get(one, ())
    return False


def _in_order(reads: _Graph, views: Collection[int]) -> list[int]:
    """Return materialised views so that each comes after those that it reads."""
    ordered: dict[int, None] = {}

    def visit(one: int) -> None:
        if one not in seen:
            seen.add(one)
            for read in sorted(reads.get(one, ())):
                visit(read)
            if one in wanted:
                ordered[one] = None

    seen: set[int] = set()
    wanted = set(views)
    for view in sorted(wanted):
        visit(view)
    return list(ordered)
