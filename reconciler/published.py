"""The published status of a host: its observation and what its configuration decides, for plans elsewhere.

``status -o json`` says the same of the host, beside what people ask it for. This one is
written at the end of passes and read by ``plan --observed``. Whoever can read the
repository, or a web server, can read it, so it holds no value of a secret and no text
that an error, a database or a person wrote: those may quote rows, hosts or names.
Fingerprints in it are keyed with a key that never leaves the host. Pure.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reconciler.errors import ConfigError
from reconciler.ids import PoolName, RuntimeName, SecretName, VolumeId
from reconciler.state.observed import MirrorManifest, ObservedMirror, SnapshotManifest
from reconciler.status.observation import observed_from_json, observed_to_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from reconciler.plan.settings import PlanSettings, PolicySettings
    from reconciler.spec.config import Config, MaintenanceWindow
    from reconciler.state.conditions import Condition, ObjectKey
    from reconciler.state.observed import Failure, Input, Observed, ObservedPool, Volume

Json = dict[str, Any]

_FORMAT = 1
_SAME_VERSION = "plan with the version of the reconciler that published it"
_ELSEWHERE = "the status on the host says why"
"""Stands for every text that a published status leaves out."""
_NOT_PUBLISHED = "/not-published"
_SOME_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_STEPS = 20
"""A pool's free bytes count as changed by a twentieth of the pool."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a runtime can do, as policy asks it; see :class:`~reconciler.plan.settings.RuntimeAbilities`."""

    resources: frozenset[str]
    own_accounts: bool
    containers: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a plan depends on besides specs and observation; memory and sizes are in bytes.

    ``config`` is as YAML writes it, without what only the host itself needs.
    ``missing`` are secrets that documents name and the host does not have.
    """

    config: Json = field(default_factory=dict)
    path: str = "."
    """Directory of the specs within the repository."""
    pools: frozenset[PoolName] = frozenset()
    runtimes: Mapping[RuntimeName, Abilities] | None = None
    memory_limit: int | None = None
    sizes: Mapping[VolumeId, int] = field(default_factory=dict)
    trusted: frozenset[str] | None = None
    write_back: bool = False
    missing: frozenset[SecretName] | None = None


def host_facts(
    config: Config, settings: PlanSettings, policy: PolicySettings, *, missing: frozenset[SecretName]
) -> HostFacts:
    """Return what of a host is published."""
    return HostFacts(
        config=_public_config(config),
        path=config.repository.path if config.repository.url is not None else ".",
        pools=settings.pools,
        runtimes={
            name: Abilities(has.resources, has.own_accounts, has.containers) for name, has in policy.runtimes.items()
        },
        memory_limit=policy.memory_limit,
        sizes=policy.sizes,
        trusted=policy.attestation.trusted,
        write_back=settings.write_back,
        missing=missing,
    )


def facts_json(facts: HostFacts) -> Json:
    """Return what of a host a plan depends on, as values that JSON has."""
    return {
        "config": facts.config,
        "path": facts.path,
        "pools": sorted(facts.pools),
        "runtimes": {
            name: {
                "resources": sorted(has.resources),
                "ownAccounts": has.own_accounts,
                "containers": has.containers,
            }
            for name, has in sorted((facts.runtimes or {}).items())
        },
        "memoryLimit": facts.memory_limit,
        "sizes": dict(sorted(facts.sizes.items())),
        "trusted": None if facts.trusted is None else sorted(facts.trusted),
        "writeBack": facts.write_back,
        "missingSecrets": sorted(facts.missing or ()),
    }


def published_document(
    observed: Observed, facts: HostFacts, conditions: Mapping[ObjectKey, tuple[Condition, ...]], *, revision: str
) -> Json:
    """Return the document; its ``digest`` stays the same while nothing but times and small change changes."""
    shown = _without_texts(observed)
    objects = [
        {"kind": str(key.kind), "name": key.name, "conditions": [_condition(one) for one in known]}
        for key, known in sorted(conditions.items())
        if known
    ]
    steady = [
        revision,
        objects,
        facts_json(replace(facts, sizes=_fixed_sizes(shown, facts))),
        observed_to_json(_steady(shown)),
    ]
    digest = hashlib.sha256(json.dumps(steady, sort_keys=True).encode()).hexdigest()
    return {
        "format": _FORMAT,
        "revision": revision,
        "digest": digest,
        "objects": objects,
        "host": facts_json(facts),
        "observed": observed_to_json(shown),
    }


def read_published(data: bytes) -> tuple[Observed, HostFacts | None]:
    """Return what a published status says; without facts of the host for a plain ``status -o json``.

    Raises:
        ConfigError: it is neither.

    """
    observed = observed_from_json(data)
    document = json.loads(data)
    if document.get("format", _FORMAT) != _FORMAT:
        raise ConfigError("the status was published in another format than this version reads", hint=_SAME_VERSION)
    host = document.get("host")
    return observed, None if host is None else _facts(host)


def _condition(condition: Condition) -> Json:
    return {"type": condition.type, "status": condition.status, "reason": condition.reason}


def _facts(host: Any) -> HostFacts:  # noqa: ANN401 - whatever JSON gave
    try:
        return HostFacts(
            config=dict(host["config"]),
            path=str(host["path"]),
            pools=frozenset(PoolName(str(name)) for name in host["pools"]),
            runtimes={
                RuntimeName(str(name)): Abilities(
                    frozenset(map(str, has["resources"])), bool(has["ownAccounts"]), bool(has["containers"])
                )
                for name, has in host["runtimes"].items()
            },
            memory_limit=None if host["memoryLimit"] is None else int(host["memoryLimit"]),
            sizes={VolumeId(str(volume)): int(size) for volume, size in host["sizes"].items()},
            trusted=None if host["trusted"] is None else frozenset(map(str, host["trusted"])),
            write_back=bool(host["writeBack"]),
            missing=frozenset(SecretName(str(name)) for name in host["missingSecrets"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            "the published status cannot be read: what it says of its host does not have the expected form",
            hint=_SAME_VERSION,
        ) from error


def _runtimes(config: Config) -> Json:
    runtimes = {name: getattr(config.runtimes, name) for name in type(config.runtimes).model_fields}
    instances = runtimes.pop("instance")
    found: Json = {name: _need(runtime.require_attestation) for name, runtime in runtimes.items()}
    if instances:
        named = {"url": {"secret": "not-published"}}
        found["instance"] = {name: named | _need(one.require_attestation) for name, one in instances.items()}
    return found


def _public_config(config: Config) -> Json:
    """Return the part of a configuration that plans depend on; names stand for programs and files of the host."""
    document: Json = {
        "selector": dict(config.selector),
        "repository": {"limits": _limits(config)},
        "pools": {name: _need(pool.require_attestation) for name, pool in config.pools.items()},
        "runtimes": _runtimes(config),
        "sources": {
            "roots": [str(root) for root in config.sources.roots],
            "repositories": {
                name: {"tool": kept.tool, "config": _NOT_PUBLISHED} | ({"stanza": "-"} if kept.stanza else {})
                for name, kept in config.sources.repositories.items()
            },
        },
        "masking": {
            "unmasked": config.masking.unmasked,
            "maskers": {name: {"argv": [_NOT_PUBLISHED]} for name in config.masking.maskers},
        },
        "prune": {"maxDelete": config.prune.max_delete, "maxDeletePercent": config.prune.max_delete_percent},
        "undo": {"grace": _duration(config.undo.grace)},
        "suspend": config.suspend,
        "windows": [_window(window) for window in config.windows],
    }
    if config.grants is not None:
        document["grants"] = [grant.model_dump(mode="json", by_alias=True) for grant in config.grants]
    if config.attestation.key is not None:
        document["attestation"] = {"key": {"secret": "not-published"}}
    return document


def _limits(config: Config) -> Json:
    limits = config.repository.limits
    return {"files": limits.files, "fileSize": limits.file_size, "totalSize": limits.total_size}


def _need(required: str | None) -> Json:
    return {} if required is None else {"requireAttestation": required}


def _window(window: MaintenanceWindow) -> Json:
    return {
        "kind": window.kind,
        "schedule": window.schedule,
        "duration": _duration(window.duration),
        "timezone": window.timezone,
        "actions": list(window.actions),
        "only": list(window.only),
    }


def _duration(value: timedelta) -> str:
    return f"{int(value.total_seconds())}s"


def _without_texts(observed: Observed) -> Observed:
    """Leave out who asked and who is connected, and every text that is not of the reconciler's own making."""
    return replace(
        observed,
        pools={name: _pool(pool) for name, pool in observed.pools.items()},
        volumes=tuple(_volume(volume) for volume in observed.volumes),
        unknown_runtimes=dict.fromkeys(observed.unknown_runtimes, _ELSEWHERE),
        inputs={name: _input(found) for name, found in observed.inputs.items()},
        mirrors={name: _mirror(mirror) for name, mirror in observed.mirrors.items()},
        failures={key: tuple(_failure(one) for one in known) for key, known in observed.failures.items()},
        requests=tuple(replace(request, requested_by="", note="") for request in observed.requests),
        activity={},
    )


def _told(text: str) -> str:
    return _ELSEWHERE if text else ""


def _pool(pool: ObservedPool) -> ObservedPool:
    return replace(pool, message=_told(pool.message), refusal=_told(pool.refusal), pending=_told(pool.pending))


def _volume(volume: Volume) -> Volume:
    manifest = volume.manifest
    if isinstance(manifest, MirrorManifest) and manifest.lost:
        return replace(volume, manifest=replace(manifest, lost=_ELSEWHERE))
    if isinstance(manifest, SnapshotManifest) and (manifest.quarantine or manifest.notes or manifest.source_notes):
        kept = None if manifest.quarantine is None else replace(manifest.quarantine, reason="", by="")
        return replace(volume, manifest=replace(manifest, quarantine=kept, notes=(), source_notes=()))
    return volume


def _input(found: Input) -> Input:
    return replace(found, problem=None if found.problem is None else _ELSEWHERE, notes=())


def _mirror(mirror: ObservedMirror) -> ObservedMirror:
    return replace(mirror, problem=_told(mirror.problem), lost=_told(mirror.lost), behind=_told(mirror.behind))


def _failure(failure: Failure) -> Failure:
    return replace(failure, message=f"{failure.reason}; {_ELSEWHERE}")


def _fixed_sizes(observed: Observed, facts: HostFacts) -> Mapping[VolumeId, int]:
    """Return the sizes that do not change: those of snapshots."""
    snapshots = (volume.id for volume in observed.volumes if isinstance(volume.manifest, SnapshotManifest))
    return {volume: facts.sizes[volume] for volume in snapshots if volume in facts.sizes}


def _steady(observed: Observed) -> Observed:
    """Leave out what changes by itself from pass to pass: times, free room, how far mirrors have come."""
    return replace(
        observed,
        pools={
            name: replace(pool, free_bytes=pool.free_bytes * _STEPS // max(1, pool.total_bytes))
            for name, pool in observed.pools.items()
        },
        servers={name: replace(server, started_at=None) for name, server in observed.servers.items()},
        mirrors={
            name: ObservedMirror(
                following=mirror.following, problem=mirror.problem, lost=mirror.lost, outdated=mirror.outdated
            )
            for name, mirror in observed.mirrors.items()
        },
        failures={
            key: tuple(replace(one, attempts=0, at=_SOME_TIME, retry_at=None) for one in known)
            for key, known in observed.failures.items()
        },
        recent_deletions=dict.fromkeys(observed.recent_deletions, _SOME_TIME),
        refreshed={},
        skipped={},
        last_used={},
    )
