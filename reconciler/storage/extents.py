"""Sizes of volumes: logical bytes, and the bytes that only a volume holds.

Asks for the extents of every file (FIEMAP, Documentation/filesystems/fiemap.rst) and
adds up those that the kernel does not flag as shared. Walks whole trees: never called
inside a pass. Files may vanish meanwhile.

What it cannot see is metadata (directories, checksums, extents kept inline in it), the
unreferenced rest of an extent that was overwritten in part, and that compressed
extents take less than they hold. ``btrfs filesystem du`` counts in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.fiemap import NOT_ON_DISK, SHARED, extents
from reconciler.storage.base import Usage
from reconciler.storage.tree import regular_files

if TYPE_CHECKING:
    from pathlib import Path


def shared_usage(path: Path) -> Usage:
    """Measure a directory on a file system that tells shared extents from others.

    Raises:
        OSError: the directory is absent, or the file system has no FIEMAP.

    """
    logical = exclusive = 0
    for fd, status in regular_files(path):
        logical += status.st_size
        exclusive += sum(one.length for one in extents(fd) if not one.flags & (SHARED | NOT_ON_DISK))
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


def logical_size(path: Path) -> int:
    """Return what the files of a directory add up to.

    Raises:
        OSError: the directory is absent.

    """
    return sum(status.st_size for _, status in regular_files(path))
