"""Clones that share blocks file by file: XFS and others with FICLONE.

Registered as ``reflink``. Every file is cloned by a checked ioctl; where the file
system refuses, the clone fails, it never becomes a copy in silence. A tree is cloned
one file after the other, so only sealed, unchanging volumes are sources; and XFS
makes a clone of unwritten data wait for its write-back, so sealing writes it back.
As with ``copy``, the file system does not write-protect a sealed snapshot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.errors import UnsupportedError
from reconciler.storage import linux
from reconciler.storage.base import StorageTraits, Usage
from reconciler.storage.directory import DirectoryStorage
from reconciler.storage.extents import shared_usage
from reconciler.storage.room import existing
from reconciler.storage.tree import copy_tree, remove_tree

if TYPE_CHECKING:
    from pathlib import Path


class ReflinkStorage(DirectoryStorage):
    """Volumes are directories, clones share the blocks of every file until it is written."""

    driver = "reflink"
    traits = StorageTraits(instant_clones=True, atomic_snapshots=False, exclusive_sizes=True)

    def _check_filesystem(self) -> None:
        place = existing(self._path)
        if not linux.can_share_blocks(place):
            raise UnsupportedError(
                f"the pool {self.name} at {self._path}: the file system cannot share blocks between files, "
                "or the directory cannot be written",
                hint="use XFS made with reflink=1 or btrfs, or driver: copy",
            )

    def _create_data(self, path: Path) -> None:
        path.mkdir(mode=0o700)

    def _copy_data(self, source: Path, target: Path) -> None:
        copy_tree(source, target, linux.share_blocks)
        linux.sync_filesystem(target)

    def _freeze(self, path: Path) -> None:
        linux.sync_filesystem(path)

    def _remove_data(self, path: Path) -> None:
        remove_tree(path)

    def _usage(self, path: Path) -> Usage:
        return shared_usage(path)
