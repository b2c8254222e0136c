"""The warning before a clone's time is over.

Called by :mod:`.clones` for every clone with an end. Pure. One warning for each end: a
commit that moves it makes another message, which comes at its own time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.plan.schedule import EARLIEST_WARNING, expires_at, warned_at
from reconciler.state.conditions import EXPIRING, Condition, Kind, ObjectKey

if TYPE_CHECKING:
    from reconciler.plan.draft import Draft
    from reconciler.plan.index import CloneVolumes, Index
    from reconciler.state.desired import DesiredClone


def warn_of_end(index: Index, draft: Draft, clone: DesiredClone, volumes: CloneVolumes) -> None:
    """Say when a clone will be removed, from some time before; not of one that is protected or left alone."""
    if (clone.ttl is None and clone.expires is None) or not volumes.ready or clone.protected:
        return
    created_at = volumes.current.manifest.created_at
    end = expires_at(clone, created_at)
    if end is None or end - index.now > EARLIEST_WARNING:  # nearly every one: this is asked of each in every pass
        return
    if not warned_at(created_at, end) <= index.now < end:
        return
    key = ObjectKey(Kind.CLONE, clone.name)
    if clone.name in index.observed.tombstones or index.left_alone(key) is not None:
        return
    message = (
        f"its time is over at {end.isoformat(timespec='seconds')}: it is removed then, with all that was written"
        " to it; a commit with a longer ttl or a later expires keeps it"
    )
    draft.warn(key, Condition(type=EXPIRING, status="True", reason="ExpiresSoon", message=message))
