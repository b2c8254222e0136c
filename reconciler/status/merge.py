"""What changes when a pass reports the conditions of an object; pure.

The rules are those of the Kubernetes API conventions: ``lastTransitionTime`` moves
only when ``status`` does; a condition that is not reported is gone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.status import redact

if TYPE_CHECKING:
    from datetime import datetime

    from reconciler.ids import Revision
    from reconciler.state.conditions import Condition

Conditions = tuple["Condition", ...]


def same(stored: Conditions, wanted: Conditions, revision: Revision | None) -> bool:
    """Whether a report says nothing new. Called for every object in every pass, so it makes no objects."""
    if len(stored) != len(wanted):
        return False
    for old, new in zip(stored, wanted, strict=True):
        if old.reason != new.reason or old.status != new.status or old.type != new.type or old.message != new.message:
            return False
        if old.observed_revision != (new.observed_revision or revision):
            return False
    return True


def merge(stored: Conditions, wanted: Conditions, *, revision: Revision | None, now: datetime) -> Conditions:
    """Return the conditions to store; of two with one type the last counts."""
    before = {condition.type: condition for condition in stored}
    after = {condition.type: condition for condition in wanted}
    return tuple(_stamped(before.get(name), condition, revision, now) for name, condition in after.items())


def _stamped(old: Condition | None, new: Condition, revision: Revision | None, now: datetime) -> Condition:
    since = old.last_transition_time if old is not None and old.status == new.status else now
    return replace(
        new,
        message=redact.text(new.message),
        last_transition_time=since,
        observed_revision=new.observed_revision or revision,
    )


def transitions(stored: Conditions, merged: Conditions) -> list[tuple[Condition | None, Condition | None]]:
    """Return (before, after) of every condition that appeared, changed its status, or went."""
    before = {condition.type: condition for condition in stored}
    after = {condition.type: condition for condition in merged}
    changed = [
        (before.get(name), condition)
        for name, condition in after.items()
        if name not in before or before[name].status != condition.status
    ]
    return [*changed, *((condition, None) for name, condition in before.items() if name not in after)]
