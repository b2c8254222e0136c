"""The few Linux system calls that Python's standard library does not offer.

Called by the storage drivers. Requests go through ``ctypes`` because it gives up the
interpreter's lock while the kernel works; ``fcntl.ioctl`` keeps it for arguments above
1 KiB, and a btrfs transaction may take long. Errors are :class:`OSError`; the drivers
translate them. Knows no pools, volumes or manifests.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BTRFS_MAGIC = 0x9123683E
"""``f_type`` of btrfs, from linux/magic.h."""

_FICLONE = 0x40049409
_libc = ctypes.CDLL(None, use_errno=True)


class _StatFs(ctypes.Structure):
    """``struct statfs``, of which only the first member is read."""

    _fields_ = [("f_type", ctypes.c_long), ("rest", ctypes.c_char * 248)]


def request(direction: int, group: int, number: int, size: int) -> int:
    """Return an ioctl request number as linux/ioctl.h composes it; ``direction`` 1 writes, 2 reads, 3 both."""
    return direction << 30 | size << 16 | group << 8 | number


def ioctl(fd: int, number: int, argument: ctypes.Structure | ctypes.c_uint64) -> None:
    """Perform a request that fills or reads ``argument``.

    Raises:
        OSError: the kernel refused it.

    """
    if _libc.ioctl(fd, ctypes.c_ulong(number), ctypes.byref(argument)) < 0:
        _fail()


def share_blocks(source: int, target: int) -> None:
    """Make the file ``target`` share all blocks of ``source`` (FICLONE).

    Raises:
        OSError: EOPNOTSUPP, EINVAL or ENOTTY where the file system cannot; EXDEV across file systems.

    """
    fcntl.ioctl(target, _FICLONE, source)


def sync_filesystem(path: Path) -> None:
    """Write everything of the file system that ``path`` lies on, and report what could not be written (syncfs).

    Raises:
        OSError: the path is absent, or a write failed since the last call (kernel 5.8 and later).

    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(fd) < 0:
            _fail()
    finally:
        os.close(fd)


def filesystem_type(path: Path) -> int:
    """Return the magic number of the file system that ``path`` lies on.

    Raises:
        OSError: the path is absent.

    """
    result = _StatFs()
    if _libc.statfs(os.fsencode(path), ctypes.byref(result)) < 0:
        _fail()
    return int(result.f_type) & 0xFFFFFFFF


def can_share_blocks(directory: Path) -> bool:
    """Try FICLONE between two unnamed files in ``directory``; nothing is left behind."""
    try:
        source = os.open(directory, os.O_RDWR | os.O_TMPFILE, 0o600)
    except OSError:
        return False
    try:
        target = os.open(directory, os.O_RDWR | os.O_TMPFILE, 0o600)
        try:
            os.write(source, b"\0" * 4096)
            share_blocks(source, target)
        finally:
            os.close(target)
    except OSError:
        return False
    finally:
        os.close(source)
    return True


def _fail() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
