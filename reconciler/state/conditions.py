"""Conditions of objects, after the Kubernetes API conventions.

A condition that is absent is unknown. ``Reconciling`` and ``Stalled`` are
abnormal-true: present only while true. ``Ready`` is always there once seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple

from reconciler.ids import Revision


class Kind(StrEnum):
    """Kinds of objects that have a status."""

    __hash__ = str.__hash__  # an enumeration's own is a Python function, and keys are hashed for every object

    IMAGE = "Image"
    SNAPSHOT = "Snapshot"
    MIRROR = "Mirror"
    CLONE = "Clone"
    POINT = "Point"
    """The points in a clone's life that other clones start from, under the clone's name."""
    TEMPLATE = "Template"
    """What clones are copied from on an instance, as ``instance/NAME/SNAPSHOT``."""
    POOL = "Pool"
    REPOSITORY = "Repository"
    INSTALLATION = "Installation"


class ObjectKey(NamedTuple):
    """Identity of one object across documents, actions, conditions and events."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


REPOSITORY = ObjectKey(Kind.REPOSITORY, "repository")
"""What is said of the repository, and of its newest commit."""

PASSES = ObjectKey(Kind.INSTALLATION, "passes")
"""What is said of passes themselves; present only while they fail."""

ConditionStatus = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One observed aspect of an object; ``last_transition_time`` moves only when ``status`` does."""

    type: str
    status: ConditionStatus
    reason: str
    message: str = ""
    last_transition_time: datetime | None = None
    observed_revision: Revision | None = None


def ready(reason: str, message: str = "") -> Condition:
    """Return ``Ready=True``."""
    return Condition(type="Ready", status="True", reason=reason, message=message)


def not_ready(reason: str, message: str) -> Condition:
    """Return ``Ready=False``."""
    return Condition(type="Ready", status="False", reason=reason, message=message)


def unknown(reason: str, message: str) -> Condition:
    """Return ``Ready=Unknown``."""
    return Condition(type="Ready", status="Unknown", reason=reason, message=message)


def reconciling(reason: str, message: str) -> Condition:
    """Return ``Reconciling=True``: work is under way or waits for its turn."""
    return Condition(type="Reconciling", status="True", reason=reason, message=message)


def stalled(reason: str, message: str) -> Condition:
    """Return ``Stalled=True``: nothing more happens until an input changes."""
    return Condition(type="Stalled", status="True", reason=reason, message=message)


EXPIRING = "Expiring"
"""Type of the condition of a clone whose time is almost over."""

ANNOUNCED = frozenset({EXPIRING})
"""Types of which an event tells once for each message, whenever they come and go."""

WAITING = frozenset({"WaitingForSnapshot", "WaitingForBase", "WaitingForClone", "WaitingForTemplate", "Quarantined"})
"""Reasons of objects that wait for what another object's work makes: a snapshot, a clone, or the release of one."""


def is_pending(condition: Condition) -> bool:
    """Whether it says that an object is not as its document asks for: work to come, stuck, or not to be told."""
    return (condition.type, condition.status) in {("Stalled", "True"), ("Reconciling", "True"), ("Ready", "Unknown")}
