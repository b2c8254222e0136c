"""Sizes of volumes: logical bytes, and the bytes that only a volume holds.

Asks for the extents of every file (FIEMAP, Documentation/filesystems/fiemap.rst) and
adds up those that the kernel does not flag as shared. Walks whole trees: never called
inside a pass. Files may vanish meanwhile.

What it cannot see is metadata (directories, checksums, extents kept inline in it), the
unreferenced rest of an extent that was overwritten in part, and that compressed
extents take less than they hold. ``btrfs filesystem du`` counts in the same way.
"""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

from reconciler.storage import linux
from reconciler.storage.base import Usage
from reconciler.storage.tree import regular_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BATCH = 512
_SYNC = 0x1
_LAST = 0x1
_SHARED = 0x2000
_NOT_ON_DISK = 0x2 | 0x4 | 0x200
"""Location unknown, allocation still pending, or data inline in metadata."""
_HEADER = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQQQIIII")


class _Fiemap(ctypes.Structure):
    """``struct fiemap`` with room for a batch of extents."""

    _fields_ = [("bytes", ctypes.c_ubyte * (_HEADER.size + _BATCH * _EXTENT.size))]


_REQUEST = linux.request(3, ord("f"), 11, _HEADER.size)


def shared_usage(path: Path) -> Usage:
    """Measure a directory on a file system that tells shared extents from others.

    Raises:
        OSError: the directory is absent, or the file system has no FIEMAP.

    """
    logical = exclusive = 0
    for fd, status in regular_files(path):
        logical += status.st_size
        exclusive += sum(length for length, flags in _extents(fd) if not flags & (_SHARED | _NOT_ON_DISK))
    return Usage(logical, exclusive)


def allocated_usage(path: Path) -> Usage:
    """Measure a directory that shares nothing: what is allocated to its files is its own.

    Raises:
        OSError: the directory is absent.

    """
    logical = allocated = 0
    for _, status in regular_files(path):
        logical += status.st_size
        allocated += status.st_blocks * 512
    return Usage(logical, allocated)


def _extents(fd: int) -> Iterator[tuple[int, int]]:
    """Yield length and flags of a file's extents, after its pending writes were placed."""
    start, buffer = 0, _Fiemap()
    while True:
        _HEADER.pack_into(buffer.bytes, 0, start, 2**64 - 1 - start, _SYNC, 0, _BATCH, 0)
        linux.ioctl(fd, _REQUEST, buffer)
        found = _HEADER.unpack_from(buffer.bytes)[3]
        for index in range(found):
            logical, _, length, _, _, flags, *_ = _EXTENT.unpack_from(buffer.bytes, _HEADER.size + index * _EXTENT.size)
            yield length, flags
            if flags & _LAST:
                return
            start = logical + length
        if not found:
            return
