"""Where the bytes of a file lie on disk (FIEMAP), and what two files have in common there.

Called by storage drivers for sizes, and by whoever need not read again what was read
before. It opens nothing, and writes nothing but what the kernel had still to write.
Rules are those of Documentation/filesystems/fiemap.rst.

**Parts that are one.** On file systems that copy on write, two files that have the same
place on disk at the same offset have the same bytes there: whoever writes to one of them
gets a new place first, and a place is given away only when no file has it any more. Only
extents count that the kernel flags as shared, and none that says less than where its
bytes are (pending, inline, compressed, encrypted, unwritten). The map of the first file is
read twice, so that nothing that moves extents (a balance) can put another one in its place
meanwhile. Both files have to be of one file system; nobody may be writing to them.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BATCH = 512
_SYNC = 0x1
_LAST = 0x1
SHARED = 0x2000
NOT_ON_DISK = 0x2 | 0x4 | 0x200
"""Location unknown, allocation still pending, or data inline in metadata."""
_SAYS_LESS = NOT_ON_DISK | 0x8 | 0x80 | 0x100 | 0x400 | 0x800
"""Also: encoded, encrypted, not aligned, in a tail, unwritten."""
_HEADER = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQQQIIII")
_REQUEST = 3 << 30 | _HEADER.size << 16 | ord("f") << 8 | 11
_libc = ctypes.CDLL(None, use_errno=True)

Part = tuple[int, int]
"""Offsets in a file: the first byte, and the one after the last."""


class Extent(NamedTuple):
    """Bytes of a file that lie together: their offset, their place on disk, how many, and the kernel's flags."""

    logical: int
    physical: int
    length: int
    flags: int


class _Fiemap(ctypes.Structure):
    """``struct fiemap`` with room for a batch of extents."""

    _fields_ = [("bytes", ctypes.c_ubyte * (_HEADER.size + _BATCH * _EXTENT.size))]


def extents(fd: int) -> Iterator[Extent]:
    """Yield a file's extents, in their order, after its pending writes were placed.

    Raises:
        OSError: the file system has no FIEMAP.

    """
    start, buffer = 0, _Fiemap()
    while True:
        _HEADER.pack_into(buffer.bytes, 0, start, 2**64 - 1 - start, _SYNC, 0, _BATCH, 0)
        if _libc.ioctl(fd, ctypes.c_ulong(_REQUEST), ctypes.byref(buffer)) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        found = _HEADER.unpack_from(buffer.bytes)[3]
        for index in range(found):
            logical, physical, length, _, _, flags, *_ = _EXTENT.unpack_from(
                buffer.bytes, _HEADER.size + index * _EXTENT.size
            )
            yield Extent(logical, physical, length, flags)
            if flags & _LAST:
                return
            start = logical + length
        if not found:
            return


def common(one: int, other: int) -> list[Part]:
    """Return the parts of two open files that are one on disk, in their order; none where that cannot be told."""
    try:
        for fd in (one, other):
            next(extents(fd), None)  # places pending writes, which changes what the other one shares
        first = _certain(one)
        second = _certain(other)
        if not first or not second or first != _certain(one):
            return []
    except OSError:
        return []
    return _joined(first, second)


def _certain(fd: int) -> list[Extent]:
    return [one for one in extents(fd) if one.flags & SHARED and not one.flags & _SAYS_LESS]


def _joined(first: Sequence[Extent], second: Sequence[Extent]) -> list[Part]:
    parts: list[Part] = []
    a = b = 0
    while a < len(first) and b < len(second):
        one, other = first[a], second[b]
        start = max(one.logical, other.logical)
        end = min(one.logical + one.length, other.logical + other.length)
        if start < end and one.physical - one.logical == other.physical - other.logical:
            if parts and parts[-1][1] == start:
                parts[-1] = (parts[-1][0], end)
            else:
                parts.append((start, end))
        if one.logical + one.length <= other.logical + other.length:
            a += 1
        else:
            b += 1
    return parts
