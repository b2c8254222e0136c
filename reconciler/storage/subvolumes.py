"""btrfs subvolumes through ioctls: made, copied, frozen, removed, and the room that is left.

Used by the btrfs driver. The ``btrfs`` program does the same calls and costs a process
each; a clone must not. Structures and numbers: linux/btrfs.h. Errors are
:class:`OSError`. Knows nothing of manifests.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.storage import linux

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_GROUP = 0x94
_ROOT_INODE = 256
"""Inode number of the top directory of every subvolume."""
_READ_ONLY = 1 << 1
_METADATA = 1 << 2
_COPIES = {1 << 4: 2, 1 << 5: 2, 1 << 6: 2, 1 << 9: 3, 1 << 10: 4}
"""Profiles that write everything more than once: RAID1, DUP, RAID10, RAID1C3, RAID1C4."""
_GLOBAL_RESERVE = 1 << 49
_SPACE_SLOTS = 32


class _VolumeArguments(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int64), ("name", ctypes.c_char * 4088)]


class _VolumeArguments2(ctypes.Structure):
    _fields_ = [
        ("fd", ctypes.c_int64),
        ("transid", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("unused", ctypes.c_uint64 * 4),
        ("name", ctypes.c_char * 4040),
    ]


class _Space(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "total", "used")]


class _SpaceArguments(ctypes.Structure):
    _fields_ = [
        ("slots", ctypes.c_uint64),
        ("total", ctypes.c_uint64),
        ("spaces", _Space * _SPACE_SLOTS),
    ]


class _FilesystemInfo(ctypes.Structure):
    _fields_ = [("max_id", ctypes.c_uint64), ("rest", ctypes.c_ubyte * 1016)]


class _DeviceInfo(ctypes.Structure):
    _fields_ = [
        ("id", ctypes.c_uint64),
        ("uuid", ctypes.c_ubyte * 16),
        ("used", ctypes.c_uint64),
        ("total", ctypes.c_uint64),
        ("rest", ctypes.c_ubyte * 4056),
    ]


class _RootReferences(ctypes.Structure):
    _fields_ = [
        ("minimum", ctypes.c_uint64),
        ("references", ctypes.c_uint64 * 510),
        ("count", ctypes.c_ubyte),
        ("align", ctypes.c_ubyte * 7),
    ]


_CREATE = linux.request(1, _GROUP, 14, ctypes.sizeof(_VolumeArguments))
_DESTROY = linux.request(1, _GROUP, 15, ctypes.sizeof(_VolumeArguments))
_SPACE_INFO = linux.request(3, _GROUP, 20, 16)
_SNAPSHOT = linux.request(1, _GROUP, 23, ctypes.sizeof(_VolumeArguments2))
_START_SYNC = linux.request(2, _GROUP, 24, 8)
_GET_FLAGS = linux.request(2, _GROUP, 25, 8)
_SET_FLAGS = linux.request(1, _GROUP, 26, 8)
_DEVICE_INFO = linux.request(3, _GROUP, 30, ctypes.sizeof(_DeviceInfo))
_FILESYSTEM_INFO = linux.request(2, _GROUP, 31, ctypes.sizeof(_FilesystemInfo))
_ROOT_REFERENCES = linux.request(3, _GROUP, 61, ctypes.sizeof(_RootReferences))


@dataclass(frozen=True, slots=True)
class MetadataRoom:
    """What metadata can still grow by: within its chunks, and by new chunks (bytes of content, not of copies)."""

    within: int
    unallocated: int


def create(path: Path) -> None:
    """Make an empty subvolume, accessible to its owner only."""
    with _directory(path.parent) as parent:
        linux.ioctl(parent, _CREATE, _VolumeArguments(name=os.fsencode(path.name)))
    path.chmod(0o700)


def snapshot(source: Path, target: Path) -> None:
    """Make ``target`` a writable snapshot of the subvolume ``source``; durable when it returns."""
    with _directory(source) as origin, _directory(target.parent) as parent:
        linux.ioctl(parent, _SNAPSHOT, _VolumeArguments2(fd=origin, name=os.fsencode(target.name)))


def set_read_only(path: Path, *, read_only: bool) -> None:
    """Set or clear the property ``ro`` of a subvolume."""
    with _directory(path) as fd:
        _set_read_only(fd, read_only=read_only)


def has_nested(path: Path) -> bool:
    """Return whether there are subvolumes inside a subvolume; a snapshot would not contain them."""
    with _directory(path) as fd:
        references = _RootReferences()
        linux.ioctl(fd, _ROOT_REFERENCES, references)
        return bool(references.count)


def remove(path: Path) -> None:
    """Remove a subvolume (or plain directory) with everything in it, other subvolumes too; absent is fine.

    Without the right to destroy subvolumes (an ordinary user, no mount option
    ``user_subvol_rm_allowed``) it is emptied first; an empty one can be removed like
    a directory since Linux 4.18.
    """
    with _directory(path.parent) as parent:
        _remove(path.name, parent)


def hasten_cleaning(path: Path) -> None:
    """Have removed subvolumes cleaned up soon, without waiting: else that begins with the next commit, 30 s away."""
    with _directory(path) as fd:
        linux.ioctl(fd, _START_SYNC, ctypes.c_uint64())


def metadata_room(path: Path) -> MetadataRoom:
    """Return how much metadata can be added to the file system that ``path`` lies on."""
    with _directory(path) as fd:
        arguments = _SpaceArguments(slots=_SPACE_SLOTS)
        linux.ioctl(fd, _SPACE_INFO, arguments)
        within, copies = 0, 1
        for space in arguments.spaces[: arguments.total]:
            if space.flags & _GLOBAL_RESERVE:
                within -= space.total
            elif space.flags & _METADATA:
                within += space.total - space.used
                copies = next((count for flag, count in _COPIES.items() if space.flags & flag), 1)
        return MetadataRoom(max(0, within), _unallocated(fd) // copies)


def _unallocated(fd: int) -> int:
    info = _FilesystemInfo()
    linux.ioctl(fd, _FILESYSTEM_INFO, info)
    total = 0
    for number in range(1, info.max_id + 1):
        device = _DeviceInfo(id=number)
        try:
            linux.ioctl(fd, _DEVICE_INFO, device)
        except OSError as error:
            if error.errno == errno.ENODEV:
                continue  # numbers of devices that were removed stay unused
            raise
        total += max(0, device.total - device.used)
    return total


def _remove(name: str, parent: int) -> None:
    try:
        subvolume = os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino == _ROOT_INODE
    except FileNotFoundError:
        return
    if subvolume and _destroyed(name, parent):
        return
    if subvolume:
        with _directory(name, parent) as fd:
            _set_read_only(fd, read_only=False)
    _remove_nested(name, parent)
    if not (subvolume and _destroyed(name, parent)):
        shutil.rmtree(name, dir_fd=parent)


def _destroyed(name: str, parent: int) -> bool:
    """Destroy a subvolume; return False when others are in it or the right is missing."""
    try:
        linux.ioctl(parent, _DESTROY, _VolumeArguments(name=os.fsencode(name)))
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EPERM, errno.EACCES}:
            return False
        raise
    return True


def _remove_nested(top: str, parent: int) -> None:
    for _, names, _, directory in os.fwalk(top, dir_fd=parent, follow_symlinks=False):
        for name in list(names):
            if os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino == _ROOT_INODE:
                _remove(name, directory)
                names.remove(name)


def _set_read_only(fd: int, *, read_only: bool) -> None:
    flags = ctypes.c_uint64()
    linux.ioctl(fd, _GET_FLAGS, flags)
    wanted = flags.value | _READ_ONLY if read_only else flags.value & ~_READ_ONLY
    if wanted != flags.value:
        linux.ioctl(fd, _SET_FLAGS, ctypes.c_uint64(wanted))


@contextlib.contextmanager
def _directory(path: Path | str, parent: int | None = None) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)
