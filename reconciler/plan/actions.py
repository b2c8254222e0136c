"""The steps of a plan: one frozen dataclass each, a closed union.

``apply`` matches on them with ``assert_never``. Every action carries a reason that a
person understands. ``after`` names objects whose actions in the same plan must have
succeeded first; actions of one object run in the order of the plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal

from reconciler.ids import CloneName, ImageName, PoolName, Revision, RuntimeName, ServerName, SnapshotId, VolumeId
from reconciler.state.conditions import REPOSITORY, Condition, Kind, ObjectKey


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSnapshot:
    """Build and seal a new snapshot of an image. ``fingerprint`` is that of its inputs (see Failure).

    ``size_bytes`` is the room that its source lets expect; 0: not known.
    """

    verb: ClassVar[str] = "build"
    destructive: ClassVar[bool] = False
    image: ImageName
    snapshot: SnapshotId
    input_id: str
    size_bytes: int = 0
    base: SnapshotId | None = None
    mirror: VolumeId | None = None
    """The mirror that it is cut from; its ``input_id`` is then how far that had come, and may be exceeded."""
    at: datetime | None = None
    """The moment that the log of the mirror is replayed to, from the copy ``raw``."""
    raw: VolumeId | None = None
    key_id: str | None = None
    fingerprint: str
    request: str | None = None
    reason: str
    after: tuple[ObjectKey, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(Kind.IMAGE, self.image)

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (VolumeId(self.snapshot),)


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPoint:
    """Make a snapshot of what a clone holds, for other clones to start from.

    ``volume`` is the clone's current one, ``base`` the snapshot that it was made of.
    """

    verb: ClassVar[str] = "cut"
    destructive: ClassVar[bool] = False
    clone: CloneName
    image: ImageName
    volume: VolumeId
    snapshot: SnapshotId
    base: SnapshotId
    at_rest: bool
    """Nothing happens to the clone meanwhile, and its server stops for the copy if it runs."""
    fingerprint: str
    reason: str
    after: tuple[ObjectKey, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(Kind.POINT, self.clone)

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (VolumeId(self.snapshot),)


def template_key(runtime: RuntimeName, snapshot: SnapshotId) -> ObjectKey:
    """Return the key of what clones of a snapshot are copied from on an instance."""
    return ObjectKey(Kind.TEMPLATE, f"{runtime}/{snapshot}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _TemplateAction:
    destructive: ClassVar[bool] = False
    runtime: RuntimeName
    snapshot: SnapshotId
    reason: str
    after: tuple[ObjectKey, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return template_key(self.runtime, self.snapshot)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTemplate(_TemplateAction):
    """Load a snapshot into an instance, from a server of this host on the copy ``volume``."""

    verb: ClassVar[str] = "load"
    image: ImageName
    volume: VolumeId
    fingerprint: str

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (self.volume,)


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTemplate(_TemplateAction):
    """Remove from an instance what no clone is copied from any more; a snapshot can be loaded again."""

    verb: ClassVar[str] = "unload"
    volumes: tuple[VolumeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteSnapshot:
    """Delete a snapshot that nothing uses any more. ``pruned``: because its document vanished.

    With ``clone`` it is a point in that clone's life.
    """

    verb: ClassVar[str] = "delete"
    destructive: ClassVar[bool] = True
    image: ImageName
    clone: CloneName | None = None
    snapshot: SnapshotId
    pool: PoolName
    pruned: bool = False
    reason: str
    after: tuple[ObjectKey, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(Kind.IMAGE, self.image) if self.clone is None else ObjectKey(Kind.POINT, self.clone)

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (VolumeId(self.snapshot),)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenameImage:
    """Give an image's snapshots, and the clones made of them, its new name."""

    verb: ClassVar[str] = "rename"
    destructive: ClassVar[bool] = False
    image: ImageName
    formerly: ImageName
    volumes: tuple[VolumeId, ...]
    reason: str
    after: tuple[ObjectKey, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(Kind.IMAGE, self.image)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SnapshotAction:
    snapshot: SnapshotId
    request: str | None = None
    reason: str
    after: tuple[ObjectKey, ...] = ()

    @property
    def key(self) -> ObjectKey:
        """The snapshot itself: what is written into its manifest waits for no build of its image."""
        return ObjectKey(Kind.SNAPSHOT, self.snapshot)

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (VolumeId(self.snapshot),)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineSnapshot(_SnapshotAction):
    """Write into a snapshot's manifest that nothing is made of it any more; ``why`` and ``by`` are of who asked."""

    verb: ClassVar[str] = "quarantine"
    destructive: ClassVar[bool] = False
    why: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSnapshot(_SnapshotAction):
    """Take that out of the manifest again."""

    verb: ClassVar[str] = "release"
    destructive: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _MirrorAction:
    image: ImageName
    volume: VolumeId
    reason: str
    after: tuple[ObjectKey, ...] = ()
    destructive: ClassVar[bool] = False

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(Kind.MIRROR, self.image)

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (self.volume,)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPrimary(_MirrorAction):
    """Copy a live server for the first time, and follow it from then on."""

    verb: ClassVar[str] = "copy"
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowPrimary(_MirrorAction):
    """Start a mirror's server, or start it again with other settings."""

    verb: ClassVar[str] = "follow"
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayArchive(_MirrorAction):
    """Hand a mirror what has come into its archive, and wait until it has replayed that."""

    verb: ClassVar[str] = "replay"
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeavePrimary(_MirrorAction):
    """Remove a mirror: its data first, then what is left of it at the primary, and then its manifest.

    ``pruned``: because the document of its image vanished. With ``forgotten``, on request, nobody asks the primary.
    """

    verb: ClassVar[str] = "leave"
    pool: PoolName
    pruned: bool = False
    forgotten: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRaw(_MirrorAction):
    """Keep a copy of a mirror, so that its log can be replayed from there."""

    verb: ClassVar[str] = "keep"
    mirror: VolumeId


@dataclass(frozen=True, slots=True, kw_only=True)
class DropRaw(_MirrorAction):
    """Drop a raw copy that no moment of the window needs, and the log that only it needed; ``pruned`` as above."""

    verb: ClassVar[str] = "forget"
    pool: PoolName
    pruned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _CloneAction:
    clone: CloneName
    reason: str
    after: tuple[ObjectKey, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(Kind.CLONE, self.clone)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateClone(_CloneAction):
    """Make the first generation of a clone and deliver it."""

    verb: ClassVar[str] = "create"
    destructive: ClassVar[bool] = False
    snapshot: SnapshotId
    volume: VolumeId
    generation: int
    fingerprint: str

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (self.volume,)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceClone(_CloneAction):
    """Make the next generation from ``snapshot``, then swap; the current volume is retired."""

    verb: ClassVar[str] = "replace"
    destructive: ClassVar[bool] = True
    cause: Literal["spec", "refresh", "reset", "rebase"]
    snapshot: SnapshotId
    volume: VolumeId
    generation: int
    current: VolumeId
    fingerprint: str
    request: str | None = None

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (self.current,)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreClone(_CloneAction):
    """Make a retired generation current again (undo); the current volume is retired in turn.

    ``generation`` is the number that its manifest gets (the highest); its volume id stays.
    """

    verb: ClassVar[str] = "restore"
    destructive: ClassVar[bool] = True
    volume: VolumeId
    generation: int
    current: VolumeId
    request: str | None = None

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (self.current,)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateClone(_CloneAction):
    """Change a clone in place. ``changes`` names what: users, owner, protected."""

    verb: ClassVar[str] = "update"
    destructive: ClassVar[bool] = False
    volume: VolumeId
    changes: tuple[str, ...]
    fingerprint: str

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (self.volume,)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartClone(_CloneAction):
    """Stop a clone's server, apply settings, start it. ``changes`` names what: port, parameters, resources."""

    verb: ClassVar[str] = "restart"
    destructive: ClassVar[bool] = False
    volume: VolumeId
    changes: tuple[str, ...]
    fingerprint: str

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (self.volume,)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartClone(_CloneAction):
    """Start the server of a clone that should run and does not (drift, reboot, ``state: running``)."""

    verb: ClassVar[str] = "start"
    destructive: ClassVar[bool] = False
    volume: VolumeId
    fingerprint: str
    request: str | None = None

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (self.volume,)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopClone(_CloneAction):
    """Stop the server of a clone (``state: stopped``, or nobody used it since ``idle_since``)."""

    verb: ClassVar[str] = "stop"
    destructive: ClassVar[bool] = False
    volume: VolumeId
    runtime: RuntimeName
    idle_since: datetime | None = None

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (self.volume,)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenameClone(_CloneAction):
    """Give a clone's volumes its new name, its points, and what starts from them."""

    verb: ClassVar[str] = "rename"
    destructive: ClassVar[bool] = False
    formerly: CloneName
    volumes: tuple[VolumeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteClone(_CloneAction):
    """Stop and delete every generation of a clone whose document is gone; ``used`` says who is connected, if known."""

    verb: ClassVar[str] = "delete"
    destructive: ClassVar[bool] = True
    volumes: tuple[VolumeId, ...]
    used: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireClone(_CloneAction):
    """Stop and delete a clone whose time is over, and leave a tombstone; ``used`` says who is connected, if known."""

    verb: ClassVar[str] = "expire"
    destructive: ClassVar[bool] = True
    volumes: tuple[VolumeId, ...]
    used: str = ""
    expiry: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearTombstone(_CloneAction):
    """Forget that a clone expired: its expiry changed or its document is gone."""

    verb: ClassVar[str] = "clear"
    destructive: ClassVar[bool] = False
    volumes: tuple[VolumeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveDocuments:
    """Remove the documents of clones that expired from the repository, by a commit."""

    verb: ClassVar[str] = "remove"
    destructive: ClassVar[bool] = False
    documents: tuple[str, ...]
    reason: str
    volumes: tuple[VolumeId, ...] = ()
    after: tuple[ObjectKey, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return REPOSITORY


@dataclass(frozen=True, slots=True, kw_only=True)
class DropVolume:
    """Delete a volume that is nobody's: an unfinished build or clone, or a retired generation past its grace."""

    verb: ClassVar[str] = "drop"
    owner: ObjectKey
    volume: VolumeId
    pool: PoolName
    runtime: RuntimeName
    destructive: bool = False
    reason: str
    after: tuple[ObjectKey, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return self.owner

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (self.volume,)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopServer:
    """Stop a server of this installation whose volume is gone or must not be served."""

    verb: ClassVar[str] = "stop"
    destructive: ClassVar[bool] = False
    owner: ObjectKey
    server: ServerName
    runtime: RuntimeName
    reason: str
    after: tuple[ObjectKey, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return self.owner

    @property
    def volumes(self) -> tuple[VolumeId, ...]:
        return (VolumeId(self.server),)


Action = (
    BuildSnapshot
    | CutPoint
    | LoadTemplate
    | DropTemplate
    | DeleteSnapshot
    | RenameImage
    | CopyPrimary
    | FollowPrimary
    | ReplayArchive
    | LeavePrimary
    | KeepRaw
    | DropRaw
    | QuarantineSnapshot
    | ReleaseSnapshot
    | CreateClone
    | ReplaceClone
    | RestoreClone
    | UpdateClone
    | RestartClone
    | StartClone
    | StopClone
    | RenameClone
    | DeleteClone
    | ExpireClone
    | ClearTombstone
    | RemoveDocuments
    | DropVolume
    | StopServer
)


def volumes_in_use(action: Action) -> frozenset[VolumeId]:
    """Return the volumes that nothing else may touch while an action is performed: its own, and what it starts from."""
    match action:
        case CreateClone() | ReplaceClone():
            return frozenset((*action.volumes, action.volume, VolumeId(action.snapshot)))
        case RestoreClone():
            return frozenset((*action.volumes, action.volume))
        case LoadTemplate():
            return frozenset((*action.volumes, VolumeId(action.snapshot)))
        case CutPoint():
            source = (action.volume,) if action.at_rest else ()
            return frozenset((*action.volumes, VolumeId(action.base), *source))
        case BuildSnapshot():
            origins = (VolumeId(action.base) if action.base is not None else None, action.mirror, action.raw)
            return frozenset((*action.volumes, *filter(None, origins)))
        case _:
            return frozenset(action.volumes)


def origin(action: Action) -> SnapshotId | None:
    """Return the snapshot of which an action makes something."""
    match action:
        case CreateClone() | ReplaceClone() | LoadTemplate():
            return action.snapshot
        case BuildSnapshot() | CutPoint():
            return action.base
        case _:
            return None


def made_by(action: Action) -> VolumeId | None:
    """Return the volume that an action makes."""
    match action:
        case BuildSnapshot() | CutPoint():
            return VolumeId(action.snapshot)
        case CreateClone() | ReplaceClone():
            return action.volume
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Actions that a rule of the policy takes out of a plan, and why (with figures)."""

    rule: str
    message: str
    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What work will take, as far as it is known: ``size`` bytes of its pool, ``seconds`` of time."""

    size: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Actions that wait for a maintenance window, and until when; None where they follow others, or nobody can tell.

    ``reason`` is the word of the condition that their objects get.
    """

    message: str
    until: datetime | None
    actions: tuple[Action, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """An ordered difference, computed once: shown and applied as it is.

    ``conditions`` is what planning knows of objects that need no action or cannot
    have one (up to date, suspended, stalled, waiting, unknown). ``checked`` are images
    whose due refresh found the source unchanged: the loop records the time (see
    ``Observed.refreshed``). ``served`` are requests, by id, that need no action (any
    more), each with the answer; ``declined`` are those that cannot be granted, and
    ``waiting`` those that stay for a later pass. ``skipped`` are images of which a
    scheduled refresh is due while they are suspended: the loop records the time.
    ``warnings`` are conditions of which people are told once by an event. ``estimates``
    tell what work takes that makes volumes, by the volume that it makes.
    ``held`` is what waits for a maintenance window of the host.
    """

    revision: Revision
    actions: tuple[Action, ...]
    conditions: Mapping[ObjectKey, tuple[Condition, ...]] = field(default_factory=dict)
    refused: tuple[Refusal, ...] = ()
    checked: tuple[ImageName, ...] = ()
    served: Mapping[str, str] = field(default_factory=dict)
    declined: Mapping[str, str] = field(default_factory=dict)
    waiting: frozenset[str] = frozenset()
    skipped: tuple[ImageName, ...] = ()
    warnings: tuple[tuple[ObjectKey, Condition], ...] = ()
    held: tuple[Hold, ...] = ()
    estimates: Mapping[VolumeId, Estimate] = field(default_factory=dict)

    def estimate(self, action: Action) -> Estimate | None:
        """Return what is known of what an action takes."""
        made = made_by(action)
        return None if made is None else self.estimates.get(made)

    @property
    def everything(self) -> tuple[Action, ...]:
        """The actions, refused ones and those that wait included."""
        refused = (action for refusal in self.refused for action in refusal.actions)
        return (*self.actions, *refused, *(action for hold in self.held for action in hold.actions))

    @property
    def hash(self) -> str:
        """Name of what an approval approves: the destructive actions, with those that are refused or wait."""
        rows = sorted([a.verb, a.key.kind, a.key.name, *a.volumes] for a in self.everything if a.destructive)
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
