"""Copies of database files that others may be writing to, as of one moment.

Called by the engine for sources ``files``. It reads as the product does, through the
online backup interface (https://sqlite.org/backup.html), with its locks and its
write-ahead log, and never writes to the source: what a crashed program left to be rolled
back is rolled back in the copy.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from reconciler.engines.sqlite import header, identify
from reconciler.engines.sqlite.damage import require_whole
from reconciler.engines.sqlite.databases import connect, file_of
from reconciler.engines.sqlite.failures import code, is_damage, reason
from reconciler.errors import BusyError, SourceError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.base import BuildWork

_PAGES = 4096
"""Pages that are copied before somebody else may write again."""
_RESTARTS = 3
"""So often a copy begins anew because somebody wrote; then writers wait until it is done."""
_SLEEP_SECONDS = 0.05
_LOCKED = frozenset({5, 6})
"""Result codes SQLITE_BUSY and SQLITE_LOCKED."""
_ATTEMPTS = 10
"""So often a lock is waited for, each time as long as a connection waits."""


class _LockedError(Exception):
    """Somebody holds a lock and does not let go of it."""


class _WrittenError(Exception):
    """Others write faster than is copied."""


def copy(work: BuildWork) -> str:
    """Copy every database of the source into the build, whole; return the identity of what was copied.

    Raises:
        SourceError: one is damaged, encrypted, cut off, or cannot be read.
        BusyError: it was replaced or is locked by a program that does not end its transaction.

    """
    before = identify.identify(work.source)
    for path in identify.database_files(work.source):
        target = file_of(work.directory, _name(work, path))
        work.progress(f"copying {path.name}")
        try:
            _copy(work, path, target)
            require_whole(target, what=str(path), cancel=work.cancel)
        except SourceError as error:
            if identify.identify(work.source).input_id != before.input_id:
                raise BusyError(
                    f"{path} changed while it was being read, and what was read is no whole database",
                    reason="SourceChanged",
                ) from error
            raise
    return before.input_id


def _name(work: BuildWork, path: Path) -> str:
    """Return what a file's database is called: as the image says, if it has one file and says one name."""
    single = work.source.path is not None and not work.source.path.is_dir()
    if single and len(work.databases) == 1:
        return work.databases[0]
    return (work.source.name or path.name).partition(".")[0] if single else path.stem


def _copy(work: BuildWork, path: Path, target: Path) -> None:
    target.touch(mode=0o600)
    try:
        with connect(path, readonly=True, cancel=work.cancel) as source, closing(sqlite3.connect(target)) as copied:
            try:
                _backup(work, source, copied, hold=header.read(path).wal)
            except _WrittenError:
                work.progress(f"copying {path.name}, while its writers wait")
                _backup(work, source, copied, hold=True)
    except _LockedError as error:
        raise BusyError(f"{path} is locked by a program that writes to it") from error
    except sqlite3.Error as error:
        work.cancel.check()
        if not _rolled_back(work, path, target):
            raise _failed(path, error) from error


def _backup(work: BuildWork, source: sqlite3.Connection, copied: sqlite3.Connection, *, hold: bool) -> None:
    """Copy a database; ``hold`` keeps it as it is meanwhile, which disturbs nobody where there is a write-ahead log."""
    least, restarts, locked = 1 << 62, 0, 0

    def progress(status: int, remaining: int, _total: int) -> None:
        nonlocal least, restarts, locked
        work.cancel.check()
        locked = locked + 1 if status in _LOCKED else 0
        if locked > _ATTEMPTS:
            raise _LockedError
        if locked:
            return
        if remaining > least:
            restarts += 1
        least = remaining
        if restarts > _RESTARTS and not hold:
            raise _WrittenError

    if hold:
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    source.backup(copied, pages=_PAGES, progress=progress, sleep=_SLEEP_SECONDS)
    if source.in_transaction:
        source.execute("COMMIT")


def _rolled_back(work: BuildWork, path: Path, target: Path) -> bool:
    """Copy the files of a database whose last writer crashed, and let the library recover the copy.

    Nobody can be using it: whoever does rolls it back. If somebody begins to, its identity changes,
    and the copy is found not to be whole, or its caller finds another identity.
    """
    beside = [path.with_name(path.name + suffix) for suffix in identify.BESIDE]
    left = [one for one in beside if one.exists() and one.stat().st_size]
    if not left:
        return False
    before = identify.identify(work.source).input_id
    work.progress(f"recovering a copy of {path.name}")
    try:
        shutil.copyfile(path, target)
        for one in left:
            shutil.copyfile(one, target.with_name(target.name + one.name.removeprefix(path.name)))
        with connect(target, cancel=work.cancel) as conn:
            conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except (OSError, sqlite3.Error, UnavailableError):
        return False
    if identify.identify(work.source).input_id != before:
        raise BusyError(f"{path} changed while it was being copied", reason="SourceChanged")
    return True


def _failed(path: Path, error: sqlite3.Error) -> SourceError | BusyError:
    if is_damage(error):
        why = header.cut_off(path) or f"it is damaged, or encrypted: {reason(error)}"
        return SourceError(f"{path} cannot be used: {why}", reason="SourceDamaged")
    if code(error) in ("SQLITE_BUSY", "SQLITE_LOCKED"):
        return BusyError(f"{path} is locked by a program that writes to it: {reason(error)}")
    return SourceError(
        f"{path} cannot be read: {reason(error)}",
        hint="its directory has to be readable, with its -wal and -shm files; writable, where those are missing",
    )
