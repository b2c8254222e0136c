"""What clones on an instance are copied from: loaded when one asks for it, and dropped when none needs it.

Called by :mod:`.clones` and :mod:`.replace`, when a clone is to be made, and by :mod:`.diff`.
Pure. A snapshot is loaded once for each instance; a clone there waits for that. Nothing is
said or done about an instance that was not asked in this pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from reconciler.ids import instance_of
from reconciler.plan.actions import DropTemplate, LoadTemplate, template_key
from reconciler.plan.draft import attempt, held_back
from reconciler.plan.fingerprints import template_fingerprint
from reconciler.plan.leftovers import drop_interrupted
from reconciler.state.conditions import Condition, reconciling
from reconciler.state.observed import CloneManifest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reconciler.ids import RuntimeName, SnapshotId, VolumeId
    from reconciler.plan.draft import Draft
    from reconciler.plan.index import Index
    from reconciler.state.conditions import ObjectKey
    from reconciler.state.desired import DesiredClone
    from reconciler.state.observed import ObservedTemplate


class Ready(NamedTuple):
    """That a clone can be made; ``after`` is what has to be loaded in this plan first."""

    after: tuple[ObjectKey, ...] = ()


def template_for(
    index: Index, draft: Draft, clone: DesiredClone, snapshot: SnapshotId, *, after: tuple[ObjectKey, ...] = ()
) -> Ready | Condition:
    """Return whether a clone can be made of a snapshot, loading it if need be, or what it waits for.

    A clone with a runtime of another kind needs nothing. ``after`` is what makes the snapshot in this plan.
    """
    instance = instance_of(clone.runtime)
    if instance is None or _is_complete(index, clone.runtime, snapshot):
        return Ready()
    key = template_key(clone.runtime, snapshot)
    draft.use(snapshot)
    if key in draft.actions:
        return Ready((key,))
    if key in index.in_flight:
        return reconciling("WaitingForTemplate", f"snapshot {snapshot} is being loaded into {clone.runtime}")
    fingerprint = template_fingerprint(clone.runtime, snapshot, index.now)
    if (held := held_back(index, key, fingerprint)) is not None:
        if held not in draft.conditions.get(key, ()):
            draft.say(key, held)
        return held
    load = LoadTemplate(
        runtime=clone.runtime,
        image=clone.image,
        snapshot=snapshot,
        volume=index.free_copy(snapshot, instance),
        fingerprint=fingerprint,
        reason=f"clones of it on {clone.runtime} are copied from there",
        after=after,
    )
    draft.add(load)
    draft.say(key, reconciling("Loading", load.reason))
    return Ready((key,))


def is_copied_in_full(index: Index, runtime: RuntimeName, snapshot: SnapshotId) -> bool:
    """Whether it is known that every clone of a snapshot on an instance takes the room and time of a full copy."""
    return any(
        template.runtime == runtime and template.snapshot == snapshot and template.instant is False
        for template in index.observed.templates
    )


def plan_templates(index: Index, draft: Draft) -> None:
    """Drop what is on instances for snapshots that are gone or that no clone needs, and what was never finished."""
    _drop_copies(index, draft)
    if index.away or index.unread:
        return
    for template in index.observed.templates:
        key = template_key(template.runtime, template.snapshot)
        if key in index.in_flight or key in draft.actions or _is_needed(index, draft, template):
            continue
        gone = template.snapshot not in index.snapshots
        reason = "its snapshot is gone" if gone else "no clone there is of this snapshot, which is not the newest"
        attempt(index, draft, DropTemplate(runtime=template.runtime, snapshot=template.snapshot, reason=reason))


def _drop_copies(index: Index, draft: Draft) -> None:
    """Drop the copies of snapshots that nothing is loaded from any more."""
    in_use = index.observed.in_use or frozenset()
    for key, volumes in index.template_leftovers.items():
        if key not in index.in_flight:
            idle = (volume for volume in volumes if volume.id not in in_use)
            drop_interrupted(index, draft, key, sorted(idle, key=lambda volume: volume.id))


def _is_complete(index: Index, runtime: RuntimeName, snapshot: SnapshotId) -> bool:
    known = index.snapshots.get(snapshot)
    if known is None:
        return False
    return any(
        template.runtime == runtime
        and template.snapshot == snapshot
        and set(known.manifest.databases) <= set(template.databases)
        for template in index.observed.templates
    )


def _is_needed(index: Index, draft: Draft, template: ObservedTemplate) -> bool:
    """Whether a clone is of it, or is to be, or is likely to be soon: that of the newest snapshot, once it is whole."""
    runtime, snapshot = template.runtime, template.snapshot
    known = index.snapshots.get(snapshot)
    if known is None:
        return False
    if snapshot in draft.wanted or _unknowable(index) or any(_held(index, runtime, snapshot)):
        return True
    image = index.image_names.get(known.manifest.image, known.manifest.image)
    newest = index.usable(image) if index.declared_image(image) else None
    return newest is not None and newest.manifest.snapshot == snapshot and _is_complete(index, runtime, snapshot)


def _unknowable(index: Index) -> bool:
    """Whether another process works on something, maybe with any snapshot."""
    return bool(index.observed.in_flight) and index.observed.in_use is None


def _held(index: Index, runtime: RuntimeName, snapshot: SnapshotId) -> Iterable[VolumeId]:
    for volumes in index.clones.values():
        for volume in volumes.all:
            manifest = volume.manifest
            if isinstance(manifest, CloneManifest) and (manifest.runtime, manifest.snapshot) == (runtime, snapshot):
                yield volume.id
