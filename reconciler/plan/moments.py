"""Moments that clones ask for, of images whose mirror has a past: raw copies, log, and what is built of both.

Called by :mod:`reconciler.plan.diff` (raw copies), :mod:`.images` (builds) and
:mod:`.choice` (which snapshot a clone gets). Pure. A moment is built once, from the
newest raw copy that is wholly before it, and kept while a clone needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from reconciler.ids import ImageName, VolumeId
from reconciler.plan.actions import BuildSnapshot, DropRaw, KeepRaw, ReplayArchive
from reconciler.plan.draft import attempt, held_back
from reconciler.plan.fingerprints import build_fingerprint, key_id, mirror_input
from reconciler.plan.index import RAW
from reconciler.plan.schedule import expires_at, snapshot_id_stamp
from reconciler.state.conditions import Condition, Kind, ObjectKey, reconciling, stalled
from reconciler.state.desired import SnapshotAt
from reconciler.state.observed import VolumeState
from reconciler.status import words

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from reconciler.ids import SnapshotId
    from reconciler.plan.draft import Draft
    from reconciler.plan.index import Index, Mirror, Raw, Snapshot
    from reconciler.state.desired import DesiredClone, DesiredImage


class Past(NamedTuple):
    """The moments of an image that can be reached: ``since`` inclusively, ``until`` where the mirror has come to."""

    since: datetime
    until: datetime


def plan_raw_copies(index: Index, draft: Draft) -> None:
    """Plan the raw copies that the windows of images need, and the end of the others."""
    for image in index.desired.images.values():
        key = ObjectKey(Kind.MIRROR, image.name)
        if index.left_alone(key) is None and not index.away:
            _plan_image(index, draft, key, image)
    for name in list(index.raws):
        key = ObjectKey(Kind.MIRROR, name)
        if not index.declared_image(name) and index.left_alone(key) is None and not index.away:
            _drop(index, draft, key, index.raws[name], "nobody asks for its image any more", pruned=True)


def _plan_image(index: Index, draft: Draft, key: ObjectKey, image: DesiredImage) -> None:
    known, mirror, past = index.raws.get(image.name, []), index.whole_mirror(image), image.point_in_time
    if past is None or mirror is None:
        _drop(index, draft, key, known, "nothing can be replayed from it any more")
        return
    # the mirror is started, or left
    moving = any(not isinstance(action, ReplayArchive) for action in draft.actions.get(key, ()))
    usable = _usable(index, image, mirror)
    needed = set(usable[_first_needed(index, image, usable) :])
    _drop(
        index,
        draft,
        key,
        [raw for raw in known if raw not in needed],
        f"the window is {words.span(past.window.total_seconds())}",
    )
    seen = index.observed.mirrors.get(mirror.manifest.image)
    due = not usable or usable[-1].manifest.taken_at + past.every <= index.now
    if due and seen is not None and seen.following and not moving:
        volume = VolumeId(f"{image.name}.{RAW}{snapshot_id_stamp(index.now)}")
        if volume not in index.taken:
            reason = f"a raw copy is kept every {words.span(past.every.total_seconds())}, to replay log from"
            keep = KeepRaw(image=image.name, volume=volume, mirror=mirror.volume.id, reason=reason)
            attempt(index, draft, keep)


def _usable(index: Index, image: DesiredImage, mirror: Mirror) -> list[Raw]:
    """Return the raw copies from which the log of a mirror can be replayed, the oldest first."""
    return [
        raw
        for raw in index.raws.get(image.name, ())
        if raw.manifest.mirror == mirror.volume.id
        and raw.volume.state is VolumeState.COMPLETE
        and raw.manifest.until is not None
    ]


def _first_needed(index: Index, image: DesiredImage, usable: list[Raw]) -> int:
    """Return the place of the newest copy that is wholly before the window: the oldest moment is replayed from it."""
    past = image.point_in_time
    if past is None:
        return len(usable)
    before = [
        number
        for number, raw in enumerate(usable)
        if raw.manifest.until is not None and raw.manifest.until <= index.now - past.window
    ]
    return before[-1] if before else 0


def _drop(index: Index, draft: Draft, key: ObjectKey, raws: list[Raw], reason: str, *, pruned: bool = False) -> None:
    in_use = index.observed.in_use
    for raw in raws:
        if in_use is None and index.observed.in_flight:
            continue
        if in_use is None or raw.volume.id not in in_use:
            drop = DropRaw(
                image=ImageName(key.name), volume=raw.volume.id, pool=raw.volume.pool, pruned=pruned, reason=reason
            )
            attempt(index, draft, drop)


def plan_moments(index: Index, draft: Draft, image: DesiredImage, new_id: Callable[[], SnapshotId]) -> None:
    """Plan the builds of an image for moments that clones without a snapshot of them ask for."""
    for clone in index.desired.clones.values():
        if clone.image != image.name or not isinstance(clone.snapshot, SnapshotAt) or not _waits(index, clone):
            continue
        at = clone.snapshot.at
        if built(index, image, at) is None and (image.name, at) not in draft.moments:
            _plan_build(index, draft, image, at, new_id)


def _waits(index: Index, clone: DesiredClone) -> bool:
    """Whether a clone is to be made, or made anew, of the moment that it asks for."""
    if index.left_alone(ObjectKey(Kind.CLONE, clone.name)) is not None or clone.name in index.observed.tombstones:
        return False
    volumes = index.clones.get(clone.name)
    if volumes is None or not volumes.ready:
        return clone.expires is None or clone.expires > index.now
    end = expires_at(clone, volumes.current.manifest.created_at)
    known = index.snapshots.get(volumes.current.manifest.snapshot)
    asked = clone.snapshot.at if isinstance(clone.snapshot, SnapshotAt) else None
    moved = known is not None and known.manifest.at is not None and known.manifest.at != asked
    return moved and (end is None or end > index.now)


def built(index: Index, image: DesiredImage, at: datetime) -> Snapshot | None:
    """Return the snapshot of a moment, built as the commit asks for."""
    keys = key_id(image, index.observed.secrets)
    for snapshot in reversed(index.moments.get(image.name, [])):
        manifest = snapshot.manifest
        same = manifest.spec_digest == image.spec_digest and (not image.masking_keys or manifest.key_id == keys)
        if manifest.at == at and same and manifest.snapshot not in index.quarantined:
            return snapshot
    return None


def _plan_build(
    index: Index, draft: Draft, image: DesiredImage, at: datetime, new_id: Callable[[], SnapshotId]
) -> None:
    mirror = index.whole_mirror(image)
    raw = _start(index, image, mirror, at) if mirror is not None else None
    if mirror is None or raw is None or unreachable(index, image, at) is not None:
        return
    input_id = mirror_input(mirror.manifest.system, at.isoformat())
    keys = key_id(image, index.observed.secrets)
    fingerprint = build_fingerprint(image, input_id=input_id, key=keys, base=None)
    if held_back(index, ObjectKey(Kind.IMAGE, image.name), fingerprint) is not None:
        return
    build = BuildSnapshot(
        image=image.name,
        snapshot=new_id(),
        input_id=input_id,
        mirror=mirror.volume.id,
        at=at,
        raw=raw.volume.id,
        key_id=keys,
        fingerprint=fingerprint,
        reason=f"a clone asks for the moment {at.isoformat()}",
    )
    draft.moments[image.name, at] = build
    draft.add(build)
    draft.say(ObjectKey(Kind.IMAGE, image.name), reconciling("BuildDue", build.reason))


def _start(index: Index, image: DesiredImage, mirror: Mirror, at: datetime) -> Raw | None:
    """Return the newest raw copy that is wholly before a moment."""
    usable = _usable(index, image, mirror)
    return next((raw for raw in reversed(usable) if raw.manifest.until is not None and raw.manifest.until <= at), None)


def past_of(index: Index, image: DesiredImage) -> Past | None:
    """Return the moments that can be reached now; None while there is no raw copy, or the mirror cannot be asked."""
    mirror = index.whole_mirror(image)
    usable = _usable(index, image, mirror) if mirror is not None else []
    seen = index.observed.mirrors.get(mirror.manifest.image) if mirror is not None else None
    if not usable or seen is None or usable[0].manifest.until is None:
        return None
    caught_up = seen.following and seen.lag_bytes == 0
    until = index.now if caught_up else seen.last_commit
    return Past(usable[0].manifest.until, until if until is not None else usable[-1].manifest.taken_at)


def unreachable(index: Index, image: DesiredImage, at: datetime) -> Condition | None:
    """Return why a moment of an image cannot be had: not any more, not yet, or not now."""
    if at > index.now:
        return stalled("MomentUnreachable", f"{at.isoformat()} is still to come")
    past = past_of(index, image)
    if past is None:
        return reconciling("WaitingForMirror", "its image has no past yet: a raw copy of its mirror is kept first")
    window = f"image {image.name} reaches from {past.since.isoformat()} to {past.until.isoformat()}"
    if at < past.since:
        return stalled("MomentUnreachable", f"{at.isoformat()} is too long ago: {window}")
    if at > past.until:
        return reconciling("WaitingForMirror", f"the mirror has not come to {at.isoformat()} yet: {window}")
    return None
