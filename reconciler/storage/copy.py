"""Full copies: works on every file system, and costs time and room for each clone.

Registered as ``copy``. A tree is copied one file after the other, so only sealed,
unchanging volumes are sources. A sealed snapshot is not write-protected by the file
system here: it is never handed to a server, and only its owner's account could write
to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.storage import linux
from reconciler.storage.base import StorageTraits, Usage
from reconciler.storage.directory import DirectoryStorage
from reconciler.storage.extents import allocated_usage
from reconciler.storage.tree import copy_bytes, copy_tree, remove_tree

if TYPE_CHECKING:
    from pathlib import Path


class CopyStorage(DirectoryStorage):
    """Volumes are directories, clones are full copies; holes, links, owners and times are kept."""

    driver = "copy"
    traits = StorageTraits(instant_clones=False, atomic_snapshots=False, exclusive_sizes=True)

    def _create_data(self, path: Path) -> None:
        path.mkdir(mode=0o700)

    def _copy_data(self, source: Path, target: Path) -> None:
        copy_tree(source, target, copy_bytes)
        linux.sync_filesystem(target)

    def _freeze(self, path: Path) -> None:
        linux.sync_filesystem(path)

    def _remove_data(self, path: Path) -> None:
        remove_tree(path)

    def _usage(self, path: Path) -> Usage:
        return allocated_usage(path)
