"""The replication protocol of a primary, as far as it is asked and told things; nothing is streamed here.

Used by :mod:`.mirror`. Commands are those of the manual, "Streaming Replication Protocol".
Whoever may stream from a primary may say all of them, also where SQL is not allowed.
"""

from __future__ import annotations

import re
import select
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq, sql

from reconciler.engines.postgres import primary
from reconciler.errors import SourceError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.postgres.primary import Primary

_READ_SLOT = 150000
_ANSWER_SECONDS = 3.0
_NO_FILE = b"58P01"
"""SQLSTATE of a segment that was removed: undefined_file."""
_HISTORY = re.compile(r"^\s*(\d+)\s+([0-9A-F]+/[0-9A-F]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class System:
    """Which database system a primary is, and where its log ends."""

    identifier: str
    timeline: int
    position: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A physical slot; ``restart`` is where its log begins: None before somebody streams, and once that is lost."""

    restart: int | None


def lsn(text: str) -> int:
    """Return a position in the log (``16/B374D848``) as a number of bytes."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


@contextmanager
def session(wanted: Primary, *, look: bool = False) -> Iterator[psycopg.Connection]:
    """Open a replication session; ``look`` as of :func:`.primary.connect`.

    Raises:
        UnavailableError, SourceError: as :func:`.primary.connect`; also for what goes wrong within the block.

    """
    with primary.connect(wanted, replication="true", look=look) as conn:
        try:
            yield conn
        except psycopg.Error as error:
            raise _failure(wanted, error) from None


def identify(conn: psycopg.Connection) -> System:
    """Return which system this is."""
    row = conn.execute("IDENTIFY_SYSTEM").fetchone()
    if row is None:
        raise SourceError("the primary does not identify itself")
    return System(str(row[0]), int(row[1]), lsn(row[2]))


def fork_of(conn: psycopg.Connection, *, timeline: int, of: int) -> int | None:
    """Return where ``timeline`` left the timeline ``of``; None if it does not descend from it."""
    row = conn.execute(sql.SQL("TIMELINE_HISTORY {}").format(sql.Literal(timeline))).fetchone()
    content = row[1] if row is not None else b""
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
    forks = {int(number): lsn(at) for number, at in _HISTORY.findall(text)}
    return forks.get(of)


def ensure_slot(conn: psycopg.Connection, name: str, *, reserve: bool = True) -> None:
    """Make a physical slot, unless it exists; it keeps log from now on; without ``reserve``, once somebody streams."""
    words = "CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL" if reserve else "CREATE_REPLICATION_SLOT {} PHYSICAL"
    try:
        conn.execute(sql.SQL(words).format(sql.Identifier(name)))
    except psycopg.errors.DuplicateObject:
        return


def drop_slot(conn: psycopg.Connection, name: str) -> None:
    """Drop a slot as soon as nobody uses it; absent is fine."""
    try:
        conn.execute(sql.SQL("DROP_REPLICATION_SLOT {} WAIT").format(sql.Identifier(name)))
    except psycopg.errors.UndefinedObject:
        return


def read_slot(conn: psycopg.Connection, wanted: Primary, name: str) -> Slot | None:
    """Return a slot, None if there is none.

    Raises:
        UnavailableError, SourceError: as :func:`.primary.connect`; before version 15 it takes a session with SQL.

    """
    if conn.info.server_version >= _READ_SLOT:
        row = conn.execute(sql.SQL("READ_REPLICATION_SLOT {}").format(sql.Identifier(name))).fetchone()
        if row is None or row[0] is None:
            return None
        return Slot(lsn(row[1]) if row[1] is not None else None)
    with primary.connect(wanted, look=True) as other:
        row = other.execute(
            "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [name]
        ).fetchone()
    return None if row is None else Slot(lsn(row[0]) if row[0] is not None else None)


def has_log(wanted: Primary, *, position: int, timeline: int, segment: int = 16 << 20) -> bool:
    """Tell whether a primary still has its log from ``position`` on: streaming begins for a moment, without a slot."""
    start = position - position % segment
    command = f"START_REPLICATION PHYSICAL {start >> 32:X}/{start & 0xFFFFFFFF:X} TIMELINE {timeline}"
    with closing(primary.connect(wanted, replication="true", look=True)) as conn:  # a stream is not committed
        conn.pgconn.send_query(command.encode())
        result = _answer(wanted, conn.pgconn)
        if result is not None and result.status == pq.ExecStatus.COPY_BOTH:
            result = _end_of_stream(conn.pgconn)
        return result is None or result.error_field(pq.DiagnosticField.SQLSTATE) != _NO_FILE


def _answer(wanted: Primary, pg: pq.abc.PGconn) -> pq.abc.PGresult | None:
    """Return what a primary says to a command.

    Raises:
        UnavailableError: it says nothing.

    """
    until = time.monotonic() + _ANSWER_SECONDS
    pg.flush()
    while pg.is_busy():
        if not select.select([pg.socket], [], [], max(0.0, until - time.monotonic()))[0]:
            raise UnavailableError(f"the primary {wanted.where} does not answer", reason="PrimaryUnavailable")
        pg.consume_input()
    return pg.get_result()


def _end_of_stream(pg: pq.abc.PGconn) -> pq.abc.PGresult | None:
    """Return what ended a stream that has just begun; None if it goes on."""
    until = time.monotonic() + _ANSWER_SECONDS
    while (left := until - time.monotonic()) > 0:
        received, _data = pg.get_copy_data(1)
        if received > 0:
            return None
        if received < 0:  # the end: an error, where nobody asked for it
            return pg.get_result()
        select.select([pg.socket], [], [], left)
        pg.consume_input()
    return None


def _failure(wanted: Primary, error: psycopg.Error) -> Exception:
    if isinstance(error, psycopg.errors.ConfigurationLimitExceeded):
        return SourceError(
            f"the primary {wanted.where} has no replication slot left",
            hint="raise its max_replication_slots, or drop slots that nobody uses",
            reason="PrimaryRefused",
        )
    if isinstance(error, psycopg.errors.ObjectNotInPrerequisiteState):
        return SourceError(
            f"the primary {wanted.where} cannot be followed: {wanted.redacted(str(error))}",
            hint="set wal_level = replica, max_wal_senders and max_replication_slots there",
            reason="PrimaryRefused",
        )
    return primary.failure(wanted, error)
