"""One moment of a primary: a session in each of its databases, all of which see the same data.

Called by :mod:`.copying`, which has programs read what these sessions see, and to tell
whether a primary changed. PostgreSQL exports a snapshot to sessions of the same database
only. But which transactions a snapshot sees is said by ``txid_current_snapshot()``, in
numbers of the whole cluster (manual, section 9.27.8): sessions that say the same see the
same moment. Until they do, all of them look anew. (``pg_current_snapshot()`` is its newer name.)

Nothing is written at the primary, and nothing stays there: the end of a session takes
its transaction, its snapshot and its locks with it.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, LiteralString

import psycopg
from psycopg import pq

from reconciler.engines.postgres import primary
from reconciler.errors import BusyError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reconciler.engines.postgres.primary import Primary
    from reconciler.proc import CancelToken

_TRIES = 400
"""Looks for a moment that is the same everywhere; each takes one round trip."""
_HOLDS = 3
"""Times that everything begins anew because a table was rewritten before it could be held."""
_LOCK_SECONDS = 30
_LOCKED_AT_ONCE = 200
_ANEW = (
    b"ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
    b" SELECT pg_export_snapshot(), txid_current_snapshot()::text, pg_last_wal_replay_lsn()::text,"
    b" (extract(epoch FROM coalesce(pg_last_xact_replay_timestamp(), clock_timestamp())) * 1000000)::bigint"
)
"""On a standby the moment is that of its primary: when what was replayed last had been committed there."""
_REPLAYED = """
SELECT coalesce(pg_last_wal_replay_lsn()::text, CASE WHEN pg_is_in_recovery() THEN clock_timestamp()::text END)
"""
_STATE = "SELECT txid_current_snapshot()::text"
_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname),
    c.relkind = 'r' AND c.relfilenode <> 0 AND pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND has_table_privilege(c.oid, 'SELECT') AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
"""
"""Tables whose rows are copied, and whether each was rewritten since.

The catalog shows what the snapshot sees, and ``pg_relation_filenode()`` what is now. Tables that may not be
read are left to pg_dump, which says so.
"""
_GONE = ("42P01", "3F000")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one session sees."""

    snapshot: str
    transactions: str
    replayed: str | None
    at: datetime


@dataclass(slots=True)
class Moment:
    """Databases as of one moment, until each is released."""

    identity: str
    """Equal ones mean equal data, as in :class:`~reconciler.engines.base.SourceIdentity`."""
    as_of: datetime
    """By the clock of the primary, where the earliest database is: what was committed before is there."""
    apart: timedelta | None
    """None: one moment. Else the databases are of moments at most this far apart."""
    _snapshots: dict[str, str] = field(repr=False)
    _sessions: Mapping[str, psycopg.Connection] = field(repr=False)

    def snapshot(self, database: str) -> str:
        """Return the name of the snapshot that other sessions in ``database`` can take over."""
        return self._snapshots[database]

    def release(self, database: str) -> None:
        """Let a database go, with all that was held in it."""
        self._sessions[database].close()


def state(conn: psycopg.Connection, name: str) -> str:
    """Return the identity of a primary's data as it is now; ``name`` tells servers apart that cannot be asked.

    On the primary itself it is the set of transactions that are visible; on a standby, where
    that is not known in full, how far it has replayed. A step of a sequence without any row
    that comes with it is in neither.
    """
    cluster = _cluster(conn, name)
    return f"{cluster}:{_value(conn, _REPLAYED) or _value(conn, _STATE)}"


@contextmanager
def opened(here: Primary, databases: Sequence[str], cancel: CancelToken) -> Iterator[Moment]:
    """Hold all of ``databases`` at a moment; the sessions end with the block.

    ``here`` is one server (:meth:`.Primary.pinned`). Tables are held as pg_dump does it:
    they can be read and written, but not rewritten or dropped, until their database is
    released. An emptied table would otherwise be copied as empty, whatever the snapshot sees.

    Raises:
        UnavailableError: the primary is gone, or does not take that many sessions.
        SourceError: it does not let us into a database.
        BusyError: tables are rewritten or locked again and again.

    """
    with ExitStack() as stack:
        sessions = {name: stack.enter_context(_session(here, name)) for name in databases}
        try:
            yield _hold(here, sessions, cancel)
        except psycopg.Error as error:
            raise primary.failure(here, error) from None


@contextmanager
def _session(here: Primary, database: str) -> Iterator[psycopg.Connection]:
    conn = primary.connect(here, database)
    try:
        yield conn
    finally:
        conn.close()


def _hold(here: Primary, sessions: dict[str, psycopg.Connection], cancel: CancelToken) -> Moment:
    """Find a moment, and hold its tables before any of them is rewritten.

    Raises:
        BusyError: that did not succeed.

    """
    rewritten = ""
    for _ in range(_HOLDS):
        moment = _find(here, sessions, cancel)
        for database, conn in sessions.items():
            table = _hold_tables(conn)
            if table is not None:
                rewritten = f"table {table} of database {database}"
                break
        else:
            return moment
    raise BusyError(
        f"the primary {here.where} empties or rewrites {rewritten} again and again, so no moment of it can be held",
        reason="SourceChanged",
    )


def _find(here: Primary, sessions: Mapping[str, psycopg.Connection], cancel: CancelToken) -> Moment:
    first = next(iter(sessions.values()))
    first.execute("ROLLBACK")
    cluster = _cluster(first, here.where)
    for _ in range(_TRIES):
        cancel.check()
        # Before anything is seen: what is replayed meanwhile makes the next look at the primary find a change.
        replayed = _replayed(first)
        seen = dict(zip(sessions, _look(here, tuple(sessions.values())), strict=True))
        together = len(seen) == 1 or {(one.transactions, one.replayed) for one in seen.values()} == {
            (next(iter(seen.values())).transactions, replayed)
        }
        if together:
            break
    times = [one.at for one in seen.values()]
    return Moment(
        identity=f"{cluster}:{replayed or min(seen.values(), key=lambda one: one.at).transactions}",
        as_of=min(times),
        apart=None if together else max(times) - min(times),
        _snapshots={name: one.snapshot for name, one in seen.items()},
        _sessions=sessions,
    )


def _look(here: Primary, sessions: Sequence[psycopg.Connection]) -> list[_Seen]:
    """Let every session look anew, all of them at once."""
    for conn in sessions:
        conn.pgconn.send_query(_ANEW)
    return [_seen(here, conn) for conn in sessions]


def _seen(here: Primary, conn: psycopg.Connection) -> _Seen:
    row: list[str] = []
    problem = ""
    while (result := conn.pgconn.get_result()) is not None:
        if result.status == pq.ExecStatus.TUPLES_OK:
            row = [(result.get_value(0, column) or b"").decode() for column in range(result.nfields)]
        elif result.status != pq.ExecStatus.COMMAND_OK:
            problem = problem or result.get_error_message()
    if problem or not row:
        raise UnavailableError(
            f"the primary {here.where} shows no snapshot: {here.redacted(problem)}", reason="PrimaryUnavailable"
        )
    snapshot, transactions, replayed, at = row
    return _Seen(snapshot, transactions, replayed or None, _EPOCH + timedelta(microseconds=int(at)))


def _hold_tables(conn: psycopg.Connection) -> str | None:
    """Lock a database's tables against being rewritten; return one that was, since the snapshot was taken."""
    tables = [str(row[0]) for row in conn.execute(_TABLES).fetchall()]
    conn.execute(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
    for start in range(0, len(tables), _LOCKED_AT_ONCE):
        names = ", ".join(f"ONLY {name}" for name in tables[start : start + _LOCKED_AT_ONCE])
        try:
            conn.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE".encode())
        except psycopg.Error as error:
            if error.sqlstate in _GONE:
                return "that was dropped"
            raise
    return next((str(name) for name, rewritten in conn.execute(_TABLES).fetchall() if rewritten), None)


def _cluster(conn: psycopg.Connection, name: str) -> str:
    """Return which cluster this is, and on which timeline, as far as the server says so."""
    found = _permitted(conn, "SELECT system_identifier::text FROM pg_control_system()")
    if found is None:
        return hashlib.sha256(f"{name}/{conn.info.dbname}".encode()).hexdigest()[:16]
    timeline = _permitted(conn, "SELECT timeline_id::text FROM pg_control_checkpoint()")
    return f"{found}.{timeline or 0}"


def _replayed(conn: psycopg.Connection) -> str | None:
    """Return how far a standby has replayed, from outside of every snapshot; None on a primary."""
    conn.execute("ROLLBACK")
    return _value(conn, _REPLAYED)


def _value(conn: psycopg.Connection, query: LiteralString) -> str | None:
    row = conn.execute(query).fetchone()
    return None if row is None or row[0] is None else str(row[0])


def _permitted(conn: psycopg.Connection, query: LiteralString) -> str | None:
    """Return what a query returns; None as well where that is not permitted, or does not exist."""
    try:
        return _value(conn, query)
    except psycopg.Error:
        if conn.closed:
            raise
        return None
