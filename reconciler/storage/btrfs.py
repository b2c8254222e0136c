"""Subvolumes and snapshots of btrfs: clones in constant time, whatever the size.

Registered as ``btrfs``. Uses no quotas (they slow down deletion). btrfs frees the room
of a deleted volume some time later, and can run out of metadata while there is room
for data; ``probe`` tells what is free now, and counts metadata in.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.errors import BusyError, ReconcilerError, UnavailableError, UnsupportedError
from reconciler.status import words
from reconciler.storage import linux, subvolumes
from reconciler.storage.base import StorageTraits, Usage
from reconciler.storage.directory import DirectoryStorage
from reconciler.storage.extents import shared_usage
from reconciler.storage.room import Room, existing, filesystem_room

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.ids import InstallationId, PoolName, VolumeId
    from reconciler.state.observed import ObservedPool, Volume
    from reconciler.storage.loopback import LoopFile

_DATA_PER_METADATA = 32
"""Bytes of data that a byte of metadata room is good for: pages written singly need up to some 3 %."""


class BtrfsStorage(DirectoryStorage):
    """Volumes are subvolumes, clones are writable snapshots, sealed volumes have the property ``ro``.

    ``loop`` is the file that holds the pool's file system, where it has one of its own.
    """

    driver = "btrfs"
    traits = StorageTraits(instant_clones=True, atomic_snapshots=True, exclusive_sizes=True)
    commits_in_order = True
    atomic_removal = True

    def __init__(
        self,
        name: PoolName,
        path: Path,
        *,
        installation: InstallationId,
        pool_id: str | None = None,
        reserve: str | int = "10%",
        note: str = "",
        loop: LoopFile | None = None,
    ) -> None:
        super().__init__(name, path, installation=installation, pool_id=pool_id, reserve=reserve, note=note)
        self._loop = loop
        self._failed_growth = ""
        self._preparing = threading.Lock()  # volumes are made at the same time, and each prepares the pool

    def prepare(self) -> str:
        if self._loop is not None:
            with self._preparing:
                self._loop.mount(make=not self._pool.known)
                self._grow(self._loop)
        return super().prepare()

    def grow(self) -> None:
        if self._loop is not None:
            with self._preparing:
                self._grow(self._loop)

    def probe(self) -> ObservedPool:
        if self._loop is None:
            return super().probe()
        if not self._pool.known and not self._loop.made():
            return replace(self._loop.future(self.name), reserve_bytes=self._reserve.of(self._loop.size))
        probed = super().probe()
        return self._sized(probed, self._loop) if probed.available else probed

    def volumes(self) -> tuple[Volume, ...]:
        if self._loop is not None and not self._pool.known and not self._loop.made():
            return ()
        return super().volumes()

    def delete(self, volume: VolumeId) -> None:
        super().delete(volume)
        with self._translated("clean up"):
            subvolumes.hasten_cleaning(self._path)

    def _grow(self, loop: LoopFile) -> None:
        """Bring the file system to its size; where that fails, the pool is used as it is and says so."""
        self._failed_growth = ""
        try:
            with self._translated("grow the file of the pool"):
                loop.grow()
        except ReconcilerError as error:
            self._failed_growth = error.message

    def _sized(self, pool: ObservedPool, loop: LoopFile) -> ObservedPool:
        """Return the pool with what is to be said of its size."""
        try:
            with self._translated("look at the file of the pool"):
                refusal = self._failed_growth or loop.refusal()
                return replace(pool, refusal=refusal, pending="" if refusal else loop.pending())
        except ReconcilerError as error:
            return replace(pool, refusal=error.message)

    def _check_filesystem(self) -> None:
        place = existing(self._path)
        if self._loop is not None and not self._loop.mounted():
            raise UnavailableError(
                f"the pool {self.name} at {self._path} is not mounted; it lies in {self._loop.file}",
                reason="PoolUnavailable",
                hint="the next pass mounts it",
            )
        if linux.filesystem_type(place) != linux.BTRFS_MAGIC:
            raise UnsupportedError(
                f"the pool {self.name} at {self._path} is not on btrfs",
                hint="give the pool a size to get a btrfs of its own (root only), or use driver: auto",
            )

    def _room(self) -> Room:
        plain = filesystem_room(self._path)
        metadata = subvolumes.metadata_room(existing(self._path))
        indexable = (metadata.within + metadata.unallocated) * _DATA_PER_METADATA
        if indexable >= plain.free:
            return plain
        left = words.size(metadata.within + metadata.unallocated)
        return Room(
            plain.total, indexable, f"btrfs has {left} left for metadata, though {words.size(plain.free)} for data"
        )

    def _create_data(self, path: Path) -> None:
        subvolumes.create(path)

    def _copy_data(self, source: Path, target: Path) -> None:
        subvolumes.snapshot(source, target)

    def _freeze(self, path: Path) -> None:
        if subvolumes.has_nested(path):
            raise BusyError(
                f"the volume {path.name} has subvolumes inside, which a clone would not contain; remove them first"
            )
        subvolumes.set_read_only(path, read_only=True)
        linux.sync_filesystem(path)

    def _remove_data(self, path: Path) -> None:
        subvolumes.remove(path)

    def _usage(self, path: Path) -> Usage:
        return shared_usage(path)
