"""The document of ``status -o json``: images, snapshots, clones, conditions, and the observation behind them.

Built by the command line and the web from what a look at the world returned; pure.
Keys are stable: people script against them. It holds no password and no secret's
value; fingerprints in ``observed`` are keyed with a key that never leaves the host.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from reconciler.ids import CloneName, Revision, ServerName, SnapshotId, VolumeId, instance_of
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.desired import Desired
from reconciler.state.hosted import login_name, public_name
from reconciler.state.observed import (
    BuildManifest,
    CloneManifest,
    ClonePhase,
    MirrorManifest,
    RawManifest,
    ServerState,
    SnapshotManifest,
    Volume,
    VolumeState,
)
from reconciler.state.quarantine import quarantined
from reconciler.state.servers import Endpoint
from reconciler.status.files import format_second
from reconciler.status.observation import observed_to_json
from reconciler.status.values import Revisions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    from reconciler.ids import ImageName, RuntimeName
    from reconciler.repository.base import Change
    from reconciler.state.conditions import Condition
    from reconciler.state.desired import DesiredClone, DesiredImage, DocumentRef
    from reconciler.state.observed import Activity, Observed
    from reconciler.status.values import VolumeUsage

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that a status document is made of.

    ``desired`` is None while there is no good commit. ``changes`` says who changed a
    file last, by path. ``advertise`` is the host name that clients use, by runtime.
    ``next_refreshes`` and ``kept`` are what planning says of images and of snapshots.
    """

    now: datetime
    observed: Observed
    desired: Desired | None = None
    revisions: Revisions = field(default_factory=Revisions)
    conditions: Mapping[ObjectKey, tuple[Condition, ...]] = field(default_factory=dict)
    usage: Mapping[VolumeId, VolumeUsage] = field(default_factory=dict)
    changes: Mapping[str, Change] = field(default_factory=dict)
    advertise: Mapping[RuntimeName, str] = field(default_factory=dict)
    ports: Mapping[RuntimeName, int] = field(default_factory=dict)
    """The port of all clones of a runtime, where they share one."""
    files: Mapping[VolumeId, Path] = field(default_factory=dict)
    """The first database of clones that no server serves: nothing of them runs or stops."""
    activity: Mapping[VolumeId, Activity] = field(default_factory=dict)
    """Who uses clones, where somebody asked for that."""
    next_refreshes: Mapping[ImageName, datetime] = field(default_factory=dict)
    kept: Mapping[SnapshotId, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Index:
    """The volumes by what asks for them, found in one walk: there may be tens of thousands."""

    snapshots: dict[ImageName, list[tuple[Volume, SnapshotManifest]]]
    builds: dict[ImageName, list[BuildManifest]]
    clones: dict[CloneName, list[Volume]]
    used_by: dict[SnapshotId, set[CloneName]]
    data_as_of: dict[SnapshotId, datetime]
    created_at: dict[SnapshotId, datetime]
    mirrors: dict[ImageName, list[tuple[Volume, MirrorManifest]]] = field(default_factory=dict)
    raws: dict[VolumeId, list[RawManifest]] = field(default_factory=dict)
    """Of each mirror the raw copies from which its log can be replayed."""
    quarantined: Mapping[SnapshotId, str] = field(default_factory=dict)
    newest: Mapping[ImageName, SnapshotManifest] = field(default_factory=dict)
    """Of each image the newest snapshot that something may be made of."""

    @classmethod
    def of(cls, observed: Observed) -> _Index:
        index = cls({}, {}, {}, {}, {}, {})
        for volume in observed.volumes:
            match volume.manifest:
                case SnapshotManifest() as manifest if volume.state is VolumeState.COMPLETE:
                    index.snapshots.setdefault(manifest.image, []).append((volume, manifest))
                    index.created_at[manifest.snapshot] = manifest.created_at
                    index.data_as_of[manifest.snapshot] = manifest.data_as_of or manifest.created_at
                case BuildManifest(template=None) as manifest if volume.state is not VolumeState.DELETING:
                    index.builds.setdefault(manifest.image, []).append(manifest)
                case MirrorManifest() as manifest:
                    index.mirrors.setdefault(manifest.image, []).append((volume, manifest))
                case RawManifest() as manifest if volume.state is VolumeState.COMPLETE:
                    index.raws.setdefault(manifest.mirror, []).append(manifest)
                case CloneManifest() as manifest if volume.state is not VolumeState.DELETING:
                    index.clones.setdefault(manifest.clone, []).append(volume)
                    index.used_by.setdefault(manifest.snapshot, set()).add(manifest.clone)
                case _:  # on its way out: nothing that a person could use
                    pass
        return index


def status_document(facts: Facts) -> Json:
    """Return the status document, as values that JSON has."""
    index = _Index.of(facts.observed)
    manifests = (manifest for known in index.snapshots.values() for _volume, manifest in known)
    nothing = Desired(Revision(""), {}, {})
    withheld = quarantined(facts.desired or nothing, facts.observed, manifests)
    index = replace(index, quarantined=withheld, newest=_newest(index, withheld))
    images = {
        *index.snapshots,
        *index.builds,
        *index.mirrors,
        *(facts.desired.images if facts.desired is not None else ()),
    }
    clones = {*index.clones, *(facts.desired.clones if facts.desired is not None else ())}
    desired = facts.desired
    revision = desired.revision if desired is not None else facts.revisions.applied
    return {
        "revision": revision,
        "attemptedRevision": facts.revisions.attempted,
        "appliedAt": _time(facts.revisions.applied_at),
        "diagnostics": list(facts.revisions.diagnostics),
        "generatedAt": _time(facts.now),
        "conditions": _conditions_of_all(facts),
        "pools": _pools(facts),
        "images": [_image(facts, index, name) for name in sorted(images)],
        "clones": [_clone(facts, index, name) for name in sorted(clones)],
        "observed": observed_to_json(facts.observed),
    }


def _newest(index: _Index, withheld: Mapping[SnapshotId, str]) -> dict[ImageName, SnapshotManifest]:
    usable = (
        manifest
        for known in index.snapshots.values()
        for _, manifest in known
        if _is_refresh(manifest) and manifest.snapshot not in withheld
    )
    ordered = sorted(usable, key=lambda manifest: (manifest.created_at, manifest.snapshot))
    return {manifest.image: manifest for manifest in ordered}


def _is_refresh(manifest: SnapshotManifest) -> bool:
    """Whether a snapshot is of its image's source as it was then: not of a moment, not of a clone."""
    return manifest.at is None and manifest.clone is None


def current_volume(volumes: Iterable[Volume], clone: CloneName) -> tuple[Volume, CloneManifest] | None:
    """Return the volume that a clone is served from: the highest generation that is ready."""
    ready = [
        (volume, volume.manifest)
        for volume in volumes
        if isinstance(volume.manifest, CloneManifest)
        and volume.manifest.clone == clone
        and volume.manifest.phase is ClonePhase.READY
        and volume.state is VolumeState.COMPLETE
    ]
    return max(ready, key=lambda found: found[1].generation, default=None)


def endpoint_of(
    manifest: CloneManifest,
    host: str,
    *,
    port: int | None = None,
    path: Path | None = None,
    database: str | None = None,
    user: str | None = None,
) -> Endpoint:
    """Return where a clone is reached: unless told otherwise its first database, as its owner or else its first user.

    Both have names of their own on an instance, where ``database`` and ``user`` are those of the document.
    """
    place = database or (manifest.databases[0] if manifest.databases else "")
    login = user or main_user(manifest)
    if instance_of(manifest.runtime) is not None:
        place = public_name(manifest.clone, place, manifest.databases)
        login = login_name(manifest.clone, login)
    return Endpoint(host=host, port=port or manifest.port or 0, database=place, user=login, path=path)


def main_user(manifest: CloneManifest) -> str:
    """Return the user that a clone is reached as where nobody names one; empty if it has none."""
    users = sorted(manifest.users, key=lambda known: known.role != "owner")
    return users[0].name if users else ""


def condition_json(condition: Condition) -> Json:
    """Return a condition with the keys of the Kubernetes conventions."""
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": _time(condition.last_transition_time),
        "observedRevision": condition.observed_revision,
    }


# Images


def _image(facts: Facts, index: _Index, name: ImageName) -> Json:
    desired = facts.desired.images.get(name) if facts.desired is not None else None
    snapshots = sorted(index.snapshots.get(name, ()), key=lambda found: found[1].created_at, reverse=True)
    key = ObjectKey(Kind.IMAGE, name)
    return {
        "name": name,
        "engine": desired.engine if desired is not None else _engine(snapshots),
        "conditions": _conditions(facts, key),
        "snapshots": [_snapshot(facts, index, volume, manifest) for volume, manifest in snapshots],
        "builds": [
            {"id": build.snapshot, "startedAt": _time(build.started_at), "revision": build.revision}
            for build in index.builds.get(name, ())
        ],
        "mirrors": [_mirror(facts, index, volume, manifest) for volume, manifest in index.mirrors.get(name, ())],
        "pool": _image_pool(desired, snapshots),
        "suspended": desired.suspend if desired is not None else False,
        "nextRefreshAt": _time(facts.next_refreshes.get(name)),
        "lastRefresh": _last_refresh(facts, name, [manifest for _, manifest in snapshots if _is_refresh(manifest)]),
        **_document(facts, desired),
    }


def _mirror(facts: Facts, index: _Index, volume: Volume, manifest: MirrorManifest) -> Json:
    """Return what follows an image's primary, its cost there (``heldBytes``) and here, and how far back it reaches."""
    moments = [raw.until for raw in index.raws.get(volume.id, ()) if raw.until is not None]
    usage, seen = facts.usage.get(volume.id), facts.observed.mirrors.get(manifest.image)
    lag = seen.lag(facts.now) if seen is not None else None
    server = facts.observed.servers.get(ServerName(volume.id))
    return {
        "id": volume.id,
        "phase": str(manifest.phase),
        "running": server is not None and server.state is ServerState.RUNNING,
        "following": seen.following if seen is not None else None,
        "lastCommitAt": _time(seen.last_commit) if seen is not None else None,
        "position": seen.position if seen is not None else None,
        "lagBytes": seen.lag_bytes if seen is not None else None,
        "lagSeconds": int(lag.total_seconds()) if lag is not None else None,
        "heldBytes": seen.held_bytes if seen is not None else None,
        "pendingFiles": seen.pending if seen is not None else None,
        "slot": manifest.slot or None,
        "version": manifest.major or None,
        "startedAt": _time(manifest.started_at),
        "copiedAt": _time(manifest.copied_at),
        "rawCopies": len(index.raws.get(volume.id, ())),
        "momentsSince": _time(min(moments, default=None)),
        "sizeBytes": usage.logical_bytes if usage is not None else None,
        "exclusiveBytes": usage.exclusive_bytes if usage is not None else None,
        "pool": volume.pool,
        "conditions": _conditions(facts, ObjectKey(Kind.MIRROR, manifest.image)),
    }


def _last_refresh(facts: Facts, name: ImageName, snapshots: list[SnapshotManifest]) -> Json | None:
    """Return what the last look at an image's source came to: a snapshot, nothing new, or a failure."""
    looks: list[tuple[datetime, str, str]] = []
    if snapshots:
        looks.append((snapshots[0].created_at, "Built", snapshots[0].snapshot))
    if name in facts.observed.refreshed:
        looks.append((facts.observed.refreshed[name], "UpToDate", "its source had not changed"))
    failure = facts.observed.failure(ObjectKey(Kind.IMAGE, name), "build:")
    if failure is not None:
        looks.append((failure.at, "Failed", f"{failure.reason}: {failure.message}"))
    if not looks:
        return None
    at, outcome, message = max(looks)
    return {"at": _time(at), "outcome": outcome, "message": message}


def _image_pool(desired: DesiredImage | None, snapshots: list[tuple[Volume, SnapshotManifest]]) -> str | None:
    if desired is not None:
        return desired.pool
    return snapshots[0][0].pool if snapshots else None


def _engine(snapshots: list[tuple[Volume, SnapshotManifest]]) -> str | None:
    return snapshots[0][1].engine if snapshots else None


def _snapshot(facts: Facts, index: _Index, volume: Volume, manifest: SnapshotManifest) -> Json:
    usage = facts.usage.get(volume.id)
    as_of = manifest.data_as_of or manifest.created_at
    return {
        "id": manifest.snapshot,
        "createdAt": _time(manifest.created_at),
        "dataAsOf": _time(as_of),
        "dataAgeSeconds": max(0, int((facts.now - as_of).total_seconds())),
        "sizeBytes": usage.logical_bytes if usage is not None else None,
        "exclusiveBytes": usage.exclusive_bytes if usage is not None else None,
        "revision": manifest.revision,
        "specDigest": manifest.spec_digest,
        "usedBy": sorted(index.used_by.get(manifest.snapshot, ())),
        "version": manifest.version,
        "at": _time(manifest.at),
        "base": manifest.base,
        "clone": manifest.clone,
        "databases": list(manifest.databases),
        "pool": volume.pool,
        "quarantined": index.quarantined.get(manifest.snapshot),
        "attestation": _attestation(manifest),
        "keptBecause": list(facts.kept[manifest.snapshot]) if manifest.snapshot in facts.kept else None,
        "verified": _verified(manifest),
    }


def _attestation(manifest: SnapshotManifest) -> Json | None:
    known = manifest.attestation
    return None if known is None else {"digest": known.digest, "signer": known.signer}


def _verified(manifest: SnapshotManifest) -> Json | None:
    known = manifest.verified
    if known is None:
        return None
    looked_at = {"relations": known.amcheck.relations} if known.amcheck is not None else None
    return {"at": _time(known.at), "amcheck": looked_at, "checks": known.checks}


# Clones


def _clone(facts: Facts, index: _Index, name: CloneName) -> Json:
    desired = facts.desired.clones.get(name) if facts.desired is not None else None
    volumes = index.clones.get(name, [])
    found = current_volume(volumes, name)
    volume, manifest = found if found is not None else (None, None)
    usage = facts.usage.get(volume.id) if volume is not None else None
    return {
        "name": name,
        "image": _either(manifest, desired, "image"),
        "sourceClone": _either(manifest, desired, "source_clone"),
        "snapshot": manifest.snapshot if manifest is not None else None,
        "runtime": _either(manifest, desired, "runtime"),
        "state": _state(facts, name, volume) if volume is not None or not volumes else "creating",
        "owner": _either(desired, manifest, "owner"),
        "endpoint": _endpoint(facts, volume, manifest),
        "createdAt": _time(manifest.created_at) if manifest is not None else None,
        "expiresAt": _time(_expires(desired, manifest)),
        "exclusiveBytes": usage.exclusive_bytes if usage is not None else None,
        "conditions": _conditions(facts, ObjectKey(Kind.CLONE, name)),
        "sizeBytes": usage.logical_bytes if usage is not None else None,
        "engine": manifest.engine if manifest is not None else None,
        "databases": list(manifest.databases) if manifest is not None else [],
        "users": [{"name": user.name, "role": user.role} for user in manifest.users] if manifest is not None else [],
        "generation": manifest.generation if manifest is not None else None,
        "dataAsOf": _time(index.data_as_of.get(manifest.snapshot)) if manifest is not None else None,
        "activity": _activity(facts, volume),
        "newer": _newer(index, manifest) if manifest is not None and manifest.source_clone is None else None,
        "protected": _protected(desired, manifest),
        "revision": manifest.revision if manifest is not None else None,
        "pool": volume.pool if volume is not None else None,
        "suspended": desired.suspend if desired is not None else False,
        **_document(facts, desired),
    }


def _activity(facts: Facts, volume: Volume | None) -> Json | None:
    known = facts.activity.get(volume.id) if volume is not None else None
    if known is None:
        return None
    return {
        "connections": known.connections,
        "lastActivity": _time(known.last_activity),
        "applications": list(known.applications),
    }


def _newer(index: _Index, manifest: CloneManifest) -> Json | None:
    """Return the newest snapshot that a clone could be rebased to; None when it has it."""
    newest = index.newest.get(manifest.image)
    pinned = index.created_at.get(manifest.snapshot, manifest.ready_at or manifest.created_at)
    if newest is None or newest.snapshot == manifest.snapshot or newest.created_at <= pinned:
        return None
    return {"snapshot": newest.snapshot, "dataAsOf": _time(newest.data_as_of or newest.created_at)}


def _either(first: object, second: object, name: str) -> str | None:
    """Return what the first of document and manifest that is there says."""
    return getattr(first if first is not None else second, name, None)


def _protected(desired: DesiredClone | None, manifest: CloneManifest | None) -> bool:
    if desired is not None:
        return desired.protected
    return manifest is not None and manifest.protected


def _state(facts: Facts, name: CloneName, volume: Volume | None) -> str:
    """Return running, stopped, creating, expired, absent, or unknown where nobody could be asked; ready for files."""
    if volume is None:
        return _state_without_volume(facts, name)
    manifest = volume.manifest
    if isinstance(manifest, CloneManifest) and manifest.runtime in facts.observed.unknown_runtimes:
        return "unknown"
    if volume.id in facts.files:
        return "ready"
    server = facts.observed.servers.get(ServerName(volume.id))
    return "running" if server is not None and server.state is ServerState.RUNNING else "stopped"


def _state_without_volume(facts: Facts, name: CloneName) -> str:
    if not all(pool.available for pool in facts.observed.pools.values()):
        return "unknown"
    return "expired" if name in facts.observed.tombstones else "absent"


def _endpoint(facts: Facts, volume: Volume | None, manifest: CloneManifest | None) -> Json | None:
    if volume is None or manifest is None or manifest.runtime not in facts.advertise:
        return None
    server, path = facts.observed.servers.get(ServerName(volume.id)), facts.files.get(volume.id)
    port = server.port if server is not None and server.port else facts.ports.get(manifest.runtime)
    found = endpoint_of(manifest, facts.advertise[manifest.runtime], port=port, path=path)
    if path is not None:
        return {"host": None, "port": None, "database": found.database, "user": None, "path": str(path)}
    return {"host": found.host, "port": found.port, "database": found.database, "user": found.user, "path": None}


def _expires(desired: DesiredClone | None, manifest: CloneManifest | None) -> datetime | None:
    if desired is None:
        return None
    if desired.expires is not None:
        return desired.expires
    if desired.ttl is not None and manifest is not None:
        return manifest.created_at + desired.ttl
    return None


# Shared


def _pools(facts: Facts) -> list[Json]:
    return [
        {
            "name": pool.name,
            "driver": pool.driver,
            "available": pool.available,
            "message": pool.message,
            "totalBytes": pool.total_bytes,
            "freeBytes": pool.free_bytes,
            "reserveBytes": pool.reserve_bytes,
            "conditions": _conditions(facts, ObjectKey(Kind.POOL, pool.name)),
        }
        for _name, pool in sorted(facts.observed.pools.items())
    ]


def _conditions(facts: Facts, key: ObjectKey) -> list[Json]:
    return [condition_json(condition) for condition in facts.conditions.get(key, ())]


def _conditions_of_all(facts: Facts) -> list[Json]:
    """Return what is said of no single object: of the repository, and above that of passes while they fail."""
    said: dict[str, Json] = {}
    for kind in (Kind.REPOSITORY, Kind.INSTALLATION):
        for key in sorted(key for key in facts.conditions if key.kind is kind):
            said |= {str(row["type"]): row for row in _conditions(facts, key)}
    return list(said.values())


def _document(facts: Facts, desired: DesiredImage | DesiredClone | None) -> Json:
    """Return where an object is written and who changed that file last; None for what is in no document."""
    document: DocumentRef | None = desired.document if desired is not None else None
    change = facts.changes.get(document.file) if document is not None else None
    return {
        "document": {"file": document.file, "line": document.line} if document is not None else None,
        "changedBy": {"author": change.author, "commit": change.commit, "at": _time(change.at)} if change else None,
    }


def _time(time: datetime | None) -> str | None:
    return None if time is None else format_second(time)
