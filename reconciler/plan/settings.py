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
    from reconciler.state.observed import SnapshotManifest


Need = Literal["signed", "any"]
"""What is asked of an attestation before anything is delivered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationRules:
    """What a host asks of the attestations of snapshots, by pool and by runtime.

    ``trusted`` are the ids of keys whose signatures count; None: not known (a plan for
    another host). ``signs``: builds of this host are signed.
    """

    pools: Mapping[PoolName, Need] = field(default_factory=dict)
    runtimes: Mapping[RuntimeName, Need] = field(default_factory=dict)
    trusted: frozenset[str] | None = None
    signs: bool = False

    def needed(self, pool: PoolName | None, *runtimes: RuntimeName) -> tuple[Need, str] | None:
        """Return what a clone in a pool (None: it is not known) on a runtime needs, and who asks; the strictest."""
        asked = [(self.pools[pool], f"pool {pool}")] if pool is not None and pool in self.pools else []
        asked += [(self.runtimes[name], f"the runtime {name}") for name in runtimes if name in self.runtimes]
        return next((need for need in asked if need[0] == "signed"), asked[0] if asked else None)

    def problem(self, manifest: SnapshotManifest, need: Need) -> str | None:
        """Return why a snapshot, going by its manifest, has not what is needed."""
        if manifest.clone is not None:
            return f"is a point in the life of clone {manifest.clone}, of which nobody can say what its users put there"
        known = manifest.attestation
        if known is None:
            return "has no attestation (it was built before there were any)"
        if known.signer is None:
            return "has an attestation that is not signed" if need == "signed" else None
        if self.trusted is not None and known.signer not in self.trusted:
            return f"is signed by key {known.signer[:16]}, which this host does not trust (attestation.publicKeys)"
        return None


Effect = Literal["destructive", "heavy"]
"""What maintenance windows are about: lines of a plan that destroy data; builds and first copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceWindow:
    """A time in which actions may be begun, or may not: opens by cron in its time zone, for so long.

    ``only`` are globs of objects, ``Clone/shop-*``.
    """

    kind: Literal["allow", "deny"]
    schedule: str
    duration: timedelta
    timezone: str = "UTC"
    actions: frozenset[Effect] = frozenset({"destructive", "heavy"})
    only: tuple[str, ...] = ("*",)


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
    attestation: AttestationRules = AttestationRules()
    write_back: bool = False
    """Whether documents of expired clones are removed from the repository."""


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

    @property
    def containers(self) -> bool:
        """Whether servers run in containers, where a superuser needs no account of its own."""
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
    attestation: AttestationRules = AttestationRules()
    windows: tuple[MaintenanceWindow, ...] = ()
    suspended: bool = False
    """Whether this host begins nothing at all."""
