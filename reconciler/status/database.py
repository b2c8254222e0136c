"""The SQLite file under the status store: opened, checked, and replaced when it is broken.

Used by the status store alone. What it holds can be thrown away: a file that is torn,
of something else or of a schema that nobody knows any more is moved aside (``.broken-<time>``) and a new
one is made; so is one that vanished. Never deletes or judges anything else.

One connection, guarded by a lock: workers of a pass share it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING, TypeVar

from reconciler.errors import BusyError, ConfigError, UnavailableError
from reconciler.status import files, history

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reconciler.clock import Clock
    from reconciler.errors import ReconcilerError

T = TypeVar("T")

_APPLICATION = 0x7265_636F
_VERSION = 4
_BUSY_SECONDS = 5.0
_BROKEN_KEPT = 3
_BROKEN_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_ABSENT = (0, 0)

_SCHEMA = (
    """
CREATE TABLE conditions (kind TEXT, name TEXT, position INTEGER, type TEXT, status TEXT, reason TEXT, message TEXT,
    since TEXT, revision TEXT, PRIMARY KEY (kind, name, position)) WITHOUT ROWID;
CREATE TABLE events (id INTEGER PRIMARY KEY, time TEXT, kind TEXT, name TEXT, severity TEXT, reason TEXT, message TEXT,
    revision TEXT, metadata TEXT, count INTEGER DEFAULT 1, first TEXT);
CREATE INDEX events_by_object ON events (kind, name, id);
CREATE INDEX events_by_time ON events (time);
CREATE TABLE failures (kind TEXT, name TEXT, reason TEXT, message TEXT, permanent INTEGER, fingerprint TEXT,
    attempts INTEGER, at TEXT, retry_at TEXT, work TEXT, PRIMARY KEY (kind, name, work)) WITHOUT ROWID;
CREATE TABLE refreshed (image TEXT PRIMARY KEY, at TEXT, asked TEXT, skipped TEXT) WITHOUT ROWID;
CREATE TABLE usage (volume TEXT PRIMARY KEY, logical INTEGER, exclusive INTEGER, at TEXT) WITHOUT ROWID;
CREATE TABLE activity (volume TEXT PRIMARY KEY, used TEXT, looked TEXT, sessions INTEGER) WITHOUT ROWID;
CREATE TABLE passes (id INTEGER PRIMARY KEY, revision TEXT, started TEXT, finished TEXT, outcome TEXT, counts TEXT);
CREATE TABLE revisions (role TEXT PRIMARY KEY, revision TEXT, at TEXT, diagnostics TEXT) WITHOUT ROWID;
"""
    + history.SCHEMA
)

_STEPS = {
    3: "ALTER TABLE events ADD COLUMN count INTEGER DEFAULT 1; ALTER TABLE events ADD COLUMN first TEXT;"
    + history.SCHEMA,
}
"""What makes a file of one version one of the next."""


class Database:
    """A status file. ``incarnation`` grows whenever a file was opened; ``problem`` says why one was made anew."""

    def __init__(self, path: Path, clock: Clock, *, read_only: bool = False) -> None:
        self.path = path
        self.incarnation = 0
        self.problem: str | None = None
        self._clock = clock
        self._read_only = read_only
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._identity = _ABSENT
        with self._lock:
            self._ensure()

    def refresh(self) -> int:
        """Make sure that the file at the path is the one that is open; return its incarnation."""
        with self._lock:
            self._ensure()
            return self.incarnation

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what ``work`` reads, all from one state of the file."""
        return self._run(work, "BEGIN")

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Let ``work`` change the file: all of it or nothing. May run ``work`` twice.

        Raises:
            UnavailableError: the file cannot be written (no room, no permission).
            BusyError: another process held it for too long.

        """
        return self._run(work, "BEGIN IMMEDIATE")

    def close(self) -> None:
        """Close the file; using the object again opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _run(self, work: Callable[[sqlite3.Connection], T], begin: str) -> T:
        with self._lock:
            try:
                return _transact(self._ensure(), work, begin)
            except sqlite3.DatabaseError as error:
                if self._read_only or not _is_broken(error):
                    raise _translate(self.path, error) from error
                self._start_over(str(error))
            try:
                return _transact(self._ensure(), work, begin)
            except sqlite3.DatabaseError as error:
                raise _translate(self.path, error) from error

    def _ensure(self) -> sqlite3.Connection:
        """Return the connection; open the file first if it is not open or no longer the one at its path."""
        if self._connection is not None and (self._read_only or _identity(self.path) == self._identity):
            return self._connection
        self.close()
        try:
            self._open_read_only() if self._read_only else self._open()
        except sqlite3.DatabaseError as error:
            raise _translate(self.path, error) from error
        assert self._connection is not None  # noqa: S101 - set by both ways of opening
        return self._connection

    def _open(self) -> None:
        problem = self._try_open()
        if problem is not None:
            self._start_over(problem)

    def _try_open(self) -> str | None:
        """Open or make the file; return what is wrong with it."""
        with files.translated("open", self.path):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = _connect(f"{self.path.as_uri()}?mode=rw")
        try:
            problem = self._prepare(connection)
        except ConfigError:
            connection.close()
            raise
        except sqlite3.DatabaseError as error:
            connection.close()
            if not _is_broken(error):
                raise
            return str(error)
        if problem is not None:
            connection.close()
            return problem
        self._connection, self._identity = connection, _identity(self.path)
        self.incarnation += 1
        return None

    def _prepare(self, connection: sqlite3.Connection) -> str | None:
        # The store can be thrown away: a power cut may take the last changes, never the file.
        connection.execute("PRAGMA synchronous = NORMAL")
        application = _pragma(connection, "application_id")
        version = _pragma(connection, "user_version")
        empty = _pragma(connection, "schema_version") == 0
        if empty and application == 0:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_VERSION}; COMMIT"
            )
            return None
        if application != _APPLICATION:
            return "it is a database of something else"
        if version > _VERSION:
            raise _too_new(self.path, version)
        if version < min(_STEPS):
            return f"it has schema version {version}, this reconciler uses {_VERSION}"
        finding = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if finding == "ok":
            for step in range(version, _VERSION):
                connection.executescript(f"BEGIN; {_STEPS[step]} PRAGMA user_version = {step + 1}; COMMIT")
            return None
        return str(finding)

    def _start_over(self, problem: str) -> None:
        """Move the file aside and make a new one."""
        self.close()
        aside = f"{self.path.name}.broken-{self._clock.now():%Y%m%dT%H%M%S%fZ}"
        with files.translated("replace", self.path):
            for suffix in ("", "-wal"):
                with suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + suffix).rename(self.path.with_name(aside + suffix))
            self.path.with_name(f"{self.path.name}-shm").unlink(missing_ok=True)
            _drop_old(self.path)
        again = self._try_open()
        if again is not None:
            raise UnavailableError(f"the status store {self.path} cannot be made: {again}")
        self.problem = f"the status store was broken ({problem}); it is kept as {aside} and a new one was made"

    def _open_read_only(self) -> None:
        """Open the file for looking; one that is missing or broken looks empty and is left alone."""
        connection: sqlite3.Connection | None = None
        try:
            connection = _connect(f"{self.path.as_uri()}?mode=ro")
            usable = _pragma(connection, "application_id") == _APPLICATION
            version = _pragma(connection, "user_version") if usable else _VERSION
            if version > _VERSION:
                connection.close()
                raise _too_new(self.path, version)
            usable = usable and version == _VERSION
        except sqlite3.DatabaseError as error:
            if not _is_broken(error) and self.path.exists():
                raise
            usable = False
        if connection is None or not usable:
            if connection is not None:
                connection.close()
            connection = _connect(":memory:")
            connection.executescript(_SCHEMA)
        self._connection = connection
        self.incarnation += 1


def _connect(target: str) -> sqlite3.Connection:
    return sqlite3.connect(
        target, uri=target != ":memory:", timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )


def _transact(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T], begin: str) -> T:
    connection.execute(begin)
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.DatabaseError):
            connection.execute("ROLLBACK")
        raise
    return result


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    with closing(connection.execute(f"PRAGMA {name}")) as cursor:
        return int(cursor.fetchone()[0])


def _is_broken(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is at fault, not its surroundings (room, permission, another process)."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return False
    missing = code == sqlite3.SQLITE_ERROR and ("no such table" in str(error) or "no such column" in str(error))
    return missing or (code & 0xFF) in _BROKEN_CODES


def _too_new(path: Path, version: int) -> ConfigError:
    """Return the error for a file that a newer program writes: it would be lost, not understood."""
    return ConfigError(
        f"{path} was written by a newer reconciler (format {version}; this one knows up to {_VERSION})",
        reason="StateTooNew",
        hint="install that version again; or, to go back for good, move the file away: only history is lost",
    )


def _translate(path: Path, error: sqlite3.DatabaseError) -> ReconcilerError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return BusyError(f"the status store {path} is used by another process")
    return UnavailableError(f"the status store {path} cannot be used: {error}")


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return _ABSENT
    return (found.st_dev, found.st_ino)


def _drop_old(path: Path) -> None:
    """Keep the newest broken files only; their names sort by time."""
    kept = sorted(found.name for found in path.parent.glob(f"{path.name}.broken-*"))
    heads = [name for name in kept if not name.endswith("-wal")]
    for head in heads[:-_BROKEN_KEPT]:
        for name in (head, f"{head}-wal"):
            path.with_name(name).unlink(missing_ok=True)
