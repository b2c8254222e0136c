"""Finds out why originals are in files: the live rows of the table that a file belongs to say whether they may be.

Used by :mod:`.prove`, and only when the scan of the files has found something: an
original that also is a value of a column that no rule masks lies in files rightly.
What live rows do not have (dead rows, free space, a stale index) is a leak.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking import streams
from reconciler.engines.postgres.masking.catalogs import at_paths
from reconciler.engines.postgres.masking.sample import guarded, speak
from reconciler.engines.postgres.masking.streams import Relation
from reconciler.masking.matcher import KEY, Matcher, is_control
from reconciler.masking.originals import SHORTEST
from reconciler.masking.schema import TableName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import psycopg

    from reconciler.engines.base import BuildWork
    from reconciler.masking.evidence import Accepted, Scan
    from reconciler.masking.findings import Findings
    from reconciler.masking.matcher import Search, ValueId

_FILE = re.compile(r"data/(?:base/(?P<database>[0-9]+)|global)/(?P<node>[0-9]+)(?:_[a-z]+)?(?:\.[0-9]+)?")
_CACHE = re.compile(r"/pg_internal\.init[^/]*$")
_GLOBAL = 1664
_OWNER = """
WITH RECURSIVE owner(oid) AS (
    SELECT pg_filenode_relation(%(tablespace)s, %(node)s)::oid
  UNION
    SELECT coalesce(i.indrelid, t.oid) FROM owner
    LEFT JOIN pg_index i ON i.indexrelid = owner.oid LEFT JOIN pg_class t ON t.reltoastrelid = owner.oid
    WHERE i.indexrelid IS NOT NULL OR t.oid IS NOT NULL
)
SELECT c.oid, n.nspname, c.relname, c.relkind = 'm' FROM owner JOIN pg_class c USING (oid)
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_toast'
"""
_STATISTICS = {("pg_catalog", "pg_statistic"), ("pg_catalog", "pg_statistic_ext_data")}


@dataclass(slots=True)
class _Explained:
    """Originals that may be in a file, by path; and those that are words of the system's catalogs."""

    paths: dict[str, frozenset[ValueId]] = field(default_factory=dict)
    words: frozenset[ValueId] = frozenset()


@dataclass(slots=True)
class _Met:
    """Originals that live rows have; and of them those that may be there."""

    found: frozenset[ValueId] = frozenset()
    accepted: frozenset[ValueId] = frozenset()

    def add(self, other: _Met) -> None:
        self.found |= other.found
        self.accepted |= other.accepted


def explain(work: BuildWork, scanned: Scan, findings: Findings) -> Accepted:
    """Return which of the originals that were found in files may be there, by the file's path.

    Databases that nobody can connect to (template0) hold nothing but the system's own
    words: what the catalogs of others have may be in theirs. The server's caches of
    catalogs (pg_internal.init) are removed before sealing.

    Raises:
        MaskingError: a table cannot be read.

    """
    originals = {
        file.path: frozenset(value for value in file.found if value != KEY and not is_control(value))
        for file in scanned.files
    }
    suspects = {path: ids for path, ids in originals.items() if ids}
    if not suspects:
        return {}
    with server.connect(work, "template1") as conn:
        names = {str(oid): name for oid, name in conn.execute("SELECT oid, datname FROM pg_database").fetchall()}
        reachable = server.connectable_databases(conn)
    places = {path: _database(path, names) for path in suspects}
    explained = _Explained()
    for database in reachable:
        paths = {path: ids for path, ids in suspects.items() if places[path] == database}
        if paths:
            with server.connect(work, database) as conn:
                speak(conn)
                _in_database(work, conn, findings, database, paths, explained)
    for path, ids in suspects.items():
        if _CACHE.search(path):
            explained.paths[path] = ids
        elif places[path] is not None and places[path] not in reachable:
            explained.paths[path] = ids & explained.words
    return explained.paths


def judge_statistics(
    conn: psycopg.Connection, findings: Findings, database: str, search: Search, *, beside: bool = False
) -> _Met:
    """Judge the originals that the planner's statistics hold."""
    met = _Met()
    for relation, columns, ids in list(streams.statistics(conn, search)):
        met.add(_Met(ids, findings.accept(at_paths(conn), database, relation, columns, ids, beside=beside)))
    return met


def is_relation(path: str) -> bool:
    """Tell whether a file, by its path relative to the volume, holds rows of a table or an index."""
    return _FILE.fullmatch(path) is not None


def _database(path: str, names: Mapping[str, str]) -> str | None:
    """Return the database that a file is in; those that databases share are looked up in template1."""
    match = _FILE.fullmatch(path)
    if match is None:
        return None
    return names.get(match["database"]) if match["database"] else "template1"


def _in_database(
    work: BuildWork,
    conn: psycopg.Connection,
    findings: Findings,
    database: str,
    paths: Mapping[str, frozenset[ValueId]],
    explained: _Explained,
) -> None:
    owners = {path: owner for path in paths if (owner := _owner(conn, path)) is not None}
    wanted: dict[Relation, set[ValueId]] = defaultdict(set)
    for path, owner in owners.items():
        wanted[owner] |= paths[path]
    fine: dict[Relation, frozenset[ValueId]] = {}
    for owner in sorted(wanted, key=lambda owner: owner.materialised):
        work.progress(f"finding out why originals are in {database}: {owner.name}")
        work.cancel.check()
        with guarded(database, owner.name, "its rows cannot be searched"):
            fine[owner] = _live(conn, findings, database, owner, wanted[owner])
        if owner.is_catalog:
            explained.words |= fine[owner]
    explained.paths |= {path: paths[path] & fine[owner] for path, owner in owners.items()}


def _owner(conn: psycopg.Connection, path: str) -> Relation | None:
    match = _FILE.fullmatch(path)
    if match is None:
        return None
    where = {"tablespace": 0 if match["database"] else _GLOBAL, "node": int(match["node"])}
    row = conn.execute(_OWNER, where).fetchone()
    return None if row is None else Relation(row[0], TableName(row[1], row[2]), row[3])


def _live(
    conn: psycopg.Connection, findings: Findings, database: str, owner: Relation, ids: Iterable[ValueId]
) -> frozenset[ValueId]:
    """Return which originals live rows say may be in a table's files.

    The byte before or after a value in a file (the length of what follows) can look like
    a character: 7 digits and the next value's length are 8 digits. So a few of what is
    not met are looked for without their first or last character.
    """
    wanted = frozenset(ids)
    met = _look(conn, findings, database, owner, Matcher(findings.samples, wanted))
    accepted = met.accepted
    for cut in (slice(None, -1), slice(1, None)):
        left = findings.few_of(wanted - met.found - accepted)
        if left:
            matcher = Matcher(findings.samples, left, cut=cut, shortest=SHORTEST - 1)
            accepted |= _look(conn, findings, database, owner, matcher, beside=True).accepted & left
    return accepted


def _look(
    conn: psycopg.Connection,
    findings: Findings,
    database: str,
    owner: Relation,
    matcher: Matcher,
    *,
    beside: bool = False,
) -> _Met:
    met = _Met()
    for part in matcher.parts:
        search = matcher.search(part)
        if owner.name in _STATISTICS:
            met.add(judge_statistics(conn, findings, database, search, beside=beside))
            continue
        for column, ids in streams.live(conn, owner, search, matcher.overlap).items():
            met.add(_Met(ids, findings.accept(at_paths(conn), database, owner, [column], ids, beside=beside)))
    return met
