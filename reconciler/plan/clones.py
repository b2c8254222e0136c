"""What happens to the clones of a commit: created, replaced, changed in place, started, stopped, expired.

Called by :mod:`reconciler.plan.diff`. Pure. A clone that is as its document says takes
a quick path: with thousands of them it is what a pass costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from reconciler.ids import instance_of
from reconciler.plan.actions import ClearTombstone, CreateClone, ExpireClone, RenameClone
from reconciler.plan.choice import Choice, choose, replacement
from reconciler.plan.draft import attempt, held_back
from reconciler.plan.expiry import warn_of_end
from reconciler.plan.fingerprints import GENERATED, delivery_fingerprint, missing_secrets, settings_digest
from reconciler.plan.idle import is_idle
from reconciler.plan.index import CloneVolumes
from reconciler.plan.inplace import plan_in_place
from reconciler.plan.leftovers import drop_interrupted, drop_retired, stop_retired
from reconciler.plan.replace import plan_swap
from reconciler.plan.schedule import EARLIEST_WARNING, expires_at, expiry_text
from reconciler.plan.templates import Ready, template_for
from reconciler.state.conditions import Condition, Kind, ObjectKey, not_ready, ready, reconciling, stalled, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from reconciler.ids import CloneName, SecretName, VolumeId
    from reconciler.plan.draft import Draft
    from reconciler.plan.index import Index
    from reconciler.state.desired import DesiredClone, DesiredImage
    from reconciler.state.observed import CloneManifest, Failure, Tombstone

_UP_TO_DATE = (ready("UpToDate"),)
_STOPPED = (ready("Stopped", "stopped, as its document says"),)
_NONE = CloneVolumes()


class _Compared(NamedTuple):
    """A clone that was compared with what was delivered; ``passwords`` as :func:`_passwords` returned them."""

    clone: DesiredClone
    image: DesiredImage
    manifest: CloneManifest
    passwords: frozenset[tuple[SecretName, str]] | None


_MOST_COMPARED = 20_000
_compared: dict[CloneName, _Compared] = {}


def plan_clones(index: Index, draft: Draft) -> None:
    """Plan every clone that has a document."""
    quick = not (index.away or index.renaming or index.observed.unknown_runtimes)
    special = index.special_clones
    for name, clone in in_source_order(index.desired.clones):
        volumes = index.clones.get(name)
        end = expires_at(clone, volumes.current.manifest.created_at) if volumes is not None and volumes.ready else None
        if quick and volumes is not None and name not in special and _is_settled(index, draft, clone, volumes, end):
            draft.conditions[ObjectKey(Kind.CLONE, name)] = _UP_TO_DATE if clone.running else _STOPPED
        else:
            _plan_clone(index, draft, clone, volumes or _NONE)
        if volumes is not None and end is not None and end - index.now <= EARLIEST_WARNING:
            warn_of_end(index, draft, clone, volumes.current.manifest.created_at, end)


def in_source_order(clones: Mapping[CloneName, DesiredClone]) -> Iterable[tuple[CloneName, DesiredClone]]:
    """Return clones after those that they start from; a circle, which validation refuses, is cut."""
    dependent = {name: clone.source_clone for name, clone in clones.items() if clone.source_clone is not None}
    if not dependent:
        return clones.items()

    def depth(name: CloneName) -> int:
        steps, source = 0, dependent.get(name)
        while source is not None and steps <= len(dependent):
            steps, source = steps + 1, dependent.get(source)
        return steps

    return sorted(clones.items(), key=lambda item: depth(item[0]) if item[0] in dependent else 0)


def _is_settled(index: Index, draft: Draft, clone: DesiredClone, volumes: CloneVolumes, end: datetime | None) -> bool:
    """Whether a clone that ends at ``end`` is in every respect what its document says; may err towards no."""
    if len(volumes.ready) != 1 or volumes.leftovers or clone.suspend:
        return False
    volume, manifest = volumes.ready[0]
    image = index.desired.images.get(clone.image)
    if (
        image is None
        or (clone.idle is not None and is_idle(index, clone, volumes.ready[0]))  # asked of few: a pass asks each clone
        or manifest.idle is not None
        or manifest.snapshot in index.quarantined
        or (index.full_copies and instance_of(clone.runtime) is not None)  # which is said of each
        or not _is_delivered(clone, image, manifest, index.observed.secrets)
    ):
        return False
    if end is not None and end <= index.now:
        return False
    stays = clone.snapshot == "latest" and clone.on_refresh == "keep"  # whatever is built meanwhile
    if not stays and replacement(index, draft, clone, volumes.ready[0]) is not None:
        return False
    server = index.server(volume.id)
    if server is None:
        return not clone.running or clone.runtime in index.settings.serverless
    return clone.running and not server.starting and server.port in (None, manifest.port)


def _is_delivered(
    clone: DesiredClone, image: DesiredImage, manifest: CloneManifest, secrets: Mapping[SecretName, str]
) -> bool:
    """Whether a clone was delivered as its document says.

    Which passwords that takes follows from three frozen values, so it is remembered by
    their identity; the memory holds on to them, which is what makes their identity safe
    to use. Whether these are the passwords of today is looked up every time.
    """
    known = _compared.get(clone.name)
    if known is None or known.clone is not clone or known.image is not image or known.manifest is not manifest:
        if len(_compared) >= _MOST_COMPARED:
            _compared.clear()
        known = _compared[clone.name] = _Compared(clone, image, manifest, _passwords(clone, image, manifest))
    return known.passwords is not None and known.passwords <= secrets.items()


def _passwords(
    clone: DesiredClone, image: DesiredImage, manifest: CloneManifest
) -> frozenset[tuple[SecretName, str]] | None:
    """Return the secrets that a clone was delivered with, and their fingerprints; None if anything else differs."""
    wanted = [(user.name, user.role) for user in clone.users]
    if (
        manifest.image != clone.image
        or manifest.source_clone != clone.source_clone
        or manifest.runtime != clone.runtime
        or manifest.owner != clone.owner
        or manifest.protected != clone.protected
        or manifest.scripts_digest != clone.scripts_digest
        or clone.port not in (None, manifest.port)
        or manifest.settings_digest != settings_digest(clone, image)
        or [(user.name, user.role) for user in manifest.users] != wanted
    ):
        return None
    pairs = [(user.password, known.password) for user, known in zip(clone.users, manifest.users, strict=True)]
    if any(name is None and password != GENERATED for name, password in pairs):
        return None
    return frozenset((name, password) for name, password in pairs if name is not None)


def _plan_clone(index: Index, draft: Draft, clone: DesiredClone, volumes: CloneVolumes) -> None:
    key = ObjectKey(Kind.CLONE, clone.name)
    if (left := _left_alone(index, clone, key, volumes)) is not None:
        draft.say(key, left)
        return
    drop_interrupted(index, draft, key, volumes.leftovers)
    if not _rename(index, draft, clone, key, volumes) or _is_over(index, draft, clone, key, volumes):
        return
    if volumes.ready:
        _plan_existing(index, draft, clone, volumes)
    else:
        _plan_new(index, draft, clone, key)


def _left_alone(index: Index, clone: DesiredClone, key: ObjectKey, volumes: CloneVolumes) -> Condition | None:
    """Return why nothing at all is done for a clone in this pass."""
    if (left := index.left_alone(key)) is not None:
        return left
    renaming = any(generation.manifest.clone != clone.name for generation in volumes.ready)
    if (unseen := _unseen(index, key, volumes, renaming=renaming)) is not None:
        return unseen
    if (problem := index.runtime_problem(clone, volumes)) is not None:
        return problem
    return _rename_conflict(clone, volumes) if renaming else None


def _unseen(index: Index, key: ObjectKey, volumes: CloneVolumes, *, renaming: bool) -> Condition | None:
    """Return why it cannot be told what there is of a clone."""
    if key in index.hidden:
        return unknown("PoolUnavailable", f"not all of it can be seen: {index.hidden[key]}")
    if index.away and (renaming or not volumes.ready):
        return unknown("PoolUnavailable", f"it may live in a pool that is away: {index.away_text()}")
    if index.unread and not volumes.ready:
        return unknown("ManifestUnreadable", f"it may be one of the volumes that cannot be read: {index.unread}")
    return None


def _rename_conflict(clone: DesiredClone, volumes: CloneVolumes) -> Condition | None:
    """Tell an interrupted rename, whose generations share one time of creation, from two clones under one name."""
    if len({generation.manifest.created_at for generation in volumes.ready}) == 1:
        return None
    return stalled(
        "RenameConflict",
        f"{clone.formerly} cannot be renamed: a clone named {clone.name} exists; remove formerly, or one of them",
    )


def _rename(index: Index, draft: Draft, clone: DesiredClone, key: ObjectKey, volumes: CloneVolumes) -> bool:
    """Give the volumes of a former name the new one; return whether there is nothing left to wait for.

    Not while some cannot be seen, as of images: of a clone that has its new name, points may still have the old one.
    """
    former = clone.formerly
    if former is None or index.away or index.clone_names.get(former) != clone.name:
        return True
    named = tuple(g.volume.id for g in volumes.ready if g.manifest.clone != clone.name)
    named += tuple(_of_former(index, former))
    if not named:
        return True
    reason = f"clone {former} is called {clone.name} now"
    planned = attempt(index, draft, RenameClone(clone=clone.name, formerly=former, volumes=named, reason=reason))
    if planned:
        draft.say(key, reconciling("Renaming", f"was called {former}"))
    return planned


def _of_former(index: Index, former: CloneName) -> Iterator[VolumeId]:
    """Yield the points of a clone under its former name, and what starts from them, but what work in flight uses."""
    in_use = index.observed.in_use or frozenset()
    for point in index.points.get(index.clone_names[former], ()):
        if point.manifest.clone == former and point.volume.id not in in_use:
            yield point.volume.id
    for name, volumes in index.clones.items():
        if ObjectKey(Kind.CLONE, name) not in index.in_flight:
            yield from (g.volume.id for g in volumes.ready if g.manifest.source_clone == former)


def _is_over(index: Index, draft: Draft, clone: DesiredClone, key: ObjectKey, volumes: CloneVolumes) -> bool:
    """Plan the end of a clone whose time is over; return whether that is all there is to plan."""
    text = expiry_text(clone)
    tombstone = tombstone_of(index, clone)
    if tombstone is not None and tombstone.expiry != text:
        clear = ClearTombstone(clone=clone.name, reason="its ttl or expires changed since it expired")
        if not attempt(index, draft, clear):
            return True
        tombstone = None
    if not volumes.ready:
        return _stays_away(index, draft, clone, key, tombstone)
    created_at = volumes.current.manifest.created_at
    end = tombstone.expired_at if tombstone is not None else expires_at(clone, created_at)
    if end is None or end > index.now:
        return False
    reason = f"its time was over at {end.isoformat(timespec='seconds')} ({text})"
    return _expire(index, draft, clone, volumes, reason)


def tombstone_of(index: Index, clone: DesiredClone) -> Tombstone | None:
    """Return the tombstone of a clone that expired, also under its former name."""
    known = index.observed.tombstones.get(clone.name)
    if known is not None or clone.formerly is None or index.clone_names.get(clone.formerly) != clone.name:
        return known
    former = index.observed.tombstones.get(clone.formerly)
    return former if former is not None and former.expiry == expiry_text(clone) else None


def _stays_away(index: Index, draft: Draft, clone: DesiredClone, key: ObjectKey, tombstone: Tombstone | None) -> bool:
    if tombstone is not None:
        at = tombstone.expired_at.isoformat(timespec="seconds")
        message = f"expired at {at}; change its ttl or expires to get a new one"
    elif clone.expires is not None and clone.expires <= index.now:
        message = f"expires {clone.expires.isoformat()} is over; it is not created"
    else:
        return False
    draft.say(key, not_ready("Expired", message))
    return True


def _expire(index: Index, draft: Draft, clone: DesiredClone, volumes: CloneVolumes, reason: str) -> bool:
    key = ObjectKey(Kind.CLONE, clone.name)
    if index.away:
        draft.say(key, reconciling("PoolUnavailable", f"{reason}; waits for a pool that is away: {index.away_text()}"))
        return False
    ids = tuple(generation.volume.id for generation in volumes.ready)
    expiry = ExpireClone(
        clone=clone.name, volumes=ids, expiry=expiry_text(clone), reason=reason, used=index.users_of(ids)
    )
    if clone.protected:
        draft.refuse(expiry)
        return False
    held = held_back(index, key, "")
    draft.say(key, not_ready("Expired", reason), held or reconciling("Expiring", reason))
    if held is None:
        draft.add(expiry)
    return True


def _plan_new(index: Index, draft: Draft, clone: DesiredClone, key: ObjectKey) -> None:
    image = index.desired.images.get(clone.image)
    if image is None:
        draft.say(key, _absent(), stalled("ImageMissing", f"image {clone.image} has no usable document"))
        return
    if missing := missing_secrets(clone, index.observed.secrets):
        draft.say(key, _absent(), stalled("SecretUnavailable", f"there is no secret {', '.join(missing)} on this host"))
        return
    choice = choose(index, draft, clone)
    if not isinstance(choice, Choice):
        draft.say(key, _absent(), choice)
        return
    fingerprint = delivery_fingerprint(clone, image, snapshot=choice.snapshot, secrets=index.observed.secrets)
    failure = index.observed.failure(key, fingerprint)
    if (held := held_back(index, key, fingerprint)) is not None:
        draft.wanted.add(choice.snapshot)
        draft.say(key, _absent(failure), held)
        return
    loaded = template_for(index, draft, clone, choice.snapshot, after=choice.after)
    if not isinstance(loaded, Ready):
        draft.wanted.add(choice.snapshot)
        draft.say(key, _absent(), loaded)
        return
    draft.use(choice.snapshot)
    volume, generation = index.free_volume(clone.name)
    reason = "there is no such clone yet"
    draft.add(
        CreateClone(
            clone=clone.name,
            snapshot=choice.snapshot,
            volume=volume,
            generation=generation,
            fingerprint=fingerprint,
            reason=reason,
            after=(*choice.after, *loaded.after),
        )
    )
    draft.say(key, _absent(failure), reconciling("Creating", f"from {choice.snapshot}"))


def _absent(failure: Failure | None = None) -> Condition:
    """Say that a clone is not there, and why if it is tried again in every pass (a full pool)."""
    why = f": {failure.message}" if failure is not None else ""
    return not_ready(failure.reason if failure is not None else "NotCreated", f"it does not exist yet{why}")


def _plan_existing(index: Index, draft: Draft, clone: DesiredClone, volumes: CloneVolumes) -> None:
    stop_retired(index, draft, ObjectKey(Kind.CLONE, clone.name), volumes)
    swapped = plan_swap(index, draft, clone, volumes)
    if swapped is None:
        plan_in_place(index, draft, clone, volumes.current)
    drop_retired(index, draft, volumes, keep=swapped)
