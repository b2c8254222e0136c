"""Which snapshots go: beyond retention, or because their image has no document any more.

Called by :mod:`reconciler.plan.diff` after clones and builds are planned. Pure. Never
goes: a snapshot that a volume of a clone came from (retired ones included), that a
document names, that work in flight or of this plan needs, that is quarantined (it is
evidence, and counts for nothing), or the newest other one of an image that has a
document. While a pool is away nothing goes at all, for who uses what is not
known then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reconciler.ids import SnapshotId
from reconciler.plan import keep
from reconciler.plan.actions import (
    BuildSnapshot,
    CutPoint,
    DeleteClone,
    DeleteSnapshot,
    DropVolume,
    ExpireClone,
    RenameImage,
)
from reconciler.plan.choice import Choice, choose
from reconciler.plan.draft import Draft, attempt, held_back
from reconciler.plan.index import build_index
from reconciler.plan.leftovers import drop_interrupted
from reconciler.plan.moments import built
from reconciler.state.conditions import Condition, Kind, ObjectKey, reconciling, unknown
from reconciler.state.desired import ImageSource, SnapshotAt
from reconciler.state.observed import CloneManifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from reconciler.ids import CloneName, ImageName, VolumeId
    from reconciler.plan.index import Index, Snapshot
    from reconciler.plan.settings import PlanSettings
    from reconciler.state.desired import Desired, DesiredImage
    from reconciler.state.observed import Observed


@dataclass(slots=True)
class _Uses:
    """Who holds on to snapshots."""

    named: set[SnapshotId]
    """Named by a document, quarantined, or needed by an action of this plan or by work in flight."""
    held: dict[SnapshotId, set[CloneName]]
    """Clones whose volumes stay in this plan."""
    released: dict[SnapshotId, set[CloneName]]
    """Clones that let go of it in this plan."""
    unknowable: bool
    """Somebody may use any snapshot: work of another process, or a volume that cannot be read."""


def plan_retention(index: Index, draft: Draft) -> None:
    """Plan the deletion of snapshots that nobody needs."""
    uses: _Uses | None = None
    for name, known in index.images.items():
        image = index.desired.images.get(name)
        free = known if not index.quarantined else [s for s in known if s.manifest.snapshot not in index.quarantined]
        if index.declared_image(name) and (image is None or not _beyond(index, draft, image, free)):
            continue
        if index.away:
            if image is None:
                draft.say(ObjectKey(Kind.IMAGE, name), unknown("PoolUnavailable", f"waits for {index.away_text()}"))
            continue
        uses = uses or _uses(index, draft)
        if image is not None:
            _retain(index, draft, image, free, uses)
        else:
            _prune(index, draft, name, known, uses)


def plan_moment_retention(index: Index, draft: Draft) -> None:
    """Plan the deletion of snapshots of moments that no clone is of, or asks for, any more."""
    if index.away or not index.moments:
        return
    uses = _uses(index, draft)
    for name, known in index.moments.items():
        key = ObjectKey(Kind.IMAGE, name)
        if index.left_alone(key) is not None:
            continue
        for snapshot in known:
            waits = _free(snapshot, uses)
            if waits is not None:
                reason = "no clone is of that moment any more"
                pruned = not index.declared_image(name)
                attempt(index, draft, _deletion(name, snapshot, waits, reason=reason, pruned=pruned))


def plan_point_retention(index: Index, draft: Draft) -> None:
    """Plan the deletion of points in the lives of clones that no clone is of, or is to be made of, any more."""
    if index.away or not index.points:
        return
    uses = _uses(index, draft)
    for name, known in index.points.items():
        key = ObjectKey(Kind.POINT, name)
        if index.left_alone(key) is not None:
            continue
        cuts = any(isinstance(action, CutPoint) for action in draft.actions.get(key, ()))
        for snapshot in known:
            waits = _free(snapshot, uses)
            # What lets go of an old point may wait for a new one: then the old one goes later.
            if waits is not None and not (waits and cuts):
                reason = "no clone starts from it any more"
                image = snapshot.manifest.image
                deletion = _deletion(image, snapshot, waits, reason=reason, pruned=False)
                attempt(index, draft, replace(deletion, clone=name))


def drop_unfinished_builds(index: Index, draft: Draft) -> None:
    """Drop build volumes that nothing works on any more, be it under a name that the image had meanwhile."""
    in_use = index.observed.in_use or frozenset()
    for name, volumes in index.image_leftovers.items():
        key = ObjectKey(Kind.IMAGE, name)
        if index.left_alone(key) is None:
            idle = (volume for volume in volumes if volume.id not in in_use)
            drop_interrupted(index, draft, key, sorted(idle, key=lambda volume: volume.id))


def _beyond(index: Index, draft: Draft, image: DesiredImage, known: Sequence[Snapshot]) -> list[Snapshot]:
    """Return the snapshots that retention does not keep, a build of this plan counted in."""
    building = image.name in draft.builds
    if len(known) < max(1, image.retention.keep) and image.retention.max_age is None:
        return []
    if index.left_alone(ObjectKey(Kind.IMAGE, image.name)) is not None:
        return []
    kept = keep.kept(image, known, index.now, building=building)
    return [snapshot for snapshot in known if snapshot.manifest.snapshot not in kept]


def _uses(index: Index, draft: Draft) -> _Uses:
    uses = _Uses(set(draft.wanted), {}, {}, unknowable=_unknowable(index.observed))
    uses.named.update(map(SnapshotId, index.observed.in_use or ()))
    uses.named.update(index.quarantined)
    going = _going(draft)
    for name, volumes in index.clones.items():
        for volume in volumes.all:
            if isinstance(volume.manifest, CloneManifest):
                holders = uses.released if volume.id in going else uses.held
                holders.setdefault(volume.manifest.snapshot, set()).add(name)
    for name, clone in index.desired.clones.items():
        if isinstance(clone.snapshot, SnapshotAt) and name not in index.clones:
            choice = choose(index, draft, clone)
            uses.named.update([choice.snapshot] if isinstance(choice, Choice) else [])
        elif isinstance(clone.snapshot, str) and clone.snapshot != "latest":
            uses.named.add(clone.snapshot)
    for image in index.desired.images.values():
        uses.named.update(_moments_under(index, image))
    return uses


def _moments_under(index: Index, image: DesiredImage) -> Iterator[SnapshotId]:
    """Yield the moment that an image is to be built on, and the one that it is of: its next build may need them."""
    if image.at is None or not isinstance(image.source, ImageSource):
        return
    base, newest = index.base_of(image, image.source.image), index.newest(image.name)
    known = built(index, base, image.at) if base is not None else None
    if known is not None:
        yield known.manifest.snapshot
    if newest is not None and newest.manifest.base is not None:
        yield newest.manifest.base


def _unknowable(observed: Observed) -> bool:
    untold = bool(observed.in_flight) and observed.in_use is None
    return untold or any(pool.unknown for pool in observed.pools.values())


def _going(draft: Draft) -> set[VolumeId]:
    going: set[VolumeId] = set()
    for actions in draft.actions.values():
        for action in actions:
            if isinstance(action, DeleteClone | ExpireClone | DropVolume):
                going.update(action.volumes)
    return going


def _retain(index: Index, draft: Draft, image: DesiredImage, known: Sequence[Snapshot], uses: _Uses) -> None:
    """Delete what is beyond retention; what only a build of this plan makes superfluous goes after the build."""
    key = ObjectKey(Kind.IMAGE, image.name)
    planned = draft.actions.get(key, [])
    builds = [action for action in planned if isinstance(action, BuildSnapshot)]
    others = [action for action in planned if not isinstance(action, BuildSnapshot)]
    patient = bool(builds) or any(isinstance(action, RenameImage) for action in planned)
    before: list[DeleteSnapshot] = []
    after: list[DeleteSnapshot] = []
    without_build = _surplus_now(index, image, known)
    for snapshot in _beyond(index, draft, image, known):
        waits = _free(snapshot, uses)
        if waits is None or (waits and patient) or held_back(index, key, "") is not None:
            continue
        where = before if snapshot in without_build else after
        where.append(_deletion(image.name, snapshot, waits, reason=_why(image), pruned=False))
    if before or after:
        draft.actions[key] = [*others, *before, *builds, *after]


def _surplus_now(index: Index, image: DesiredImage, known: Sequence[Snapshot]) -> list[Snapshot]:
    """Return what retention does not keep even when no build succeeds."""
    kept = keep.kept(image, known, index.now)
    return [snapshot for snapshot in known if snapshot.manifest.snapshot not in kept]


def _why(image: DesiredImage) -> str:
    rules = image.retention
    numbers = [f"{getattr(rules, name)} {name}" for name in ("daily", "weekly", "monthly") if getattr(rules, name)]
    text = ", ".join([f"retention keeps {max(1, rules.keep)}", *numbers])
    return text if rules.max_age is None else f"{text}, none older than {rules.max_age}"


def why_kept(
    desired: Desired, observed: Observed, now: datetime, *, settings: PlanSettings
) -> Mapping[SnapshotId, tuple[str, ...]]:
    """Return why each snapshot is still there, in words for people; nothing: it goes with the next pass that can.

    Words are the rules of retention (``keep``, ``daily``, …), ``used by CLONE``,
    ``quarantined``, ``needed`` (a document names it, or work under way starts from it),
    ``suspended``, and ``unknown`` while nobody can tell who uses what.
    """
    index, draft = build_index(desired, observed, now, settings=settings), Draft()
    uses = _uses(index, draft)
    unknown_users = uses.unknowable or bool(index.away)
    found: dict[SnapshotId, tuple[str, ...]] = {}
    for name, known in index.images.items():
        image = desired.images.get(name)
        free = [s for s in known if s.manifest.snapshot not in index.quarantined]
        rules = {} if image is None else keep.kept(image, free, now)
        for snapshot in known:
            words = list(rules.get(snapshot.manifest.snapshot, ()))
            words += _users(index, uses, snapshot.manifest.snapshot)
            words += ["suspended"] if image is not None and image.suspend else []
            words += ["unknown"] if unknown_users else []
            found[snapshot.manifest.snapshot] = tuple(words)
    for snapshot in (moment for known in index.moments.values() for moment in known):
        words = _users(index, uses, snapshot.manifest.snapshot) + (["unknown"] if unknown_users else [])
        found[snapshot.manifest.snapshot] = tuple(words)
    return found


def _users(index: Index, uses: _Uses, snapshot: SnapshotId) -> list[str]:
    if snapshot in index.quarantined:
        return ["quarantined", *(f"used by {clone}" for clone in sorted(uses.held.get(snapshot, ())))]
    clones = [f"used by {clone}" for clone in sorted(uses.held.get(snapshot, ()))]
    return clones or (["needed"] if snapshot in uses.named else [])


def _free(snapshot: Snapshot, uses: _Uses) -> tuple[ObjectKey, ...] | None:
    """Return which clones let go of a snapshot first; None when somebody holds on to it."""
    name = snapshot.manifest.snapshot
    if uses.unknowable or name in uses.named or name in uses.held:
        return None
    return tuple(ObjectKey(Kind.CLONE, clone) for clone in sorted(uses.released.get(name, ())))


def _deletion(
    image: ImageName, snapshot: Snapshot, after: tuple[ObjectKey, ...], *, reason: str, pruned: bool
) -> DeleteSnapshot:
    return DeleteSnapshot(
        image=image,
        snapshot=snapshot.manifest.snapshot,
        pool=snapshot.volume.pool,
        pruned=pruned,
        reason=reason,
        after=after,
    )


def _prune(index: Index, draft: Draft, name: ImageName, known: Sequence[Snapshot], uses: _Uses) -> None:
    """Delete the snapshots of an image without document as clones let go of them."""
    key = ObjectKey(Kind.IMAGE, name)
    if (left := index.left_alone(key)) is not None:
        draft.say(key, left)
        return
    staying: list[SnapshotId] = []
    for snapshot in known:
        waits = _free(snapshot, uses)
        if waits is None:
            staying.append(snapshot.manifest.snapshot)
        else:
            reason = "the document of its image was removed"
            attempt(index, draft, _deletion(name, snapshot, waits, reason=reason, pruned=True))
    if staying:
        draft.say(key, _orphaned(index, staying, uses))
    elif key in draft.actions:
        draft.say(key, reconciling("Deleting", "its document was removed"))


def _orphaned(index: Index, staying: Sequence[SnapshotId], uses: _Uses) -> Condition:
    clones = sorted({clone for snapshot in staying for clone in uses.held.get(snapshot, ())})
    protected = [name for name in clones if index.clones[name].ready and index.clones[name].current.manifest.protected]
    text = f"its document is gone; {len(staying)} of its snapshots stay"
    evidence = [snapshot for snapshot in staying if snapshot in index.quarantined]
    if evidence and not clones:
        message = f"{text}, quarantined until they are released: {', '.join(evidence)}"
        return Condition(type="Orphaned", status="True", reason="Quarantined", message=message)
    if protected:
        message = f"{text} under protected clones: {', '.join(protected)}"
        return Condition(type="Orphaned", status="True", reason="Protected", message=message)
    return reconciling("InUse", f"{text} while they are in use{': ' if clones else ''}{', '.join(clones)}")
