"""What one commit asks for, resolved: the left-hand side of every plan.

Built from documents by :mod:`reconciler.state.resolve`; compared by
:mod:`reconciler.plan`; executed by :mod:`reconciler.apply`. Values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from reconciler.ids import (
    DEFAULT_POOL,
    DEFAULT_RUNTIME,
    CloneName,
    ImageName,
    PolicyName,
    PoolName,
    Revision,
    RuntimeName,
    SecretName,
    SnapshotId,
)
from reconciler.state.conditions import Kind, ObjectKey

if TYPE_CHECKING:
    from reconciler.spec.masking_policy import MaskingPolicySpec


@dataclass(frozen=True, slots=True)
class DocumentRef:
    """Where an object is written: file within the repository and 1-based line."""

    file: str
    line: int


@dataclass(frozen=True, slots=True)
class SourcePath:
    """A file or directory that a source names.

    ``object_id`` is the git object (blob or tree) for a path inside the commit, and
    None for an absolute path of the host. ``size_bytes`` is what the commit's files add
    up to; 0 for a path of the host.
    """

    path: str
    object_id: str | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DumpSource:
    path: SourcePath
    globals: SourcePath | None = None
    kind: Literal["dump"] = "dump"


@dataclass(frozen=True, slots=True)
class BackupSource:
    """Backups at a path or pattern, with or without archived WAL; or, with neither, a repository of the host."""

    path: SourcePath | None
    wal: SourcePath | None = None
    repository: str | None = None
    kind: Literal["backup"] = "backup"


@dataclass(frozen=True, slots=True)
class FilesSource:
    path: SourcePath
    kind: Literal["files"] = "files"


HELD_LIMIT = 10 << 30
"""Bytes of log that may wait at a primary for a mirror of which nothing else is known."""


@dataclass(frozen=True, slots=True)
class PrimarySource:
    """A live server. ``held_limit`` bytes of its log may wait for a mirror; ``raw_max_age``: unused, it goes then.

    With an ``archive``, a directory of the host, a mirror gets its log from there, and none waits at the server.
    It is copied at ``copy_rate`` bytes a second at most.
    """

    url: SecretName
    method: Literal["physical", "logical"]
    held_limit: int = HELD_LIMIT
    raw_max_age: timedelta = timedelta(days=30)
    archive: SourcePath | None = None
    copy_rate: int | None = None
    kind: Literal["primary"] = "primary"


@dataclass(frozen=True, slots=True)
class ImageSource:
    image: ImageName
    kind: Literal["image"] = "image"


@dataclass(frozen=True, slots=True)
class EmptySource:
    kind: Literal["empty"] = "empty"


Source = DumpSource | BackupSource | FilesSource | PrimarySource | ImageSource | EmptySource


class Phase(StrEnum):
    """When a script of an image runs."""

    BEFORE_MASKING = "beforeMasking"
    AFTER_MASKING = "afterMasking"


@dataclass(frozen=True, slots=True)
class Script:
    """SQL to run, rendered. Line 1 of ``text`` is line ``first_line`` of ``origin``."""

    origin: str
    text: str
    database: str | None = None
    phase: Phase = Phase.BEFORE_MASKING
    first_line: int = 1


@dataclass(frozen=True, slots=True)
class Check:
    """A query that must return one row with one true value."""

    sql: str
    database: str | None = None
    origin: str = ""
    first_line: int = 1


@dataclass(frozen=True, slots=True)
class Policy:
    """A MaskingPolicy that an image names: its rules as written."""

    name: PolicyName
    spec: MaskingPolicySpec

    @property
    def key(self) -> SecretName:
        """The secret with its key."""
        return SecretName(self.spec.key.secret)


@dataclass(frozen=True, slots=True)
class MaskerRef:
    """A masking program of the host, by name."""

    name: str


MaskingStep = Policy | MaskerRef | Script
"""What masks an image; policies act together, where the first of them stands."""


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which refreshes may start: opens by cron, and stays open for so long."""

    schedule: str
    duration: timedelta


@dataclass(frozen=True, slots=True)
class Refresh:
    """``schedule`` None: only on request. Without ``windows`` refreshes may start at any time."""

    schedule: str | None = None
    timezone: str = "UTC"
    jitter: timedelta = timedelta(0)
    suspend: bool = False
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True)
class Retention:
    """``keep`` newest snapshots, and the newest of each of the last days, weeks and months that have one.

    Older than ``max_age`` go as well, save the newest.
    """

    keep: int = 3
    max_age: timedelta | None = None
    daily: int = 0
    weekly: int = 0
    monthly: int = 0


@dataclass(frozen=True, slots=True)
class Verify:
    """What a build proves of what was restored; ``amcheck``: that nothing of it is damaged."""

    amcheck: bool = False
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class PointInTime:
    """How far back moments can be asked for, and how often a raw copy is kept to replay log from."""

    window: timedelta
    every: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredImage:
    name: ImageName
    document: DocumentRef
    engine: str
    version: str | None = None
    source: Source
    at: datetime | None = None
    """The moment of the image in ``source`` that it is of; None: that one's newest snapshot."""
    databases: tuple[str, ...] = ()
    scripts: tuple[Script, ...] = ()
    checks: tuple[Check, ...] = ()
    masking: tuple[MaskingStep, ...] = ()
    unmasked_reason: str | None = None
    refresh: Refresh | None = None
    point_in_time: PointInTime | None = None
    asked: str | None = None
    """Value of the annotation that asks for a refresh: once for each new one."""
    retention: Retention = Retention()
    verify: Verify | None = None
    pool: PoolName = DEFAULT_POOL
    runtime: RuntimeName = DEFAULT_RUNTIME
    container_image: str | None = None
    """What builds and clones in containers run; None: what their host says."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    quarantine: tuple[SnapshotId, ...] = ()
    """Snapshots of which nothing is made any more, of whichever image they are."""
    formerly: ImageName | None = None
    suspend: bool = False
    spec_digest: str
    superuser_scripts: bool = False

    @property
    def mirrored(self) -> PrimarySource | None:
        """The live server that a mirror follows for this image; None for other sources."""
        source = self.source
        return source if isinstance(source, PrimarySource) and source.method == "physical" else None

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The policies among what masks it."""
        return tuple(step for step in self.masking if isinstance(step, Policy))

    @property
    def maskers(self) -> tuple[str, ...]:
        """Names of the host's masking programs that it asks for."""
        return tuple(step.name for step in self.masking if isinstance(step, MaskerRef))

    @property
    def masked_by(self) -> tuple[str, ...]:
        """What masks it, in words for people: names of policies, maskers, and files of scripts."""
        return tuple(step.origin if isinstance(step, Script) else str(step.name) for step in self.masking)

    @property
    def masking_keys(self) -> tuple[SecretName, ...]:
        """The secrets with the keys of its policies."""
        return tuple(dict.fromkeys(policy.key for policy in self.policies))

    @property
    def secrets(self) -> tuple[SecretName, ...]:
        """Every secret that a build of it needs."""
        return (*((self.source.url,) if isinstance(self.source, PrimarySource) else ()), *self.masking_keys)


@dataclass(frozen=True, slots=True)
class SnapshotAt:
    """The newest snapshot whose data is not younger than ``at``."""

    at: datetime


Latest = Literal["latest"]
SnapshotChoice = Latest | SnapshotId | SnapshotAt


@dataclass(frozen=True, slots=True)
class User:
    name: str
    role: Literal["owner", "readonly", "superuser"] = "owner"
    password: SecretName | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits in bytes and cores; None is no limit."""

    memory: int | None = None
    cpus: float | None = None
    disk: int | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """The names of the limits that are set."""
        return tuple(name for name in ("memory", "cpus", "disk") if getattr(self, name) is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredClone:
    name: CloneName
    document: DocumentRef
    image: ImageName
    """The image that its data is of, if need be that of the clone that it starts from."""
    source_clone: CloneName | None = None
    """The clone that it starts from, as that is when this one is made; None: it is of a snapshot of its image."""
    snapshot: SnapshotChoice = "latest"
    runtime: RuntimeName = DEFAULT_RUNTIME
    container_image: str | None = None
    """What its container runs: as its document says, or its image's; None: what the host says."""
    owner: str | None = None
    port: int | None = None
    running: bool = True
    idle: timedelta | None = None
    """Its server stops after nobody was connected for so long."""
    ttl: timedelta | None = None
    expires: datetime | None = None
    on_refresh: Literal["keep", "recreate"] = "keep"
    protected: bool = False
    users: tuple[User, ...] = ()
    scripts: tuple[Script, ...] = ()
    resources: Resources = Resources()
    parameters: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    formerly: CloneName | None = None
    number: int | None = None
    """Which of the clones of its document it is, where that has a ``count``."""
    suspend: bool = False
    scripts_digest: str
    superuser_scripts: bool = False


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything that one commit asks of this host, by name."""

    revision: Revision
    images: Mapping[ImageName, DesiredImage]
    clones: Mapping[CloneName, DesiredClone]
    problems: Mapping[ObjectKey, tuple[str, str]] = field(default_factory=dict)
    """What this host cannot do for an object (reason, message): it alone is neither applied nor pruned."""

    @property
    def secrets(self) -> frozenset[SecretName]:
        """The secrets that documents name."""
        named = {u.password for clone in self.clones.values() for u in clone.users if u.password is not None}
        return frozenset(named.union(*(image.secrets for image in self.images.values())))

    def file_of(self, key: ObjectKey) -> str | None:
        """Return the file with the document that an object belongs to; None without one."""
        if key.kind in (Kind.CLONE, Kind.POINT):
            clone = self.clones.get(CloneName(key.name))
            return clone.document.file if clone is not None else None
        image = self.images.get(ImageName(key.name)) if key.kind in (Kind.IMAGE, Kind.MIRROR) else None
        return image.document.file if image is not None else None

    def image_called(self, name: ImageName) -> DesiredImage | None:
        """Return the image that a manifest means: of that name, or formerly of that name where no document has it.

        Of two heirs of a name the first by name, as in planning.
        """
        if name in self.images or ObjectKey(Kind.IMAGE, name) in self.problems:
            return self.images.get(name)
        heirs = [image for image in self.images.values() if image.formerly == name]
        return min(heirs, key=lambda image: image.name, default=None)
