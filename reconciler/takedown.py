"""Ending what an installation runs, and removing all that it made.

Called by ``reconciler halt`` and ``uninstall``, as the one writer of the state. Deletions
are planned and performed as those of a commit without documents, so mirrors leave their
primaries in order; what must not vanish (protected clones, quarantined snapshots, what
cannot be seen) is an obstacle before anything begins. A process that is killed meanwhile
leaves what it has not removed, and the next one goes on.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from reconciler.apply.executor import Executor
from reconciler.apply.serving import own_account
from reconciler.errors import InputError, ReconcilerError, RefusedError, UnavailableError
from reconciler.ids import Revision, ServerName, VolumeId
from reconciler.observe import observe
from reconciler.plan.diff import plan
from reconciler.state.desired import Desired
from reconciler.state.observed import (
    BuildManifest,
    CloneManifest,
    MirrorManifest,
    SnapshotManifest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from reconciler.host import Host
    from reconciler.ids import PoolName
    from reconciler.repository.base import Entry
    from reconciler.state.observed import Manifest, Observed, ObservedServer, Volume

_PASSES = 8
"""Clones first, then the snapshots that they let go of, then images below these: a few passes always do."""
_STOPPED_AT_ONCE = 8
_NOTHING = Desired(Revision("nothing"), {}, {})


@dataclass(frozen=True, slots=True)
class Item:
    """Something that is removed: its kind in words, its name, what to know of it, and its bytes where known."""

    kind: str
    name: str
    about: str = ""
    size: int | None = None


def halt(host: Host, pools: frozenset[PoolName]) -> tuple[ServerName, ...]:
    """Stop the servers of everything that lies in some pools, and return their names; the next pass starts them again.

    Raises:
        UnavailableError: a pool or a runtime cannot be asked, so there may be servers that nobody sees.
        BusyError: a server does not end.

    """
    observed = _look(host)
    unseen = [f"pool {name}: {observed.pools[name].message}" for name in pools if not observed.pools[name].available]
    unseen += [f"runtime {name}: {why}" for name, why in observed.unknown_runtimes.items()]
    if unseen:
        raise UnavailableError(f"there may be servers that nobody sees: {'; '.join(unseen)}")
    volumes = {volume.id: volume for volume in observed.volumes if volume.pool in pools}
    servers = [server for name, server in observed.servers.items() if VolumeId(name) in volumes]
    with ThreadPoolExecutor(_STOPPED_AT_ONCE) as lanes:
        list(lanes.map(lambda server: _stop(host, server, volumes[VolumeId(server.name)].manifest), servers))
    return tuple(sorted(server.name for server in servers))


def _stop(host: Host, server: ObservedServer, manifest: Manifest) -> None:
    own = own_account(manifest) if isinstance(manifest, CloneManifest) else None
    host.runtime(server.runtime).stop(server.name, own=own)


def obstacles(host: Host) -> tuple[str, ...]:
    """Say what must not vanish, or cannot be seen: nothing is removed while there is any of it."""
    observed = _look(host)
    return tuple(_obstacles(host, observed))


def _obstacles(host: Host, observed: Observed) -> Iterator[str]:
    for name in sorted(host.lost_pools):
        yield f"pool {name} was in use and is not in the configuration any more: add it again"
    for name, pool in observed.pools.items():
        if not pool.available:
            yield f"pool {name} cannot be asked: {pool.message}"
        elif pool.unknown:
            yield f"pool {name} has manifests that cannot be read: {', '.join(sorted(pool.unknown))}"
    for runtime, why in observed.unknown_runtimes.items():
        yield f"the runtime {runtime} cannot be asked: {why}"
    protected = {m.clone for m in _manifests(observed) if isinstance(m, CloneManifest) and m.protected}
    for clone in sorted(protected):
        yield f"clone {clone} is protected: set protected to false in git, and let a pass see it"
    for manifest in _manifests(observed):
        if isinstance(manifest, SnapshotManifest) and manifest.quarantine is not None:
            yield f"snapshot {manifest.snapshot} is kept as evidence: reconciler quarantine --release it first"


def _manifests(observed: Observed) -> Iterator[Manifest]:
    return (volume.manifest for volume in observed.volumes)


def inventory(host: Host) -> tuple[Item, ...]:
    """Return what :func:`remove_volumes` removes, with sizes measured now where they are not known."""
    observed = _look(host)
    sizes = _sizes(host, observed.volumes)
    return tuple(_item(volume, observed, sizes.get(volume.id)) for volume in observed.volumes)


def _sizes(host: Host, volumes: Iterable[Volume]) -> Mapping[VolumeId, int]:
    found: dict[VolumeId, int] = {}
    for name, storage in host.pools.items():
        used = storage.usage([volume.id for volume in volumes if volume.pool == name])
        found |= {volume: size.logical_bytes for volume, size in used.items()}
    return found


def _item(volume: Volume, observed: Observed, size: int | None) -> Item:
    manifest = volume.manifest
    about = [f"in pool {volume.pool}", "running" if ServerName(volume.id) in observed.servers else ""]
    match manifest:
        case CloneManifest():
            kind = "clone"
            about.append(f"of {manifest.owner}" if manifest.owner else "")
        case MirrorManifest():
            kind = "mirror"
            about.append(f"with the slot {manifest.slot} at its primary" if manifest.slot else "")
        case SnapshotManifest():
            kind = "snapshot"
        case BuildManifest():
            kind = "unfinished build"
        case _:
            kind = "copy of a mirror"
    return Item(kind, volume.id, ", ".join(filter(None, about)), size)


def remove_volumes(host: Host, tell: Callable[[str], None]) -> None:
    """Stop every server and remove every volume of the installation, mirrors with what they have at their primaries.

    Raises:
        RefusedError: there are :func:`obstacles`.
        UnavailableError: something could not be removed; the rest is, and the next call goes on.

    """
    if found := obstacles(host):
        raise RefusedError("nothing was removed: " + "; ".join(found))
    settings = replace(host.plan_settings, undo_grace=timedelta(0), write_back=False)
    executor = Executor(host, concurrency=host.config.concurrency)
    complaints: dict[str, str] = {}
    try:
        for _ in range(_PASSES):
            observed = replace(_look(host), failures={}, requests=())
            made = plan(_NOTHING, observed, host.clock.now(), settings=settings)
            if not made.actions:
                break
            tasks = executor.submit(made, _NOTHING, _NoTree())
            for task in tasks:
                tell(f"removing {task.key}")
                task.done.wait()
            complaints = {str(task.key): task.complaint for task in tasks if task.error is not None}
            if complaints and len(complaints) == len(tasks):
                break
    finally:
        executor.close(abandon=False)
    left = _look(host)
    if left.volumes or left.servers:
        names = ", ".join(sorted({*(volume.id for volume in left.volumes), *left.servers}))
        why = "; ".join(f"{key}: {complaint}" for key, complaint in complaints.items()) or "they are still needed"
        hint = "reconciler forget IMAGE gives up what is left at a primary that is gone for good"
        raise UnavailableError(f"not everything could be removed: {names} ({why})", hint=hint)


def _look(host: Host) -> Observed:
    return observe(host, _NOTHING, host.clock.now(), in_flight=frozenset())


class _NoTree:
    """The commit of nobody: work that only removes reads none of its files."""

    revision = _NOTHING.revision
    rewrite = ""

    def entries(self) -> Mapping[str, Entry]:
        return {}

    def read(self, path: str) -> bytes:
        raise _nothing(path)

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        yield from ((path, self.read(path)) for path in paths)

    def object_id(self, path: str) -> str | None:  # noqa: ARG002 - there is nothing at any path
        return None

    def extract(self, path: str, target: Path) -> None:
        del target
        raise _nothing(path)


def _nothing(path: str) -> ReconcilerError:
    return InputError(f"there is no {path}: nothing is read while everything is removed")
