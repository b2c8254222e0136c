"""Looking at the world: every pool and runtime once per pass, sources only where a build may be due.

Called by the loop and by the commands that only look. Changes nothing. What cannot be
asked is reported as unknown and never as gone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from reconciler import mirrors
from reconciler.activity import last_used, look
from reconciler.errors import ReconcilerError, TransientError, UnavailableError
from reconciler.plan.diff import builds_due
from reconciler.plan.fingerprints import GENERATED
from reconciler.plan.leftovers import is_ending
from reconciler.sources import identify, live_server, repositories
from reconciler.state.desired import PrimarySource
from reconciler.state.grants import Grants
from reconciler.state.observed import UNPLANNED, CloneManifest, Input, Observed, ObservedPool, ObservedTemplate

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping
    from datetime import datetime

    from reconciler.host import Host
    from reconciler.ids import CloneName, ImageName, PoolName, RuntimeName, SecretName, ServerName, VolumeId
    from reconciler.state.conditions import ObjectKey
    from reconciler.state.desired import Desired, DesiredImage
    from reconciler.state.observed import ObservedServer, Volume
    from reconciler.storage.base import Storage

_MIRROR_SECONDS = 15.0
"""Longer than mirrors and primaries are waited for that are away, which is told by name."""
_SOURCES_AT_ONCE = 64
_SOURCE_SECONDS = 330.0
"""Longer than a primary, or a tool of backups, is waited for, which is told by name."""
_SILENT = Input(
    None,
    "the source has not answered yet; the disk or the server that it is on may be away",
    UnavailableError.reason,
    passing=True,
)
_MOST_ASKED = 100
_ASKED_SECONDS = 3.0
"""Who uses clones that are about to go is worth a look, but holds up no pass."""

PROGRESSING = "Progressing"
"""Reason of the condition that the loop gives to what it is working on."""


def observe(
    host: Host,
    desired: Desired,
    now: datetime,
    *,
    in_flight: frozenset[ObjectKey],
    in_use: frozenset[VolumeId] | None = None,
) -> Observed:
    """Return what exists now, as far as it can be told."""
    pools, volumes = _pools(host.pools)
    servers, unknown = _servers(host)
    observed = Observed(
        installation=host.installation,
        pools=pools,
        volumes=volumes,
        servers=servers,
        unknown_runtimes=unknown,
        templates=_templates(host, unknown),
        secrets=_secrets(host, desired),
        lost_credentials=_lost_credentials(host, volumes),
        tombstones=host.state.tombstones(),
        failures=host.store.failures(),
        in_flight=in_flight,
        in_use=in_use,
        requests=tuple(one for one in host.state.requests.pending() if one.verb not in UNPLANNED),
        recent_deletions=host.state.recent_deletions(now),
        refreshed=host.store.refreshed(),
        answered=host.store.answered(),
        skipped=host.store.skipped(),
    )
    observed = replace(observed, mirrors=mirrors.look(host, desired, volumes, servers, _MIRROR_SECONDS))
    due = builds_due(desired, observed, now)
    ending = [volume for volume in volumes if is_ending(desired, volume, now)]
    return replace(
        observed,
        inputs=_inputs(host, desired, due),
        last_used=last_used(host, desired, volumes, servers, now),
        activity=look(host, ending[:_MOST_ASKED], servers, _ASKED_SECONDS),
    )


def in_flight_elsewhere(host: Host) -> frozenset[ObjectKey]:
    """Return what another process, the loop of this state, is working on; nothing for the loop itself."""
    if host.held is not None or host.state.lock_owner() is None:
        return frozenset()
    return frozenset(
        key
        for key, conditions in host.store.conditions().items()
        if any(condition.reason == PROGRESSING for condition in conditions)
    )


def _pools(storages: Mapping[PoolName, Storage]) -> tuple[dict[PoolName, ObservedPool], tuple[Volume, ...]]:
    pools: dict[PoolName, ObservedPool] = {}
    volumes: list[Volume] = []
    for name, storage in storages.items():
        pool = storage.probe()
        if pool.available:
            try:
                volumes.extend(storage.volumes())
            except ReconcilerError as error:
                pool = replace(pool, available=False, message=str(error))
        pools[name] = pool
    return pools, tuple(volumes)


def _servers(host: Host) -> tuple[dict[ServerName, ObservedServer], dict[RuntimeName, str]]:
    servers: dict[ServerName, ObservedServer] = {}
    unknown: dict[RuntimeName, str] = {}
    for name, runtime in host.runtimes.items():
        try:
            servers.update(runtime.servers())
        except ReconcilerError as error:
            unknown[name] = str(error)
    for started in host.state.unfinished_starts() & servers.keys():
        servers[started] = replace(servers[started], starting=True)
    return servers, unknown


def _templates(host: Host, unknown: dict[RuntimeName, str]) -> tuple[ObservedTemplate, ...]:
    """Return what clones on instances are copied from; an instance that does not answer is unknown from then on."""
    found: list[ObservedTemplate] = []
    for name, instance in host.instances.items():
        if name in unknown:
            continue
        try:
            known = instance.templates()
        except ReconcilerError as error:
            unknown[name] = str(error)
            continue
        found += [ObservedTemplate(name, one.snapshot, one.databases, one.instant) for one in known]
    return tuple(sorted(found, key=lambda one: (one.runtime, one.snapshot)))


def _lost_credentials(host: Host, volumes: tuple[Volume, ...]) -> frozenset[CloneName]:
    """Return clones whose generated passwords are gone; one look at the directory, not one per clone."""
    kept = host.state.credentials.clones()
    return frozenset(
        manifest.clone
        for volume in volumes
        if isinstance(manifest := volume.manifest, CloneManifest)
        and manifest.clone not in kept
        and any(user.password == GENERATED for user in manifest.users)
    )


def _secrets(host: Host, desired: Desired) -> dict[SecretName, str]:
    found = {name: host.secret_fingerprint(name) for name in desired.secrets}
    return {name: fingerprint for name, fingerprint in found.items() if fingerprint is not None}


def _inputs(host: Host, desired: Desired, due: Iterable[ImageName]) -> dict[ImageName, Input]:
    """Identify sources, all at the same time: each may wait for a primary, or for a file system, that is away."""
    images = [desired.images[name] for name in due]
    asked = {image.name: _question(host, image) for image in images}
    looks = {asked[image.name]: partial(_input, host, image) for image in images}
    told = host.source_looks.answers(looks, at_once=_SOURCES_AT_ONCE, seconds=_SOURCE_SECONDS)
    return {name: told[question].result() if question in told else _SILENT for name, question in asked.items()}


def _question(host: Host, image: DesiredImage) -> Hashable:
    """Return what the identity of an image's source depends on: its document may change while a look hangs."""
    secret = host.secret_fingerprint(image.source.url) if isinstance(image.source, PrimarySource) else None
    return image.name, image.engine, image.source, image.databases, secret


def _input(host: Host, image: DesiredImage) -> Input:
    """Identify an image's source now; what is wrong with it is an answer as well."""
    try:
        roots, known = Grants(host.config).roots(image.name), repositories(host.config)
        live = live_server(image, host.secrets.get)
        found = identify(host.engine(image.engine), image.source, roots, live=live, repositories=known)
        return Input(found.input_id, size_bytes=found.size_bytes, notes=found.notes)
    except ReconcilerError as error:
        return Input(None, str(error), error.reason, passing=isinstance(error, TransientError))
