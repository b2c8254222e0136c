"""Documents and volumes in one line each, and a model of apply for plans.

The model changes an Observed value as the real apply changes the world: it knows what
each action leaves behind, and asserts what apply would refuse.
"""

# ruff: noqa: ANN401 - the builders pass fields of any type on to dataclasses

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, assert_never

from reconciler.ids import (
    CloneName,
    ImageName,
    InstallationId,
    PolicyName,
    PoolName,
    Revision,
    RuntimeName,
    SecretName,
    ServerName,
    SnapshotId,
    VolumeId,
    instance_of,
)
from reconciler.plan.actions import (
    Action,
    BuildSnapshot,
    ClearTombstone,
    CopyPrimary,
    CreateClone,
    CutPoint,
    DeleteClone,
    DeleteSnapshot,
    DropRaw,
    DropTemplate,
    DropVolume,
    ExpireClone,
    FollowPrimary,
    KeepRaw,
    LeavePrimary,
    LoadTemplate,
    Plan,
    QuarantineSnapshot,
    ReleaseSnapshot,
    RemoveDocuments,
    RenameClone,
    RenameImage,
    ReplaceClone,
    ReplayArchive,
    RestartClone,
    RestoreClone,
    StartClone,
    StopClone,
    StopServer,
    UpdateClone,
)
from reconciler.plan.diff import plan
from reconciler.plan.fingerprints import (
    applied_users,
    document_digest,
    effective_parameters,
    mirror_input,
    mirror_settings,
    missing_secrets,
    settings_digest,
)
from reconciler.plan.idle import rests
from reconciler.plan.settings import PlanSettings
from reconciler.plan.write_back import document_name
from reconciler.spec.masking_policy import MaskingPolicySpec
from reconciler.state.conditions import Condition, Kind, ObjectKey
from reconciler.state.desired import (
    Desired,
    DesiredClone,
    DesiredImage,
    DocumentRef,
    DumpSource,
    ImageSource,
    Policy,
    PrimarySource,
    SourcePath,
    User,
)
from reconciler.state.observed import (
    BuildManifest,
    CloneManifest,
    ClonePhase,
    Failure,
    Idle,
    Input,
    Manifest,
    MirrorManifest,
    MirrorPhase,
    Observed,
    ObservedMirror,
    ObservedPool,
    ObservedServer,
    ObservedTemplate,
    Quarantine,
    RawManifest,
    Request,
    ServerState,
    SnapshotManifest,
    Tombstone,
    Volume,
    VolumeState,
    work_of,
)
from reconciler.state.quarantine import quarantined

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
OURS = InstallationId("ours")
POOL = PoolName("default")
OTHER_POOL = PoolName("other")
PROCESS = RuntimeName("process")
REVISION = Revision("main@sha1:" + "0" * 40)
SETTINGS = PlanSettings(pools=frozenset({POOL}))
INPUT = "input-1"
SYSTEM = "7318000000000000001"
APP = User("app")


def image_key(name: str) -> ObjectKey:
    return ObjectKey(Kind.IMAGE, name)


def clone_key(name: str) -> ObjectKey:
    return ObjectKey(Kind.CLONE, name)


def an_image(name: str = "shop", **changes: Any) -> DesiredImage:
    values: dict[str, Any] = {
        "document": DocumentRef("images.yaml", 1),
        "engine": "postgres",
        "source": DumpSource(SourcePath("/dumps/shop.sql")),
        "spec_digest": "d1" * 32,
    }
    return DesiredImage(name=ImageName(name), **{**values, **changes})


def a_policy(name: str = "pii", key: str = "key") -> Policy:
    rules = [{"table": "public.customer", "columns": {"email": "email"}}]
    return Policy(PolicyName(name), MaskingPolicySpec.model_validate({"key": {"secret": key}, "rules": rules}))


def derived(name: str, base: str, **changes: Any) -> DesiredImage:
    return an_image(name, source=ImageSource(ImageName(base)), **changes)


def following(name: str = "shop", *, url: str = "dsn", **changes: Any) -> DesiredImage:
    """Return an image of a live primary that a mirror follows."""
    return an_image(name, source=PrimarySource(SecretName(url), "physical"), **changes)


def a_mirror(
    image: DesiredImage,
    *,
    volume: str = "",
    pool: PoolName = POOL,
    secrets: Mapping[SecretName, str] | None = None,
    at: datetime | None = None,
    **changes: Any,
) -> Volume:
    """Return a whole mirror of an image."""
    assert image.mirrored is not None
    values: dict[str, Any] = {
        "phase": MirrorPhase.FOLLOWING,
        "url": image.mirrored.url,
        "slot": f"slot_{image.name}",
        "major": "15",
        "system": SYSTEM,
        "settings": mirror_settings(
            image.mirrored.url,
            secrets or {},
            keep_log=image.point_in_time is not None,
            archived=image.mirrored.archive is not None,
        ),
        "started_at": at or NOW - HOUR,
        "copied_at": at or NOW - HOUR,
    }
    manifest = MirrorManifest(
        installation=OURS, image=image.name, engine=image.engine, revision=REVISION, **{**values, **changes}
    )
    return Volume(VolumeId(volume or f"{image.name}.mirror"), pool, VolumeState.COMPLETE, manifest)


def a_raw(mirror: MirrorManifest, volume: str = "", *, at: datetime, until: datetime | None, of: str = "") -> Volume:
    """Return a raw copy of a mirror."""
    manifest = RawManifest(
        installation=OURS,
        image=mirror.image,
        engine=mirror.engine,
        mirror=VolumeId(of or f"{mirror.image}.mirror"),
        taken_at=at,
        until=until,
    )
    return Volume(VolumeId(volume or f"{mirror.image}.raw{at:%Y%m%d%H%M%S}"), POOL, VolumeState.COMPLETE, manifest)


def a_look(position: str = "0/3000148", **changes: Any) -> ObservedMirror:
    """Return what a mirror that follows says."""
    return ObservedMirror(**{"following": True, "position": position, "lag_bytes": 0, "held_bytes": 0, **changes})


def a_clone(name: str = "dev", image: str = "shop", **changes: Any) -> DesiredClone:
    values: dict[str, Any] = {"document": DocumentRef("clones.yaml", 1), "scripts_digest": "s1", "users": (APP,)}
    return DesiredClone(name=CloneName(name), image=ImageName(image), **{**values, **changes})


def asked(*documents: DesiredImage | DesiredClone, **changes: Any) -> Desired:
    images = {d.name: d for d in documents if isinstance(d, DesiredImage)}
    clones = {d.name: d for d in documents if isinstance(d, DesiredClone)}
    return Desired(revision=REVISION, images=images, clones=clones, **changes)


def a_pool(name: PoolName = POOL, **changes: Any) -> ObservedPool:
    values: dict[str, Any] = {
        "driver": "btrfs",
        "available": True,
        "total_bytes": 1000,
        "free_bytes": 900,
        "reserve_bytes": 100,
        "instant_clones": True,
        "atomic_snapshots": True,
    }
    return ObservedPool(name=name, **{**values, **changes})


def snapshot_id(image: str = "shop", *, age: timedelta = HOUR, digest: str = "d1d1d1d1") -> SnapshotId:
    return SnapshotId(f"{image}-{(NOW - age).strftime('%Y%m%dt%H%M%Sz')}-{digest}")


def a_snapshot(image: str = "shop", *, age: timedelta = HOUR, pool: PoolName = POOL, **changes: Any) -> Volume:
    """A sealed snapshot, built ``age`` ago."""
    values: dict[str, Any] = {
        "installation": OURS,
        "image": ImageName(image),
        "snapshot": snapshot_id(image, age=age),
        "engine": "postgres",
        "version": "18.1",
        "major": "18",
        "spec_digest": "d1" * 32,
        "input_id": INPUT,
        "revision": REVISION,
        "created_at": NOW - age,
    }
    manifest = SnapshotManifest(**{**values, **changes})
    return Volume(VolumeId(manifest.snapshot), pool, VolumeState.COMPLETE, manifest)


def a_generation(
    clone: DesiredClone,
    snapshot: str = "",
    *,
    generation: int = 1,
    age: timedelta = HOUR,
    pool: PoolName = POOL,
    image: DesiredImage | None = None,
    volume: str = "",
    **changes: Any,
) -> Volume:
    """A ready generation of a clone, delivered as its document says, ``age`` ago."""
    values: dict[str, Any] = {
        "installation": OURS,
        "clone": clone.name,
        "generation": generation,
        "phase": ClonePhase.READY,
        "image": clone.image,
        "source_clone": clone.source_clone,
        "snapshot": SnapshotId(snapshot or snapshot_id(clone.image)),
        "engine": "postgres",
        "major": "18",
        "runtime": clone.runtime,
        "port": clone.port or 5600,
        "revision": REVISION,
        "created_at": NOW - age,
        "ready_at": NOW - age,
        "owner": clone.owner,
        "protected": clone.protected,
        "users": applied_users(clone, SecretsOf()),
        "scripts_digest": clone.scripts_digest,
        "settings_digest": settings_digest(clone, image or an_image(clone.image)),
        "parameters": effective_parameters(clone, image or an_image(clone.image)),
    }
    manifest = CloneManifest(**{**values, **changes})
    name = volume or f"{manifest.clone}.{generation}"
    return Volume(VolumeId(name), pool, VolumeState.COMPLETE, manifest)


class SecretsOf(dict[SecretName, str]):
    """Every secret exists and has its own name as fingerprint."""

    def __missing__(self, name: SecretName) -> str:
        return f"fingerprint of {name}"


def a_build(image: str = "shop", *, age: timedelta = HOUR, pool: PoolName = POOL) -> Volume:
    """The volume of an unfinished build."""
    snapshot = snapshot_id(image, age=age)
    manifest = BuildManifest(
        installation=OURS,
        image=ImageName(image),
        snapshot=snapshot,
        engine="postgres",
        spec_digest="d1" * 32,
        revision=REVISION,
        started_at=NOW - age,
    )
    return Volume(VolumeId(snapshot), pool, VolumeState.COMPLETE, manifest)


def a_server(volume: Volume | str, **changes: Any) -> ObservedServer:
    """The running server of a volume."""
    name = volume if isinstance(volume, str) else volume.id
    if isinstance(volume, Volume) and isinstance(volume.manifest, CloneManifest):
        changes = {"port": volume.manifest.port, "runtime": volume.manifest.runtime, **changes}
    return ObservedServer(**{"name": ServerName(name), "runtime": PROCESS, "state": ServerState.RUNNING, **changes})


def seen(*things: Volume | ObservedServer | ObservedPool | Request | Tombstone, **changes: Any) -> Observed:
    """What exists. Volumes of current generations come without their servers: list those as well."""
    pools = {t.name: t for t in things if isinstance(t, ObservedPool)} or {POOL: a_pool()}
    values: dict[str, Any] = {
        "installation": OURS,
        "pools": pools,
        "volumes": tuple(t for t in things if isinstance(t, Volume)),
        "servers": {t.name: t for t in things if isinstance(t, ObservedServer)},
        "requests": tuple(t for t in things if isinstance(t, Request)),
        "tombstones": {t.clone: t for t in things if isinstance(t, Tombstone)},
        "inputs": {ImageName(name): Input(INPUT) for name in ("shop", "store", "base", "child")},
    }
    return Observed(**{**values, **changes})


def served(*volumes: Volume) -> tuple[Volume | ObservedServer, ...]:
    """Volumes of clones, each with its running server."""
    return tuple(thing for volume in volumes for thing in (volume, a_server(volume)))


def a_failure(fingerprint: str, *, permanent: bool = True, retry_in: timedelta | None = None) -> Failure:
    return Failure(
        reason="ScriptFailed",
        message="line 3: no such table",
        permanent=permanent,
        fingerprint=fingerprint,
        attempts=1,
        at=NOW - timedelta(minutes=1),
        retry_at=None if retry_in is None else NOW + retry_in,
    )


def a_request(verb: str, target: str = "", *, ago: timedelta = timedelta(seconds=1), **changes: Any) -> Request:
    values: dict[str, Any] = {"id": f"{verb}-{target}", "verb": verb, "target": target, "requested_at": NOW - ago}
    return Request(**{**values, **changes})


def planned(desired: Desired, observed: Observed, *, now: datetime = NOW, settings: PlanSettings = SETTINGS) -> Plan:
    return plan(desired, observed, now, settings=settings)


def steps(made: Plan) -> list[str]:
    """A plan's actions as ``verb name``."""
    return [f"{action.verb} {action.key.name}" for action in made.actions]


def only_build(made: Plan) -> BuildSnapshot:
    (build,) = made.actions
    assert isinstance(build, BuildSnapshot)
    return build


def condition(made: Plan, key: ObjectKey, kind: str) -> Condition | None:
    return next((c for c in made.conditions.get(key, ()) if c.type == kind), None)


def reason(made: Plan, key: ObjectKey, kind: str) -> str | None:
    found = condition(made, key, kind)
    return found.reason if found is not None else None


def _latest_first(actions: Sequence[Action]) -> Iterator[Action]:
    """Yield actions object by object, of those that need not wait any more the last one of the plan first."""
    blocks: dict[ObjectKey, list[Action]] = {}
    for action in actions:
        blocks.setdefault(action.key, []).append(action)
    while blocks:
        key = next(k for k in reversed(blocks) if all(blocks.keys().isdisjoint(a.after) for a in blocks[k]))
        yield from blocks.pop(key)


@dataclass
class World:
    """A model of apply: one Observed value, changed action by action. Every action of ``broken`` objects fails."""

    desired: Desired
    observed: Observed
    now: datetime = NOW
    broken: frozenset[ObjectKey] = frozenset()
    failed: set[ObjectKey] = field(default_factory=set)
    """Objects that failed in the last run, and all that waited for them."""

    def run(self, made: Plan) -> Observed:
        """Apply a plan in the order that differs most from its own and return what exists then."""
        self.failed = set()
        for action in _latest_first(made.actions):
            if action.key in self.failed or not self.failed.isdisjoint(action.after):
                self.failed.add(action.key)
            elif action.key in self.broken:
                self.failed.add(action.key)
                self._remember(action, self._failure(action))
            else:
                self.perform(action)
                self._remember(action, None)
        refreshed = {**self.observed.refreshed, **dict.fromkeys(made.checked, self.now)}
        answers = {name: self.desired.images[name].asked for name in made.checked}
        answered = {**self.observed.answered, **{name: asked for name, asked in answers.items() if asked is not None}}
        skipped = {**self.observed.skipped, **dict.fromkeys(made.skipped, self.now)}
        tried = {getattr(action, "request", None) for action in made.actions} | {*made.served, *made.declined}
        requests = tuple(request for request in self.observed.requests if request.id not in tried)
        self.observed = replace(
            self.observed, refreshed=refreshed, answered=answered, skipped=skipped, requests=requests
        )
        return self.observed

    def _failure(self, action: Action) -> Failure:
        fingerprint = getattr(action, "fingerprint", "")
        permanent = len(action.key.name) % 2 == 0
        retry_at = None if permanent else self.now + timedelta(seconds=5)
        return Failure("Broken", "it is broken", permanent, fingerprint, 1, self.now, retry_at)

    def _remember(self, action: Action, failure: Failure | None) -> None:
        """Forget what failed of such work before, and note the new failure."""
        work = work_of(getattr(action, "fingerprint", ""))
        kept = [known for known in self.observed.failures.get(action.key, ()) if known.work != work]
        kept += [] if failure is None else [failure]
        self.observed = replace(self.observed, failures={**self.observed.failures, action.key: tuple(kept)})

    def perform(self, action: Action) -> None:  # noqa: C901, PLR0912, PLR0915 - one case per action
        match action:
            case BuildSnapshot():
                self._build(action)
            case CutPoint():
                self._cut(action)
            case LoadTemplate():
                self._load(action)
            case DropTemplate():
                used = [self._of_clone(v, action.snapshot) for v in self.observed.volumes]
                assert all(clone is None or clone.runtime != action.runtime for clone in used), "a clone is of it"
                gone = (action.runtime, action.snapshot)
                others = tuple(t for t in self.observed.templates if (t.runtime, t.snapshot) != gone)
                self.observed = replace(self.observed, templates=others)
            case CreateClone():
                self._make(action, self.now)
            case ReplaceClone():
                self._replace(action)
            case RestoreClone():
                self._restore(action)
            case UpdateClone():
                clone = self.desired.clones[action.clone]
                users = applied_users(clone, self.observed.secrets)
                old = self._clone(action.volume)
                changed = replace(old, users=users, owner=clone.owner, protected=clone.protected)
                self._write(action.volume, replace(changed, idle=old.idle if clone.running else None))
                if "users" in action.changes:
                    self._lose(action.clone, CloneName(""))
            case RestartClone():
                settled = self._settled(self._clone(action.volume))
                resting = rests(self.desired.clones[action.clone], settled)
                self._write(action.volume, settled if resting else replace(settled, idle=None))
                self._serve(action.volume)
            case StartClone():
                self._write(action.volume, replace(self._clone(action.volume), idle=None))
                self._serve(action.volume)
            case StopClone():
                self._rest(action)
                self._stop(ServerName(action.volume))
            case StopServer():
                self._stop(action.server)
            case DeleteSnapshot():
                assert all(self._of_clone(v, action.snapshot) is None for v in self.observed.volumes), "in use"
                self._drop(VolumeId(action.snapshot))
            case DropVolume() | DeleteClone():
                for volume in action.volumes:
                    self._drop(volume)
            case ExpireClone():
                tombstone = Tombstone(action.clone, action.expiry, self.now)
                self.observed = replace(self.observed, tombstones={**self.observed.tombstones, action.clone: tombstone})
                for volume in action.volumes:
                    self._drop(volume)
            case ClearTombstone():
                rest = {name: t for name, t in self.observed.tombstones.items() if name != action.clone}
                self.observed = replace(self.observed, tombstones=rest)
            case RemoveDocuments():
                kept = {n: c for n, c in self.desired.clones.items() if document_name(c) not in action.documents}
                self.desired = replace(self.desired, clones=kept)
            case KeepRaw():
                mirror = self._mirror(action.mirror)
                look = self.observed.mirrors[mirror.image]
                self._add(a_raw(mirror, action.volume, at=self.now, until=look.last_commit or self.now))
            case DropRaw():
                self._drop(action.volume)
            case QuarantineSnapshot() | ReleaseSnapshot():
                self._mark(action)
            case CopyPrimary():
                self._copy(action)
            case FollowPrimary():
                image = self.desired.images[action.image]
                assert image.mirrored is not None, "somebody asks for it"
                settings = mirror_settings(
                    image.mirrored.url,
                    self.observed.secrets,
                    keep_log=image.point_in_time is not None,
                    archived=image.mirrored.archive is not None,
                )
                self._write(action.volume, replace(self._mirror(action.volume), settings=settings))
                self._follow(action.volume)
            case ReplayArchive():
                mirror = self._mirror(action.volume)
                look = replace(self.observed.mirrors[mirror.image], pending=0)
                self.observed = replace(self.observed, mirrors={**self.observed.mirrors, mirror.image: look})
            case LeavePrimary():
                self._stop(ServerName(action.volume))
                self._drop(action.volume)
            case RenameImage():
                looks = {action.image if n == action.formerly else n: s for n, s in self.observed.mirrors.items()}
                self.observed = replace(self.observed, mirrors=looks)
                for volume in action.volumes:
                    manifest = self._volume(volume).manifest
                    self._write(volume, replace(manifest, image=action.image))
            case RenameClone():
                self._lose(action.formerly, action.clone)
                for volume in action.volumes:
                    self._rename(volume, action)
            case _:
                assert_never(action)

    def _build(self, action: BuildSnapshot) -> None:
        image = self.desired.images[action.image]
        volume = a_snapshot(
            action.image,
            snapshot=action.snapshot,
            spec_digest=image.spec_digest,
            input_id=action.input_id,
            key_id=action.key_id,
            masked_by=image.masked_by,
            base=action.base,
            base_spec=None if action.base is None else self._snapshot(VolumeId(action.base)).spec_digest,
            asked=image.asked,
            created_at=self.now,
            pool=image.pool,
        )
        assert action.base is None or self._exists(VolumeId(action.base)), "the base exists"
        if action.mirror is not None:
            assert self._mirror(action.mirror).phase is MirrorPhase.FOLLOWING, "what is cut is whole"
            assert image.mirrored is not None, "it follows a primary"
            at = self.observed.mirrors[self._mirror(action.mirror).image].position or ""
            manifest = volume.manifest
            assert isinstance(manifest, SnapshotManifest)
            assert action.raw is None or self._exists(action.raw), "what log is replayed from exists"
            input_id = manifest.input_id if action.at is not None else mirror_input(SYSTEM, at)
            volume = replace(volume, manifest=replace(manifest, input_id=input_id, at=action.at))
        assert action.base not in self._quarantined(), "nothing is built on what is quarantined"
        self._add(volume)

    def _load(self, action: LoadTemplate) -> None:
        """Load a snapshot into an instance, from a copy that is gone afterwards."""
        source = self._volume(VolumeId(action.snapshot)).manifest
        assert isinstance(source, SnapshotManifest)
        assert action.snapshot not in self._quarantined(), "nothing quarantined is handed out"
        assert not self._exists(action.volume), "the copy is a new one"
        others = [t for t in self.observed.templates if (t.runtime, t.snapshot) != (action.runtime, action.snapshot)]
        made = ObservedTemplate(action.runtime, action.snapshot, source.databases)
        self.observed = replace(self.observed, templates=(*others, made))

    def _cut(self, action: CutPoint) -> None:
        """Make a point of a clone's current volume."""
        source = self._clone(action.volume)
        ready = [v.manifest for v in self.observed.volumes if isinstance(v.manifest, CloneManifest)]
        newest = max(m.generation for m in ready if m.clone == action.clone and m.phase is ClonePhase.READY)
        assert source.generation == newest, "it is what the clone is served from"
        assert source.snapshot == action.base
        assert source.account is None, "no superuser was in it"
        assert source.snapshot not in self._quarantined(), "nothing is made of what is quarantined"
        running = ServerName(action.volume) in self.observed.servers
        pool = self._volume(action.volume).pool
        assert action.at_rest or self.observed.pools[pool].atomic_snapshots, "it is copied as of one instant"
        assert not (action.at_rest and running and source.protected), "a protected clone is not stopped"
        self._add(
            a_snapshot(
                action.image,
                snapshot=action.snapshot,
                clone=action.clone,
                base=action.base,
                masked_by=("pii",),
                created_at=self.now,
                pool=pool,
            )
        )

    def _rename(self, volume: VolumeId, action: RenameClone) -> None:
        manifest = self._volume(volume).manifest
        assert isinstance(manifest, CloneManifest | SnapshotManifest)
        if manifest.clone == action.formerly:
            manifest = replace(manifest, clone=action.clone)
        if isinstance(manifest, CloneManifest) and manifest.source_clone == action.formerly:
            manifest = replace(manifest, source_clone=action.clone)
        self._write(volume, manifest)

    def _copy(self, action: CopyPrimary) -> None:
        image = self.desired.images[action.image]
        self._add(a_mirror(image, volume=action.volume, pool=image.pool, secrets=self.observed.secrets, at=self.now))
        self._follow(action.volume)

    def _follow(self, volume: VolumeId) -> None:
        """Start a mirror, which then has what its primary has."""
        manifest = self._mirror(volume)
        server = a_server(self._volume(volume), port=None)
        mirrors = {**self.observed.mirrors, manifest.image: a_look()}
        self.observed = replace(self.observed, servers={**self.observed.servers, server.name: server}, mirrors=mirrors)

    def _mirror(self, volume: VolumeId) -> MirrorManifest:
        manifest = self._volume(volume).manifest
        assert isinstance(manifest, MirrorManifest)
        return manifest

    def _mark(self, action: QuarantineSnapshot | ReleaseSnapshot) -> None:
        mark = Quarantine(self.now, action.why) if isinstance(action, QuarantineSnapshot) else None
        known = self._volume(VolumeId(action.snapshot)).manifest
        assert isinstance(known, SnapshotManifest)
        self._write(VolumeId(action.snapshot), replace(known, quarantine=mark))

    def _restore(self, action: RestoreClone) -> None:
        """Make a generation current as it was left; only a server that runs gets settings and users anew."""
        clone, port = self.desired.clones[action.clone], self._clone(action.current).port
        assert self._clone(action.volume).snapshot not in self._quarantined(), "nothing quarantined comes back"
        self._stop(ServerName(action.current))
        users = tuple(replace(user, password="") for user in self._clone(action.volume).users)
        restored = replace(
            self._clone(action.volume),
            generation=action.generation,
            ready_at=self.now,
            port=clone.port or port,
            users=users,
            settings_digest="",
            idle=None,
        )
        if clone.running:
            restored = self._settled(restored)
            if not missing_secrets(clone, self.observed.secrets):
                restored = replace(restored, users=applied_users(clone, self.observed.secrets))
        self._write(action.volume, restored)
        self._serve(action.volume)

    def _replace(self, action: ReplaceClone) -> None:
        old = self._clone(action.current)
        self._stop(ServerName(action.current))
        resting = action.cause == "refresh" and rests(self.desired.clones[action.clone], old)
        self._make(action, old.created_at, idle=old.idle if resting else None)

    def _rest(self, action: StopClone) -> None:
        """Note that a clone is stopped because nobody uses it, where that is why."""
        if action.idle_since is not None:
            digest = document_digest(self.desired.clones[action.clone])
            idle = Idle(action.idle_since, self.now, digest)
            self._write(action.volume, replace(self._clone(action.volume), idle=idle))

    def _make(self, action: CreateClone | ReplaceClone, created_at: datetime, idle: Idle | None = None) -> None:
        clone = self.desired.clones[action.clone]
        source = self._volume(VolumeId(action.snapshot))
        image = self.desired.image_called(source.manifest.image)
        assert image is not None
        assert image.name == clone.image, "the snapshot is of the image"
        assert isinstance(source.manifest, SnapshotManifest)
        assert source.manifest.clone == clone.source_clone, "it is a point of the clone that is asked for, or none"
        assert action.snapshot not in self._quarantined(), "nothing is made of what is quarantined"
        known = {(template.runtime, template.snapshot) for template in self.observed.templates}
        on_instance = instance_of(clone.runtime) is not None
        assert not on_instance or (clone.runtime, action.snapshot) in known, "there is something to copy"
        port = clone.port or 5600 + len(self.observed.volumes)
        volume = a_generation(
            clone,
            action.snapshot,
            generation=action.generation,
            volume=action.volume,
            pool=source.pool,
            image=image,
            users=applied_users(clone, self.observed.secrets),
            created_at=created_at,
            ready_at=self.now,
            port=port,
            idle=idle,
        )
        self._add(volume)
        self._lose(clone.name, CloneName(""))
        self._serve(volume.id)

    def _quarantined(self) -> Mapping[SnapshotId, str]:
        """Return what apply finds quarantined: by then requests are in manifests, or still count."""
        away = {name for name, pool in self.observed.pools.items() if not pool.available}
        sealed = (v for v in self.observed.volumes if v.state is VolumeState.COMPLETE and v.pool not in away)
        manifests = [v.manifest for v in sealed if isinstance(v.manifest, SnapshotManifest)]
        return quarantined(self.desired, self.observed, manifests)

    def _lose(self, name: CloneName, heir: CloneName) -> None:
        """Let lost credentials be those of another clone; of none once they are made anew."""
        lost = {heir if known == name else known for known in self.observed.lost_credentials} - {""}
        self.observed = replace(self.observed, lost_credentials=frozenset(lost))

    def _settled(self, manifest: CloneManifest) -> CloneManifest:
        clone = self.desired.clones[manifest.clone]
        image = self.desired.image_called(manifest.image)
        if image is not None:
            settings = settings_digest(clone, image), effective_parameters(clone, image)
            manifest = replace(manifest, settings_digest=settings[0], parameters=settings[1])
        return replace(manifest, port=clone.port or manifest.port)

    def _serve(self, volume: VolumeId) -> None:
        manifest = self._clone(volume)
        self._stop(ServerName(volume))
        assert manifest.snapshot not in self._quarantined(), "nothing quarantined is served"
        clone = self.desired.clones[manifest.clone]
        if clone.running and manifest.runtime != "none" and not rests(clone, manifest):
            server = a_server(self._volume(volume))
            self.observed = replace(
                self.observed,
                servers={**self.observed.servers, server.name: server},
                last_used={**self.observed.last_used, volume: self.now},
            )

    def _stop(self, name: ServerName) -> None:
        rest = {known: server for known, server in self.observed.servers.items() if known != name}
        self.observed = replace(self.observed, servers=rest)

    def _add(self, volume: Volume) -> None:
        assert not self._exists(volume.id), f"{volume.id} exists"
        self.observed = replace(self.observed, volumes=(*self.observed.volumes, volume))

    def _drop(self, volume: VolumeId) -> None:
        assert self._exists(volume), f"{volume} does not exist"
        self._stop(ServerName(volume))
        self.observed = replace(self.observed, volumes=tuple(v for v in self.observed.volumes if v.id != volume))

    def _write(self, volume: VolumeId, manifest: Manifest) -> None:
        changed = tuple(replace(v, manifest=manifest) if v.id == volume else v for v in self.observed.volumes)
        self.observed = replace(self.observed, volumes=changed)

    def _exists(self, volume: VolumeId) -> bool:
        return any(volume == known.id for known in self.observed.volumes)

    def _volume(self, volume: VolumeId) -> Volume:
        return next(v for v in self.observed.volumes if v.id == volume)

    def _snapshot(self, volume: VolumeId) -> SnapshotManifest:
        manifest = self._volume(volume).manifest
        assert isinstance(manifest, SnapshotManifest)
        return manifest

    def _clone(self, volume: VolumeId) -> CloneManifest:
        manifest = self._volume(volume).manifest
        assert isinstance(manifest, CloneManifest)
        return manifest

    @staticmethod
    def _of_clone(volume: Volume, snapshot: SnapshotId) -> CloneManifest | None:
        manifest = volume.manifest
        return manifest if isinstance(manifest, CloneManifest) and manifest.snapshot == snapshot else None
