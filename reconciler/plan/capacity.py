"""Room on pools and declared memory: what of a plan does not fit, with figures.

Called by :mod:`reconciler.plan.policy`. Pure. Work in flight counts in full until it
ends, whatever it has taken already. Estimates err on the side of what was measured or
told; what nobody knows (an image that starts from nothing) counts as nothing, and a
pool that is down to its reserve takes no new work at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from reconciler.ids import CloneName, VolumeId, instance_of
from reconciler.plan.actions import BuildSnapshot, CreateClone, CutPoint, KeepRaw, LoadTemplate, ReplaceClone
from reconciler.state.conditions import Kind
from reconciler.state.observed import BuildManifest, CloneManifest, MirrorManifest, ServerState, SnapshotManifest
from reconciler.status import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from reconciler.ids import PoolName, SnapshotId
    from reconciler.plan.actions import Action, Plan
    from reconciler.plan.settings import PolicySettings
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Observed


_TAKING = (BuildSnapshot, CutPoint, KeepRaw, CreateClone, ReplaceClone, LoadTemplate)
"""Actions that may take room."""


class _Need(NamedTuple):
    """What an action takes of its pool; ``size`` 0: no room at first."""

    pool: PoolName
    size: int
    what: str


class _Needs:
    """Estimates of the room that actions take, told in the order in which they come."""

    def __init__(self, desired: Desired, observed: Observed, settings: PolicySettings) -> None:
        self._desired = desired
        self._observed = observed
        self._settings = settings
        self._places = {
            volume.manifest.snapshot: volume.pool
            for volume in observed.volumes
            if isinstance(volume.manifest, SnapshotManifest | BuildManifest)
        }
        self._clones = {v.id: v.pool for v in observed.volumes if isinstance(v.manifest, CloneManifest)}
        self._mirrors = {v.id: v.pool for v in observed.volumes if isinstance(v.manifest, MirrorManifest)}
        self._sizes: dict[SnapshotId, int] = {s: settings.sizes.get(VolumeId(s), 0) for s in self._places}

    def of(self, action: Action) -> _Need | None:
        """Return what an action takes; None if it takes nothing, or where that would be is not known."""
        if isinstance(action, BuildSnapshot):
            return self._of_build(action)
        if isinstance(action, CutPoint):
            return self._of_cut(action)
        if isinstance(action, KeepRaw):
            return self._of_raw(action)
        if isinstance(action, CreateClone | ReplaceClone | LoadTemplate) and action.snapshot in self._places:
            return self._of_copy(action)
        return None

    def forget(self, action: Action) -> None:
        """Leave out what would be made from the snapshot of a refused build."""
        if isinstance(action, BuildSnapshot | CutPoint):
            del self._places[action.snapshot]

    def _of_build(self, action: BuildSnapshot) -> _Need | None:
        image = self._desired.images.get(action.image)
        pool = self._places.get(action.snapshot, image.pool if image is not None else None)
        if pool is None:
            return None
        self._places[action.snapshot] = pool
        self._sizes[action.snapshot] = size = self._build_size(action)
        shared = (action.base is not None or action.mirror is not None) and self._instant(pool)
        return _Need(pool, 0 if shared else size, f"a snapshot of {action.image}")

    def _of_copy(self, action: CreateClone | ReplaceClone | LoadTemplate) -> _Need | None:
        pool = self._places[action.snapshot]
        size = 0 if self._instant(pool) else self._sizes[action.snapshot]
        if isinstance(action, LoadTemplate):  # a copy that is served meanwhile, and a dump of it
            return _Need(pool, size + self._sizes[action.snapshot] // 2, f"loading {action.snapshot}")
        clone = self._desired.clones.get(action.clone)
        if clone is not None and instance_of(clone.runtime) is not None:  # it takes nothing of a pool
            return None
        return _Need(pool, size, f"clone {action.clone}")

    def _of_cut(self, action: CutPoint) -> _Need | None:
        pool = self._clones.get(action.volume)
        if pool is None:
            return None
        size = max(self._settings.sizes.get(action.volume, 0), self._sizes.get(action.base, 0))
        self._places[action.snapshot], self._sizes[action.snapshot] = pool, size
        return _Need(pool, 0 if self._instant(pool) else size, f"a point of clone {action.clone}")

    def _of_raw(self, action: KeepRaw) -> _Need | None:
        pool = self._mirrors.get(action.mirror)
        if pool is None:
            return None
        size = 0 if self._instant(pool) else self._settings.sizes.get(action.mirror, 0)
        return _Need(pool, size, f"a raw copy of the mirror of image {action.image}")

    def _build_size(self, action: BuildSnapshot) -> int:
        """Estimate a build: as large as its base; else what its source lets expect, or its largest snapshot."""
        if action.base is not None:
            return self._sizes.get(action.base, 0)
        own = (
            self._settings.sizes.get(volume.id, 0)
            for volume in self._observed.volumes
            if isinstance(volume.manifest, SnapshotManifest) and volume.manifest.image == action.image
        )
        mirrored = self._settings.sizes.get(action.mirror, 0) if action.mirror is not None else 0
        return max((action.size_bytes, mirrored, *own))

    def _instant(self, name: PoolName) -> bool:
        pool = self._observed.pools.get(name)
        return pool is not None and pool.instant_clones


class _Room:
    """Free bytes of pools above their reserve, as work takes them."""

    def __init__(self, observed: Observed) -> None:
        self._pools = {name: pool for name, pool in observed.pools.items() if pool.available}
        self._left = {name: pool.free_bytes - pool.reserve_bytes for name, pool in self._pools.items()}
        self._under_way = dict.fromkeys(self._pools, 0)

    def reserve(self, need: _Need) -> None:
        """Keep room for work in flight, as much as if it had just begun."""
        if need.pool in self._pools:
            self._left[need.pool] -= need.size
            self._under_way[need.pool] += need.size

    def take(self, need: _Need) -> str | None:
        """Take room for work; return why it does not fit.

        Work that takes no room at first is measured against what is free now: a long
        build keeps no clone waiting that shares its blocks.
        """
        pool = self._pools.get(need.pool)
        if pool is None:
            return None
        left = self._left[need.pool]
        if pool.free_bytes > pool.reserve_bytes and need.size <= max(0, left):
            self._left[need.pool] -= need.size
            return None
        needs = f"needs about {words.size(need.size)}" if need.size else "needs room"
        busy = self._under_way[need.pool]
        kept = f", {words.size(busy)} kept for work under way" if busy else ""
        return (
            f"{need.what} {needs}; pool {need.pool} has {words.size(max(0, left))} above its reserve"
            f" ({words.size(pool.free_bytes)} free, {words.size(pool.reserve_bytes)} of it reserved{kept})"
        )


def over_disk(
    plan: Plan, desired: Desired, observed: Observed, *, settings: PolicySettings, under_way: Iterable[Action]
) -> Iterator[tuple[Action, str]]:
    """Yield the actions that do not fit their pools, in the order of the plan, each with its figures.

    ``under_way`` are actions of earlier plans that are not done: their room is taken.
    """
    if not any(isinstance(action, _TAKING) for action in plan.actions):
        return
    needs, room = _Needs(desired, observed, settings), _Room(observed)
    for action in under_way:
        if (need := needs.of(action)) is not None:
            room.reserve(need)
    for action in plan.actions:
        need = needs.of(action)
        if need is not None and (message := room.take(need)) is not None:
            needs.forget(action)
            yield action, message


def needs(
    actions: Iterable[Action], desired: Desired, observed: Observed, *, settings: PolicySettings
) -> Iterator[int]:
    """Yield the bytes that each action takes of its pool at first, in their order; 0: none, or not known."""
    known = _Needs(desired, observed, settings)
    for action in actions:
        need = known.of(action)
        yield need.size if need is not None else 0


def over_memory(
    starting: tuple[CloneName, ...], desired: Desired, observed: Observed, *, limit: int
) -> Iterator[tuple[CloneName, str]]:
    """Yield the clones whose declared memory does not fit any more, in the order given, with figures."""
    if not any(_memory(desired, name) for name in starting):
        return
    used = sum(_memory(desired, name) for name in _running(observed) | _under_way(observed) if name not in starting)
    for name in starting:
        wanted = _memory(desired, name)
        if wanted and used + wanted > limit:
            declared = f"{words.size(used)} of {words.size(limit)} are declared by clones that run or are starting"
            yield name, f"clone {name} declares {words.size(wanted)} of memory; {declared}"
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


def _under_way(observed: Observed) -> set[CloneName]:
    """Return the clones with work in flight: whatever it is, a server may come of it."""
    return {CloneName(key.name) for key in observed.in_flight if key.kind is Kind.CLONE}
