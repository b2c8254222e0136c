"""From what a commit asks for and what exists to a plan.

The entry of planning, called by the loop, by commands that show a plan, and by
``observe`` (:func:`builds_due`). Pure: no I/O, no clock, no drivers; the same values
give the same plan, in whatever order they are listed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.ids import CloneName, ImageName
from reconciler.plan.actions import Plan
from reconciler.plan.clones import plan_clones
from reconciler.plan.draft import Draft
from reconciler.plan.images import find_due, plan_images, source_is_outside
from reconciler.plan.index import build_index
from reconciler.plan.leftovers import plan_problems, plan_strays, plan_undeclared_clones
from reconciler.plan.mirrors import plan_mirrors
from reconciler.plan.moments import plan_raw_copies
from reconciler.plan.order import ordered, wait_for_renames
from reconciler.plan.points import drop_unfinished_points
from reconciler.plan.quarantine import plan_requests, stop_quarantined
from reconciler.plan.refreshes import opening_for
from reconciler.plan.retention import (
    drop_unfinished_builds,
    plan_moment_retention,
    plan_point_retention,
    plan_retention,
)
from reconciler.plan.schedule import ScheduleError
from reconciler.plan.settings import PlanSettings
from reconciler.plan.templates import plan_templates
from reconciler.plan.write_back import plan_write_back
from reconciler.state.conditions import Kind, ObjectKey, ready, reconciling, stalled, unknown
from reconciler.state.observed import CloneManifest

if TYPE_CHECKING:
    from datetime import datetime

    from reconciler.plan.index import Index
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Observed


def plan(desired: Desired, observed: Observed, now: datetime, *, settings: PlanSettings) -> Plan:
    """Return the ordered difference between what is asked for and what exists.

    ``observed.inputs`` holds the identity of the sources that :func:`builds_due` named.
    """
    index = build_index(desired, observed, now, settings=settings)
    draft = Draft()
    drop_unfinished_builds(index, draft)
    drop_unfinished_points(index, draft)
    plan_mirrors(index, draft)
    plan_raw_copies(index, draft)
    plan_images(index, draft)
    plan_clones(index, draft)
    plan_undeclared_clones(index, draft)
    plan_write_back(index, draft)
    plan_templates(index, draft)
    plan_retention(index, draft)
    plan_moment_retention(index, draft)
    plan_point_retention(index, draft)
    plan_strays(index, draft)
    plan_requests(index, draft)
    stop_quarantined(index, draft)
    plan_problems(index, draft)
    _plan_pools(index, draft)
    _answer_the_rest(index, draft)
    if index.renaming:
        wait_for_renames(draft.actions, _owners(index))
    return Plan(
        revision=desired.revision,
        actions=ordered(draft.actions),
        conditions=draft.conditions,
        refused=tuple(sorted(draft.refused, key=lambda refusal: refusal.message)),
        checked=tuple(sorted(draft.checked)),
        served=draft.served,
        declined=draft.declined,
        waiting=frozenset(draft.waiting),
        skipped=tuple(sorted(draft.skipped)),
        warnings=tuple(draft.warnings),
    )


def builds_due(desired: Desired, observed: Observed, now: datetime) -> frozenset[ImageName]:
    """Return the images whose source has to be identified in this pass.

    A build of them may be due, or one failed for good and its source may have changed.
    Images without a source outside (``empty``, ``image``) are never among them.
    """
    of_images = tuple(volume for volume in observed.volumes if not isinstance(volume.manifest, CloneManifest))
    index = build_index(desired, replace(observed, volumes=of_images), now, settings=PlanSettings())
    return frozenset(
        image.name for image in desired.images.values() if source_is_outside(image) and _may_build(index, image.name)
    )


def _may_build(index: Index, name: ImageName) -> bool:
    key = ObjectKey(Kind.IMAGE, name)
    if index.left_alone(key) is not None:
        return False
    if any(failure.fingerprint for failure in index.observed.failures.get(key, ())):
        return True
    image, newest = index.desired.images[name], index.newest(name)
    try:
        due = find_due(index, image, newest, base=None)
        return due is not None and opening_for(index, image, newest, due) is None
    except ScheduleError:
        return False


def _plan_pools(index: Index, draft: Draft) -> None:
    """Say of every pool whether it is there, and as the configuration asks for."""
    for name, pool in index.observed.pools.items():
        if name not in index.away:
            draft.say(ObjectKey(Kind.POOL, name), ready("Available"))
            if pool.refusal:
                draft.say(ObjectKey(Kind.POOL, name), stalled("SizeRefused", pool.refusal))
            if pool.pending:
                draft.say(ObjectKey(Kind.POOL, name), reconciling("SizePending", pool.pending))
    for name, why in index.away.items():
        draft.say(ObjectKey(Kind.POOL, name), unknown("PoolUnavailable", why or "it cannot be asked"))


def _answer_the_rest(index: Index, draft: Draft) -> None:
    """Answer requests for objects that do not exist or take no part."""
    for key, requests in index.requests.items():
        for request in requests:
            answered = request.id in draft.served or request.id in draft.declined
            if request.verb in ("apply", "approve") or answered or key.kind in (Kind.SNAPSHOT, Kind.MIRROR):
                continue
            if key.kind is Kind.IMAGE:
                image = index.desired.images.get(ImageName(key.name))
                if image is None:
                    draft.declined[request.id] = f"there is no image {key.name}"
                elif image.suspend:
                    draft.declined[request.id] = f"image {key.name} is suspended"
            else:
                clone = index.desired.clones.get(CloneName(key.name))
                if clone is None:
                    draft.declined[request.id] = f"there is no clone {key.name}"
                elif clone.suspend:
                    draft.declined[request.id] = f"clone {key.name} is suspended"


def _owners(index: Index) -> dict[str, ObjectKey]:
    owners: dict[str, ObjectKey] = {}
    for name, points in index.points.items():
        owners.update({point.volume.id: ObjectKey(Kind.POINT, name) for point in points})
    for name, volumes in index.clones.items():
        owners.update({generation.volume.id: ObjectKey(Kind.CLONE, name) for generation in volumes.ready})
    return owners
