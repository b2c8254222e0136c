"""Looks at who uses clones: for ``idle``, before a clone goes, and for people who ask.

Called by ``observe``, ``apply`` and the command line. A look is cheap and bounded in time; many are
made at once. A clone that does not answer is not in the result: nothing may be concluded of it.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from reconciler.engines.base import CloneWork
from reconciler.errors import UnavailableError
from reconciler.ids import ServerName
from reconciler.plan.idle import rests
from reconciler.state.observed import CloneManifest, ClonePhase, ServerState, VolumeState, snapshot_of
from reconciler.status.values import Used

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from reconciler.host import Host
    from reconciler.ids import CloneName, VolumeId
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Activity, ObservedServer, Volume

_AT_ONCE = 16
_SECONDS = 10.0
"""How long all looks of one call may take together; what did not answer by then is left out."""
_OFTEN = 4
"""So many looks are made within the time after which a clone is idle."""
_SELDOM = timedelta(minutes=5)


def look(
    host: Host, volumes: Iterable[Volume], servers: Mapping[ServerName, ObservedServer], seconds: float = _SECONDS
) -> dict[VolumeId, Activity]:
    """Return who uses clones, of those that run and answer within the time."""
    volumes = tuple(volumes)
    running: list[tuple[Volume, ObservedServer | None]] = [(v, None) for v in volumes if _is_file(host, v)]
    running += [(volume, server) for volume in volumes if (server := _running(servers, volume)) is not None]
    # A look that is waited for longer is one of its own: it would get no answer to one that is given up already.
    looks = {(volume.id, seconds): partial(look_at, host, volume, server) for volume, server in running}
    told = host.use_looks.answers(looks, at_once=_AT_ONCE, seconds=seconds)
    return {volume: look.result() for (volume, _seconds), look in told.items() if look.exception() is None}


def look_at(host: Host, volume: Volume, server: ObservedServer | None) -> Activity:
    """Return who uses a running clone, or one that no server serves.

    Raises:
        UnavailableError: it does not answer.

    """
    manifest, name = volume.manifest, ServerName(volume.id)
    if not isinstance(manifest, CloneManifest) or volume.pool not in host.pools:
        raise UnavailableError(f"volume {volume.id} is no clone that can be asked")
    if host.runtimes[manifest.runtime].traits.databases:
        return host.instance(manifest.runtime).activity(volume.id)
    work = CloneWork(
        clone=manifest.clone,
        server=name,
        directory=host.pools[volume.pool].path(volume.id),
        run_directory=host.state.run_directory(name),
        snapshot=snapshot_of(manifest),
        port=server.port if server is not None else None,
        contained=host.runtimes[manifest.runtime].traits.containers,
    )
    return host.engine(manifest.engine).activity(work)


def last_used(
    host: Host,
    desired: Desired,
    volumes: Iterable[Volume],
    servers: Mapping[ServerName, ObservedServer],
    now: datetime,
) -> dict[VolumeId, datetime]:
    """Return until when clones with ``idle`` were in use, or may have been; those that cannot be told are left out.

    A host that writes looks, and remembers; one that only looks goes by what is remembered.
    """
    watched = {v.id: (v, limit) for v, limit in _watched(desired, volumes) if _running(servers, v) is not None}
    known = host.store.activity()
    if host.held is None:
        return {volume: known[volume].used_at for volume in watched if volume in known}
    due = {volume: v for volume, (v, limit) in watched.items() if _is_due(known.get(volume), limit, now)}
    seen = {
        volume: _used(known.get(volume), activity, servers[ServerName(volume)], now)
        for volume, activity in look(host, due.values(), servers).items()
    }
    host.store.write_activity(seen)
    host.store.forget_activity(known.keys() - watched.keys())
    fresh = {volume: used for volume, used in known.items() if volume in watched and volume not in due} | seen
    return {volume: used.used_at for volume, used in fresh.items()}


def is_used(host: Host, volume: Volume, server: ObservedServer) -> bool:
    """Whether somebody is connected to a running clone, or was since the last look.

    Raises:
        UnavailableError: it does not answer.

    """
    activity, known = look_at(host, volume, server), host.store.activity().get(volume.id)
    return bool(activity.connections) or (known is not None and known.sessions != activity.sessions)


def _watched(desired: Desired, volumes: Iterable[Volume]) -> list[tuple[Volume, timedelta]]:
    """Return the current volumes of clones that should run now and stop when nobody uses them, and after how long."""
    asked = {name: clone for name, clone in desired.clones.items() if clone.idle is not None and clone.running}
    current: dict[CloneName, tuple[int, Volume, timedelta]] = {}
    for volume in volumes if asked else ():
        manifest = volume.manifest
        if not isinstance(manifest, CloneManifest) or manifest.phase is not ClonePhase.READY:
            continue
        clone = asked.get(manifest.clone)
        if clone is None or clone.idle is None or volume.state is not VolumeState.COMPLETE or rests(clone, manifest):
            continue
        known = current.get(manifest.clone)
        if known is None or known[0] < manifest.generation:
            current[manifest.clone] = manifest.generation, volume, clone.idle
    return [(volume, limit) for _generation, volume, limit in current.values()]


def _running(servers: Mapping[ServerName, ObservedServer], volume: Volume) -> ObservedServer | None:
    server = servers.get(ServerName(volume.id))
    return server if server is not None and server.state is ServerState.RUNNING else None


def _is_file(host: Host, volume: Volume) -> bool:
    """Whether a volume is a clone that is there without a server."""
    manifest = volume.manifest
    if not isinstance(manifest, CloneManifest) or manifest.phase is not ClonePhase.READY:
        return False
    runtime = host.runtimes.get(manifest.runtime)
    return volume.state is VolumeState.COMPLETE and runtime is not None and not runtime.traits.servers


def _is_due(known: Used | None, limit: timedelta, now: datetime) -> bool:
    """Whether to look again; before a clone is stopped, always."""
    if known is None or now - known.used_at >= limit:
        return True
    return now - known.looked_at >= min(limit / _OFTEN, _SELDOM)


def _used(known: Used | None, activity: Activity, server: ObservedServer, now: datetime) -> Used:
    """Return what a look says; a first one, and one that finds another number of sessions, that it is in use."""
    if known is None or activity.connections or activity.sessions != known.sessions:
        return Used(now, now, activity.sessions)
    return Used(max(known.used_at, server.started_at or known.used_at), now, activity.sessions)
