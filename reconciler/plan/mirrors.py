"""Mirrors of live primaries: copied once, then kept following, and removed when nobody needs them.

Called by :mod:`reconciler.plan.diff` before the images, whose builds are cut from them.
Pure. A mirror is raw: it is removed as soon as its image no longer asks for it, or
when nothing has used it for too long. What cannot be removed at the primary keeps the
(emptied) volume, which is tried again until it is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.ids import ImageName, ServerName
from reconciler.plan import lag
from reconciler.plan.actions import CopyPrimary, FollowPrimary, LeavePrimary, ReplayArchive, StopServer
from reconciler.plan.draft import attempt, held_back
from reconciler.plan.fingerprints import mirror_fingerprint, mirror_settings
from reconciler.plan.images import cannot_build, find_due
from reconciler.plan.moments import is_due
from reconciler.plan.refreshes import opening_for
from reconciler.plan.schedule import ScheduleError
from reconciler.state.conditions import Condition, Kind, ObjectKey, not_ready, ready, reconciling, stalled, unknown
from reconciler.state.observed import MirrorPhase, VolumeState
from reconciler.status import words

if TYPE_CHECKING:
    from datetime import datetime

    from reconciler.plan.draft import Draft
    from reconciler.plan.index import Index, Mirror
    from reconciler.state.desired import DesiredImage
    from reconciler.state.observed import ObservedMirror


def plan_mirrors(index: Index, draft: Draft) -> None:
    """Plan the mirror of every image that follows a live primary, and the end of the others."""
    for image in index.desired.images.values():
        if image.mirrored is not None or image.name in index.mirrors:
            _plan_image(index, draft, image)
    for name in list(index.mirrors):
        if not index.declared_image(name):
            _plan_undeclared(index, draft, name)
        if told := lag.conditions(index.desired.images.get(name), _seen(index, name), index.now):
            draft.say(ObjectKey(Kind.MIRROR, name), *told)
    _answer(index, draft)


def _seen(index: Index, name: ImageName) -> ObservedMirror | None:
    """Return what is known of the mirror of an image that follows, be it called by a former name of that."""
    looks = index.observed.mirrors
    known = (looks.get(mirror.manifest.image) for mirror in index.mirrors.get(name, ()))
    return next((seen for seen in known if seen is not None), None)


def _answer(index: Index, draft: Draft) -> None:
    """Decline wishes to forget what is not waited for."""
    for key, requests in index.requests.items():
        if key.kind is not Kind.MIRROR or key in index.in_flight:
            continue
        planned = draft.actions.get(key, ())
        if not any(isinstance(action, LeavePrimary) and action.forgotten for action in planned):
            away = f" among those that can be seen; away: {index.away_text()}" if index.away else ""
            for request in requests:
                draft.declined[request.id] = (
                    f"nothing of image {key.name} waits for its primary to be removed there{away};"
                    " only what is left of a mirror that was removed can be forgotten"
                )


def _plan_image(index: Index, draft: Draft, image: DesiredImage) -> None:
    key = ObjectKey(Kind.MIRROR, image.name)
    if (left := _left_alone(index, key, image)) is not None:
        draft.say(key, left)
        _leave_all_the_same(index, draft, key, image)
        return
    known = index.mirrors.get(image.name, [])
    whole = index.whole_mirror(image)
    for mirror in known:
        if mirror is not whole:
            _leave(index, draft, key, mirror, _why_left(image, mirror))
    if image.mirrored is None:
        return
    if whole is None:
        _copy(index, draft, key, image)
        return
    seen = index.observed.mirrors.get(whole.manifest.image)
    lost = whole.manifest.lost or (seen.lost if seen is not None else "")
    gone = f"it cannot follow any more: {lost}" if lost else lag.over_limit(image, seen)
    if gone is not None:
        after = _moments(index, image)
        _leave(index, draft, key, whole, gone, after=after)
        if not after:
            _copy(index, draft, key, image)
    elif (age := _too_old(index, image, whole)) is not None:
        _leave(index, draft, key, whole, age)
        draft.say(key, not_ready("RawTooOld", f"{age}; the next refresh copies the primary anew"))
    else:
        _follow(index, draft, key, image, whole, seen)


def _moments(index: Index, image: DesiredImage) -> tuple[ObjectKey, ...]:
    """Return what builds moments of a mirror in this plan, which read its log until they are done."""
    if image.point_in_time is None or cannot_build(index, image, index.newest(image.name)) is not None:
        return ()
    return (ObjectKey(Kind.IMAGE, image.name),) if is_due(index, image) else ()


def _leave_all_the_same(index: Index, draft: Draft, key: ObjectKey, image: DesiredImage) -> None:
    """Plan the end of what must not stay though its image is left alone: that would cost production its disk.

    A document that says ``suspend: true`` keeps no unmasked data beyond its age either, and
    nothing that was interrupted or given up, of which a slot may be left at the primary.
    """
    if key in index.in_flight:
        return
    suspended = image.suspend and not index.away and key not in index.hidden
    for mirror in index.mirrors.get(image.name, ()):
        whole = mirror.manifest.phase is MirrorPhase.FOLLOWING and mirror.volume.state is VolumeState.COMPLETE
        if not whole and suspended:
            _leave(index, draft, key, mirror, _why_left(image, mirror))
        elif whole and (over := lag.over_limit(image, _seen(index, image.name))) is not None:
            _leave(index, draft, key, mirror, over)
        elif whole and suspended and (age := _too_old(index, image, mirror)) is not None:
            _leave(index, draft, key, mirror, age)


def _why_left(image: DesiredImage, mirror: Mirror) -> str:
    if image.mirrored is None or mirror.manifest.phase is MirrorPhase.FOLLOWING:
        return "nobody asks for it any more"
    if mirror.manifest.phase is MirrorPhase.COPYING:
        return "its copy was interrupted"
    return "it was given up, and not everything of it is gone"


def _left_alone(index: Index, key: ObjectKey, image: DesiredImage) -> Condition | None:
    if (left := index.left_alone(key)) is not None:
        return left
    if index.away:  # it may be there
        return unknown("PoolUnavailable", f"it may live in a pool that is away: {index.away_text()}")
    if key in index.hidden:
        return unknown("PoolUnavailable", f"not all of it can be seen: {index.hidden[key]}")
    if image.runtime in index.observed.unknown_runtimes:
        why = index.observed.unknown_runtimes[image.runtime]
        return unknown("RuntimeUnavailable", f"the runtime {image.runtime} does not answer: {why}")
    return None


def _is_wanted(index: Index, image: DesiredImage) -> bool:
    """Whether a build is due, and may start, that would be cut from the mirror."""
    newest = index.newest(image.name)
    try:
        due = find_due(index, image, newest, base=None)
        return due is not None and opening_for(index, image, newest, due) is None
    except ScheduleError:
        return False


def _copy(index: Index, draft: Draft, key: ObjectKey, image: DesiredImage) -> None:
    """Plan the first copy, but not while a build goes on, which may still be of another source."""
    source = image.mirrored
    if source is None or not _is_wanted(index, image):
        draft.say(key, not_ready("NotCopied", "there is no mirror; the next refresh copies the primary"))
        return
    if ObjectKey(Kind.IMAGE, image.name) in index.in_flight:
        draft.say(key, not_ready("NotCopied", "there is no mirror; the primary is copied when the build is done"))
        return
    if (refusal := cannot_build(index, image, index.newest(image.name))) is not None:
        draft.say(key, not_ready("NotCopied", "there is no mirror yet"), refusal)
        return
    fingerprint = mirror_fingerprint("copy", image, index.observed.secrets)
    held = held_back(index, key, fingerprint)
    asked = bool(index.requests.get(ObjectKey(Kind.IMAGE, image.name)))
    if held is not None and not asked:
        draft.say(key, not_ready("NotCopied", "there is no mirror yet"), held)
        return
    reason = "there is no mirror of its primary yet"
    volume = index.free_mirror(image.name)
    draft.add(CopyPrimary(image=image.name, volume=volume, fingerprint=fingerprint, reason=reason))
    draft.say(key, not_ready("NotCopied", "there is no mirror yet"), reconciling("Copying", reason))


def _follow(
    index: Index, draft: Draft, key: ObjectKey, image: DesiredImage, mirror: Mirror, seen: ObservedMirror | None
) -> None:
    source = image.mirrored
    wanted = mirror_settings(
        source.url if source is not None else mirror.manifest.url,
        index.observed.secrets,
        keep_log=image.point_in_time is not None,
        archived=source is not None and source.archive is not None,
    )
    running = index.server(mirror.volume.id) is not None
    if (full := _full(index, mirror)) is not None:
        _rest(index, draft, key, mirror, full)
        return
    why = ""
    if not running:
        why = "its server does not run"
    elif mirror.manifest.settings != wanted:
        why = "its settings changed"
    elif seen is not None and seen.outdated:
        why = seen.problem or "the primary's settings changed"
    if why:
        fingerprint = mirror_fingerprint("follow", image, index.observed.secrets)
        if (held := held_back(index, key, fingerprint)) is not None:
            draft.say(key, not_ready("NotFollowing", why), held)
            return
        draft.add(FollowPrimary(image=image.name, volume=mirror.volume.id, fingerprint=fingerprint, reason=why))
        draft.say(key, not_ready("NotFollowing", why), reconciling("Starting", why))
        return
    held = _replay(index, draft, image, mirror, seen) if seen is not None and seen.pending else None
    draft.say(key, *([not_ready("NotFollowing", held.message), held] if held is not None else [_state(index, seen)]))


def _replay(index: Index, draft: Draft, image: DesiredImage, mirror: Mirror, seen: ObservedMirror) -> Condition | None:
    """Plan that a mirror replays what has come into its archive; return why that has to wait after a failure."""
    fingerprint = mirror_fingerprint("replay", image, index.observed.secrets)
    key = ObjectKey(Kind.MIRROR, image.name)
    if (held := held_back(index, key, fingerprint)) is not None:
        return held
    reason = f"{seen.pending} file{'s' if seen.pending > 1 else ''} of log came into its archive"
    draft.add(ReplayArchive(image=image.name, volume=mirror.volume.id, fingerprint=fingerprint, reason=reason))
    return None


def _rest(index: Index, draft: Draft, key: ObjectKey, mirror: Mirror, full: Condition) -> None:
    """Plan that a mirror takes no more room of clones, but not while something is cut from it."""
    draft.say(key, not_ready("NotFollowing", "it rests until there is room"), full)
    running = index.server(mirror.volume.id) is not None
    if running and ObjectKey(Kind.IMAGE, key.name) not in index.in_flight:
        name, reason = ServerName(mirror.volume.id), f"pool {mirror.volume.pool} is down to its reserve"
        attempt(index, draft, StopServer(owner=key, server=name, runtime=mirror.manifest.runtime, reason=reason))


def _full(index: Index, mirror: Mirror) -> Condition | None:
    """Return that there is no room left in which a mirror could replay."""
    pool = index.observed.pools.get(mirror.volume.pool)
    if pool is None or pool.free_bytes >= pool.reserve_bytes:
        return None
    message = (
        f"pool {pool.name} has {words.size(pool.free_bytes)} free, less than the {words.size(pool.reserve_bytes)} that"
        " are its reserve: a mirror needs room to replay what its primary does; make some, or remove snapshots and"
        " clones, and it goes on by itself"
    )
    return stalled("InsufficientDisk", message)


def _state(index: Index, seen: ObservedMirror | None) -> Condition:
    """Return how a mirror whose server runs does."""
    if seen is None:
        return unknown("NotAsked", "it was not asked")
    if not seen.following:
        return not_ready("NotFollowing", seen.problem or "it is not connected to its primary")
    return ready("Following", ". ".join(filter(None, (lag.behind(seen, index.now), seen.problem))))


def _too_old(index: Index, image: DesiredImage, mirror: Mirror) -> str | None:
    """Return that nothing has used a mirror for longer than its image allows, and nothing is about to."""
    source = image.mirrored
    wanted = image.point_in_time is not None or _is_wanted(
        index, image
    )  # a past that is asked for uses it all the time
    if source is None or (wanted and not image.suspend):
        return None
    used = [mirror.manifest.copied_at or mirror.manifest.started_at, *_used(index, image.name)]
    if max(used) + source.raw_max_age > index.now:
        return None
    return f"no refresh has used it for {words.span(source.raw_max_age.total_seconds())}"


def _used(index: Index, image: ImageName) -> list[datetime]:
    newest, looked = index.newest(image), index.observed.refreshed.get(image)
    moments = [moment.manifest.created_at for moment in index.moments.get(image, ())]
    return [*moments, *([newest.manifest.created_at] if newest else []), *([looked] if looked else [])]


def _leave(
    index: Index, draft: Draft, key: ObjectKey, mirror: Mirror, reason: str, *, after: tuple[ObjectKey, ...] = ()
) -> None:
    """Plan the removal of a mirror, but not while a build still needs it: until it is cut, or its log replayed."""
    in_use = index.observed.in_use
    building = ObjectKey(Kind.IMAGE, key.name) in index.in_flight  # perhaps under another name: so volumes are asked
    if mirror.volume.id in in_use if in_use is not None else building:
        draft.say(key, reconciling("InUse", f"{reason}; it is removed when the build does not need it any more"))
        return
    manifest = mirror.manifest
    if manifest.phase is MirrorPhase.LEAVING and manifest.slot and index.requests.get(key):
        _forget(draft, key, mirror)
        return
    leave = LeavePrimary(
        image=ImageName(key.name),
        volume=mirror.volume.id,
        pool=mirror.volume.pool,
        pruned=not index.declared_image(ImageName(key.name)) and manifest.phase is not MirrorPhase.LEAVING,
        reason=reason,
        after=after,
    )
    if attempt(index, draft, leave):
        draft.say(key, reconciling("Leaving", reason))
    elif manifest.phase is MirrorPhase.LEAVING:
        told = f"the slot {manifest.slot} may still be at the primary: {reason}"
        hint = f"if that is gone for good: reconciler forget {key.name}"
        draft.say(key, not_ready("LeftAtPrimary", f"{told}; it is tried again until it is gone; {hint}"))


def _forget(draft: Draft, key: ObjectKey, mirror: Mirror) -> None:
    """Plan the end of a mirror whose primary nobody expects to answer any more."""
    reason = f"it was requested: the slot {mirror.manifest.slot} stays at its primary, if that is still there"
    draft.add(
        LeavePrimary(
            image=ImageName(key.name),
            volume=mirror.volume.id,
            pool=mirror.volume.pool,
            forgotten=True,
            reason=reason,
        )
    )
    draft.say(key, reconciling("Forgetting", reason))


def _plan_undeclared(index: Index, draft: Draft, name: ImageName) -> None:
    key = ObjectKey(Kind.MIRROR, name)
    if (left := index.left_alone(key)) is not None:
        draft.say(key, left)
        return
    if index.away:
        draft.say(key, unknown("PoolUnavailable", f"waits for {index.away_text()}"))
        return
    for mirror in index.mirrors[name]:
        _leave(index, draft, key, mirror, "nobody asks for its image any more")
