"""Which snapshots are built, and why: the images of a commit.

Called by :mod:`reconciler.plan.diff`. Pure. A snapshot is due for one of the causes of
:class:`Due`; whether it is built then depends on the identity of its source, which
``observe`` asks for only while it is due.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from reconciler.ids import SnapshotId, VolumeId
from reconciler.plan.actions import (
    BuildSnapshot,
    CopyPrimary,
    DropRaw,
    FollowPrimary,
    LeavePrimary,
    RenameImage,
    ReplayArchive,
)
from reconciler.plan.draft import attempt, held_back
from reconciler.plan.fingerprints import build_fingerprint, key_id, mirror_input
from reconciler.plan.moments import find_moment, plan_moments
from reconciler.plan.quarantine import quarantine_of_image
from reconciler.plan.refreshes import (
    Due,
    due_refresh,
    note_skipped,
    opening_for,
    pending_annotation,
    pending_refresh,
    wait_for_window,
)
from reconciler.plan.schedule import ScheduleError, last_refresh, snapshot_id_stamp
from reconciler.state.conditions import Condition, Kind, ObjectKey, not_ready, ready, reconciling, stalled, unknown
from reconciler.state.desired import (
    BackupSource,
    DesiredImage,
    DumpSource,
    FilesSource,
    ImageSource,
    PrimarySource,
    SourcePath,
)
from reconciler.state.observed import Input

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.ids import ImageName
    from reconciler.plan.draft import Draft
    from reconciler.plan.index import Index, Snapshot

_READYING = (CopyPrimary, FollowPrimary, ReplayArchive)
"""What makes a mirror fit to be cut, in the plan of the build that waits for it."""
EMPTY_INPUT = "empty"
"""Input id of an image that starts from nothing."""

PENDING_INPUT = "primary:pending"
"""Input id of a build that waits for its mirror to be made or started."""

UP_TO_DATE = (ready("UpToDate"),)


@dataclass(frozen=True, slots=True)
class Base:
    """The base snapshot that a build would use; ``binding`` when it comes from another spec than the last one."""

    snapshot: SnapshotId
    binding: bool


def plan_images(index: Index, draft: Draft) -> None:
    """Plan renames and builds of every image, bases before what is built on them."""
    for image in in_base_order(index):
        _plan_image(index, draft, image)
        if image.point_in_time is not None and not _stands_still(index, image):
            plan_moments(index, draft, image, partial(_snapshot_id, index, image, draft))


def _stands_still(index: Index, image: DesiredImage) -> bool:
    key = ObjectKey(Kind.IMAGE, image.name)
    return index.left_alone(key) is not None or cannot_build(index, image, index.newest(image.name)) is not None


def in_base_order(index: Index) -> Iterator[DesiredImage]:
    """Yield every image after its base; a cycle, which validation refuses, is cut."""
    done: set[ImageName] = set()
    for image in index.desired.images.values():
        chain: list[DesiredImage] = []
        step: DesiredImage | None = image
        while step is not None and step.name not in done:
            done.add(step.name)
            chain.append(step)
            step = index.base_of(step, step.source.image) if isinstance(step.source, ImageSource) else None
        yield from reversed(chain)


def _plan_image(index: Index, draft: Draft, image: DesiredImage) -> None:
    key = ObjectKey(Kind.IMAGE, image.name)
    newest = index.newest(image.name)
    if newest is not None and newest.manifest.spec_digest != image.spec_digest and not image.suspend:
        draft.outdated[image.name] = "waits for a snapshot of what the commit asks for"
    if (left := index.left_alone(key)) is not None:
        draft.say(key, *_state(index, image), left)
        return
    _rename(index, draft, image, key)
    if (refusal := cannot_build(index, image, newest)) is not None:
        draft.say(key, *([] if refusal.type == "Ready" else _state(index, image)), refusal)
        return
    _answer_old_requests(index, draft, image, newest)
    try:
        note_skipped(index, draft, image, newest)
        due = find_due(index, image, newest, base=base_of(index, draft, image, newest))
        opening = None if due is None else opening_for(index, image, newest, due)
    except ScheduleError as error:
        draft.say(key, *_state(index, image), stalled("ScheduleInvalid", str(error)))
        return
    if due is None:
        draft.say(key, *_state(index, image), *_lost_moment(index, draft, image, newest))
        return
    if opening is not None:
        draft.say(key, *_state(index, image), *wait_for_window(index, draft, image, newest, due, opening))
        return
    _plan_build(index, draft, image, due)


def _lost_moment(index: Index, draft: Draft, image: DesiredImage, newest: Snapshot | None) -> tuple[Condition, ...]:
    """Return why the moment that an image is of cannot be had as the commit asks for it, if it cannot.

    While what the image was built on is there, that is another build of the moment, of
    what its base was before: new clones wait, as for any base that changed.
    """
    found = _moment(index, draft, image)
    if not isinstance(found, Condition):
        return ()
    if newest is not None and newest.manifest.base in index.snapshots:
        draft.outdated[image.name] = f"waits for its moment: {found.message}"
    return (found,)


def _moment(index: Index, draft: Draft, image: DesiredImage) -> Snapshot | BuildSnapshot | Condition | None:
    """Return the moment of another image that one is built on, or why it cannot be had; None if it is of none."""
    if image.at is None or not isinstance(image.source, ImageSource):
        return None
    base = index.base_of(image, image.source.image)
    if base is None:
        return reconciling("WaitingForBase", f"image {image.source.image} has no snapshot yet")
    found = find_moment(index, draft, base, image.at)
    if isinstance(found, Condition | BuildSnapshot) or found.manifest.snapshot not in index.quarantined:
        return found
    return stalled("Quarantined", f"its moment, {found.manifest.snapshot}, is quarantined")


def _state(index: Index, image: DesiredImage) -> tuple[Condition, ...]:
    known = index.images.get(image.name)
    if not known:
        return (not_ready("NoSnapshot", "there is no snapshot yet"),)
    quarantine = quarantine_of_image(index, image, known)
    if index.usable(image.name) is None:
        return (not_ready("Quarantined", "every snapshot is quarantined"), *quarantine)
    return (*UP_TO_DATE, *quarantine, *_left_as_is(index, image), *_left_behind(index, image))


def _left_as_is(index: Index, image: DesiredImage) -> tuple[Condition, ...]:
    """Return what masking left as it was in the newest snapshot and people should know."""
    newest = index.usable(image.name)
    if newest is None or not newest.manifest.notes:
        return ()
    notes = newest.manifest.notes
    message = notes[0] if len(notes) == 1 else "\n".join(f"- {note}" for note in notes)
    return (Condition(type="LeftUnmasked", status="True", reason="MaskingReport", message=message),)


def _left_behind(index: Index, image: DesiredImage) -> tuple[Condition, ...]:
    """Return what of its source the newest snapshot does not have, though it seems to be there."""
    newest = index.usable(image.name)
    if newest is None or not newest.manifest.source_notes:
        return ()
    message = "; ".join(newest.manifest.source_notes)
    return (Condition(type="SourceIncomplete", status="True", reason="PassedOver", message=message),)


def _rename(index: Index, draft: Draft, image: DesiredImage, key: ObjectKey) -> None:
    """Give snapshots and clones of a former name the new one, but those that work in flight uses.

    Not while some cannot be seen: what is left behind would be taken for another image's.
    """
    former = image.formerly
    if former is None or index.away or index.image_names.get(former) != image.name:
        return
    in_use = index.observed.in_use or frozenset()
    snapshots = (*index.images.get(image.name, ()), *index.moments.get(image.name, ()))
    named = [s.volume.id for s in snapshots if s.manifest.image == former and s.volume.id not in in_use]
    points = (point for known in index.points.values() for point in known)
    named += [p.volume.id for p in points if p.manifest.image == former and p.volume.id not in in_use]
    if mirror_key(image) not in index.in_flight:
        steps = draft.actions.get(mirror_key(image), ())
        going = {step.volume for step in steps if isinstance(step, DropRaw | LeavePrimary)}
        mirrors = (m for m in index.mirrors.get(image.name, ()) if m.volume.id not in going)
        named += [m.volume.id for m in mirrors if m.manifest.image == former]
        raws = (r for r in index.raws.get(image.name, ()) if r.volume.id not in in_use | going)
        named += [r.volume.id for r in raws if r.manifest.image == former]
    for clone, volumes in index.clones.items():
        if ObjectKey(Kind.CLONE, clone) not in index.in_flight:
            named += [g.volume.id for g in volumes.ready if g.manifest.image == former]
    reason = f"image {former} is called {image.name} now"
    rename = RenameImage(image=image.name, formerly=former, volumes=tuple(sorted(named)), reason=reason)
    if named and attempt(index, draft, rename):
        draft.say(key, reconciling("Renaming", f"was called {former}"))


def cannot_build(index: Index, image: DesiredImage, newest: Snapshot | None) -> Condition | None:
    """Return what forbids every build of an image, whether or not one is due."""
    if newest is not None and newest.manifest.engine != image.engine:
        return stalled(
            "EngineChanged",
            f"its snapshots are of engine {newest.manifest.engine}, the document says {image.engine};"
            " an image's engine cannot change: use another name",
        )
    missing = [name for name in image.secrets if name not in index.observed.secrets]
    if missing:
        return stalled("SecretUnavailable", f"there is no secret {', '.join(sorted(missing))} on this host")
    key = ObjectKey(Kind.IMAGE, image.name)
    if newest is None and key in index.hidden:
        return unknown("PoolUnavailable", f"its snapshots cannot be seen: {index.hidden[key]}")
    return _pool_problem(index, image)


def _pool_problem(index: Index, image: DesiredImage) -> Condition | None:
    """Return why the image's pool cannot take a build.

    While a pool is away, an image that shows no snapshot in its own pool may have its
    snapshots there: it is not built anew elsewhere.
    """
    if image.pool in index.away:
        return unknown("PoolUnavailable", f"pool {image.pool} is not available: {index.away[image.pool]}")
    if image.pool not in index.observed.pools:
        known = ", ".join(sorted(index.observed.pools)) or "none"
        return stalled("PoolUnknown", f"pool {image.pool} is not in this host's configuration (there are: {known})")
    if index.away and not any(s.volume.pool == image.pool for s in index.images.get(image.name, ())):
        return unknown("PoolUnavailable", f"its snapshots may be in a pool that is away: {index.away_text()}")
    return None


def find_due(index: Index, image: DesiredImage, newest: Snapshot | None, *, base: Base | None) -> Due | None:
    """Return why a snapshot of an image is due now, the weightiest cause first; None when none is.

    Raises:
        ScheduleError: this host cannot tell when the image's schedule is due.

    """
    if newest is None:
        return Due("first", "there is no snapshot yet", binding=True)
    manifest = newest.manifest
    if manifest.spec_digest != image.spec_digest:
        return Due("spec", "what it is built from changed in git", binding=True)
    if image.masking_keys and manifest.key_id != key_id(image, index.observed.secrets):
        return Due("key", "the masking key changed", binding=True)
    if isinstance(image.source, ImageSource):
        if base is not None and base.snapshot != manifest.base:
            what = "another" if image.at is not None or manifest.base in index.quarantined else "a newer"
            return Due("base", f"its base has {what} snapshot, {base.snapshot}", binding=base.binding)
    elif any(path.object_id is not None and path.object_id not in manifest.input_id for path in _paths(image)):
        return Due("source", "a file of its source changed in git", binding=True)
    return due_refresh(index, image, newest)


def _paths(image: DesiredImage) -> tuple[SourcePath, ...]:
    match image.source:
        case DumpSource(path=path, globals=roles):
            return (path,) if roles is None else (path, roles)
        case BackupSource(path=path) | FilesSource(path=path):
            return (path,) if path is not None else ()
        case _:
            return ()


def _answer_old_requests(index: Index, draft: Draft, image: DesiredImage, newest: Snapshot | None) -> None:
    if not index.requests:
        return
    pending = pending_refresh(index, image.name, newest)
    for request in index.requests.get(ObjectKey(Kind.IMAGE, image.name), ()):
        if request is not pending:
            draft.served[request.id] = f"image {image.name} was looked at since, or a later request stands"


def base_of(index: Index, draft: Draft, image: DesiredImage, newest: Snapshot | None) -> Base | None:
    """Return the base snapshot that a build would use: the one of this plan, or the newest."""
    if not isinstance(image.source, ImageSource):
        return None
    name = image.source.image
    if image.at is not None:
        moment = _moment(index, draft, image)
        if moment is None or isinstance(moment, Condition):
            return None
        return Base(moment.snapshot if isinstance(moment, BuildSnapshot) else moment.manifest.snapshot, binding=True)
    last = None if newest is None else _base_spec(index, newest)
    build, base = draft.builds.get(name), index.base_of(image, name)
    if build is not None and base is not None:
        return Base(build.snapshot, binding=name in draft.outdated or base.spec_digest != last)
    known = index.usable(name)
    return None if known is None else Base(known.manifest.snapshot, binding=known.manifest.spec_digest != last)


def _base_spec(index: Index, snapshot: Snapshot) -> str | None:
    """Return of which spec the base of a snapshot was; None where nobody knows."""
    manifest = snapshot.manifest
    old = index.snapshots.get(manifest.base) if manifest.base is not None else None
    return manifest.base_spec if old is None else old.manifest.spec_digest


def _plan_build(index: Index, draft: Draft, image: DesiredImage, due: Due) -> None:
    """Plan a build that is due, or say what it waits for."""
    key = ObjectKey(Kind.IMAGE, image.name)
    newest = index.newest(image.name)
    if due.binding and newest is not None:
        draft.outdated[image.name] = f"waits for a new snapshot: {due.reason}"
    if (wait := _waits(index, draft, image, due)) is not None:
        draft.say(key, *_state(index, image), wait)
        return
    found = base_of(index, draft, image, newest)
    base = found.snapshot if found is not None else None
    source = _input(index, draft, image, base)
    if source.input_id is None:
        say = reconciling if source.passing else stalled
        draft.say(key, *_state(index, image), say(source.reason, source.problem or "its source cannot be identified"))
        return
    if newest is not None and _unchanged(index, due, newest, source.input_id):
        draft.outdated.pop(image.name, None)
        draft.checked.add(image.name)
        draft.say(key, *_unchanged_state(index, image, source))
        if due.request is not None:
            draft.served[due.request] = f"image {image.name} is up to date: its source has not changed"
        return
    keys = key_id(image, index.observed.secrets)
    annotation = None if newest is None else pending_annotation(index, image, newest)
    judged = _input_of_failure(index, image, source)
    fingerprint = build_fingerprint(image, input_id=judged, key=keys, base=base, asked=annotation)
    held = held_back(index, key, fingerprint)
    asked = pending_refresh(index, image.name, newest)
    if held is not None and asked is None:  # a person who asks again is taken at their word
        draft.say(key, *_state(index, image), held)
        return
    build = BuildSnapshot(
        image=image.name,
        snapshot=_snapshot_id(index, image, draft),
        input_id=source.input_id,
        size_bytes=source.size_bytes,
        base=base,
        mirror=_mirror(index, draft, image),
        key_id=keys,
        fingerprint=fingerprint,
        request=asked.id if asked is not None else None,
        reason=due.reason,
        after=_after(draft, image),
    )
    draft.builds[image.name] = build
    draft.wanted.update([base] if base is not None else [])
    draft.add(build)
    draft.say(key, *_state(index, image), reconciling("BuildDue", "; ".join((due.reason, *source.notes))))


def _waits(index: Index, draft: Draft, image: DesiredImage, due: Due) -> Condition | None:
    """Return what a build that is due has to wait for."""
    if image.runtime in index.observed.unknown_runtimes:
        why = index.observed.unknown_runtimes[image.runtime]
        return reconciling("RuntimeUnavailable", f"the runtime {image.runtime} does not answer: {why}")
    if image.mirrored is not None:
        return _waits_for_mirror(index, draft, image, due)
    if image.at is not None:
        moment = _moment(index, draft, image)
        return moment if isinstance(moment, Condition) else None
    return _waits_for_base(index, draft, image.source.image) if isinstance(image.source, ImageSource) else None


def _waits_for_base(index: Index, draft: Draft, base: ImageName) -> Condition | None:
    if base in draft.builds:
        return None
    if base in draft.outdated:
        return reconciling("WaitingForBase", f"image {base} {draft.outdated[base]}")
    if index.usable(base) is None:
        none = "has no snapshot yet" if index.newest(base) is None else "has none but quarantined snapshots"
        return reconciling("WaitingForBase", f"image {base} {none}")
    return None


def _waits_for_mirror(index: Index, draft: Draft, image: DesiredImage, due: Due) -> Condition | None:
    """Return why nothing can be cut from an image's mirror now.

    While it does not follow, a refresh waits; a build that the commit asks for is of what it has.
    """
    if any(isinstance(action, _READYING) for action in draft.actions.get(mirror_key(image), ())):
        return None
    mirror = index.whole_mirror(image)
    seen = index.observed.mirrors.get(mirror.manifest.image) if mirror is not None else None
    if seen is None or seen.position is None:
        return reconciling("WaitingForMirror", "its mirror cannot be cut now; see the conditions of the mirror")
    if not (seen.following or due.binding):
        return reconciling("WaitingForMirror", f"its mirror does not follow: {seen.problem or 'it is not connected'}")
    if seen.pending and not due.binding:
        return reconciling("WaitingForMirror", "its mirror has not replayed its archive; see its conditions")
    return None


def mirror_key(image: DesiredImage) -> ObjectKey:
    """Return the key of an image's mirror, which is an object of its own: it is worked on while builds go on."""
    return ObjectKey(Kind.MIRROR, image.name)


def _input(index: Index, draft: Draft, image: DesiredImage, base: SnapshotId | None) -> Input:
    """Return the identity of what a build would start from.

    A source that was not asked (a plan made from another host's status) has the empty
    id: the build that is due for another cause is shown, and identifies its source
    itself.
    """
    if isinstance(image.source, ImageSource):
        return Input(base or "")
    if image.mirrored is not None:
        mirror = index.whole_mirror(image)
        seen = index.observed.mirrors.get(mirror.manifest.image) if mirror is not None else None
        anew = any(
            isinstance(action, CopyPrimary | ReplayArchive) for action in draft.actions.get(mirror_key(image), ())
        )
        if anew or mirror is None or seen is None or seen.position is None:
            return Input(PENDING_INPUT)
        return Input(mirror_input(mirror.manifest.system, seen.position))
    return index.observed.inputs.get(image.name, Input("")) if source_is_outside(image) else Input(EMPTY_INPUT)


def _input_of_failure(index: Index, image: DesiredImage, source: Input) -> str:
    """Return the part of a build's inputs without whose change a permanent failure stands.

    A primary changes all the time, so that its identity would hold nothing back: a build that
    failed on it is tried again at the next time of its schedule, or with another URL.
    """
    if not isinstance(image.source, PrimarySource):
        return source.input_id or ""
    slot = None
    with suppress(ScheduleError):
        slot = last_refresh(image.name, image.refresh, index.now) if image.refresh is not None else None
    return f"{index.observed.secrets.get(image.source.url)}@{slot}"


def _unchanged_state(index: Index, image: DesiredImage, source: Input) -> tuple[Condition, ...]:
    state = _state(index, image)
    message = "; ".join(("its source has not changed", *source.notes))
    return (ready("UpToDate", message), *state[1:]) if state[0] in UP_TO_DATE else state


def _unchanged(index: Index, due: Due, newest: Snapshot, input_id: str) -> bool:
    """Whether a refresh finds the source as it was; other causes build in any case.

    So does a person who asks while the newest snapshot is quarantined, or has not the attestation that is needed.
    """
    if due.cause == "request" and (newest.manifest.snapshot in index.quarantined or _lacks_attestation(index, newest)):
        return False
    if due.cause not in ("source", "request", "schedule"):
        return False
    return input_id in ("", newest.manifest.input_id)


def _lacks_attestation(index: Index, newest: Snapshot) -> bool:
    rules = index.settings.attestation
    needed = rules.needed(newest.volume.pool, *rules.runtimes)
    return needed is not None and rules.problem(newest.manifest, needed[0]) is not None


def _mirror(index: Index, draft: Draft, image: DesiredImage) -> VolumeId | None:
    """Return the mirror that a build is cut from: the one of this plan, or the one that there is."""
    for action in draft.actions.get(mirror_key(image), ()):
        if isinstance(action, CopyPrimary):
            return action.volume
    mirror = index.whole_mirror(image)
    return mirror.volume.id if mirror is not None else None


def _after(draft: Draft, image: DesiredImage) -> tuple[ObjectKey, ...]:
    if image.mirrored is not None and (steps := draft.actions.get(mirror_key(image))):
        waits = any(ObjectKey(Kind.IMAGE, image.name) in step.after for step in steps)  # it is left after all of that
        return () if waits else (mirror_key(image),)
    if isinstance(image.source, ImageSource):
        name = image.source.image
        build = draft.builds.get(name) if image.at is None else draft.moments.get((name, image.at))
        return (build.key,) if build is not None else ()
    return ()


def _snapshot_id(index: Index, image: DesiredImage, draft: Draft) -> SnapshotId:
    """Return a new id; a taken one (an interrupted build of the same second) moves it on by seconds."""
    taken = {VolumeId(volume.id) for volume in index.image_leftovers.get(image.name, ())}
    planned = draft.actions.get(ObjectKey(Kind.IMAGE, image.name), ())
    taken |= {VolumeId(action.snapshot) for action in planned if isinstance(action, BuildSnapshot)}
    at = index.now
    while True:
        digest = image.spec_digest.rpartition(":")[2][:8]
        wanted = SnapshotId(f"{image.name}-{snapshot_id_stamp(at)}-{digest}")
        if wanted not in index.snapshots and VolumeId(wanted) not in taken:
            return wanted
        at += timedelta(seconds=1)


def source_is_outside(image: DesiredImage) -> bool:
    """Whether the identity of an image's source has to be asked for."""
    outside = isinstance(image.source, DumpSource | BackupSource | FilesSource | PrimarySource)
    return outside and image.mirrored is None
