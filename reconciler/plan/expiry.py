"""The warning before a clone's time is over.

Called by :mod:`.clones` for every clone whose end is near. Pure. One warning for each end: a
commit that moves it makes another message, which comes at its own time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.plan.schedule import warned_at
from reconciler.state.conditions import EXPIRING, Condition, Kind, ObjectKey

if TYPE_CHECKING:
    from datetime import datetime

    from reconciler.plan.draft import Draft
    from reconciler.plan.index import Index
    from reconciler.state.desired import DesiredClone


def warn_of_end(index: Index, draft: Draft, clone: DesiredClone, created_at: datetime, end: datetime) -> None:
    """Say when a clone will be removed, from some time before; not of one that is protected or left alone."""
    if clone.protected or not warned_at(created_at, end) <= index.now < end:
        return
    key = ObjectKey(Kind.CLONE, clone.name)
    if clone.name in index.observed.tombstones or index.left_alone(key) is not None:
        return
    message = (
        f"its time is over at {end.isoformat(timespec='seconds')}: it is removed then, with all that was written"
        " to it; a commit with a longer ttl or a later expires keeps it"
    )
    draft.warn(key, Condition(type=EXPIRING, status="True", reason="ExpiresSoon", message=message))
