"""The contract of storage drivers.

A pool is a place on storage; a driver says how copies are made there. Called by
``observe`` and ``apply`` only. A driver knows nothing of specs, engines or plans.

**Truth.** A volume exists exactly if its manifest does. A driver writes the manifest
(state ``creating``) before it makes data, and removes it after the data is gone
(state ``deleting`` meanwhile), each by write, fsync, rename, fsync of the directory.
(Turning ``creating`` into ``complete`` may leave out the last fsync: a power loss then
means that the volume is made again.) So whatever ``kill -9`` leaves behind has a
manifest, and data without one of this installation is not ours and is never touched.

**Idempotence.** Every method can be repeated after a crash at any point of it:
``create`` and ``clone`` onto a volume in state ``creating`` start over, ``seal`` of a
sealed volume and ``delete`` of an absent one do nothing. ``create`` and ``clone`` of
a complete volume with the same manifest do nothing either; with another manifest they
raise BusyError.

**Torn manifests.** One that cannot be read makes its volume unknown, and only that:
``probe`` names it in ``unknown``, ``volumes`` leaves it out, and every method called
for it raises UnavailableError. Nothing of it is ever overwritten or deleted.

**Errors.** :class:`~reconciler.errors.UnavailableError` when the pool cannot be
asked (not mounted, marker missing: nothing is known, nothing may be concluded),
:class:`~reconciler.errors.RefusedError` when there is no room (the message carries
the figures), :class:`~reconciler.errors.UnsupportedError` when the file system
cannot do what the driver needs, :class:`~reconciler.errors.BusyError` when the pool
belongs to another installation or a volume is in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from reconciler.state.observed import CloneManifest, ClonePhase, MirrorManifest, RawManifest, SnapshotManifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from reconciler.ids import PoolName, VolumeId
    from reconciler.state.observed import Manifest, ObservedPool, Volume


@dataclass(frozen=True, slots=True)
class StorageTraits:
    """What a driver promises; asked instead of its name."""

    instant_clones: bool
    """A clone shares its blocks with its source until written: constant time, no room at first."""
    atomic_snapshots: bool
    """A copy is of one instant even while the source is being written."""
    exclusive_sizes: bool
    """``usage`` can tell the bytes that only this volume holds."""
    files: bool = True
    """Volumes are directories with files, which are searched and attested before they are sealed."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of a volume: what its files add up to, and what deleting it would free."""

    logical_bytes: int
    exclusive_bytes: int | None


def can_be_cloned(manifest: Manifest) -> bool:
    """Whether a volume is one that may be copied: no build, and no clone that nobody has yet."""
    if isinstance(manifest, CloneManifest):
        return manifest.phase is ClonePhase.READY
    return isinstance(manifest, SnapshotManifest | MirrorManifest | RawManifest)


class Storage(Protocol):
    """One pool on one driver. Safe to call from several threads for different volumes."""

    name: PoolName

    @property
    def traits(self) -> StorageTraits:
        """What the driver promises."""
        ...

    def prepare(self) -> str:
        """Make the pool usable (mounted, marked as ours) and return its id, to be remembered and passed in again.

        Cheap when there is nothing to do; called by whoever is about to write, never for a plan.
        """
        ...

    def grow(self) -> None:
        """Bring a pool in use to its configured size, if it has one; where that cannot be, ``probe`` says why.

        Cheap when it has that size; called for every pass, by whoever holds the pool.
        """
        ...

    def lock(self) -> AbstractContextManager[None]:
        """Hold the pool, after ``prepare``, for the one process that writes; :class:`BusyError` names another."""
        ...

    def probe(self) -> ObservedPool:
        """Return the pool's room and availability; cheap; never raises for a pool that is away."""
        ...

    def volumes(self) -> tuple[Volume, ...]:
        """Return every volume of this installation, ordered by id; one directory read, not one per volume.

        Raises:
            UnavailableError: the pool cannot be asked.

        """
        ...

    def path(self, volume: VolumeId) -> Path:
        """Return the directory that holds the volume's data; pure, whether it exists or not."""
        ...

    def create(self, volume: VolumeId, manifest: Manifest) -> Path:
        """Make an empty writable volume and return its directory."""
        ...

    def clone(self, source: VolumeId, target: VolumeId, manifest: Manifest) -> Path:
        """Make a writable copy of a sealed volume, a mirror or a ready clone, and return its directory.

        What is being written is copied only by a driver with atomic snapshots; for the
        others the caller sees to it that nothing writes.
        """
        ...

    def seal(self, volume: VolumeId, manifest: Manifest) -> None:
        """Make a volume read-only and durable, and give it ``manifest``, as one visible step."""
        ...

    def update(self, volume: VolumeId, manifest: Manifest) -> None:
        """Replace the manifest of a complete volume, durably."""
        ...

    def delete(self, volume: VolumeId) -> None:
        """Remove a volume and its manifest; absent is fine."""
        ...

    def usage(self, volumes: Iterable[VolumeId]) -> Mapping[VolumeId, Usage]:
        """Measure volumes; may walk extents, so it is never called inside a pass. Absent volumes are left out."""
        ...
