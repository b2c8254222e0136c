"""Identify a source by cheap looks, and tell which major version it needs.

Called by observation before a build, and after it to see whether the source changed
meanwhile. It reads sizes, times and checksums that exist already, never the data.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.engines import files
from reconciler.engines.base import SourceIdentity
from reconciler.engines.postgres import backups, control, copying, label, repositories, settings
from reconciler.engines.postgres.choice import WAL
from reconciler.engines.postgres.datafiles import is_tar_set, read_from_tar
from reconciler.engines.postgres.formats import detect
from reconciler.errors import BusyError, SourceError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import LocalSource

_CONTROL = Path("global", "pg_control")
_INDEXED = 2
"""A database with indexes and row headers, in sizes of its dump as text: 1.7 for pgbench's, 2 for names and dates."""
_UNPACKED = 5
"""Text or data files in sizes of what gzip makes of them: 5.6 for names and dates."""
_NEW_CLUSTER_BYTES = 64 << 20
"""What initdb makes, before there is any data."""


def identify(source: LocalSource) -> SourceIdentity:
    """Return what the source is now.

    Raises:
        SourceError: it is missing, unreadable, or not what it should be.
        BusyError: a server still runs on it.

    """
    if source.base is not None:
        return SourceIdentity(f"snapshot:{source.base.snapshot}", 0, source.base.data_as_of)
    if source.primary is not None:
        return _primary(source)
    if source.path is None and source.kind != "backup":
        return SourceIdentity("empty", 0)
    try:
        if source.kind == "backup" or source.path is None:
            return _chosen(source)
        if source.kind == "dump":
            return _dump(source.path, source.globals)
        return _files(source.path)
    except OSError as error:
        raise SourceError(f"cannot read {error.filename or source.path}: {error.strerror}") from error


def _primary(source: LocalSource) -> SourceIdentity:
    if source.physical:
        raise UnsupportedError(
            "a primary cannot be copied by method physical in this version",
            reason="SourceUnsupported",
            hint="method: logical",
        )
    return copying.identify(source)


def built_size(dump_bytes: int, *, packed: bool) -> int:
    """Estimate the room that a build from a dump takes at its peak: the database, and WAL for as much as was loaded."""
    text = dump_bytes * (_UNPACKED if packed else 1)
    return _NEW_CLUSTER_BYTES + text * _INDEXED + min(text, settings.BUILD_WAL_GIB << 30)


def source_major(source: LocalSource) -> str | None:
    """Return the major version that must serve a physical source; None when any version may (dumps, empty).

    Raises:
        SourceError: it is no physical source of PostgreSQL.

    """
    if source.kind == "backup":
        choice = backups.choose(source)
        if choice.stock is not None:
            return choice.stock.major
        path = choice.path
    elif source.kind == "files" and source.path is not None:
        path = source.path
    else:
        return None
    found = control.data_major(path)
    if found is None and source.kind == "backup" and is_tar_set(path):
        content = read_from_tar(path, "PG_VERSION")
        found = content.decode("ascii", "replace").strip() if content else None
    if found is None:
        raise SourceError(
            f"{path} is no {'backup' if source.kind == 'backup' else 'data directory'} of PostgreSQL:"
            " there is no PG_VERSION"
        )
    return found


def require_stopped(data: Path) -> None:
    """Raise :class:`BusyError` when a server of this host runs on a data directory.

    A postmaster.pid that was copied along names another directory and does not count.
    """
    lines = (files.read_small(data / "postmaster.pid") or "").splitlines()
    if len(lines) < 2 or not lines[0].strip().isdigit():  # noqa: PLR2004 - process id, data directory
        return
    if Path("/proc", lines[0].strip()).exists() and Path(lines[1]).exists() and Path(lines[1]).samefile(data):
        raise BusyError(
            f"a PostgreSQL server (process {lines[0].strip()}) runs on {data}",
            hint="stop it, or use a backup or an atomic snapshot",
        )


def _dump(path: Path, globals_: Path | None) -> SourceIdentity:
    found = detect(path)
    compressed = found.compression is not None or found.layout in ("custom", "directory")
    listing = _Listing()
    listing.add(path)
    size = built_size(listing.size, packed=compressed)
    if globals_ is not None:
        detect(globals_)
        listing.add(globals_)
    return SourceIdentity(f"stat:{listing.digest()}", size, listing.modified_at)


def _chosen(source: LocalSource) -> SourceIdentity:
    choice = backups.choose(source)
    if choice.stock is not None and choice.reach is not None:
        size = choice.stock.size_bytes
        grown = min(choice.reach.bytes, size) + min(choice.reach.bytes, settings.BUILD_WAL_GIB << 30)
        return SourceIdentity(repositories.identity(choice), size + grown, None, choice.notes)
    found = _chain(choice.places) if len(choice.places) > 1 else _backup(choice.path)
    if choice.reach is None:
        return replace(found, notes=choice.notes)
    # the database grows by no more than the WAL; and a build's own WAL, as where a dump is loaded
    grown = min(choice.reach.bytes, found.size_bytes)
    return replace(
        found,
        input_id=f"{found.input_id}{WAL}{choice.reach.identity}",
        size_bytes=found.size_bytes + grown + min(choice.reach.bytes, settings.BUILD_WAL_GIB << 30),
        notes=choice.notes,
    )


def _chain(places: tuple[Path, ...]) -> SourceIdentity:
    """Identify a chain. Its parts and what they are combined to are there at the same time."""
    parts = [_backup(place) for place in places]
    known = tuple(filter(None, map(label.read_backup, places)))
    return SourceIdentity(
        backups.chain_identity(known), 2 * sum(part.size_bytes for part in parts), parts[-1].modified_at
    )


def _backup(path: Path) -> SourceIdentity:
    if not path.is_dir():
        raise SourceError(f"the backup {path} is no directory", hint="name the directory that pg_basebackup wrote")
    tars = is_tar_set(path)
    if not tars and not (path / _CONTROL).is_file():
        raise SourceError(f"{path} is no backup of PostgreSQL: it has neither global/pg_control nor base.tar")
    listing = _Listing()
    listing.add(path)
    size = listing.size * (_UNPACKED if tars and not (path / "base.tar").exists() else 1)
    known = label.read_backup(path)
    if known is not None and known.checksum is not None:
        if (short := backups.short_of(path)) is not None:
            raise SourceError(short, reason="SourceIncomplete")
        return SourceIdentity(backups.chain_identity((known,)), size, listing.modified_at)
    return SourceIdentity(f"stat:{listing.digest()}", size, listing.modified_at)


def _files(path: Path) -> SourceIdentity:
    if not (path / _CONTROL).is_file():
        raise SourceError(f"{path} is no data directory of PostgreSQL: it has no global/pg_control")
    require_stopped(path)
    listing = _Listing()
    listing.add(path)
    content = hashlib.sha256((path / _CONTROL).read_bytes()).hexdigest()[:32]
    return SourceIdentity(f"control:{content}:{listing.digest()[:32]}", listing.size, listing.modified_at)


class _Listing:
    """Names, sizes, times and inodes of the files of a source."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self.size = 0
        self._newest = 0

    @property
    def modified_at(self) -> datetime:
        return datetime.fromtimestamp(self._newest / 1e9, UTC)

    def add(self, path: Path) -> None:
        for file in (path,) if path.is_file() else _walk(path):
            status = file.stat()
            self.size += status.st_size
            self._newest = max(self._newest, status.st_mtime_ns)
            self._lines.append(f"{file} {status.st_size} {status.st_mtime_ns} {status.st_ino}")

    def digest(self) -> str:
        return hashlib.sha256("\n".join(sorted(self._lines)).encode("utf-8", "surrogateescape")).hexdigest()


def _walk(directory: Path) -> Iterator[Path]:
    for base, _directories, names in os.walk(directory, onerror=_raise):
        for name in names:
            file = Path(base, name)
            if file.is_file():
                yield file


def _raise(error: OSError) -> None:
    raise error
