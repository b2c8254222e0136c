"""A pool that exists only in this process: for the planner's and the loop's tests with many objects.

Registered as ``memory``. Keeps every promise of the contract except that nothing
outlives the object. Paths are names, not places: content is read and written through
:meth:`MemoryStorage.read` and :meth:`MemoryStorage.write`.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.errors import BusyError, RefusedError, TransientError
from reconciler.state.observed import ObservedPool, SnapshotManifest, Volume, VolumeState
from reconciler.storage.base import StorageTraits, Usage, can_be_cloned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from reconciler.ids import InstallationId, PoolName, VolumeId
    from reconciler.state.observed import Manifest

_DEFAULT_SIZE = 1 << 40


class MemoryStorage:
    """Volumes as entries of a dictionary; ``volumes`` is what the pool holds at first, in any state."""

    traits = StorageTraits(instant_clones=True, atomic_snapshots=True, exclusive_sizes=False, files=False)

    def __init__(
        self,
        name: PoolName,
        *,
        installation: InstallationId,
        volumes: Iterable[Volume] = (),
        total_bytes: int = _DEFAULT_SIZE,
    ) -> None:
        self.name = name
        self._installation = installation
        self._total = total_bytes
        self._volumes = {volume.id: volume for volume in volumes}
        self._data: dict[VolumeId, dict[str, bytes]] = {volume: {} for volume in self._volumes}
        self._mutex = threading.RLock()
        self._held = threading.Lock()

    def prepare(self) -> str:
        return f"memory-{self.name}"

    def grow(self) -> None:
        pass

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        if not self._held.acquire(blocking=False):
            raise BusyError(f"the pool {self.name} is held by this process")
        try:
            yield
        finally:
            self._held.release()

    def probe(self) -> ObservedPool:
        return ObservedPool(
            self.name,
            "memory",
            available=True,
            total_bytes=self._total,
            free_bytes=self._total - self._used(),
            instant_clones=True,
            atomic_snapshots=True,
        )

    def volumes(self) -> tuple[Volume, ...]:
        with self._mutex:
            ours = (volume for volume in self._volumes.values() if volume.manifest.installation == self._installation)
            return tuple(sorted(ours, key=lambda volume: volume.id))

    def path(self, volume: VolumeId) -> Path:
        return Path("/memory") / self.name / volume

    def create(self, volume: VolumeId, manifest: Manifest) -> Path:
        return self._make(volume, manifest, {})

    def clone(self, source: VolumeId, target: VolumeId, manifest: Manifest) -> Path:
        with self._mutex:
            if not can_be_cloned(self._complete(source).manifest):
                raise TransientError(f"the volume {source} is not sealed: it cannot be cloned", reason="NotSealed")
            return self._make(target, manifest, self._data[source])

    def seal(self, volume: VolumeId, manifest: Manifest) -> None:
        with self._mutex:
            known = self._complete(volume)
            if not isinstance(known.manifest, SnapshotManifest):
                self._volumes[volume] = replace(known, manifest=manifest)

    def update(self, volume: VolumeId, manifest: Manifest) -> None:
        with self._mutex:
            self._volumes[volume] = replace(self._complete(volume), manifest=manifest)

    def delete(self, volume: VolumeId) -> None:
        with self._mutex:
            if self._owned(volume) is not None:
                del self._volumes[volume], self._data[volume]

    def usage(self, volumes: Iterable[VolumeId]) -> Mapping[VolumeId, Usage]:
        with self._mutex:
            return {
                volume: Usage(sum(map(len, self._data[volume].values())), None)
                for volume in volumes
                if volume in self._data
            }

    def put(self, volume: Volume, files: Mapping[str, bytes]) -> None:
        """Put a volume into the pool as it is, whatever was there: another process's work, or an interrupted one's."""
        with self._mutex:
            self._volumes[volume.id] = volume
            self._data[volume.id] = dict(files)

    def write(self, volume: VolumeId, name: str, data: bytes) -> None:
        """Put a file into a volume.

        Raises:
            TransientError: the volume is absent or incomplete.
            PermissionError: it is sealed.

        """
        with self._mutex:
            if isinstance(self._complete(volume).manifest, SnapshotManifest):
                raise PermissionError(f"the volume {volume} is sealed")
            if len(data) > self._total - self._used():
                raise RefusedError(f"no room in the pool {self.name}: needs {len(data)} of {self._total} bytes")
            self._data[volume][name] = data

    def read(self, volume: VolumeId, name: str) -> bytes:
        """Return a file of a volume.

        Raises:
            KeyError: there is none.

        """
        with self._mutex:
            return self._data[volume][name]

    def _used(self) -> int:
        with self._mutex:
            return sum(len(data) for files in self._data.values() for data in files.values())

    def _make(self, volume: VolumeId, manifest: Manifest, data: Mapping[str, bytes]) -> Path:
        with self._mutex:
            known = self._owned(volume)
            if known is None or known.state is not VolumeState.COMPLETE:
                self._volumes[volume] = Volume(volume, self.name, VolumeState.COMPLETE, manifest)
                self._data[volume] = dict(data)
            elif known.manifest != manifest:
                raise BusyError(f"the volume {volume} in the pool {self.name} exists", reason="VolumeExists")
        return self.path(volume)

    def _owned(self, volume: VolumeId) -> Volume | None:
        known = self._volumes.get(volume)
        if known is not None and known.manifest.installation != self._installation:
            raise BusyError(f"the volume {volume} belongs to another installation", reason="ForeignVolume")
        return known

    def _complete(self, volume: VolumeId) -> Volume:
        known = self._owned(volume)
        if known is None or known.state is not VolumeState.COMPLETE:
            state = "does not exist" if known is None else f"is {known.state}"
            raise TransientError(f"the volume {volume} in the pool {self.name} {state}", reason="VolumeMissing")
        return known
