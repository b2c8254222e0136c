"""What a source is now: by names, sizes and times, never by reading it all.

Called by the engine. A database is its file with the write-ahead log or the journal
beside it; the shared memory file holds nothing of the data.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.engines.base import SourceIdentity
from reconciler.engines.sqlite import dumps, header
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from reconciler.engines.base import LocalSource

BESIDE = ("-wal", "-journal")
_UNPACKED = 8
"""Bytes of a database for each of a compressed dump, at most for most data."""
_BUILT = 2
"""A database is there twice while it is written anew."""
_PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".lz4")


def identify(source: LocalSource) -> SourceIdentity:
    """Return the identity of a source.

    Raises:
        SourceError: it is missing or is not what it should be.

    """
    if source.kind == "empty":
        return SourceIdentity("empty", 0)
    if source.base is not None:
        return SourceIdentity(source.base.snapshot, 0)
    if source.path is None or source.kind not in ("dump", "files"):
        raise SourceError(f"SQLite has no source {source.kind}")
    if source.kind == "dump":
        packed = dumps.detect(source.path) is not None
        return _identity([source.path], built_size(source.path.stat().st_size, packed=packed))
    found = [file for database in database_files(source) for file in _parts(database)]
    return _identity(found, _BUILT * sum(file.stat().st_size for file in found))


def built_size(stored_bytes: int, *, packed: bool) -> int:
    """Estimate the room that a build takes of what is stored in so many bytes."""
    return _BUILT * stored_bytes * (_UNPACKED if packed else 1)


def is_packed(path: str) -> bool:
    """Whether a file looks compressed by its name alone."""
    return path.lower().endswith(_PACKED_SUFFIXES)


def database_files(source: LocalSource) -> tuple[Path, ...]:
    """Return the database files of a source: the one that it names, or all that are in its directory.

    Raises:
        SourceError: there are none, or it is no database.

    """
    path = source.path
    if path is None:
        raise SourceError("no file is named")
    try:
        if not path.is_dir():
            header.read(path)
            return (path,)
        found = tuple(sorted(one for one in path.iterdir() if one.is_file() and header.is_database(one)))
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    if not found:
        raise SourceError(f"there is no database of SQLite in {path}")
    stems = [one.stem for one in found]
    if (twice := next((stem for stem in stems if stems.count(stem) > 1), None)) is not None:
        raise SourceError(f"{path} has several databases called {twice}; name one of the files")
    for one in found:
        header.read(one)
    return found


def _parts(database: Path) -> list[Path]:
    """Return a database's file and what beside it belongs to it, if that holds anything."""
    beside = [database.with_name(database.name + suffix) for suffix in BESIDE]
    return [database, *(one for one in beside if one.exists() and one.stat().st_size)]


def _identity(files: Iterable[Path], size: int) -> SourceIdentity:
    lines, newest = [], 0
    for file in files:
        status = file.stat()
        newest = max(newest, status.st_mtime_ns)
        lines.append(f"{file} {status.st_size} {status.st_mtime_ns} {status.st_ino}")
    digest = hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()
    return SourceIdentity(f"stat:{digest}", size, datetime.fromtimestamp(newest / 1e9, UTC))
