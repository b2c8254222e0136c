"""What all drivers with volumes in a directory share: the life of a volume and its manifest.

A driver adds only how data is made, copied, frozen, removed and measured. The order of
the steps is here, once:

========  ======================================================================
create    manifest ``creating``, data, manifest ``complete``
clone     room is there, manifest ``creating``, copy, manifest ``complete``
seal      data frozen and durable, manifest of the snapshot
delete    manifest ``deleting``, data, no manifest
========  ======================================================================

A process that dies between any two of them leaves a manifest that tells how far it
came. Data without a manifest is not ours: it is neither overwritten nor removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from reconciler import durable
from reconciler.errors import (
    BusyError,
    ReconcilerError,
    RefusedError,
    TransientError,
    UnavailableError,
    UnsupportedError,
)
from reconciler.state.observed import ObservedPool, SnapshotManifest, Volume, VolumeState
from reconciler.status import words
from reconciler.storage.base import can_be_cloned
from reconciler.storage.manifests import Listing, Record, UnreadableError
from reconciler.storage.pool import PoolDirectory, read_marker
from reconciler.storage.room import Reserve, Room, filesystem_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from reconciler.ids import InstallationId, PoolName, VolumeId
    from reconciler.state.observed import Manifest
    from reconciler.storage.base import StorageTraits, Usage

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_IN_USE = frozenset({errno.EBUSY, errno.ETXTBSY, errno.ENOTEMPTY})
_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.ENOSYS})


class DirectoryStorage(ABC):
    """Base of ``copy``, ``reflink``, ``btrfs`` and ``zfs``.

    ``pool_id`` is the id that the installation remembers for this pool, None when it
    never used it. ``reserve`` stays free: ``"10%"`` of the pool, a size like ``"20Gi"``,
    or bytes. ``note`` is shown with the pool's state (why a lesser driver was taken).
    """

    driver: str
    traits: StorageTraits
    commits_in_order = False
    """Whether data never becomes durable before the name of a manifest that was written earlier."""
    atomic_removal = False
    """Whether removed data is gone at once or still there, never in part."""

    def __init__(
        self,
        name: PoolName,
        path: Path,
        *,
        installation: InstallationId,
        pool_id: str | None = None,
        reserve: str | int = "10%",
        note: str = "",
    ) -> None:
        self.name = name
        self._path = path
        self._installation = installation
        self._reserve = Reserve.parse(reserve)
        self._note = note
        self._pool = PoolDirectory(name, path, driver=self.driver, installation=installation, pool_id=pool_id)

    @property
    def settled(self) -> bool:
        """Whether the pool is in use with this driver, so that no other can be the right one."""
        try:
            marker = read_marker(self._path)
        except UnavailableError:
            return False
        return marker is not None and marker.driver == self.driver

    def prepare(self) -> str:
        with self._translated("prepare the pool"):
            if not self._pool.initialised():
                self._check_filesystem()
            return self._pool.initialise()

    def grow(self) -> None:  # noqa: B027 - most pools are as large as the file system that they lie on
        pass

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        with self._translated("lock the pool"):
            held = self._pool.acquire()
        try:
            yield
        finally:
            os.close(held)

    def probe(self) -> ObservedPool:
        try:
            with self._translated("look at the pool"):
                unknown = self._scan().problems
                room = self._room()
        except ReconcilerError as error:
            return ObservedPool(self.name, self.driver, available=False, message=str(error))
        torn = f"manifests that cannot be read: {', '.join(sorted(unknown))}" if unknown else ""
        return ObservedPool(
            self.name,
            self.driver,
            available=True,
            message="; ".join(note for note in (torn, room.note, self._note) if note),
            total_bytes=room.total,
            free_bytes=room.free,
            reserve_bytes=self._reserve.of(room.total),
            instant_clones=self.traits.instant_clones,
            atomic_snapshots=self.traits.atomic_snapshots,
            unknown=tuple(sorted(unknown)),
        )

    def volumes(self) -> tuple[Volume, ...]:
        with self._translated("list the volumes"):
            records = self._scan().records
        return tuple(
            Volume(volume, self.name, record.state, record.manifest)
            for volume, record in sorted(records.items())
            if record.manifest.installation == self._installation
        )

    def path(self, volume: VolumeId) -> Path:
        return self._pool.volume(volume)

    def create(self, volume: VolumeId, manifest: Manifest) -> Path:
        with self._translated(f"create the volume {volume}"):
            return self._make(volume, manifest, needed=0, fill=self._create_data)

    def clone(self, source: VolumeId, target: VolumeId, manifest: Manifest) -> Path:
        with self._translated(f"clone {source} to {target}"):
            record = self._complete(source)
            if not can_be_cloned(record.manifest):
                raise TransientError(f"the volume {source} is not sealed: it cannot be cloned", reason="NotSealed")
            origin = self.path(source)
            needed = 0 if self.traits.instant_clones else self._usage(origin).exclusive_bytes or 0
            return self._make(target, manifest, needed=needed, fill=lambda path: self._copy_data(origin, path))

    def seal(self, volume: VolumeId, manifest: Manifest) -> None:
        with self._translated(f"seal the volume {volume}"):
            record = self._complete(volume)
            if isinstance(record.manifest, SnapshotManifest):
                return
            self._freeze(self.path(volume))
            self._pool.manifests.write(volume, Record(VolumeState.COMPLETE, manifest))

    def update(self, volume: VolumeId, manifest: Manifest) -> None:
        with self._translated(f"update the manifest of {volume}"):
            self._complete(volume)
            self._pool.manifests.write(volume, Record(VolumeState.COMPLETE, manifest))

    def delete(self, volume: VolumeId) -> None:
        with self._translated(f"delete the volume {volume}"):
            self._require_pool()
            record = self._owned(volume)
            if record is None:
                return
            if record.state is not VolumeState.DELETING:
                self._mark_deleting(volume, record)
            self._remove_data(self.path(volume))
            self._settle()
            self._pool.manifests.remove(volume)

    def usage(self, volumes: Iterable[VolumeId]) -> Mapping[VolumeId, Usage]:
        measured: dict[VolumeId, Usage] = {}
        with self._translated("measure volumes"):
            self._require_pool()
            for volume in volumes:
                with contextlib.suppress(FileNotFoundError):
                    measured[volume] = self._usage(self.path(volume))
        return measured

    @abstractmethod
    def _create_data(self, path: Path) -> None:
        """Make an empty directory that only its owner can enter."""

    @abstractmethod
    def _copy_data(self, source: Path, target: Path) -> None:
        """Copy a sealed volume, durably."""

    @abstractmethod
    def _freeze(self, path: Path) -> None:
        """Make a volume durable, and read-only where the file system can."""

    @abstractmethod
    def _remove_data(self, path: Path) -> None:
        """Remove a volume's data, complete or not; absent is fine."""

    @abstractmethod
    def _usage(self, path: Path) -> Usage:
        """Measure a volume; raise FileNotFoundError when it is absent."""

    def _check_filesystem(self) -> None:
        """Check that the driver can work on this path; a driver that needs more asks for more."""
        if self._path.exists() and not self._path.is_dir():
            raise UnsupportedError(f"the pool {self.name}: {self._path} is not a directory")

    def _room(self) -> Room:
        return filesystem_room(self._path)

    def _settle(self) -> None:
        """Make a removal durable before its manifest goes; btrfs commits when a subvolume was in the directory."""
        durable.sync_directory(self._pool.volumes)

    def _scan(self) -> Listing:
        if not self._pool.initialised():
            self._check_filesystem()
            return Listing({}, {})
        return self._pool.manifests.scan()

    def _require_pool(self) -> None:
        if not self._pool.initialised():
            raise UnavailableError(f"the pool {self.name} at {self._path} was never prepared", reason="PoolUnavailable")

    def _owned(self, volume: VolumeId) -> Record | None:
        """Return the manifest of a volume of ours, None when there is none."""
        try:
            record = self._pool.manifests.read(volume)
        except UnreadableError as error:
            file = self._pool.manifests.file(volume)
            raise UnavailableError(
                f"the manifest {file} cannot be read: {error}",
                reason="ManifestUnreadable",
                hint="restore or remove it by hand; the volume is left as it is",
            ) from error
        if record is not None and record.manifest.installation != self._installation:
            raise BusyError(
                f"the volume {volume} in the pool {self.name} belongs to the installation "
                f"{record.manifest.installation}; it is left alone",
                reason="ForeignVolume",
            )
        return record

    def _complete(self, volume: VolumeId) -> Record:
        self._require_pool()
        record = self._owned(volume)
        if record is None or record.state is not VolumeState.COMPLETE:
            state = "does not exist" if record is None else f"is {record.state}"
            raise TransientError(f"the volume {volume} in the pool {self.name} {state}", reason="VolumeMissing")
        return record

    def _make(self, volume: VolumeId, manifest: Manifest, *, needed: int, fill: Callable[[Path], None]) -> Path:
        path = self.path(volume)
        self.prepare()
        if self._made_before(volume, manifest):
            return path
        self._admit(volume, needed)
        self._pool.manifests.write(volume, Record(VolumeState.CREATING, manifest), settle=not self.commits_in_order)
        try:
            fill(path)
            # A power loss may bring ``creating`` back: the volume is then made again, and nobody had it yet.
            self._pool.manifests.write(volume, Record(VolumeState.COMPLETE, manifest), settle=False)
        except (OSError, ReconcilerError):
            self._undo(volume)
            raise
        return path

    def _made_before(self, volume: VolumeId, manifest: Manifest) -> bool:
        """Return whether this very volume exists; clear away what an interrupted attempt left."""
        record, path = self._owned(volume), self.path(volume)
        if record is None:
            if os.path.lexists(path):
                raise BusyError(f"{path} exists and has no manifest: it is not ours and is left alone")
            return False
        if record.state is VolumeState.COMPLETE:
            if record.manifest == manifest:
                return True
            raise BusyError(f"the volume {volume} in the pool {self.name} exists", reason="VolumeExists")
        self._remove_data(path)
        return False

    def _undo(self, volume: VolumeId) -> None:
        """Take back a volume that could not be made; what cannot be removed stays marked as creating."""
        with contextlib.suppress(OSError, ReconcilerError):
            self._remove_data(self.path(volume))
            self._settle()
            self._pool.manifests.remove(volume)

    def _mark_deleting(self, volume: VolumeId, record: Record) -> None:
        manifests = self._pool.manifests
        try:
            manifests.write(volume, Record(VolumeState.DELETING, record.manifest))
        except OSError as error:
            if error.errno not in _FULL:
                raise
            if not manifests.mark_in_place(volume, VolumeState.DELETING) and not self.atomic_removal:
                raise

    def _admit(self, volume: VolumeId, needed: int) -> None:
        room = self._room()
        reserve = self._reserve.of(room.total)
        if room.free - needed < reserve or room.free == 0:
            raise RefusedError(
                f"no room for {volume} in the pool {self.name}: needs {words.size(needed)}, "
                f"free {words.size(room.free)} of {words.size(room.total)}, "
                f"of which {words.size(reserve)} are reserved",
                reason="PoolFull",
            )

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Turn errors of the operating system into the contract's."""
        try:
            yield
        except OSError as error:
            raise self._translate(what, error) from error

    def _translate(self, what: str, error: OSError) -> ReconcilerError:
        message = f"cannot {what} in the pool {self.name}: {error.strerror or error}"
        if error.filename is not None:
            message += f": {os.fsdecode(error.filename)}"
        if error.errno in _FULL:
            room = filesystem_room(self._path)
            return RefusedError(
                f"{message} (free {words.size(room.free)} of {words.size(room.total)})",
                reason="PoolFull",
                hint="delete clones or snapshots, or make the pool larger",
            )
        if error.errno in _IN_USE:
            return BusyError(message)
        if error.errno in _CANNOT:
            return UnsupportedError(message, hint=f"the file system at {self._path} cannot do what {self.driver} needs")
        return UnavailableError(message, reason="PoolUnavailable")
