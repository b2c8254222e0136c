"""Safe handling of files in directories that another account may write to.

Called by engines. The reconciler may be root while the
server's account owns the directory: nothing here follows a symbolic link below the
given directory, so that a server cannot make root write somewhere else.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.proc import Account

_SMALL = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def write_file(directory: Path, name: str, content: str | bytes, account: Account | None) -> None:
    """Replace a private file (mode 0600), owned by ``account``, as one visible step."""
    data = content.encode() if isinstance(content, str) else content
    temporary = f".{name}.new"
    with _opened(directory) as handle:
        _unlink(temporary, handle)  # a reconciler was killed while it wrote
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with open(os.open(temporary, flags, 0o600, dir_fd=handle), "wb") as file:  # noqa: PTH123 - a descriptor, no path
                if account is not None and os.geteuid() == 0:
                    os.fchown(file.fileno(), account.uid, account.gid)
                file.write(data)
            os.replace(temporary, name, src_dir_fd=handle, dst_dir_fd=handle)
        except BaseException:
            _unlink(temporary, handle)
            raise


def read_small(path: Path) -> str | None:
    """Return the text of a small regular file; None when there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, no path
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
        return file.read(_SMALL).decode("utf-8", "replace")


def copy_file(source: Path, target: Path, name: str) -> None:
    """Copy a regular file of a directory into another one, with its owner; blocks are shared where they can be."""
    with (
        _opened(source) as here,
        _opened(target) as there,
        open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=here), "rb") as original,  # noqa: PTH123 - a descriptor, no path
    ):
        status = os.fstat(original.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(source / name))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(name, flags, 0o600, dir_fd=there), "wb") as copy:  # noqa: PTH123 - as above
            if os.geteuid() == 0:
                os.fchown(copy.fileno(), status.st_uid, status.st_gid)
            os.fchmod(copy.fileno(), stat.S_IMODE(status.st_mode))
            while os.copy_file_range(original.fileno(), copy.fileno(), max(status.st_size, 1)):
                pass


def make_sparse(path: Path) -> None:
    """Give the zeros at the end of a file back to the file system; its size stays."""
    with open(os.open(path, os.O_RDWR | os.O_NOFOLLOW), "r+b") as file:  # noqa: PTH123 - a descriptor, no path
        content = file.read()
        file.truncate(len(content.rstrip(b"\0")))
        file.truncate(len(content))


def owned_by(directory: Path, account: Account | None) -> bool:
    """Tell whether ``account`` owns a directory (always, where we cannot change owners)."""
    return account is None or os.geteuid() != 0 or directory.lstat().st_uid == account.uid


def clear(directory: Path, inside: str) -> None:
    """Remove what is in the directory ``inside`` a directory, not itself; absent is fine.

    Raises:
        OSError: it is a link or no directory, or one on the way to it is.

    """
    with suppress(FileNotFoundError), _opened(directory, inside) as handle, os.scandir(handle) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.name, dir_fd=handle)
            else:
                os.unlink(entry.name, dir_fd=handle)


def remove(directory: Path, inside: str) -> None:
    """Remove the file ``inside`` a directory, or a link in its place; absent is fine.

    Raises:
        OSError: it is a directory, or one on the way to it is a link.

    """
    parent, _, name = inside.rpartition("/")
    with suppress(FileNotFoundError), _opened(directory, parent) as handle:
        os.unlink(name, dir_fd=handle)


def open_to_change(directory: Path, inside: str) -> int | None:
    """Return a descriptor of the regular file ``inside`` a directory, to read and write; None when there is none.

    Raises:
        OSError: it is no regular file, or one on the way to it is a link.

    """
    parent, _, name = inside.rpartition("/")
    with suppress(FileNotFoundError), _opened(directory, parent) as handle:
        descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "no regular file", inside)
        return descriptor
    return None


def links_in(directory: Path) -> Iterator[str]:
    """Yield the paths of all symbolic links in a tree, relative to it."""
    for path, directories, names in os.walk(directory, followlinks=False):
        for name in (*directories, *names):
            full = os.path.join(path, name)  # noqa: PTH118 - thousands of files
            if os.path.islink(full):  # noqa: PTH114 - as above
                yield os.path.relpath(full, directory)


def _unlink(name: str, handle: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=handle)


@contextmanager
def _opened(directory: Path, inside: str = "") -> Iterator[int]:
    """Open a directory, or one below it, by steps of which none is a link."""
    handle = os.open(directory, _DIRECTORY)
    try:
        for name in PurePath(inside).parts:
            inner = os.open(name, _DIRECTORY, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)
