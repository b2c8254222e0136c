"""Identify a source by cheap looks.

Called by observation before a build, and after it to see whether the source changed
meanwhile. It reads sizes, times and inodes, never the data.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.engines.base import SourceIdentity
from reconciler.engines.mysql import settings
from reconciler.engines.mysql.dumps import detect
from reconciler.errors import SourceError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.base import LocalSource

_INDEXED = 2
"""Tables with their indexes, in sizes of the dump as text."""
_UNPACKED = 5
_NEW_SERVER_BYTES = (64 + settings.BUILD_LOG_MIB + settings.SEALED_LOG_MIB) << 20
"""What an empty data directory takes, with its log, before and while that is made anew."""


def identify(source: LocalSource) -> SourceIdentity:
    """Return what the source is now.

    Raises:
        SourceError: it is missing, unreadable, or not what it should be.
        UnsupportedError: this version builds nothing from sources of this kind.

    """
    if source.base is not None:
        return SourceIdentity(f"snapshot:{source.base.snapshot}", 0, source.base.data_as_of)
    if source.kind == "empty":
        return SourceIdentity("empty", 0)
    if source.kind == "dump" and source.path is not None:
        return _dump(source.path)
    raise UnsupportedError(
        f"a source of kind {source.kind} is not supported for this engine in this version",
        reason="SourceUnsupported",
        hint="use a dump",
    )


def built_size(stored_bytes: int, *, packed: bool) -> int:
    """Estimate the room that a build from a dump takes at its peak."""
    return _NEW_SERVER_BYTES + stored_bytes * (_UNPACKED if packed else 1) * _INDEXED


def _dump(path: Path) -> SourceIdentity:
    found = detect(path)
    try:
        status = path.stat()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    listing = f"{path} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
    return SourceIdentity(
        f"stat:{hashlib.sha256(listing.encode('utf-8', 'surrogateescape')).hexdigest()}",
        built_size(status.st_size, packed=found.compression is not None),
        datetime.fromtimestamp(status.st_mtime_ns / 1e9, UTC),
    )
