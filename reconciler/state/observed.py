"""What exists: manifests of volumes, servers, pools, and what the host remembers.

The right-hand side of every plan. Manifests are the truth about volumes; they lie
beside them and are written by write, fsync, rename. Everything here can be written
as JSON and read back (``status -o json``, ``plan --observed``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from reconciler.ids import (
    DEFAULT_RUNTIME,
    CloneName,
    ImageName,
    InstallationId,
    PoolName,
    Revision,
    RuntimeName,
    SecretName,
    ServerName,
    SnapshotId,
    VolumeId,
)
from reconciler.state.conditions import Kind, ObjectKey


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildManifest:
    """A volume in which a snapshot is being built; never visible as a snapshot."""

    installation: InstallationId
    image: ImageName
    snapshot: SnapshotId
    engine: str
    spec_digest: str
    revision: Revision
    started_at: datetime
    runtime: RuntimeName = DEFAULT_RUNTIME
    clone: CloneName | None = None
    """The clone of whose life it becomes a point."""
    template: RuntimeName | None = None
    """The instance that a copy of ``snapshot`` is loaded into from here; no snapshot becomes of it."""
    kind: Literal["build"] = "build"


@dataclass(frozen=True, slots=True)
class Attestation:
    """What the manifest keeps of the attestation in a snapshot's volume.

    ``digest`` is the SHA-256 of the file, ``signer`` the id of the key that signed it;
    None: it is not signed. ``full_scan``: the snapshot whose files were all searched, when
    of this one only those were that have changed since; None: all of this one's were.
    """

    digest: str
    signer: str | None = None
    full_scan: SnapshotId | None = None


@dataclass(frozen=True, slots=True)
class Quarantine:
    """That somebody asked for nothing to be made of a snapshot any more, and when, and why."""

    at: datetime
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Damage:
    """What was looked at for damage, and none was found: so many tables and indexes."""

    relations: int


@dataclass(frozen=True, slots=True)
class Verified:
    """What a build proved of its source, and when; ``amcheck`` None: nothing was looked at for damage."""

    at: datetime
    amcheck: Damage | None = None
    checks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotManifest:
    """A sealed snapshot.

    ``required`` are server settings below which the data cannot be served (for
    PostgreSQL ``max_connections`` and its like); ``facts`` is the engine's own
    record (collation versions, system identifier, admin role, …).
    """

    installation: InstallationId
    image: ImageName
    snapshot: SnapshotId
    engine: str
    version: str
    """Full version that built it, e.g. ``18.6``."""
    major: str
    """Version that must serve it, e.g. ``18``."""
    spec_digest: str
    input_id: str
    key_id: str | None = None
    masked_by: tuple[str, ...] = ()
    """Policies, maskers and scripts that masked it, in order; what its base was masked by is not repeated."""
    notes: tuple[str, ...] = ()
    """What masking left as it was and is worth telling: names of tables and columns."""
    source_notes: tuple[str, ...] = ()
    """What of its source is not in it, and why: backups that were passed over, WAL after a gap."""
    revision: Revision
    created_at: datetime
    data_as_of: datetime | None = None
    at: datetime | None = None
    """The moment that was asked for, where the log was replayed to one."""
    base: SnapshotId | None = None
    base_spec: str | None = None
    """The spec digest of ``base``, which may be gone by now; None: there is none, or an older version built it."""
    clone: CloneName | None = None
    """The clone of whose life it is a point: ``base`` is the snapshot that the clone was made of, and
    ``masked_by`` what masked that. What the clone's users did since nobody looked at."""
    origins: tuple[SnapshotId, ...] = ()
    """For a point: the snapshots that its base goes back to, which may be gone by now."""
    databases: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    attestation: Attestation | None = None
    """None: it was built before snapshots had one."""
    verified: Verified | None = None
    """None: its document did not ask for it when it was built."""
    asked: str | None = None
    """Value of the annotation that asked for a refresh when its build began; it is answered by this snapshot."""
    quarantine: Quarantine | None = None
    """On request; a quarantine that a document asks for stands in git alone (see :mod:`.quarantine`)."""
    kind: Literal["snapshot"] = "snapshot"


class MirrorPhase(StrEnum):
    """``copying`` until the first copy is whole; ``leaving`` when nobody wants it any more."""

    COPYING = "copying"
    FOLLOWING = "following"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorManifest:
    """A volume that follows an image's primary; never cloned by people, only copied for builds.

    It outlives its image until nothing of it is left at the primary: ``url`` is the
    secret to connect with and ``slot`` what was made there; empty: nothing was, its log comes from an archive.
    """

    installation: InstallationId
    image: ImageName
    engine: str
    phase: MirrorPhase
    url: SecretName
    slot: str
    major: str = ""
    """Version that must serve it; known once it is copied."""
    system: str = ""
    """The engine's identity of the database system that was copied."""
    settings: str = ""
    """Digest of what its server was started with last (see :func:`~reconciler.plan.fingerprints.mirror_settings`)."""
    runtime: RuntimeName = DEFAULT_RUNTIME
    revision: Revision
    started_at: datetime
    copied_at: datetime | None = None
    lost: str = ""
    """Why its server cannot go on any more, and it has to be copied anew."""
    kind: Literal["mirror"] = "mirror"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawManifest:
    """A copy of a mirror that is kept so that its log can be replayed from there to a later moment.

    ``until``: no transaction in it committed later, by the primary's clock; None until
    that is known: the copy is not finished. Log and copy are of the same ``mirror``.
    """

    installation: InstallationId
    image: ImageName
    engine: str
    mirror: VolumeId
    taken_at: datetime
    until: datetime | None = None
    kind: Literal["raw"] = "raw"


class ClonePhase(StrEnum):
    """``creating`` until everything was delivered once; only a ``ready`` volume is somebody's work."""

    CREATING = "creating"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class AppliedUser:
    """A user as last delivered; ``password`` is a keyed fingerprint, never the value."""

    name: str
    role: str
    password: str


@dataclass(frozen=True, slots=True)
class Idle:
    """That a clone's server was stopped because nobody used it.

    ``document`` is the digest of what its document asked for then: when that changes, the clone runs again.
    """

    since: datetime
    """When it was last used."""
    at: datetime
    document: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneManifest:
    """One generation of a clone.

    A clone is served from its highest ``ready`` generation. A replacement is made
    as the next generation and becomes current by the one write that makes it
    ``ready``; lower generations are then retired and kept until the grace time ends.
    ``created_at`` is when the clone (not this generation) was created: ``ttl``
    counts from it. ``settings_digest`` covers what a restart applies.
    """

    installation: InstallationId
    clone: CloneName
    generation: int
    phase: ClonePhase
    image: ImageName
    snapshot: SnapshotId
    source_clone: CloneName | None = None
    """The clone of whose life ``snapshot`` is a point."""
    engine: str
    major: str
    runtime: RuntimeName
    port: int | None
    """None: no server serves it."""
    revision: Revision
    created_at: datetime
    ready_at: datetime | None = None
    owner: str | None = None
    protected: bool = False
    users: tuple[AppliedUser, ...] = ()
    scripts_digest: str = ""
    settings_digest: str = ""
    parameters: Mapping[str, str] | None = None
    """Server settings that it was served with last; None: not recorded."""
    databases: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    account: int | None = None
    """User id of the server's own account, where it has one (clones with a superuser)."""
    superuser: bool = False
    """Whether it has, or had, a superuser without an account of its own: in a container."""
    request: str | None = None
    """The last request that this clone served: a reset, rebase or undo is never served twice."""
    undone_at: datetime | None = None
    """When somebody brought this generation back, or chose its snapshot; only those made after that are followed."""
    idle: Idle | None = None
    """Why its server does not run, while nobody asks for it."""
    kind: Literal["clone"] = "clone"


def snapshot_of(manifest: CloneManifest) -> SnapshotManifest:
    """Return what a clone's own manifest knows of its snapshot: enough to serve and to ask it."""
    return SnapshotManifest(
        installation=manifest.installation,
        image=manifest.image,
        snapshot=manifest.snapshot,
        engine=manifest.engine,
        version=manifest.major,
        major=manifest.major,
        spec_digest="",
        input_id="",
        revision=manifest.revision,
        created_at=manifest.created_at,
        databases=manifest.databases,
        facts=manifest.facts,
    )


Manifest = BuildManifest | SnapshotManifest | MirrorManifest | RawManifest | CloneManifest


class VolumeState(StrEnum):
    """``creating`` and ``deleting`` volumes were interrupted: they may only be deleted."""

    CREATING = "creating"
    COMPLETE = "complete"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of this installation, as its manifest says."""

    id: VolumeId
    pool: PoolName
    state: VolumeState
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class ObservedPool:
    """A pool and its room; ``available`` False means that its volumes are unknown, not gone."""

    name: PoolName
    driver: str
    available: bool
    message: str = ""
    total_bytes: int = 0
    free_bytes: int = 0
    reserve_bytes: int = 0
    instant_clones: bool = False
    atomic_snapshots: bool = False
    """Whether what is being written can be copied as of one instant."""
    unknown: tuple[VolumeId, ...] = ()
    """Volumes whose manifest cannot be read: they exist, and nothing may be concluded or done about them."""
    refusal: str = ""
    """What the configuration asks of the pool and cannot be had, and why; the pool is used as it is."""
    pending: str = ""
    """What the configuration asks of the pool and it does not have yet, and when it will."""


class ServerState(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ObservedServer:
    """A server that a runtime knows; ``volume`` is what it serves."""

    name: ServerName
    runtime: RuntimeName
    state: ServerState
    port: int | None = None
    started_at: datetime | None = None
    starting: bool = False
    """Whether its start did not come to its end yet: perhaps it does not answer, or not to those that it should."""


@dataclass(frozen=True, slots=True)
class ObservedTemplate:
    """What is on an instance of a snapshot, for clones to be copied from.

    ``databases`` are those that are complete, by their names in the snapshot.
    """

    runtime: RuntimeName
    snapshot: SnapshotId
    databases: tuple[str, ...] = ()
    instant: bool | None = None
    """Whether a copy shares its blocks there; None: it cannot be told."""


@dataclass(frozen=True, slots=True)
class Activity:
    """Who uses a clone now: connections of people and programs, not the reconciler's own nor the server's."""

    connections: int = 0
    last_activity: datetime | None = None
    """When one of them last began or ended something; None without any."""
    applications: tuple[str, ...] = ()
    """The names that they gave themselves, sorted; at most ten."""
    sessions: int = 0
    """How many connections there have been; another number than in an earlier look: somebody was there meanwhile."""

    @property
    def text(self) -> str:
        """Say it in words; empty when nobody is connected."""
        if not self.connections:
            return ""
        by = f" ({', '.join(self.applications)})" if self.applications else ""
        return f"{self.connections} connection{'s' if self.connections > 1 else ''}{by}"


@dataclass(frozen=True, slots=True)
class Failure:
    """What is remembered of the last failure of one kind of work on an object.

    ``fingerprint`` is that of the inputs it failed with, ``<work>:<digest>``; a permanent
    failure counts until the fingerprint changes, any that has a ``retry_at`` at most
    until then. Actions without inputs (a deletion, a rename) have an empty one. What
    failed of one kind of work says nothing about another.
    """

    reason: str
    message: str
    permanent: bool
    fingerprint: str
    attempts: int
    at: datetime
    retry_at: datetime | None = None

    @property
    def work(self) -> str:
        """The kind of work that failed."""
        return work_of(self.fingerprint)


def work_of(fingerprint: str) -> str:
    """Return the kind of work that a fingerprint is of; empty for actions without inputs."""
    return fingerprint.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Input:
    """Identity of an image's source now, or why it cannot be told."""

    input_id: str | None
    problem: str | None = None
    reason: str = "SourceInvalid"
    size_bytes: int = 0
    """Estimate of the room that a build of it takes; 0: not known."""
    passing: bool = False
    """Whether the problem may go away by itself."""
    notes: tuple[str, ...] = ()
    """What was passed over, and why."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """An expired clone; it does not come back until ``expiry`` (its ttl or expires as written) changes."""

    clone: CloneName
    expiry: str
    expired_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedMirror:
    """How far a mirror has come, and what it costs its primary.

    ``position`` is how far it has replayed, as the engine writes it; None while nobody
    can ask it. ``lag_bytes`` is what it is behind the primary, ``held_bytes`` the log
    that the primary keeps for it, be it at rest or not; None where the primary does not say.
    """

    following: bool
    position: str | None = None
    last_commit: datetime | None = None
    """Nothing that it has replayed was committed later, by the clock of the primary."""
    complete_until: datetime | None = None
    """It has replayed all that was committed until then, by the clock of the primary; None: until ``last_commit``."""
    lag_bytes: int | None = None
    held_bytes: int | None = None
    problem: str = ""
    """Why it does not follow now, or what the primary's owner should know."""
    lost: str = ""
    """Why it never can follow again and has to be copied anew."""
    outdated: bool = False
    """Whether its server waits for a restart with settings that the primary has by now."""
    pending: int = 0
    """Files of log in its archive that it has not replayed."""
    behind: str = ""
    """Why its archive has less than the primary has written, and what to do."""

    def lag(self, now: datetime) -> timedelta | None:
        """Return how long it is behind: since the last commit in it, while there is log that it has not replayed.

        None while nobody can tell. The primary's clock may be ahead of ours.
        """
        if self.lag_bytes is None or (self.lag_bytes and self.last_commit is None):
            return None
        if not self.lag_bytes or self.last_commit is None:
            return timedelta()
        return max(timedelta(), now - self.last_commit)


Verb = Literal[
    "apply", "refresh", "reset", "rebase", "undo", "start", "approve", "quarantine", "release", "forget", "classify"
]
"""What can be wished for."""
UNPLANNED: frozenset[Verb] = frozenset({"classify"})
"""Wishes that change nothing that lasts: no pass plans them, and they wait for no valid commit."""

_KINDS = {
    "refresh": Kind.IMAGE,
    "classify": Kind.IMAGE,
    "quarantine": Kind.SNAPSHOT,
    "release": Kind.SNAPSHOT,
    "forget": Kind.MIRROR,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A durable one-time wish. ``plan_hash`` narrows an approval to one plan, ``note`` is what somebody says of it.

    ``snapshot`` is the one that a clone is to be rebased to; empty: the newest.
    """

    id: str
    verb: Verb
    target: str = ""
    requested_at: datetime
    requested_by: str = ""
    plan_hash: str | None = None
    note: str = ""
    snapshot: str = ""
    at_once: bool = False
    """Of a refresh: it does not wait for the image's window. Of a pass or an approval: for none of the host's."""

    @property
    def object(self) -> ObjectKey:
        """What it is about, be it written ``shop`` or ``Image/shop``."""
        return ObjectKey(_KINDS.get(self.verb, Kind.CLONE), self.target.rpartition("/")[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything that planning looks at besides the commit."""

    installation: InstallationId
    pools: Mapping[PoolName, ObservedPool] = field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()
    servers: Mapping[ServerName, ObservedServer] = field(default_factory=dict)
    unknown_runtimes: Mapping[RuntimeName, str] = field(default_factory=dict)
    """Runtimes that could not be asked, with the reason; servers on them are unknown."""
    templates: tuple[ObservedTemplate, ...] = ()
    """What clones are copied from on instances that could be asked."""
    inputs: Mapping[ImageName, Input] = field(default_factory=dict)
    mirrors: Mapping[ImageName, ObservedMirror] = field(default_factory=dict)
    """Mirrors that could be asked, by the name of the image in their manifests."""
    secrets: Mapping[SecretName, str] = field(default_factory=dict)
    """Keyed fingerprints of the secrets that exist; a name that is absent is missing."""
    tombstones: Mapping[CloneName, Tombstone] = field(default_factory=dict)
    failures: Mapping[ObjectKey, tuple[Failure, ...]] = field(default_factory=dict)
    """At most one of each kind of work, of each object that has one."""
    lost_credentials: frozenset[CloneName] = frozenset()
    """Clones with generated passwords that this host does not have any more."""
    in_flight: frozenset[ObjectKey] = frozenset()
    """Objects that are being worked on, under the names that their documents had when that began."""
    in_use: frozenset[VolumeId] | None = None
    """Volumes that work in flight changes or starts from; None: not known, so it may be any."""
    requests: tuple[Request, ...] = ()
    recent_deletions: Mapping[str, datetime] = field(default_factory=dict)
    """Objects (``Clone/dev``) pruned because their documents vanished, and when, within the last hour."""
    refreshed: Mapping[ImageName, datetime] = field(default_factory=dict)
    """When an image was last found up to date by a refresh."""
    last_used: Mapping[VolumeId, datetime] = field(default_factory=dict)
    """Until when a running clone with ``idle`` was in use, or may have been; absent: it cannot be told."""
    activity: Mapping[VolumeId, Activity] = field(default_factory=dict)
    """Who uses clones that are about to go; absent: nobody was asked, or there was no answer."""
    answered: Mapping[ImageName, str] = field(default_factory=dict)
    """The annotation's value that was in force then, and was answered by that."""
    skipped: Mapping[ImageName, datetime] = field(default_factory=dict)
    """When a scheduled refresh was last due while they were suspended: what was due until then is not made up for."""

    def failure(self, key: ObjectKey, fingerprint: str) -> Failure | None:
        """Return the last failure of the work on an object that a fingerprint is of."""
        work = work_of(fingerprint)
        return next((failure for failure in self.failures.get(key, ()) if failure.work == work), None)
