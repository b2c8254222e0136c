"""Moments that are asked for, of images whose mirror has a past: raw copies, log, and what is built of both.

Clones ask for them, and images that are built on a moment of another one. Called by
:mod:`reconciler.plan.diff` (raw copies), :mod:`.images` (builds) and :mod:`.choice` (which
snapshot a clone gets). Pure. A moment is built once, from the newest raw copy that is
wholly before it, and kept while somebody needs it.
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
from reconciler.state.desired import ImageSource, SnapshotAt
from reconciler.state.observed import MirrorPhase, VolumeState
from reconciler.status import words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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
        if index.left_alone(key) is None and not _is_unseen(index, key):
            _plan_image(index, draft, key, image)
        elif image.suspend and not _is_followed(index, image.name) and not _is_unseen(index, key):
            raws = index.raws.get(image.name, [])  # unmasked data does not outlive its mirror, which its age ended
            _drop(index, draft, key, raws, "nothing can be replayed from it any more")
    for name in list(index.raws):
        key = ObjectKey(Kind.MIRROR, name)
        if not index.declared_image(name) and index.left_alone(key) is None and not _is_unseen(index, key):
            _drop(index, draft, key, index.raws[name], "nobody asks for its image any more", pruned=True)


def _is_unseen(index: Index, key: ObjectKey) -> bool:
    """Whether a mirror, or raw copies of it, may be there that cannot be seen, be it under a former name."""
    unread = any(pool.unknown for pool in index.observed.pools.values())
    return bool(index.away) or key in index.hidden or unread


def _is_followed(index: Index, image: ImageName) -> bool:
    return any(mirror.manifest.phase is MirrorPhase.FOLLOWING for mirror in index.mirrors.get(image, ()))


def _plan_image(index: Index, draft: Draft, key: ObjectKey, image: DesiredImage) -> None:
    known, mirror, past = index.raws.get(image.name, []), index.whole_mirror(image), image.point_in_time
    if past is None or mirror is None:
        _drop(index, draft, key, known, "nothing can be replayed from it any more")
        return
    # the mirror is started, or left
    moving = any(not isinstance(action, ReplayArchive) for action in draft.actions.get(key, ()))
    usable = _usable(index, image, mirror)
    needed = set(_needed(index, image, mirror))
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


def _needed(index: Index, image: DesiredImage, mirror: Mirror) -> list[Raw]:
    """Return the raw copies that moments of the window are replayed from: of those wholly before it the newest.

    Older ones are dropped in the same plan, so nothing is to start from them any more.
    """
    past, usable = image.point_in_time, _usable(index, image, mirror)
    if past is None:
        return []
    before = [
        number
        for number, raw in enumerate(usable)
        if raw.manifest.until is not None and raw.manifest.until <= index.now - past.window
    ]
    return usable[before[-1] if before else 0 :]


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
    """Plan the builds of an image for moments that are asked for and not there."""
    for who, at in _asked_for(index, image):
        if built(index, image, at) is None and (image.name, at) not in draft.moments:
            _plan_build(index, draft, image, at, who, new_id)


def _asked_for(index: Index, image: DesiredImage) -> Iterator[tuple[str, datetime]]:
    """Yield who asks for which moment of an image: clones without a snapshot of it, and images on top."""
    for clone in index.desired.clones.values():
        if clone.image == image.name and isinstance(clone.snapshot, SnapshotAt) and _waits(index, clone):
            yield f"clone {clone.name}", clone.snapshot.at
    for name, at in on_moments(index, image.name):
        if index.left_alone(ObjectKey(Kind.IMAGE, name)) is None:
            yield f"image {name}", at


def on_moments(index: Index, base: ImageName) -> Iterator[tuple[ImageName, datetime]]:
    """Yield the images that are built on a moment of ``base``, and on which."""
    for image in index.desired.images.values():
        if image.at is not None and isinstance(image.source, ImageSource) and image.source.image == base:
            yield image.name, image.at


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


def find_moment(index: Index, draft: Draft, image: DesiredImage, at: datetime) -> Snapshot | BuildSnapshot | Condition:
    """Return the snapshot of exactly a moment, its build in this plan, or why it cannot be had now."""
    if (known := built(index, image, at)) is not None:
        return known
    if (build := draft.moments.get((image.name, at))) is not None:
        return build
    if (problem := unreachable(index, image, at) or _failed(index, image, at)) is not None:
        return problem
    return reconciling("WaitingForSnapshot", f"the moment {at.isoformat()} of image {image.name} is not built yet")


def built(index: Index, image: DesiredImage, at: datetime) -> Snapshot | None:
    """Return the snapshot of a moment, built as the commit asks for.

    One that is quarantined is returned as well: built anew, it would hold the same.
    """
    keys = key_id(image, index.observed.secrets)
    found = [
        snapshot
        for snapshot in index.moments.get(image.name, ())
        if snapshot.manifest.at == at
        and snapshot.manifest.spec_digest == image.spec_digest
        and (not image.masking_keys or snapshot.manifest.key_id == keys)
    ]
    free = [snapshot for snapshot in found if snapshot.manifest.snapshot not in index.quarantined]
    return next(reversed(free or found), None)


def _failed(index: Index, image: DesiredImage, at: datetime) -> Condition | None:
    mirror = index.whole_mirror(image)
    if mirror is None:
        return None
    return held_back(index, ObjectKey(Kind.IMAGE, image.name), _fingerprint(index, image, mirror, at))


def _fingerprint(index: Index, image: DesiredImage, mirror: Mirror, at: datetime) -> str:
    input_id = mirror_input(mirror.manifest.system, at.isoformat())
    return build_fingerprint(image, input_id=input_id, key=key_id(image, index.observed.secrets), base=None)


def _plan_build(
    index: Index, draft: Draft, image: DesiredImage, at: datetime, who: str, new_id: Callable[[], SnapshotId]
) -> None:
    basis = _basis(index, image, at)
    if basis is None:
        return
    mirror, raw, fingerprint = basis
    build = BuildSnapshot(
        image=image.name,
        snapshot=new_id(),
        input_id=mirror_input(mirror.manifest.system, at.isoformat()),
        mirror=mirror.volume.id,
        at=at,
        raw=raw.volume.id,
        key_id=key_id(image, index.observed.secrets),
        fingerprint=fingerprint,
        reason=f"{who} asks for the moment {at.isoformat()}",
    )
    draft.moments[image.name, at] = build
    draft.add(build)
    draft.say(ObjectKey(Kind.IMAGE, image.name), reconciling("BuildDue", build.reason))


def is_due(index: Index, image: DesiredImage) -> bool:
    """Whether a moment is asked for that is not there and can be built now."""
    return any(
        built(index, image, at) is None and _basis(index, image, at) is not None
        for _who, at in _asked_for(index, image)
    )


class _Basis(NamedTuple):
    """What a moment can be built of now."""

    mirror: Mirror
    raw: Raw
    fingerprint: str


def _basis(index: Index, image: DesiredImage, at: datetime) -> _Basis | None:
    mirror = index.whole_mirror(image)
    raw = _start(index, image, mirror, at) if mirror is not None else None
    if mirror is None or raw is None or unreachable(index, image, at) is not None:
        return None
    fingerprint = _fingerprint(index, image, mirror, at)
    held = held_back(index, ObjectKey(Kind.IMAGE, image.name), fingerprint)
    return _Basis(mirror, raw, fingerprint) if held is None else None


def _start(index: Index, image: DesiredImage, mirror: Mirror, at: datetime) -> Raw | None:
    """Return the newest raw copy that is wholly before a moment."""
    kept = _needed(index, image, mirror)
    return next((raw for raw in reversed(kept) if raw.manifest.until is not None and raw.manifest.until <= at), None)


def past_of(index: Index, image: DesiredImage) -> Past | None:
    """Return the moments that can be reached now; None while there is no raw copy, or the mirror cannot be asked."""
    mirror = index.whole_mirror(image)
    kept = _needed(index, image, mirror) if mirror is not None else []
    seen = index.observed.mirrors.get(mirror.manifest.image) if mirror is not None else None
    if not kept or seen is None or seen.position is None or kept[0].manifest.until is None:
        return None
    until = seen.complete_until or seen.last_commit or kept[-1].manifest.until
    return Past(kept[0].manifest.until, until if until is not None else kept[0].manifest.until)


def unreachable(index: Index, image: DesiredImage, at: datetime) -> Condition | None:
    """Return why a moment of an image cannot be had: not any more, not yet, or not now.

    The clock of the primary decides; that of this host only tells what is waited for from what is to come.
    """
    past = past_of(index, image)
    if at > index.now and (past is None or at > past.until):
        return stalled("MomentUnreachable", f"{at.isoformat()} is still to come")
    if past is None:
        return reconciling("WaitingForMirror", "its image has no past yet: a raw copy of its mirror is kept first")
    window = f"image {image.name} reaches from {past.since.isoformat()} to {past.until.isoformat()}"
    if at < past.since:
        return stalled("MomentUnreachable", f"{at.isoformat()} is too long ago: {window}")
    if at > past.until:
        return reconciling("WaitingForMirror", f"the mirror has not come to {at.isoformat()} yet: {window}")
    return None
