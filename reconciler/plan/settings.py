"""What the host's configuration decides about planning and policy.

Made by the outermost functions from the configuration and handed in as values; planning
itself never reads a file, asks a driver or looks at a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Protocol

from reconciler.ids import PoolName, RuntimeName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.ids import VolumeId


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """Host decisions that a plan depends on."""

    undo_grace: timedelta = timedelta(hours=1)
    """How long a retired generation of a clone is kept for undo."""
    pools: frozenset[PoolName] = frozenset()
    """Pools known from configuration or memory; one that was not observed counts as unavailable."""
    runtimes: frozenset[RuntimeName] | None = None
    """Runtimes that this host has; None: not checked (a plan for another host)."""
    serverless: frozenset[RuntimeName] = frozenset({RuntimeName("none")})
    """Runtimes that run no server: their clones are files only."""


class RuntimeAbilities(Protocol):
    """What policy asks of a runtime; the traits of a runtime fit it."""

    @property
    def resources(self) -> frozenset[str]:
        """Names of the limits that it can hold a server to."""
        ...

    @property
    def own_accounts(self) -> bool:
        """Whether a clone can run under an account of its own."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Limits and abilities that policy holds a plan against. Sizes and memory are in bytes."""

    max_delete: int = 10
    max_delete_percent: float = 50.0
    unmasked: Literal["allow", "deny"] = "allow"
    memory_limit: int | None = None
    """Sum of declared memory that running clones may reach; None: no limit."""
    runtimes: Mapping[RuntimeName, RuntimeAbilities] = field(default_factory=dict)
    sizes: Mapping[VolumeId, int] = field(default_factory=dict)
    """Logical bytes of snapshots, as last measured."""
