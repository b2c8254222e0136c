"""Identify a source by cheap looks.

Called by observation before a build, and after it to see whether the source changed
meanwhile. It reads sizes, times and inodes, never the data.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.engines.base import SourceIdentity
from reconciler.engines.compressed import compression_of
from reconciler.engines.mysql import backups, binlogs, copying, physical, settings, streams
from reconciler.engines.mysql.dumps import detect
from reconciler.errors import SourceError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.base import LocalSource
    from reconciler.engines.mysql.product import Product

_INDEXED = 2
"""Tables with their indexes, in sizes of the dump as text."""
_UNPACKED = 5
_NEW_SERVER_BYTES = (64 + settings.BUILD_LOG_MIB + settings.SEALED_LOG_MIB) << 20
"""What an empty data directory takes, with its log, before and while that is made anew."""


def identify(source: LocalSource, product: Product) -> SourceIdentity:
    """Return what the source is now.

    Raises:
        SourceError: it is missing, unreadable, or not what it should be.
        UnsupportedError: this version builds nothing from sources of this kind.

    """
    if source.base is not None or source.kind == "empty":
        return _without_files(source)
    if source.kind == "primary" and source.primary is not None and source.primary.method == "logical":
        return copying.identify(source, product)
    if source.kind == "dump" and source.path is not None:
        return _dump(source.path)
    try:
        if source.kind == "backup":
            return _backup(source, product)
        if source.kind == "files" and source.path is not None:
            if not (source.path / "ibdata1").is_file():
                raise SourceError(f"{source.path} is no data directory: it has no ibdata1")
            physical.require_stopped(source.path)
            found = _listed(source.path)
            return replace(found, size_bytes=found.size_bytes + _NEW_SERVER_BYTES)
    except OSError as error:
        raise SourceError(f"cannot read {error.filename or source.path}: {error.strerror}") from error
    raise UnsupportedError(
        f"a source of kind {source.kind} is not supported for this engine in this version",
        reason="SourceUnsupported",
        hint="use a dump or a backup",
    )


def _without_files(source: LocalSource) -> SourceIdentity:
    if source.base is None:
        return SourceIdentity("empty", 0)
    return SourceIdentity(f"snapshot:{source.base.snapshot}", 0, source.base.data_as_of)


def built_size(stored_bytes: int, *, packed: bool) -> int:
    """Estimate the room that a build from a dump takes at its peak."""
    return _NEW_SERVER_BYTES + stored_bytes * (_UNPACKED if packed else 1) * _INDEXED


def _dump(path: Path) -> SourceIdentity:
    found = detect(path)
    try:
        listed = _listed(path)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    return replace(
        listed, size_bytes=built_size(listed.size_bytes, packed=found.compression is not None or found.directory)
    )


def _backup(source: LocalSource, product: Product) -> SourceIdentity:
    if (stream := streams.find(source)) is not None:
        return _stream(stream)
    chain = backups.choose(source, product)
    parts = [_listed(part.path) for part in chain.parts]
    size = sum(part.size_bytes for part in parts) + _NEW_SERVER_BYTES
    if source.wal is None:
        return SourceIdentity(chain.identity, size, parts[-1].modified_at, chain.notes)
    logs = binlogs.find(source.wal, chain, source.chosen.partition("+")[2])
    told = (*chain.notes, *logs.notes)
    return SourceIdentity(f"{chain.identity}+{logs.identity}", size + _INDEXED * logs.bytes, None, told)


def _stream(path: Path) -> SourceIdentity:
    status = path.stat()
    size = status.st_size * (_UNPACKED if compression_of(path) is not None else 1) + _NEW_SERVER_BYTES
    return SourceIdentity(streams.identity(path), size, datetime.fromtimestamp(status.st_mtime, UTC))


def _listed(path: Path) -> SourceIdentity:
    """Identify a file, or all files of a directory, by names, sizes, times and inodes."""
    lines, size, newest = [], 0, 0
    for file in (path,) if path.is_file() else path.rglob("*"):
        if file.is_file():
            status = file.stat()
            size += status.st_size
            newest = max(newest, status.st_mtime_ns)
            lines.append(f"{file} {status.st_size} {status.st_mtime_ns} {status.st_ino}")
    digest = hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()
    return SourceIdentity(f"stat:{digest}", size, datetime.fromtimestamp(newest / 1e9, UTC))
