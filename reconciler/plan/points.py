"""Points in the lives of clones: snapshots of what a clone holds, that other clones start from.

Called by :mod:`.choice`, when a clone of a clone is made or made anew, and by
:mod:`.diff`. Pure. A point is cut once and belongs to no image: it is nobody's newest
snapshot, and kept while a clone needs it. What lies in a clone is the work of its users.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from reconciler.ids import SnapshotId, VolumeId, instance_of
from reconciler.plan.actions import (
    CutPoint,
    ExpireClone,
    ReplaceClone,
    RestartClone,
    RestoreClone,
    StartClone,
    StopClone,
)
from reconciler.plan.draft import held_back
from reconciler.plan.fingerprints import cut_fingerprint, point_digest
from reconciler.plan.leftovers import drop_interrupted
from reconciler.plan.quarantine import withheld
from reconciler.plan.schedule import snapshot_id_stamp
from reconciler.state.conditions import Condition, Kind, ObjectKey, reconciling, stalled

if TYPE_CHECKING:
    from reconciler.ids import CloneName, ImageName
    from reconciler.plan.draft import Draft
    from reconciler.plan.index import Generation, Index, Snapshot
    from reconciler.state.desired import DesiredClone
    from reconciler.state.observed import CloneManifest, SnapshotManifest

_TEARING = ("fsync", "full_page_writes")
"""Settings without which the files of a running server are nothing that recovery makes whole, however they are copied.

"Write Ahead Log: Reliability" in PostgreSQL's manual; clones have both unless their documents turn them off.
"""
_ON = frozenset({"on", "true", "yes", "1"})


def point_key(clone: CloneName) -> ObjectKey:
    """Return the key of a clone's points: they are worked on while the clone itself is, and while it is used."""
    return ObjectKey(Kind.POINT, clone)


def point_for(
    index: Index, draft: Draft, clone: DesiredClone, source: CloneName, *, anew: bool
) -> Snapshot | CutPoint | Condition:
    """Return the point that a clone starts from: one that was cut for it, one to be cut, or what it waits for.

    Clones that start in the same plan share a point, those of one document at any time.
    With ``anew`` a person asks for one of now.
    """
    if not anew and (known := _cut_before(index, clone, source)) is not None:
        renamed = known.manifest.clone == source
        return known if renamed else reconciling("WaitingForClone", f"clone {source} is renamed first")
    if source in draft.points:
        return draft.points[source]
    cut = _fresh(index, draft, clone, source)
    if isinstance(cut, Condition):
        return cut
    held = held_back(index, cut.key, cut.fingerprint)
    if held is not None and not anew:
        return held
    draft.points[source] = cut
    return cut


def _fresh(index: Index, draft: Draft, clone: DesiredClone, source: CloneName) -> CutPoint | Condition:
    """Return the cut of what a clone holds now, or why there can be none."""
    found = _current(index, draft, source)
    if isinstance(found, Condition):
        return found
    if (image := _image_of(index, found.manifest)) != clone.image:
        return reconciling("WaitingForClone", f"clone {source} is of image {image} still, not of {clone.image}")
    runs = _will_run(index, draft, source, found)
    return _unfit(index, source, found, runs=runs) or _cut(index, source, found, runs=runs)


def _cut_before(index: Index, clone: DesiredClone, source: CloneName) -> Snapshot | None:
    """Return the newest point that no other clone has, but for those of the same document."""
    for snapshot in reversed(index.points.get(source, ())):
        name, holders = snapshot.manifest.snapshot, index.holders.get(snapshot.manifest.snapshot, ())
        if name in index.quarantined or _image_of(index, snapshot.manifest) != clone.image:
            continue
        if all(other == clone.name or _is_sibling(index, clone, other) for other in holders):
            return snapshot
    return None


def _image_of(index: Index, manifest: CloneManifest | SnapshotManifest) -> ImageName:
    return index.image_names.get(manifest.image, manifest.image)


def _is_sibling(index: Index, clone: DesiredClone, other: CloneName) -> bool:
    known = index.desired.clones.get(other)
    return known is not None and clone.number is not None and known.document == clone.document


def _current(index: Index, draft: Draft, source: CloneName) -> Generation | Condition:
    """Return what a clone is served from, unless something else has to happen to it first."""
    key = ObjectKey(Kind.CLONE, source)
    for busy in (key, point_key(source)):
        if (left := index.left_alone(busy)) is not None:
            return reconciling("WaitingForClone", f"clone {source}: {left.message}")
    if key in index.hidden:
        return reconciling("WaitingForClone", f"clone {source} cannot be seen: {index.hidden[key]}")
    if source in index.observed.tombstones:
        return stalled("SourceExpired", f"clone {source} is expired; change its ttl or expires to get a new one")
    volumes = index.clones.get(source)
    if volumes is None or not volumes.ready:
        return reconciling("WaitingForClone", f"clone {source} is not there yet")
    for action in draft.actions.get(key, ()):
        if isinstance(action, ReplaceClone | RestoreClone | ExpireClone):
            return reconciling("WaitingForClone", f"clone {source} changes first: {action.reason}")
    return volumes.current


def _will_run(index: Index, draft: Draft, source: CloneName, current: Generation) -> bool:
    """Whether its server runs when everything is done that is planned for a clone."""
    planned = draft.actions.get(ObjectKey(Kind.CLONE, source), ())
    if any(isinstance(action, StopClone) for action in planned):
        return False
    starts = any(isinstance(action, StartClone | RestartClone) for action in planned)
    return starts or index.server(current.volume.id) is not None


def _unfit(index: Index, source: CloneName, current: Generation, *, runs: bool) -> Condition | None:
    """Return why nothing may be made of what a clone holds now."""
    manifest = current.manifest
    if (problem := withheld(index, manifest.snapshot)) is not None:
        return stalled("Quarantined", f"clone {source}: {problem}")
    if (never := _never(source, manifest)) is not None:
        return never
    if not _is_at_rest(index, current) or not runs:
        return _unseen(index, source, current) if _is_at_rest(index, current) else None
    stops = f"clone {source} has to stop for a copy of it"
    document = index.desired.clones.get(source)
    if manifest.protected or (document is not None and document.protected):
        hint = "set state: stopped, or protected: false, in git until it is made"
        return stalled("Protected", f"{stops}, and it is protected; {hint}")
    if used := index.users_of([current.volume.id]):
        return reconciling("WaitingForClone", f"{stops}, and is in use by {used}")
    return None


def _never(source: CloneName, manifest: CloneManifest) -> Condition | None:
    """Return why nothing can ever be made of a clone as it is."""
    if (instance := instance_of(manifest.runtime)) is not None:
        why = f"clone {source} is on instance {instance}, and nothing is copied back from there"
        return stalled("Unsupported", f"{why}; start from its image, or from a clone with another runtime")
    if manifest.account is not None or manifest.superuser:
        why = f"clone {source} has, or had, a superuser, who may have left behind what acts as one in other clones"
        return stalled("SuperuserClone", f"{why}; nothing is made of it")
    return None


def _unseen(index: Index, source: CloneName, current: Generation) -> Condition | None:
    """Return why it cannot be told whether a clone runs that must not while it is copied."""
    runtime = current.manifest.runtime
    if runtime not in index.observed.unknown_runtimes:
        return None
    why = index.observed.unknown_runtimes[runtime]
    return reconciling("RuntimeUnavailable", f"clone {source}: the runtime {runtime} does not answer: {why}")


def _is_at_rest(index: Index, current: Generation) -> bool:
    """Whether a clone can only be copied while its server does not run."""
    pool = index.observed.pools.get(current.volume.pool)
    if pool is None or not pool.atomic_snapshots:
        return True
    parameters = current.manifest.parameters
    if parameters is None:
        return True
    wishes = {name.lower(): value.strip().lower() for name, value in parameters.items()}
    return any(wishes.get(name, "on") not in _ON for name in _TEARING)


def _cut(index: Index, source: CloneName, current: Generation, *, runs: bool) -> CutPoint:
    volume, manifest = current
    at_rest = _is_at_rest(index, current)
    stops = "; its server stops meanwhile" if at_rest and runs else ""
    return CutPoint(
        clone=source,
        image=_image_of(index, manifest),
        volume=volume.id,
        snapshot=_point_id(index, source, volume.id),
        base=manifest.snapshot,
        at_rest=at_rest,
        fingerprint=cut_fingerprint(volume.id, index.now),
        reason=f"clones start from what clone {source} holds now{stops}",
        after=(ObjectKey(Kind.CLONE, source),),
    )


def _point_id(index: Index, source: CloneName, volume: VolumeId) -> SnapshotId:
    at, digest = index.now, point_digest(source, volume).rpartition(":")[2][:8]
    while True:
        wanted = SnapshotId(f"{source}-{snapshot_id_stamp(at)}-{digest}")
        if VolumeId(wanted) not in index.taken:
            return wanted
        at += timedelta(seconds=1)


def drop_unfinished_points(index: Index, draft: Draft) -> None:
    """Drop the volumes of points that were never finished, and that nothing works on."""
    in_use = index.observed.in_use or frozenset()
    for name, volumes in index.point_leftovers.items():
        key = point_key(name)
        if index.left_alone(key) is None:
            idle = (volume for volume in volumes if volume.id not in in_use)
            drop_interrupted(index, draft, key, sorted(idle, key=lambda volume: volume.id))
