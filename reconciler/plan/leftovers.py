"""What goes because nobody asks for it: interrupted work, retired generations, strays, objects without document.

Called by :mod:`reconciler.plan.clones` and :mod:`reconciler.plan.diff`. Pure. Snapshots
are the business of :mod:`reconciler.plan.retention`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.ids import DEFAULT_RUNTIME, CloneName, SnapshotId, VolumeId
from reconciler.plan.actions import ClearTombstone, DeleteClone, DropVolume, StopServer
from reconciler.plan.draft import attempt
from reconciler.plan.schedule import expires_at
from reconciler.state.conditions import Condition, Kind, ObjectKey, reconciling, stalled, unknown
from reconciler.state.observed import CloneManifest, RawManifest, SnapshotManifest, VolumeState

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from reconciler.ids import RuntimeName, ServerName
    from reconciler.plan.draft import Draft
    from reconciler.plan.index import CloneVolumes, Generation, Index
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Volume


def drop_interrupted(index: Index, draft: Draft, key: ObjectKey, volumes: Iterable[Volume]) -> None:
    """Drop what an interrupted build, clone or deletion left; nobody ever worked on it, or it was on its way out."""
    for volume in volumes:
        runtime = _runtime(volume)
        if runtime in index.observed.unknown_runtimes:
            draft.say(key, reconciling("RuntimeUnavailable", f"{volume.id} stays while runtime {runtime} is silent"))
            continue
        what = "its deletion was interrupted" if volume.state is VolumeState.DELETING else "it was never finished"
        drop = DropVolume(owner=key, volume=volume.id, pool=volume.pool, runtime=runtime, reason=what)
        attempt(index, draft, drop)


def _runtime(volume: Volume) -> RuntimeName:
    manifest = volume.manifest
    return DEFAULT_RUNTIME if isinstance(manifest, SnapshotManifest | RawManifest) else manifest.runtime


def stop_retired(index: Index, draft: Draft, key: ObjectKey, volumes: CloneVolumes) -> None:
    """Stop servers of generations that are not current any more."""
    for generation in volumes.retired:
        server = index.server(generation.volume.id)
        if server is not None:
            reason = "its volume is no longer the current one"
            stop = StopServer(owner=key, server=server.name, runtime=server.runtime, reason=reason)
            attempt(index, draft, stop)


def retired_until(index: Index, volumes: CloneVolumes, retired: Generation) -> datetime:
    """Return until when a retired generation is kept: from the moment that its successor was ready."""
    successor = volumes.ready[volumes.ready.index(retired) + 1].manifest
    return (successor.ready_at or successor.created_at) + index.settings.undo_grace


def drop_retired(index: Index, draft: Draft, volumes: CloneVolumes, *, keep: VolumeId | None) -> None:
    """Drop retired generations past their grace, but not ``keep``, which becomes current again."""
    if index.away:
        return
    for generation in volumes.retired:
        volume, manifest = generation
        until = retired_until(index, volumes, generation)
        if volume.id == keep or until > index.now:
            continue
        clone = index.clone_names.get(manifest.clone, manifest.clone)
        drop = DropVolume(
            owner=ObjectKey(Kind.CLONE, clone),
            volume=volume.id,
            pool=volume.pool,
            runtime=manifest.runtime,
            destructive=True,
            reason=f"replaced, and kept for undo until {until.isoformat(timespec='seconds')}",
        )
        attempt(index, draft, drop)


def is_ending(desired: Desired, volume: Volume, now: datetime) -> bool:
    """Whether a volume is of a clone that a plan may delete now: its document is gone, or its time over."""
    manifest = volume.manifest
    if not isinstance(manifest, CloneManifest):
        return False
    if desired.problems and ObjectKey(Kind.CLONE, manifest.clone) in desired.problems:
        return False
    clone = desired.clones.get(manifest.clone)
    if clone is None:
        return True
    end = expires_at(clone, manifest.created_at)
    return end is not None and end <= now


def plan_undeclared_clones(index: Index, draft: Draft) -> None:
    """Plan the deletion of clones whose documents are gone, and forget their tombstones."""
    documents = index.desired.clones
    for name, volumes in index.clones.items():
        if name not in documents and not index.declared_clone(name):
            _plan_undeclared(index, draft, name, volumes)
    for name in index.observed.tombstones:
        key = ObjectKey(Kind.CLONE, name)
        if index.declared_clone(name) or name in index.clone_names or name in index.clones:
            continue
        if index.left_alone(key) is None:
            attempt(index, draft, ClearTombstone(clone=name, reason="its document is gone"))


def _plan_undeclared(index: Index, draft: Draft, name: CloneName, volumes: CloneVolumes) -> None:
    key = ObjectKey(Kind.CLONE, name)
    if (left := index.left_alone(key)) is not None:
        draft.say(key, left)
        return
    if (problem := index.runtime_problem(None, volumes)) is not None:
        draft.say(key, problem)
        return
    drop_interrupted(index, draft, key, volumes.leftovers)
    if not volumes.ready:
        return
    if index.away or key in index.hidden:
        why = index.hidden.get(key) or index.away_text()
        draft.say(key, unknown("PoolUnavailable", f"its document is gone; not all of it can be seen: {why}"))
        return
    ids = tuple(generation.volume.id for generation in volumes.ready)
    reason = "its document asks for fewer now" if _is_surplus(index, name) else "its document was removed"
    deletion = DeleteClone(clone=name, volumes=ids, reason=reason, used=index.users_of(ids))
    if volumes.current.manifest.protected:
        message = "its document is gone, but it is protected: it is kept until git says protected: false"
        draft.say(key, Condition(type="Orphaned", status="True", reason="Protected", message=message))
        draft.refuse(deletion)
    elif attempt(index, draft, deletion):
        draft.say(key, reconciling("Deleting", deletion.reason))


def _is_surplus(index: Index, name: CloneName) -> bool:
    """Whether a clone has a number above the ``count`` of a document."""
    base, dash, number = name.rpartition("-")
    first = index.desired.clones.get(CloneName(f"{base}-1"))
    return bool(dash) and number.isdecimal() and first is not None and first.number is not None


def plan_problems(index: Index, draft: Draft) -> None:
    """Say what is wrong with objects that are declared but could not be resolved at all."""
    for key, (reason, message) in index.desired.problems.items():
        if key not in draft.conditions:
            draft.say(key, stalled(reason, message))


def plan_strays(index: Index, draft: Draft) -> None:
    """Stop servers of this installation that serve nothing: no volume, or a sealed snapshot.

    Only while every pool is seen: a server whose volume is away serves somebody.
    """
    if index.away:
        return
    taken, sealed = index.taken, index.snapshots
    for name, server in index.observed.servers.items():
        serves_snapshot = SnapshotId(name) in sealed
        if VolumeId(name) in taken and not serves_snapshot:
            continue
        owner = _owner(index, name)
        if owner in index.in_flight or server.runtime in index.observed.unknown_runtimes:
            continue
        reason = "a sealed snapshot is not served" if serves_snapshot else "its volume does not exist any more"
        attempt(index, draft, StopServer(owner=owner, server=name, runtime=server.runtime, reason=reason))


def _owner(index: Index, name: ServerName) -> ObjectKey:
    """Return whose a stray server is, from the volume id that is its name."""
    known = index.snapshots.get(SnapshotId(name))
    if known is not None:
        image, clone = known.manifest.image, known.manifest.clone
        if clone is not None:
            return ObjectKey(Kind.POINT, index.clone_names.get(clone, clone))
        return ObjectKey(Kind.IMAGE, index.image_names.get(image, image))
    return index.owner_of(VolumeId(name))
