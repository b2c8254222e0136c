"""Trees of files: copy, remove and walk them without ever following a symlink.

Used by the drivers whose volumes are directories. The data may belong to an account
that a clone's user controls, and this code may run as root: what is opened is opened
relative to its directory, with ``O_NOFOLLOW``, and checked after opening.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from typing import TYPE_CHECKING

from reconciler.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_REMOVAL_ATTEMPTS = 3
_CHUNK = 8 << 20


def copy_tree(source: Path, target: Path, copy_data: Callable[[int, int], None]) -> None:
    """Make ``target`` a copy of the directory ``source``: modes, owners, times, hard links.

    ``copy_data(reader, writer)`` fills a new file from an old one. Symlinks are copied
    as they are. Sockets are left out: they belong to a process.

    Raises:
        UnsupportedError: there is a device or a named pipe in it.
        OSError: reading or writing failed; ``target`` may exist in part.

    """
    target.mkdir(mode=0o700)
    with _opened(source) as reader, _opened(target) as writer:
        _TreeCopy(writer, copy_data).directory(reader, writer, "")


def remove_tree(path: Path) -> None:
    """Remove a directory and everything in it; absent is fine.

    Raises:
        OSError: something cannot be removed; ENOTEMPTY when files keep appearing.

    """
    for attempt in range(1, _REMOVAL_ATTEMPTS + 1):
        try:
            return shutil.rmtree(path)
        except OSError as error:
            if not os.path.lexists(path):
                return None
            if error.errno not in {errno.ENOTEMPTY, errno.ENOENT} or attempt == _REMOVAL_ATTEMPTS:
                raise
    return None


def regular_files(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """Open every regular file below ``path`` in turn; a file with several names comes once.

    What vanishes meanwhile is left out. The descriptor is closed after each step.
    """
    seen: set[tuple[int, int]] = set()
    for _, _, names, directory in os.fwalk(path, follow_symlinks=False):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                key = (status.st_dev, status.st_ino)
                if not stat.S_ISREG(status.st_mode) or key in seen:
                    continue
                seen.add(key)
                fd = os.open(name, _OPEN_FILE, dir_fd=directory)
                try:
                    yield fd, os.fstat(fd)
                finally:
                    os.close(fd)


def copy_bytes(reader: int, writer: int) -> None:
    """Copy the content of a file into blocks of its own; holes stay holes.

    ``sendfile`` and not ``copy_file_range``: the latter shares blocks where the file
    system can, and what is called a full copy must be one.
    """
    size = os.fstat(reader).st_size
    os.ftruncate(writer, size)
    for start, end in _extents(reader, size):
        position = os.lseek(writer, start, os.SEEK_SET)
        while position < end:
            sent = os.sendfile(writer, reader, position, min(end - position, _CHUNK))
            if sent == 0:
                return  # the file became shorter while it was read
            position += sent


class _TreeCopy:
    def __init__(self, root: int, copy_data: Callable[[int, int], None]) -> None:
        self._root = root
        self._copy_data = copy_data
        self._first_names: dict[int, str] = {}

    def directory(self, reader: int, writer: int, prefix: str) -> None:
        with os.scandir(reader) as entries:
            items = list(entries)
        for item in items:
            self._entry(item, reader, writer, prefix)
        _copy_attributes(os.fstat(reader), writer)

    def _entry(self, item: os.DirEntry[str], reader: int, writer: int, prefix: str) -> None:
        status = item.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(item.name, dir_fd=reader), item.name, dir_fd=writer)
            _set_owner(status, item.name, dir_fd=writer)
        elif stat.S_ISDIR(status.st_mode):
            os.mkdir(item.name, 0o700, dir_fd=writer)
            with _opened(item.name, reader) as source, _opened(item.name, writer) as target:
                self.directory(source, target, f"{prefix}{item.name}/")
        elif stat.S_ISREG(status.st_mode):
            self._file(item.name, status, reader, writer, prefix)
        elif not stat.S_ISSOCK(status.st_mode):
            raise UnsupportedError(
                f"{prefix}{item.name} in the volume is a device or a named pipe: it cannot be copied"
            )

    def _file(self, name: str, status: os.stat_result, reader: int, writer: int, prefix: str) -> None:
        if status.st_nlink > 1:
            first = self._first_names.setdefault(status.st_ino, prefix + name)
            if first != prefix + name:
                os.link(first, name, src_dir_fd=self._root, dst_dir_fd=writer, follow_symlinks=False)
                return
        source = os.open(name, _OPEN_FILE, dir_fd=reader)
        try:
            target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=writer)
            try:
                self._copy_data(source, target)
                _copy_attributes(os.fstat(source), target)
            finally:
                os.close(target)
        finally:
            os.close(source)


@contextlib.contextmanager
def _opened(path: Path | str, parent: int | None = None) -> Iterator[int]:
    fd = os.open(path, _OPEN_DIRECTORY, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _copy_attributes(status: os.stat_result, fd: int) -> None:
    _set_owner(status, fd)
    os.fchmod(fd, stat.S_IMODE(status.st_mode))
    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def _set_owner(status: os.stat_result, target: int | str, *, dir_fd: int | None = None) -> None:
    """Give ``target`` the owner; an ordinary user owns all that it can copy, groups apart."""
    try:
        os.chown(target, status.st_uid, status.st_gid, dir_fd=dir_fd, follow_symlinks=isinstance(target, int))
    except PermissionError:
        if os.geteuid() == 0:
            raise


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of every part of a file that holds data."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end
