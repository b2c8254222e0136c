"""What the work of a plan will take, going by what the same work took the last time.

Called by :mod:`reconciler.plan.policy` once it has decided. Pure. The room is what policy
reserves for it; what nobody has measured yet is not told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.plan.actions import BuildSnapshot, CreateClone, CutPoint, Estimate, ReplaceClone, made_by
from reconciler.plan.capacity import needs
from reconciler.plan.schedule import started_at
from reconciler.state.observed import CloneManifest, SnapshotManifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from reconciler.ids import ImageName, VolumeId
    from reconciler.plan.actions import Plan
    from reconciler.plan.settings import PolicySettings
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Observed

_TOLD_FROM = 1.0
"""Seconds: work that was done at once is not worth a word."""


def estimates(
    plan: Plan, desired: Desired, observed: Observed, *, settings: PolicySettings
) -> Mapping[VolumeId, Estimate]:
    """Return what is known of the work that makes volumes, by the volume that it makes."""
    making = tuple(a for a in plan.everything if isinstance(a, BuildSnapshot | CutPoint | CreateClone | ReplaceClone))
    if not making:
        return {}
    builds, deliveries = _last(observed)
    room = needs(making, desired, observed, settings=settings)
    found: dict[VolumeId, Estimate] = {}
    for action, size in zip(making, room, strict=True):
        if isinstance(action, BuildSnapshot):
            seconds = builds.get(action.image)
        elif isinstance(action, CreateClone | ReplaceClone):
            clone = desired.clones.get(action.clone)
            seconds = deliveries.get(clone.image) if clone is not None else None
        else:
            seconds = None
        seconds = seconds if seconds is not None and seconds >= _TOLD_FROM else None
        made = made_by(action)
        if made is not None and (size or seconds):
            found[made] = Estimate(size or None, seconds)
    return found


def _last(observed: Observed) -> tuple[Mapping[ImageName, float], Mapping[ImageName, float]]:
    """Return the seconds that the last build of each image took, and the last first delivery of a clone of it."""
    builds: dict[ImageName, tuple[datetime, float]] = {}
    deliveries: dict[ImageName, tuple[datetime, float]] = {}
    for volume in observed.volumes:
        manifest = volume.manifest
        if isinstance(manifest, SnapshotManifest) and manifest.clone is None:
            known, begun, ended = builds, started_at(manifest), manifest.created_at
        elif isinstance(manifest, CloneManifest) and manifest.generation == 1 and manifest.ready_at is not None:
            known, begun, ended = deliveries, manifest.created_at, manifest.ready_at
        else:
            continue
        if manifest.image not in known or known[manifest.image][0] < ended:
            known[manifest.image] = ended, (ended - begun).total_seconds()
    return (
        {image: seconds for image, (_, seconds) in builds.items()},
        {image: seconds for image, (_, seconds) in deliveries.items()},
    )
