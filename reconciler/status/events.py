"""Events: something that happened to an object, for people and notifications.

Made by the loop and by ``apply``; kept by the status store; shown by ``events``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from reconciler.ids import Revision
    from reconciler.state.conditions import ObjectKey
    from reconciler.status.values import Transition

Severity = Literal["trace", "info", "warning", "error"]

MESSAGE_LIMIT = 39_000
"""Longest message in characters, the limit of Flux's event API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to ``object``; ``reason`` is a CamelCase word.

    One that was said ``count`` times was said at ``first_at`` (None: at ``at``) first, and at ``at`` last.
    """

    at: datetime
    object: ObjectKey
    severity: Severity
    reason: str
    message: str
    revision: Revision | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    count: int = 1
    first_at: datetime | None = None

    @classmethod
    def of_transition(cls, transition: Transition, at: datetime, revision: Revision | None) -> Event:
        """Return the event that tells of a condition that appeared, changed its status, or went."""
        condition = transition.after or transition.before
        if condition is None:
            raise ValueError("a transition has a condition before or after it")
        status = transition.after.status if transition.after is not None else "gone"
        return cls(
            at=at,
            object=transition.object,
            severity=_severity(transition),
            reason=condition.reason if transition.after is not None else f"{condition.type}Cleared",
            message=f"{condition.type} is {status}: {condition.message}".removesuffix(": "),
            revision=revision,
            metadata={"condition": condition.type, "status": status},
        )


def _severity(transition: Transition) -> Severity:
    """Return ``error`` for what needs a person, ``trace`` for work that comes and goes."""
    after = transition.after
    if after is None:
        return "trace"
    if after.type == "Reconciling":
        return "trace"
    bad = (after.type == "Ready" and after.status == "False") or (after.type == "Stalled" and after.status == "True")
    return "error" if bad else "info"
