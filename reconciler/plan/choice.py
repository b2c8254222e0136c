"""Which snapshot a clone is made from, and whether an existing clone still is what its document asks for.

Called by :mod:`reconciler.plan.clones`. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from reconciler.plan.actions import BuildSnapshot, CutPoint
from reconciler.plan.moments import find_moment
from reconciler.plan.points import point_for
from reconciler.plan.quarantine import withheld
from reconciler.state.conditions import Condition, Kind, ObjectKey, reconciling, stalled
from reconciler.state.desired import SnapshotAt

if TYPE_CHECKING:
    from datetime import datetime

    from reconciler.ids import CloneName, SnapshotId
    from reconciler.plan.draft import Draft
    from reconciler.plan.index import Generation, Index, Snapshot
    from reconciler.state.desired import DesiredClone, DesiredImage
    from reconciler.state.observed import CloneManifest, SnapshotManifest

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Choice:
    """A snapshot to make a clone from, once the objects in ``after`` succeeded."""

    snapshot: SnapshotId
    after: tuple[ObjectKey, ...] = ()
    base: SnapshotId | None = None
    """What it is cut from, where it is a point in a clone's life that is only to be cut."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """Why a clone's current generation is not what its document asks for."""

    cause: Literal["spec", "refresh"]
    reason: str


def choose(index: Index, draft: Draft, clone: DesiredClone, *, anew: bool = False) -> Choice | Condition:
    """Return the snapshot that a new volume of a clone is made from, or what it waits for.

    With ``anew``, a clone of a clone gets a point of now. One that is only to be cut has to be
    :meth:`used <reconciler.plan.draft.Draft.use>` for that.
    """
    found = _chosen(index, draft, clone, anew=anew)
    if isinstance(found, Choice):
        if (problem := withheld(index, found.snapshot)) is not None:
            return stalled("Quarantined", problem)
        if (problem := unmasked(index, clone, found.base or found.snapshot)) is not None:
            return stalled("Unmasked", problem)
    return found


def unmasked(index: Index, clone: DesiredClone, wanted: SnapshotId) -> str | None:
    """Return why a snapshot is not handed out any more: it is from before its image named masking (safety rule 4)."""
    image, known = index.desired.images.get(clone.image), index.snapshots.get(wanted)
    if image is None or not image.masking or (known is not None and known.manifest.masked_by):
        return None
    if known is None and clone.source_clone is None:
        return None
    return f"snapshot {wanted} was built before image {clone.image} named masking, so nothing new is made of it"


def _chosen(index: Index, draft: Draft, clone: DesiredClone, *, anew: bool) -> Choice | Condition:
    if clone.source_clone is not None and clone.snapshot == "latest":
        return _point(index, draft, clone, clone.source_clone, anew=anew)
    if clone.snapshot == "latest":
        return _latest(index, draft, clone)
    if isinstance(clone.snapshot, SnapshotAt):
        image = index.desired.images.get(clone.image)
        if image is not None and image.point_in_time is not None:
            return _moment(index, draft, image, clone.snapshot.at)
        return _not_younger(index, clone, clone.snapshot.at)
    return _explicit(index, clone, clone.snapshot)


def _moment(index: Index, draft: Draft, image: DesiredImage, at: datetime) -> Choice | Condition:
    """Return the snapshot of exactly a moment; all clones that ask for it share it."""
    found = find_moment(index, draft, image, at)
    if isinstance(found, Condition):
        return found
    if isinstance(found, BuildSnapshot):
        return Choice(found.snapshot, after=(found.key,))
    return Choice(found.manifest.snapshot)


def _point(index: Index, draft: Draft, clone: DesiredClone, source: CloneName, *, anew: bool) -> Choice | Condition:
    """Return the point in another clone's life that a clone starts from; one that was cut for it is kept."""
    found = point_for(index, draft, clone, source, anew=anew)
    if isinstance(found, Condition):
        return found
    if isinstance(found, CutPoint):
        return Choice(found.snapshot, after=(found.key,), base=found.base)
    draft.wanted.add(found.manifest.snapshot)
    return Choice(found.manifest.snapshot)


def _latest(index: Index, draft: Draft, clone: DesiredClone) -> Choice | Condition:
    newest = index.usable(clone.image)
    build = draft.builds.get(clone.image)
    if build is not None and (newest is None or clone.image in draft.outdated):
        return Choice(build.snapshot, after=(ObjectKey(Kind.IMAGE, clone.image),))
    if clone.image in draft.outdated:
        return reconciling("WaitingForSnapshot", f"image {clone.image} {draft.outdated[clone.image]}")
    if newest is not None:
        return Choice(newest.manifest.snapshot)
    if index.images.get(clone.image):
        return stalled("Quarantined", f"every snapshot of image {clone.image} is quarantined")
    return reconciling("WaitingForSnapshot", f"image {clone.image} has no snapshot yet")


def _explicit(index: Index, clone: DesiredClone, wanted: SnapshotId) -> Choice | Condition:
    known = index.snapshots.get(wanted)
    if clone.source_clone is not None:
        points = index.points.get(clone.source_clone, ())
        there = ", ".join(s.manifest.snapshot for s in points[-_SHOWN:]) or "none"
        missing = f"clone {clone.source_clone} has no point {wanted}; there are: {there}"
        return Choice(wanted) if known in points else stalled("SnapshotMissing", missing)
    if known is not None and known in (*index.images.get(clone.image, ()), *index.moments.get(clone.image, ())):
        return Choice(wanted)
    return stalled("SnapshotMissing", f"image {clone.image} has no snapshot {wanted}; {_what_exists(index, clone)}")


def _not_younger(index: Index, clone: DesiredClone, at: datetime) -> Choice | Condition:
    fitting = [s for s in index.images.get(clone.image, ()) if data_time(s.manifest) <= at]
    if fitting:
        free = [s for s in fitting if s.manifest.snapshot not in index.quarantined] or fitting
        return Choice(max(free, key=lambda s: (data_time(s.manifest), s.manifest.snapshot)).manifest.snapshot)
    return stalled(
        "SnapshotMissing",
        f"image {clone.image} has no snapshot with data of {at.isoformat()} or before; {_what_exists(index, clone)}",
    )


def data_time(manifest: SnapshotManifest) -> datetime:
    """Return the time that a snapshot's data is of: told by its source, else when it was built."""
    return manifest.data_as_of or manifest.created_at


def _what_exists(index: Index, clone: DesiredClone) -> str:
    known = [s.manifest for s in index.images.get(clone.image, ())]
    if not known:
        return "it has none yet"
    shown = ", ".join(f"{m.snapshot} (data of {data_time(m).isoformat()})" for m in known[-_SHOWN:])
    return f"it has {shown}" if len(known) <= _SHOWN else f"its newest are {shown}"


def replacement(index: Index, draft: Draft, clone: DesiredClone, current: Generation) -> Replacement | None:
    """Return why a generation has to be replaced; None when it is what the document asks for.

    ``latest`` and ``at`` were resolved when the clone was made, and stay resolved: only
    ``onRefresh: recreate`` follows newer snapshots.
    """
    manifest = current.manifest
    if (other := _of_another_origin(index, clone, manifest)) is not None:
        return Replacement("spec", other)
    if manifest.runtime != clone.runtime:
        return Replacement("spec", f"its runtime is {clone.runtime} now, not {manifest.runtime}")
    if clone.snapshot == "latest":
        follows = clone.on_refresh == "recreate" and clone.source_clone is None
        return _follow(index, draft, clone, current) if follows else None
    if isinstance(clone.snapshot, SnapshotAt):
        return _of_another_time(index, manifest.snapshot, clone.snapshot.at)
    if clone.snapshot != manifest.snapshot:
        return Replacement("spec", f"its snapshot is {clone.snapshot} now, not {manifest.snapshot}")
    return None


def _of_another_origin(index: Index, clone: DesiredClone, manifest: CloneManifest) -> str | None:
    """Say which image, or other clone, a clone is to be of now, where that is another one."""
    image = index.image_names.get(manifest.image, manifest.image)
    if image != clone.image:
        return f"its image is {clone.image} now, not {image}"
    if (source := source_of(index, manifest)) != clone.source_clone:
        return f"it starts from {_origin(clone.source_clone)} now, not from {_origin(source)}"
    return None


def source_of(index: Index, manifest: CloneManifest) -> CloneName | None:
    """Return the clone that one started from, by the name that it has now."""
    source = manifest.source_clone
    return None if source is None else index.clone_names.get(source, source)


def _origin(source: CloneName | None) -> str:
    return "its image" if source is None else f"clone {source}"


def _of_another_time(index: Index, snapshot: SnapshotId, at: datetime) -> Replacement | None:
    pinned = index.snapshots.get(snapshot)
    if pinned is None or pinned.manifest.at == at:
        return None
    if pinned.manifest.at is not None:
        return Replacement("spec", f"the moment that it asks for is {at.isoformat()} now")
    if data_time(pinned.manifest) > at:
        return Replacement("spec", f"its data is younger than {at.isoformat()}")
    return None


def _follow(index: Index, draft: Draft, clone: DesiredClone, current: Generation) -> Replacement | None:
    """Follow a newer snapshot: the one that this plan builds, else the newest there is."""
    if (build := draft.builds.get(clone.image)) is not None:
        return Replacement("refresh", f"image {clone.image} gets the snapshot {build.snapshot}")
    newest = index.usable(clone.image)
    if newest is None or clone.image in draft.outdated or not _is_newer(index, newest, current):
        return None
    what = "another" if current.manifest.snapshot in index.quarantined else "the newer"
    return Replacement("refresh", f"image {clone.image} has {what} snapshot {newest.manifest.snapshot}")


def _is_newer(index: Index, newest: Snapshot, current: Generation) -> bool:
    if current.manifest.snapshot in index.quarantined:
        return True
    if current.manifest.undone_at is not None:  # somebody wanted this one back from the snapshots that there were then
        return newest.manifest.created_at > current.manifest.undone_at
    pinned = index.snapshots.get(current.manifest.snapshot)
    if pinned is newest:
        return False
    if pinned is not None:
        return True
    return newest.manifest.created_at > (current.manifest.ready_at or current.manifest.created_at)


def matches(index: Index, clone: DesiredClone, retired: Generation) -> bool:
    """Whether a retired generation is what the document asks for again (a commit was reverted)."""
    manifest = retired.manifest
    image = index.image_names.get(manifest.image, manifest.image)
    if image != clone.image or manifest.runtime != clone.runtime or manifest.snapshot in index.quarantined:
        return False
    if source_of(index, manifest) != clone.source_clone:
        return False
    if clone.snapshot == "latest":
        return True
    if isinstance(clone.snapshot, SnapshotAt):
        pinned = index.snapshots.get(manifest.snapshot)
        if pinned is None or pinned.manifest.at not in (None, clone.snapshot.at):
            return False
        return data_time(pinned.manifest) <= clone.snapshot.at
    return manifest.snapshot == clone.snapshot
