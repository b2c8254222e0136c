"""Room on pools and declared memory: what of a plan does not fit, with figures.

Called by :mod:`reconciler.plan.policy`. Pure. Estimates err on the side of what was
measured or told; what nobody knows counts as nothing, and a pool that is down to its
reserve takes no new work at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.ids import VolumeId
from reconciler.plan.actions import BuildSnapshot, CreateClone, ReplaceClone
from reconciler.plan.render import size_text
from reconciler.state.desired import ImageSource
from reconciler.state.observed import CloneManifest, ServerState, SnapshotManifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.ids import CloneName, PoolName, SnapshotId
    from reconciler.plan.actions import Action, Plan
    from reconciler.plan.settings import PolicySettings
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Observed, ObservedPool


class _Room:
    """Free bytes of pools above their reserve, as work takes them."""

    def __init__(self, observed: Observed) -> None:
        self._pools = observed.pools
        self._left = {name: pool.free_bytes - pool.reserve_bytes for name, pool in observed.pools.items()}

    def pool(self, name: PoolName) -> ObservedPool | None:
        return self._pools.get(name)

    def take(self, name: PoolName, size: int, what: str) -> str | None:
        """Take room for work; return why it does not fit."""
        pool = self._pools.get(name)
        if pool is None or not pool.available:
            return None
        left = self._left[name]
        if left > 0 and size <= left:
            self._left[name] = left - size
            return None
        need = f"needs about {size_text(size)}" if size else "needs room"
        return (
            f"{what} {need}; pool {name} has {size_text(max(0, left))} above its reserve"
            f" ({size_text(pool.free_bytes)} free, {size_text(pool.reserve_bytes)} of it reserved)"
        )


def over_disk(
    plan: Plan, desired: Desired, observed: Observed, *, settings: PolicySettings
) -> Iterator[tuple[Action, str]]:
    """Yield the actions that do not fit their pools, in the order of the plan, each with its figures."""
    if not any(isinstance(action, BuildSnapshot | CreateClone | ReplaceClone) for action in plan.actions):
        return
    room = _Room(observed)
    places = {v.manifest.snapshot: v.pool for v in observed.volumes if isinstance(v.manifest, SnapshotManifest)}
    sizes: dict[SnapshotId, int] = {s: settings.sizes.get(VolumeId(s), 0) for s in places}
    for action in plan.actions:
        if isinstance(action, BuildSnapshot):
            image = desired.images[action.image]
            places[action.snapshot] = image.pool
            sizes[action.snapshot] = _build_size(action, observed, settings, sizes)
            pool = room.pool(image.pool)
            shared = isinstance(image.source, ImageSource) and pool is not None and pool.instant_clones
            size = 0 if shared else sizes[action.snapshot]
            message = room.take(image.pool, size, f"a snapshot of {action.image}")
            if message is not None:
                del places[action.snapshot]
        elif isinstance(action, CreateClone | ReplaceClone):
            place = places.get(action.snapshot)
            if place is None:
                continue
            pool = room.pool(place)
            size = 0 if pool is not None and pool.instant_clones else sizes[action.snapshot]
            message = room.take(place, size, f"clone {action.clone}")
        else:
            continue
        if message is not None:
            yield action, message


def _build_size(
    action: BuildSnapshot, observed: Observed, settings: PolicySettings, sizes: dict[SnapshotId, int]
) -> int:
    """Estimate a build: what its source told, else its base, else the largest snapshot of the image."""
    if action.image in settings.source_sizes:
        return settings.source_sizes[action.image]
    if action.base is not None:
        return sizes.get(action.base, 0)
    own = [v.id for v in observed.volumes if v.manifest.kind == "snapshot" and v.manifest.image == action.image]
    return max((settings.sizes.get(volume, 0) for volume in own), default=0)


def over_memory(
    starting: tuple[CloneName, ...], desired: Desired, observed: Observed, *, limit: int
) -> Iterator[tuple[CloneName, str]]:
    """Yield the clones whose declared memory does not fit any more, in the order given, with figures."""
    if not any(_memory(desired, name) for name in starting):
        return
    used = sum(_memory(desired, name) for name in _running(observed) if name not in starting)
    for name in starting:
        wanted = _memory(desired, name)
        if wanted and used + wanted > limit:
            declared = f"{size_text(used)} of {size_text(limit)} are declared by running clones"
            yield name, f"clone {name} declares {size_text(wanted)} of memory; {declared}"
        else:
            used += wanted


def _memory(desired: Desired, name: CloneName) -> int:
    clone = desired.clones.get(name)
    return (clone.resources.memory or 0) if clone is not None and clone.running else 0


def _running(observed: Observed) -> set[CloneName]:
    running = {VolumeId(name) for name, server in observed.servers.items() if server.state is ServerState.RUNNING}
    return {
        volume.manifest.clone
        for volume in observed.volumes
        if isinstance(volume.manifest, CloneManifest) and volume.id in running
    }
