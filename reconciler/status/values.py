"""What the status store keeps besides events, as values: passes, sizes, revisions, transitions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from reconciler.ids import Revision, VolumeId
    from reconciler.state.conditions import Condition, ObjectKey


@dataclass(frozen=True, slots=True)
class Transition:
    """A condition that appeared, changed its status, or went."""

    object: ObjectKey
    before: Condition | None
    after: Condition | None


class Measured(Protocol):
    """Sizes in bytes as a storage driver measures them; ``exclusive_bytes`` None is not known."""

    @property
    def logical_bytes(self) -> int: ...
    @property
    def exclusive_bytes(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Used:
    """What is remembered of looks at who uses a clone: until when it was in use, and the last look."""

    used_at: datetime
    looked_at: datetime
    sessions: int


@dataclass(frozen=True, slots=True)
class VolumeUsage:
    """Measured bytes of a volume; ``exclusive_bytes`` None is not known."""

    logical_bytes: int
    exclusive_bytes: int | None
    measured_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One action as history keeps it: what was done to ``object``, and what came of it.

    ``reason`` is why it was planned, or the CamelCase word of what it failed with;
    ``changed_by`` who changed the document last, in words, ``asked_by`` whose request it
    was. ``bytes`` are those of the volume that was made or went, once they are known.
    A failure that was repeated ``count`` times began at ``started_at`` first and at
    ``last_at`` last; ``seconds`` are of the last time.
    """

    started_at: datetime
    last_at: datetime | None = None
    seconds: float
    object: ObjectKey
    action: str
    outcome: Literal["succeeded", "failed", "cancelled"]
    reason: str
    message: str = ""
    volume: VolumeId | None = None
    revision: Revision | None = None
    changed_by: str | None = None
    asked_by: str | None = None
    bytes: int | None = None
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRecord:
    """One run of the loop as history keeps it. ``outcome`` is a CamelCase word; ``counts`` are by verb."""

    revision: Revision | None
    started_at: datetime
    finished_at: datetime
    outcome: str
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revisions:
    """The revision in force, and the one last tried with the findings that kept it from being applied."""

    applied: Revision | None = None
    applied_at: datetime | None = None
    attempted: Revision | None = None
    attempted_at: datetime | None = None
    diagnostics: tuple[str, ...] = ()
