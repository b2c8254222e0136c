"""When a clone gets another volume: replaced, reset, rebased, restored from a retired generation.

Called by :mod:`reconciler.plan.clones`. Pure. All of it destroys what is in the current
volume once the grace time ends, so all of it is refused for protected clones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from reconciler.ids import SnapshotId
from reconciler.plan.actions import ReplaceClone, RestoreClone
from reconciler.plan.choice import Choice, choose, data_time, matches, replacement, source_of, unmasked
from reconciler.plan.draft import held_back
from reconciler.plan.fingerprints import delivery_fingerprint, missing_secrets
from reconciler.plan.leftovers import retired_until
from reconciler.plan.quarantine import withheld
from reconciler.plan.templates import Ready, template_for
from reconciler.state.conditions import Condition, Kind, ObjectKey, reconciling, stalled
from reconciler.state.desired import SnapshotAt

if TYPE_CHECKING:
    from reconciler.ids import VolumeId
    from reconciler.plan.choice import Replacement
    from reconciler.plan.draft import Draft
    from reconciler.plan.index import CloneVolumes, Generation, Index
    from reconciler.state.desired import DesiredClone
    from reconciler.state.observed import Request

Swap = ReplaceClone | RestoreClone


def plan_swap(index: Index, draft: Draft, clone: DesiredClone, volumes: CloneVolumes) -> VolumeId | None:
    """Plan another current volume for a clone, if it needs one.

    Returns the volume that becomes current, or None when the current one stays.
    """
    key = ObjectKey(Kind.CLONE, clone.name)
    wanted = replacement(index, draft, clone, volumes.current)
    request = _pending(index, draft, clone, volumes)
    if wanted is None and request is None:
        return None
    if index.away:
        draft.say(key, reconciling("PoolUnavailable", f"waits for a pool that is away: {index.away_text()}"))
        return None
    if wanted is None or (request is not None and request.verb in ("undo", "rebase")):
        found = _on_request(index, draft, clone, volumes, request, wanted)
    else:
        found = _replace(index, draft, clone, volumes, wanted, request)
    if found is None:
        return None
    if isinstance(found, Condition):
        draft.say(key, found)
        return None
    if clone.protected:
        draft.refuse(found)
        if request is not None:
            draft.declined[request.id] = f"clone {clone.name} is protected; set protected to false in git first"
        return None
    draft.add(found)
    if isinstance(found, ReplaceClone):
        draft.use(found.snapshot)
    draft.say(key, reconciling("Replacing" if isinstance(found, ReplaceClone) else "Restoring", found.reason))
    return found.volume


def _pending(index: Index, draft: Draft, clone: DesiredClone, volumes: CloneVolumes) -> Request | None:
    """Return the newest reset, rebase or undo of a clone that nothing has answered; answer the others."""
    requests = index.requests.get(ObjectKey(Kind.CLONE, clone.name)) if index.requests else None
    if not requests:
        return None
    manifest = volumes.current.manifest
    answered = manifest.ready_at or manifest.created_at
    wishes = [request for request in requests if request.verb in ("reset", "rebase", "undo")]
    open_wishes = [r for r in wishes if r.requested_at > answered and r.id != manifest.request]
    for request in wishes:
        if not open_wishes or request is not open_wishes[-1]:
            draft.served[request.id] = f"clone {clone.name} was made anew since, or a later request stands"
    return open_wishes[-1] if open_wishes else None


def _replace(
    index: Index,
    draft: Draft,
    clone: DesiredClone,
    volumes: CloneVolumes,
    wanted: Replacement,
    request: Request | None,
) -> Swap | Condition:
    """Answer a change of the document, or a newer snapshot."""
    if wanted.cause == "spec":
        kept = [g for g in volumes.retired if retired_until(index, volumes, g) > index.now]
        fitting = [g for g in kept if matches(index, clone, g)]
        if fitting:
            return _restore(index, clone, volumes, fitting[-1], f"{wanted.reason}, as before", request)
    if wanted.cause == "refresh" and clone.image in draft.builds:
        return reconciling("WaitingForSnapshot", f"{wanted.reason}, which is built first")
    choice = _pinned(index, draft, clone, volumes.current) or choose(index, draft, clone)
    if not isinstance(choice, Choice):
        return choice
    if choice.after and choice.base is None:
        # The clone lives: only once the snapshot exists is it taken out of its users' hands.
        return reconciling("WaitingForSnapshot", f"{wanted.reason}; snapshot {choice.snapshot} is built first")
    return _made_new(index, draft, clone, volumes, choice, wanted.cause, wanted.reason, request)


def _pinned(index: Index, draft: Draft, clone: DesiredClone, current: Generation) -> Choice | None:
    """Return the snapshot that a clone already is of, where only its runtime changes.

    Not of a clone that follows newer snapshots: it would be replaced twice.
    """
    manifest = current.manifest
    image = index.image_names.get(manifest.image, manifest.image)
    if clone.on_refresh == "recreate" and clone.image not in draft.outdated:
        return None
    same_runtime = manifest.runtime == clone.runtime
    if manifest.snapshot in index.quarantined:
        return None
    if source_of(index, manifest) != clone.source_clone:
        return None
    if same_runtime or image != clone.image or clone.snapshot not in ("latest", manifest.snapshot):
        return None
    return Choice(manifest.snapshot) if manifest.snapshot in index.snapshots else None


def _reset(
    index: Index, draft: Draft, clone: DesiredClone, volumes: CloneVolumes, request: Request
) -> Swap | Condition | None:
    wanted = volumes.current.manifest.snapshot
    if wanted in index.quarantined:
        return _reset_elsewhere(index, draft, clone, volumes, request)
    if wanted not in index.snapshots:
        draft.declined[request.id] = f"snapshot {wanted} does not exist any more"
    elif (problem := unmasked(index, clone, wanted)) is not None:
        draft.declined[request.id] = problem
    else:
        return _made_new(index, draft, clone, volumes, Choice(wanted), "reset", "a reset was requested", request)
    return None


def _reset_elsewhere(
    index: Index, draft: Draft, clone: DesiredClone, volumes: CloneVolumes, request: Request
) -> Swap | Condition | None:
    """Take a clone off its quarantined snapshot to one that its document lets it have."""
    choice = choose(index, draft, clone, anew=True)
    if not isinstance(choice, Choice):
        draft.declined[request.id] = choice.message
    elif choice.after and choice.base is None:
        draft.declined[request.id] = f"snapshot {choice.snapshot} is built first; ask again then"
    else:
        reason = f"a reset was requested, and {volumes.current.manifest.snapshot} is quarantined"
        return _made_new(index, draft, clone, volumes, choice, "reset", reason, request)
    return None


def _rebase(
    index: Index,
    draft: Draft,
    clone: DesiredClone,
    volumes: CloneVolumes,
    request: Request,
    wanted: Replacement | None,
) -> Swap | Condition | None:
    """Take a clone to the snapshot that was asked for, or to the newest; None, and an answer, if it is not taken."""
    target = _rebase_target(index, draft, clone, request, wanted)
    if not isinstance(target, Choice):
        draft.declined[request.id] = target
    elif target.snapshot == volumes.current.manifest.snapshot:
        draft.served[request.id] = (
            f"clone {clone.name} is of snapshot {target.snapshot} already; a reset goes back to it"
        )
    else:
        reason = f"a rebase to {target.snapshot} was requested"
        return _made_new(index, draft, clone, volumes, target, "rebase", reason, request)
    return None


def _rebase_target(
    index: Index, draft: Draft, clone: DesiredClone, request: Request, wanted: Replacement | None
) -> Choice | str:
    """Return the snapshot of a rebase, or why there is none."""
    if wanted is not None and wanted.cause == "spec":
        return f"the document asks for something else first ({wanted.reason})"
    named: SnapshotId | Literal["latest"] = SnapshotId(request.snapshot) if request.snapshot else "latest"
    choice = choose(index, draft, replace(clone, snapshot=named), anew=True)
    if not isinstance(choice, Choice):
        return choice.message
    if choice.after and choice.base is None:
        return f"snapshot {choice.snapshot} is built first; ask again then"
    if isinstance(clone.snapshot, SnapshotAt):
        if data_time(index.snapshots[choice.snapshot].manifest) > clone.snapshot.at:
            return f"its document asks for data of {clone.snapshot.at.isoformat()} or before; change that in git"
    elif clone.snapshot not in ("latest", choice.snapshot):
        return f"its document names snapshot {clone.snapshot}; change that in git"
    return choice


def _on_request(
    index: Index,
    draft: Draft,
    clone: DesiredClone,
    volumes: CloneVolumes,
    request: Request | None,
    wanted: Replacement | None,
) -> Swap | Condition | None:
    if request is None:
        return None
    if request.verb == "reset":
        return _reset(index, draft, clone, volumes, request)
    if request.verb == "rebase":
        found = _rebase(index, draft, clone, volumes, request, wanted)
        return found or (_replace(index, draft, clone, volumes, wanted, None) if wanted is not None else None)
    retired = volumes.retired
    if not retired:
        draft.declined[request.id] = f"clone {clone.name} has no earlier state to go back to"
    elif (problem := _not_to_be_undone(index, draft, clone, retired[-1], wanted)) is not None:
        draft.declined[request.id] = problem
    else:
        return _restore(index, clone, volumes, retired[-1], "an undo was requested", request)
    # Declined, it must not keep the document from being followed.
    return _replace(index, draft, clone, volumes, wanted, None) if wanted is not None else None


def _not_to_be_undone(
    index: Index, draft: Draft, clone: DesiredClone, earlier: Generation, wanted: Replacement | None
) -> str | None:
    """Return why a clone cannot go back: the document asks for something else. A newer snapshot is no reason."""
    if (problem := withheld(index, earlier.manifest.snapshot)) is not None:
        return f"the earlier state is not brought back: {problem}"
    contradiction = replacement(index, draft, clone, earlier)
    if contradiction is not None and contradiction.cause == "spec":
        return (
            f"the earlier state is not what the document asks for ({contradiction.reason}); revert the commit instead"
        )
    if wanted is not None and wanted.cause == "spec":
        return f"the document asks for something else first ({wanted.reason})"
    return None


def _restore(
    index: Index, clone: DesiredClone, volumes: CloneVolumes, retired: Generation, reason: str, request: Request | None
) -> Swap | Condition:
    held = held_back(index, ObjectKey(Kind.CLONE, clone.name), "")
    if held is not None and request is None:
        return held
    return RestoreClone(
        clone=clone.name,
        volume=retired.volume.id,
        generation=volumes.current.manifest.generation + 1,
        current=volumes.current.volume.id,
        request=request.id if request is not None else None,
        reason=f"{reason}; the earlier volume {retired.volume.id} is still there",
    )


def _made_new(
    index: Index,
    draft: Draft,
    clone: DesiredClone,
    volumes: CloneVolumes,
    choice: Choice,
    cause: Literal["spec", "refresh", "reset", "rebase"],
    reason: str,
    request: Request | None,
) -> Swap | Condition:
    image = index.desired.images.get(clone.image)
    if image is None:
        return stalled("ImageMissing", f"image {clone.image} has no usable document")
    if missing := missing_secrets(clone, index.observed.secrets):
        return stalled("SecretUnavailable", f"there is no secret {', '.join(missing)} on this host")
    fingerprint = delivery_fingerprint(clone, image, snapshot=choice.snapshot, secrets=index.observed.secrets)
    held = held_back(index, ObjectKey(Kind.CLONE, clone.name), fingerprint)
    if held is not None and request is None:
        return held
    # A protected clone is not replaced, so nothing is loaded for that, to be dropped again by the next plan.
    loaded = Ready() if clone.protected else template_for(index, draft, clone, choice.snapshot, after=choice.after)
    if isinstance(loaded, Ready) and loaded.after:  # which may take hours: the clone is looked after until then
        loaded = reconciling("WaitingForTemplate", f"{reason}; snapshot {choice.snapshot} is loaded first")
    if not isinstance(loaded, Ready):
        if request is not None and loaded.reason == "WaitingForTemplate":
            draft.waiting.add(request.id)
        return loaded
    volume, generation = index.free_volume(clone.name)
    return ReplaceClone(
        clone=clone.name,
        cause=cause,
        snapshot=choice.snapshot,
        volume=volume,
        generation=generation,
        current=volumes.current.volume.id,
        fingerprint=fingerprint,
        request=request.id if request is not None else None,
        reason=reason,
        after=choice.after,
    )
