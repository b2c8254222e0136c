"""What a host refuses of a finished plan: protection, mass deletion, disk, memory, abilities, unmasked data, proof.

Called with what :func:`reconciler.plan.diff.plan` returned. Pure. It takes actions out
and says why, with figures; it never adds any. The rest of the plan proceeds.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeGuard

from reconciler.plan.actions import (
    BuildSnapshot,
    CreateClone,
    CutPoint,
    DeleteClone,
    DeleteSnapshot,
    DropRaw,
    ExpireClone,
    LeavePrimary,
    LoadTemplate,
    Refusal,
    ReplaceClone,
    RestartClone,
    RestoreClone,
    StartClone,
    UpdateClone,
)
from reconciler.plan.attested import unattested
from reconciler.plan.capacity import over_disk, over_memory
from reconciler.plan.draft import PROTECTED
from reconciler.plan.estimates import estimates
from reconciler.plan.windows import hold, hold_everything
from reconciler.state.conditions import Kind, ObjectKey, stalled
from reconciler.state.desired import ImageSource
from reconciler.state.observed import CloneManifest, ClonePhase, SnapshotManifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from reconciler.ids import CloneName, ImageName
    from reconciler.plan.actions import Action, Plan
    from reconciler.plan.settings import PolicySettings
    from reconciler.state.conditions import Condition
    from reconciler.state.desired import Desired, DesiredClone, DesiredImage
    from reconciler.state.observed import Manifest, Observed, Request

_PERCENT_FROM = 5
"""From so many objects up the percentage applies (rule 7 of the safety rules)."""

_APPROVAL_COUNTS = timedelta(hours=1)
"""How long an approval that nobody was there to serve counts: as long as the limit looks back."""

_SHOWN = 10
"""How many names a message lists."""

REASONS: Mapping[str, str] = {
    PROTECTED: "Protected",
    "prune-limit": "PruneLimitExceeded",
    "disk": "InsufficientDisk",
    "memory": "InsufficientMemory",
    "unmasked": "UnmaskedDenied",
    "resources": "ResourcesUnsupported",
    "superuser": "SuperuserUnsupported",
    "attestation": "AttestationRequired",
    "dependency": "DependencyRefused",
}
"""Rule to reason of the condition that a refused object gets."""


@dataclass(frozen=True, slots=True)
class Case:
    """What the rules look at."""

    plan: Plan
    desired: Desired
    observed: Observed
    now: datetime
    settings: PolicySettings
    under_way: tuple[Action, ...]


def judge(
    plan: Plan,
    desired: Desired,
    observed: Observed,
    now: datetime,
    *,
    settings: PolicySettings,
    under_way: tuple[Action, ...] = (),
) -> Plan:
    """Return the plan without what the host's rules refuse, with refusals and conditions for it.

    ``under_way`` are the actions of the objects in flight, as far as they are known.
    """
    if not plan.actions:
        return _answer_approvals(plan, observed, now)
    if settings.suspended:
        return _answer_approvals(hold_everything(plan), observed, now)
    plan = hold(plan, observed, now, windows=settings.windows)
    rules: tuple[Callable[[Case], Iterator[Refusal]], ...] = (
        _protected,
        _unmasked,
        _attested,
        _resources,
        _superusers,
        _prune_limit,
        _disk,
        _memory,
    )
    judged = plan
    for rule in rules:
        case = Case(judged, desired, observed, now, settings, under_way)
        judged = _without(judged, tuple(rule(case)))
    judged = replace(judged, estimates=estimates(judged, desired, observed, settings=settings))
    return _answer_approvals(judged, observed, now)


def pruned_objects(actions: tuple[Action, ...]) -> tuple[ObjectKey, ...]:
    """Return the objects that actions delete because their documents vanished; mirrors count with their images."""
    return tuple(sorted({key for action in actions if (key := _pruned_object(action)) is not None}))


def _pruned_object(action: Action) -> ObjectKey | None:
    match action:
        case DeleteClone():
            return action.key
        case DeleteSnapshot() | LeavePrimary() | DropRaw() if action.pruned:
            return ObjectKey(Kind.IMAGE, action.image)
        case _:
            return None


def _without(plan: Plan, refusals: tuple[Refusal, ...]) -> Plan:
    """Take refused actions out of a plan, and with them what would build on them."""
    if not refusals:
        return plan
    taken = {id(action) for refusal in refusals for action in refusal.actions}
    causes = sorted({str(action.key) for refusal in refusals for action in refusal.actions})
    left, dependants = _parted(plan.actions, taken)
    if dependants:
        message = f"waits for what was refused: {', '.join(causes)}"
        refusals = (*refusals, Refusal("dependency", message, dependants))
    conditions = {**plan.conditions}
    busy = {action.key for action in left}
    for refusal in refusals:
        for key in {action.key for action in refusal.actions}:
            conditions[key] = _refused(conditions.get(key, ()), refusal, busy=key in busy)
    return replace(plan, actions=left, refused=(*plan.refused, *refusals), conditions=conditions)


def _parted(actions: tuple[Action, ...], taken: set[int]) -> tuple[tuple[Action, ...], tuple[Action, ...]]:
    """Part what stays from what builds on refused actions: by ``after``, or as a later step of the same object.

    One walk does, for what an action waits for comes before it in a plan.
    """
    left: list[Action] = []
    dependants: list[Action] = []
    refused: set[ObjectKey] = set()
    for action in actions:
        if id(action) in taken:
            refused.add(action.key)
        elif action.key in refused or not refused.isdisjoint(action.after):
            refused.add(action.key)
            dependants.append(action)
        else:
            left.append(action)
    return tuple(left), tuple(dependants)


def _refused(conditions: tuple[Condition, ...], refusal: Refusal, *, busy: bool) -> tuple[Condition, ...]:
    kept = conditions if busy else tuple(c for c in conditions if c.type != "Reconciling")
    return (*kept, stalled(REASONS[refusal.rule], refusal.message))


def _protected(case: Case) -> Iterator[Refusal]:
    """Refuse what would end a protected clone's current volume; planning leaves it out already."""
    manifests = {
        volume.id: volume.manifest
        for volume in case.observed.volumes
        if isinstance(volume.manifest, CloneManifest) and volume.manifest.phase is ClonePhase.READY
    }
    for action in case.plan.actions:
        if not isinstance(action, ReplaceClone | RestoreClone | DeleteClone | ExpireClone):
            continue
        clone = case.desired.clones.get(action.clone)
        written = any(manifests[volume].protected for volume in action.volumes if volume in manifests)
        if clone.protected if clone is not None else written:
            yield Refusal(PROTECTED, f"clone {action.clone} is protected ({action.reason})", (action,))


def _unmasked(case: Case) -> Iterator[Refusal]:
    """Refuse builds and copies of data that its image says is not masked, where the host denies that."""
    if case.settings.unmasked == "allow":
        return
    for action in case.plan.actions:
        image = _image_of(case, action)
        reason = _unmasked_reason(case, image)
        if image is not None and reason is not None:
            message = f"image {image.name} says unmasked ({reason}), and this host denies unmasked data"
            yield Refusal("unmasked", message, (action,))


def _image_of(case: Case, action: Action) -> DesiredImage | None:
    if isinstance(action, BuildSnapshot | CutPoint | LoadTemplate):
        return case.desired.images.get(action.image)
    if isinstance(action, CreateClone | ReplaceClone):
        clone = case.desired.clones.get(action.clone)
        return case.desired.images.get(clone.image) if clone is not None else None
    return None


def _unmasked_reason(case: Case, image: DesiredImage | None) -> str | None:
    """Return why an image, or the one that it is built on, is not masked."""
    seen: set[ImageName] = set()
    while image is not None and image.name not in seen:
        if image.unmasked_reason is not None:
            return image.unmasked_reason
        seen.add(image.name)
        image = case.desired.images.get(image.source.image) if isinstance(image.source, ImageSource) else None
    return None


def _attested(case: Case) -> Iterator[Refusal]:
    """Refuse to deliver what has not the attestation that its pool or its runtime requires."""
    for action, message in unattested(case.plan, case.desired, case.observed, rules=case.settings.attestation):
        yield Refusal("attestation", message, (action,))


def _clone_steps(
    case: Case, *kinds: type[CreateClone | ReplaceClone | RestartClone | UpdateClone]
) -> Iterator[tuple[Action, DesiredClone]]:
    for action in case.plan.actions:
        if isinstance(action, CreateClone | ReplaceClone | RestartClone | UpdateClone) and isinstance(action, kinds):
            clone = case.desired.clones.get(action.clone)
            if clone is not None:
                yield action, clone


def _resources(case: Case) -> Iterator[Refusal]:
    """Refuse clones with limits that their runtime cannot hold them to."""
    for action, clone in _clone_steps(case, CreateClone, ReplaceClone, RestartClone):
        abilities = case.settings.runtimes.get(clone.runtime)
        if abilities is None:
            continue
        beyond = [name for name in clone.resources.named if name not in abilities.resources]
        if beyond:
            can = ", ".join(sorted(abilities.resources)) or "none"
            message = (
                f"clone {clone.name} declares resources that the runtime {clone.runtime} cannot hold it to:"
                f" {', '.join(beyond)} (it can: {can})"
            )
            yield Refusal("resources", message, (action,))


def _superusers(case: Case) -> Iterator[Refusal]:
    """Refuse superusers where a clone cannot have, or was not given, an account of its own (safety rule 9)."""
    shared = {v.id for v in case.observed.volumes if isinstance(v.manifest, CloneManifest) and not v.manifest.account}
    for action, clone in _clone_steps(case, CreateClone, ReplaceClone, RestartClone, UpdateClone):
        abilities = case.settings.runtimes.get(clone.runtime)
        names = [user.name for user in clone.users if user.role == "superuser"]
        if abilities is not None and abilities.containers:
            continue  # nothing but the clone itself is within a superuser's reach
        if names and abilities is not None and not abilities.own_accounts:
            message = (
                f"clone {clone.name} has a superuser ({', '.join(names)}), which needs an account of its own,"
                f" and the runtime {clone.runtime} cannot give it one here (run the reconciler as root)"
            )
            yield Refusal("superuser", message, (action,))
        elif names and isinstance(action, UpdateClone) and "users" in action.changes and action.volume in shared:
            message = (
                f"clone {clone.name} runs under the account that clones share, and a superuser ({', '.join(names)})"
                f" needs one of its own; make it anew with: reconciler reset {clone.name}"
            )
            yield Refusal("superuser", message, (action,))


def _prune_limit(case: Case) -> Iterator[Refusal]:
    """Refuse the deletion of more objects than may vanish within an hour, unless it was approved."""
    keys = tuple(key for key in pruned_objects(case.plan.actions) if not _begun(case, key))
    if not keys or is_approved(case.plan, case.observed, case.now):
        return
    excess = _excess(case, keys)
    if excess is not None:
        taken = tuple(action for action in case.plan.actions if _pruned_object(action) in keys)
        used = [f"{a.clone} by {a.used}" for a in taken if isinstance(a, DeleteClone) and a.used]
        excess += f"; in use now: {_listed(used)}" if used else ""
        message = f"{excess}; approve with: reconciler apply --approve={case.plan.hash}"
        yield Refusal("prune-limit", message, taken)


def _begun(case: Case, key: ObjectKey) -> bool:
    """Whether the deletion of an object was within the limit, or approved, already and has only to be finished."""
    begun = case.observed.recent_deletions.get(str(key))
    if begun is None:
        return False
    made = (v.manifest.created_at for v in case.observed.volumes if _is_of(v.manifest, key))
    return all(at <= begun for at in made)


def _is_of(manifest: Manifest, key: ObjectKey) -> TypeGuard[CloneManifest | SnapshotManifest]:
    if isinstance(manifest, CloneManifest):
        return key == ObjectKey(Kind.CLONE, manifest.clone)
    return isinstance(manifest, SnapshotManifest) and key == ObjectKey(Kind.IMAGE, manifest.image)


def _excess(case: Case, keys: tuple[ObjectKey, ...]) -> str | None:
    """Say by how much deletions are over the limit; None when they are within it."""
    settings, recent = case.settings, case.observed.recent_deletions.keys() - {str(key) for key in keys}
    deleted = len(recent) + len(keys)
    total = len(_existing(case.observed) | recent)
    what = f"{len(keys)} objects lost their documents ({_named(keys)})" + (
        f", {len(recent)} more within the hour" if recent else ""
    )
    desired = case.desired
    if not (desired.images or desired.clones or desired.problems):
        return f"the commit has no documents left: {what}"
    if deleted > settings.max_delete:
        return f"{what}; prune.maxDelete is {settings.max_delete}"
    if total >= _PERCENT_FROM and deleted * 100 > settings.max_delete_percent * total:
        share = deleted * 100 / total
        return f"{what}, {share:.0f}% of {total}; prune.maxDeletePercent is {settings.max_delete_percent:g}"
    return None


def _named(keys: tuple[ObjectKey, ...]) -> str:
    return _listed([str(key) for key in keys])


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _existing(observed: Observed) -> set[str]:
    """Return the objects that exist: images with volumes, and clones."""
    return {
        str(ObjectKey(Kind.CLONE, manifest.clone))
        if isinstance(manifest, CloneManifest)
        else str(ObjectKey(Kind.IMAGE, manifest.image))
        for manifest in (volume.manifest for volume in observed.volumes)
    }


def is_approved(plan: Plan, observed: Observed, now: datetime) -> bool:
    """Whether a request approves the deletions of this plan, or of whatever plan there is."""
    return any(
        r.verb == "approve" and r.plan_hash in (None, "", plan.hash) and not _is_stale(r, now)
        for r in observed.requests
    )


def _is_stale(request: Request, now: datetime) -> bool:
    """Whether an approval is too old to be meant for what is planned now (nothing ran for a while)."""
    return now - request.requested_at > _APPROVAL_COUNTS


def _answer_approvals(plan: Plan, observed: Observed, now: datetime) -> Plan:
    """Answer approvals that name another plan, that are too old, or of what waits for a window."""
    declined = dict(plan.declined)
    waits = next((one.message for one in plan.held if pruned_objects(one.actions)), None)
    for request in observed.requests:
        if request.verb != "approve":
            continue
        if request.plan_hash not in (None, "", plan.hash):
            declined[request.id] = f"the plan is {plan.hash} now, not {request.plan_hash}: look at it and approve again"
        elif _is_stale(request, now):
            declined[request.id] = f"the approval is of {request.requested_at.isoformat()}: look again and approve anew"
        elif waits is not None:
            declined[request.id] = f"{waits}: approve then; or, if it waits for a window, now: apply --now --approve"
    return replace(plan, declined=declined)


def _disk(case: Case) -> Iterator[Refusal]:
    """Refuse work that its pool has no room for (safety rule 8)."""
    for action, message in over_disk(
        case.plan, case.desired, case.observed, settings=case.settings, under_way=case.under_way
    ):
        yield Refusal("disk", message, (action,))


def _memory(case: Case) -> Iterator[Refusal]:
    """Refuse clones whose declared memory does not fit (safety rule 8)."""
    limit = case.settings.memory_limit
    if limit is None:
        return
    steps: dict[CloneName, list[Action]] = defaultdict(list)
    for action in case.plan.actions:
        if isinstance(action, CreateClone | ReplaceClone | RestartClone | StartClone | RestoreClone):
            steps[action.clone].append(action)
    for name, message in over_memory(tuple(steps), case.desired, case.observed, limit=limit):
        yield Refusal("memory", message, (steps[name][0],))
