"""A plan in the making: what the steps of planning add to, in any order.

Private to :mod:`reconciler.plan`; :func:`reconciler.plan.diff.plan` turns it into the
immutable plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from reconciler.plan.actions import Refusal
from reconciler.state.conditions import Condition, ObjectKey, reconciling, stalled

if TYPE_CHECKING:
    from datetime import datetime

    from reconciler.ids import CloneName, ImageName, SnapshotId
    from reconciler.plan.actions import Action, BuildSnapshot, CutPoint
    from reconciler.plan.index import Index

PROTECTED = "protected"
"""Name of the rule that keeps protected clones; policy uses it as well."""

_LAST_RESORT = timedelta(minutes=10)
"""When a failure without inputs (a deletion) is tried again that nobody set a time for."""


@dataclass(slots=True)
class Draft:
    """Actions, conditions and answers, as they are found."""

    actions: dict[ObjectKey, list[Action]] = field(default_factory=dict)
    conditions: dict[ObjectKey, tuple[Condition, ...]] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    checked: set[ImageName] = field(default_factory=set)
    served: dict[str, str] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    skipped: set[ImageName] = field(default_factory=set)
    warnings: list[tuple[ObjectKey, Condition]] = field(default_factory=list)
    builds: dict[ImageName, BuildSnapshot] = field(default_factory=dict)
    """Builds of this plan, by image."""
    moments: dict[tuple[ImageName, datetime], BuildSnapshot] = field(default_factory=dict)
    """Builds of this plan for moments that clones ask for."""
    points: dict[CloneName, CutPoint] = field(default_factory=dict)
    """Points in the lives of clones that could be cut in this plan; they are once something starts from them."""
    outdated: dict[ImageName, str] = field(default_factory=dict)
    """Images whose snapshots are not what the commit asks for, and what is being done about it."""
    wanted: set[SnapshotId] = field(default_factory=set)
    """Snapshots that an action of this plan, or a document that waits, needs."""

    def add(self, action: Action) -> None:
        """Add the next action of its object."""
        self.actions.setdefault(action.key, []).append(action)

    def use(self, snapshot: SnapshotId) -> None:
        """Need a snapshot; if it is a point that could be cut, it is."""
        self.wanted.add(snapshot)
        for cut in self.points.values():
            if cut.snapshot == snapshot and cut not in self.actions.get(cut.key, ()):
                self.add(cut)
                self.say(cut.key, reconciling("Cutting", cut.reason))

    def say(self, key: ObjectKey, *conditions: Condition) -> None:
        """Add conditions of an object."""
        known = self.conditions.get(key)
        self.conditions[key] = conditions if known is None else (*known, *conditions)

    def warn(self, key: ObjectKey, condition: Condition) -> None:
        """Add a condition of an object that people are told of once."""
        self.say(key, condition)
        self.warnings.append((key, condition))

    def refuse(self, action: Action) -> None:
        """Leave out an action because its clone is protected, and say so."""
        message = (
            f"clone {action.key.name} is protected: not {_PARTICIPLES.get(action.verb, action.verb)} ({action.reason})"
        )
        self.refused.append(Refusal(PROTECTED, message, (action,)))
        self.say(action.key, stalled("Protected", f"{message}; set protected to false in git first"))


_PARTICIPLES = {"replace": "replaced", "restore": "restored", "delete": "deleted", "expire": "expired"}


def held_back(index: Index, key: ObjectKey, fingerprint: str) -> Condition | None:
    """Return why an action with these inputs has to wait after a failure; None when it may run."""
    failure = index.observed.failure(key, fingerprint)
    if failure is None or failure.fingerprint != fingerprint:
        return None
    if failure.permanent and fingerprint and (failure.retry_at is None or index.now < failure.retry_at):
        return stalled(failure.reason, failure.message)
    retry_at = failure.retry_at or (failure.at + _LAST_RESORT if failure.permanent else failure.at)
    if index.now < retry_at:
        again = retry_at.isoformat(timespec="seconds")
        return reconciling(failure.reason, f"attempt {failure.attempts} failed, next at {again}: {failure.message}")
    return None


def attempt(index: Index, draft: Draft, action: Action) -> bool:
    """Add an action without inputs, unless one of its object failed and is to be tried later; then say so."""
    held = held_back(index, action.key, "")
    if held is None:
        draft.add(action)
    elif held not in draft.conditions.get(action.key, ()):
        draft.say(action.key, held)
    return held is None
