"""Servers of clones: what they are started with, and working on a clone while it is served."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reconciler.engines.base import CloneWork, UserWish
from reconciler.errors import ReconcilerError, TransientError, UnsupportedError
from reconciler.handover import owner_within
from reconciler.ids import ServerName, VolumeId
from reconciler.plan.fingerprints import applied_users, settings_digest
from reconciler.proc import Account
from reconciler.state.observed import CloneManifest, SnapshotManifest, snapshot_of
from reconciler.state.servers import Hosted, ServerSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from reconciler.apply.context import Work
    from reconciler.engines.base import Engine, Instance
    from reconciler.ids import RuntimeName
    from reconciler.proc import CancelToken
    from reconciler.runtimes.base import Runtime
    from reconciler.state.desired import DesiredClone, Script
    from reconciler.state.observed import AppliedUser
    from reconciler.state.servers import Software
    from reconciler.storage.base import Storage


@dataclass(frozen=True, slots=True)
class Serving:
    """A clone with its server up: what can be done to it then."""

    engine: Engine
    job: CloneWork

    def deliver(self, users: Sequence[UserWish], drop: Sequence[str]) -> None:
        """Bring the clone's users to exactly ``users``."""
        self.engine.deliver(self.job, users, drop)

    def run_scripts(self, scripts: Sequence[Script]) -> None:
        """Run the clone's scripts, if it has any."""
        if scripts:
            self.engine.run_scripts(self.job, scripts)


@dataclass(frozen=True, slots=True)
class ServedByInstance:
    """The same of a clone whose databases are on an instance."""

    instance: Instance
    hosted: Hosted
    cancel: CancelToken

    def deliver(self, users: Sequence[UserWish], drop: Sequence[str]) -> None:
        """Bring the clone's logins to exactly ``users``."""
        self.instance.deliver(self.hosted, users, drop)

    def run_scripts(self, scripts: Sequence[Script]) -> None:
        """Run the clone's scripts, if it has any."""
        if scripts:
            self.instance.run_scripts(self.hosted, scripts, self.cancel)


@contextmanager
def serving(
    work: Work,
    storage: Storage,
    manifest: CloneManifest,
    volume: VolumeId,
    *,
    private: bool,
    keep: bool,
    fresh: bool = False,
) -> Iterator[Serving | ServedByInstance]:
    """Have a clone served while the block runs.

    A server that runs already is used and left alone. Otherwise one is started, without
    TCP if ``private``; it stays after the block only if ``keep`` and not ``private``.
    A ``fresh`` volume was made a moment ago: no server of it is looked for.
    """
    engine, runtime = work.host.engine(manifest.engine), work.runtime(manifest.runtime)
    running = None if fresh else runtime.servers().get(ServerName(volume))
    if runtime.traits.databases:
        with _served_by_instance(
            work, storage, manifest, volume, up=running is not None, private=private, keep=keep
        ) as it:
            yield it
        return
    wanted = None if private else manifest.port
    job = clone_work(work, storage, manifest, volume, port=running.port if running is not None else wanted)
    spec = None
    if running is None:
        spec = _spec(work, engine, manifest, job)
        begin(work, manifest, spec, fresh=fresh, cancel=work.cancel)
    try:
        yield Serving(engine, job)
    finally:
        if spec is not None and (private or not keep):
            runtime.stop(spec.name, spec=spec, own=own_account(manifest))


@contextmanager
def _served_by_instance(
    work: Work, storage: Storage, manifest: CloneManifest, volume: VolumeId, *, up: bool, private: bool, keep: bool
) -> Iterator[ServedByInstance]:
    """Have the databases of a clone open while the block runs; ``up``: they are already, and stay."""
    runtime, spec = work.runtime(manifest.runtime), _hosted_spec(storage, manifest, volume, private=private)
    if not up:
        runtime.start(spec, cancel=work.cancel)
    try:
        hosted = hosted_of(manifest, volume, private=private and not up)
        yield ServedByInstance(work.host.instance(manifest.runtime), hosted, work.cancel)
    finally:
        if not up and (private or not keep):
            runtime.stop(spec.name, spec=spec)


def start(work: Work, storage: Storage, volume: VolumeId, manifest: CloneManifest) -> None:
    """Start a clone's server with the settings that its manifest says.

    Not cancelled when the reconciler is told to end: the server may just have been
    stopped for this, and nobody else would start it.
    """
    begin(work, manifest, server_of(work, storage, volume, manifest))


def begin(
    work: Work, manifest: CloneManifest, spec: ServerSpec, *, fresh: bool = False, cancel: CancelToken | None = None
) -> None:
    """Start a clone's server; should this be killed before it answers, the next pass starts it again, and waits for it.

    Only at the end of its start does a server let in exactly those that it should.
    """
    with work.host.state.starting(spec.name):
        work.runtime(manifest.runtime).start(spec, fresh=fresh, cancel=cancel)


def apply_settings(work: Work, storage: Storage, volume: VolumeId, manifest: CloneManifest) -> None:
    """Serve a clone with the settings that its document asks for now, and record that it has them.

    A server that runs is stopped, but only once its engine can serve it with these
    settings. If it does not start with them, it gets back those that it had. None of it is
    cancelled, as in :func:`start`.

    Raises:
        UnsupportedError: it runs with the settings that it had. As the host can serve it with these, the
            new ones are at fault, and trying them again would only end its sessions once more.

    """
    wanted = replace(with_settings(work, manifest), idle=None)
    runtime = work.runtime(manifest.runtime)
    spec = server_of(work, storage, volume, wanted)
    runtime.stop(spec.name, own=own_account(manifest))
    try:
        begin(work, wanted, spec)
    except TransientError as error:
        changes = _changes(manifest, wanted)
        if changes and _starts(work, storage, volume, manifest):
            raise UnsupportedError(
                f"its server does not start with {', '.join(changes)}, and runs on with what it had: {error.message}",
                reason="SettingsNotServed",
                hint=error.hint,
            ) from error
        raise
    if wanted != manifest:
        storage.update(volume, wanted)


def server_of(work: Work, storage: Storage, volume: VolumeId, manifest: CloneManifest) -> ServerSpec:
    """Write a clone's settings as its manifest says, and return how to start its server; not while it runs."""
    if work.runtime(manifest.runtime).traits.databases:
        return _hosted_spec(storage, manifest, volume)
    engine = work.host.engine(manifest.engine)
    return _spec(work, engine, manifest, clone_work(work, storage, manifest, volume, port=manifest.port))


def hosted_of(manifest: CloneManifest, volume: VolumeId, *, private: bool = False) -> Hosted:
    """Return what an instance has to know of a generation of a clone."""
    return Hosted(
        volume=volume,
        clone=manifest.clone,
        snapshot=manifest.snapshot,
        databases=manifest.databases,
        private=private,
    )


def _hosted_spec(storage: Storage, manifest: CloneManifest, volume: VolumeId, *, private: bool = False) -> ServerSpec:
    hosted = hosted_of(manifest, volume, private=private)
    directory = storage.path(volume)
    return ServerSpec(name=ServerName(volume), argv=(), directory=directory, ready=lambda: True, hosted=hosted)


def _spec(work: Work, engine: Engine, manifest: CloneManifest, job: CloneWork) -> ServerSpec:
    """Return how to start a clone's server, with its limits and with what it says of itself on the host."""
    clone = work.desired.clones[manifest.clone]
    job = replace(job, software=software(work, engine, manifest.runtime, manifest.major, clone.container_image))
    return replace(engine.clone_server(job), resources=clone.resources, subject=_subject(manifest, clone))


def software(work: Work, engine: Engine, runtime: RuntimeName, major: str | None, asked: str | None) -> Software | None:
    """Return the programs that a runtime brings for a version of an engine; None: the engine finds the host's own.

    ``asked`` is the container image that a document names.
    """
    serves = work.runtime(runtime)
    if not serves.traits.containers:
        return None
    return serves.software(engine.name, major, engine.container_image(major), asked=asked)


def _subject(manifest: CloneManifest, clone: DesiredClone) -> dict[str, str]:
    owner = {} if clone.owner is None else {"owner": clone.owner}
    of = {"clone": manifest.clone, "image": manifest.image, "snapshot": manifest.snapshot, "commit": manifest.revision}
    return {**of, **owner}


def _changes(before: CloneManifest, after: CloneManifest) -> list[str]:
    """Say which settings differ; nothing if it is not known what they were."""
    if before.parameters is None or after.parameters is None:
        return []
    port = [] if after.port == before.port else [f"port {after.port}"]
    new = [f"{name} = {value}" for name, value in after.parameters.items() if before.parameters.get(name) != value]
    return port + new + [f"no {name}" for name in before.parameters if name not in after.parameters]


def _starts(work: Work, storage: Storage, volume: VolumeId, manifest: CloneManifest) -> bool:
    try:
        start(work, storage, volume, manifest)
    except ReconcilerError:
        return False
    return True


def with_settings(work: Work, manifest: CloneManifest) -> CloneManifest:
    """Return a manifest that says what is asked for now: port and settings of the document."""
    clone = work.desired.clones[manifest.clone]
    image = work.desired.image_called(manifest.image)
    applied = settings_digest(clone, image) if image is not None else manifest.settings_digest
    parameters = _parameters(work, manifest, _snapshot(work, manifest))
    return replace(manifest, port=clone.port or manifest.port, settings_digest=applied, parameters=parameters)


def _parameters(work: Work, manifest: CloneManifest, snapshot: SnapshotManifest) -> dict[str, str]:
    """Return the server settings that documents ask for; those of its snapshot when its image has none any more."""
    clone = work.desired.clones[manifest.clone]
    image = work.desired.image_called(manifest.image)
    return {**(image.parameters if image is not None else snapshot.parameters), **clone.parameters}


def clone_work(
    work: Work, storage: Storage, manifest: CloneManifest, volume: VolumeId, *, port: int | None
) -> CloneWork:
    """Return what an engine needs to know to serve a clone."""
    clone = work.desired.clones[manifest.clone]
    served = work.host.serving(manifest.runtime)
    account = clone_account(work, manifest, volume, storage.path(volume))
    snapshot = _snapshot(work, manifest)
    return CloneWork(
        clone=manifest.clone,
        server=ServerName(volume),
        directory=storage.path(volume),
        run_directory=work.run_directory(volume, account),
        snapshot=snapshot,
        account=account,
        host=served.host,
        port=port,
        parameters=_parameters(work, manifest, snapshot) if manifest.parameters is None else manifest.parameters,
        allow=served.allow,
        tls=served.tls,
        users=tuple(user.name for user in manifest.users),
        superuser_scripts=clone.superuser_scripts,
        contained=work.runtime(manifest.runtime).traits.containers,
        cancel=work.cancel,
    )


def clone_account(work: Work, manifest: CloneManifest, volume: VolumeId, directory: Path) -> Account | None:
    """Return the account that a clone runs under: its own if it was given one.

    In a container it can be anybody's, so it is whoever owns the files: nothing changes hands for a clone.
    """
    own = own_account(manifest)
    if own is not None:
        return own
    runtime = work.runtime(manifest.runtime)
    owner = owner_within(directory) if runtime.traits.containers else None
    return owner or runtime.account("clone", volume, frozenset())


def own_account(manifest: CloneManifest) -> Account | None:
    """Return the account of its own that a clone was given, if it was given one."""
    return None if manifest.account is None else Account(manifest.account, manifest.account)


def user_wishes(work: Work, clone: DesiredClone) -> tuple[UserWish, ...]:
    """Return a clone's users with their passwords in clear.

    Raises:
        SecretError: a password's secret is missing.

    """
    return tuple(
        UserWish(
            user.name,
            user.role,
            work.host.secrets.get(user.password)
            if user.password
            else work.host.state.credentials.credential(clone.name, user.name),
        )
        for user in clone.users
    )


def delivered_users(work: Work, clone: DesiredClone) -> tuple[AppliedUser, ...]:
    """Return a clone's users as its manifest records them: with fingerprints instead of passwords."""
    named = {user.password for user in clone.users if user.password is not None}
    return applied_users(clone, {name: work.host.secret_fingerprint(name) or "" for name in named})


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a new clone's volume needs that no other may have."""

    port: int | None
    account: Account | None


@contextmanager
def allocated(work: Work, clone: DesiredClone, volume: VolumeId, *, port: int | None = None) -> Iterator[Allocation]:
    """Choose a port and, for a clone in which somebody acts as a superuser, an account of its own.

    Reserved within this process until the block ends; by then the clone's manifest
    holds them. ``port`` is one that the clone has already.

    Raises:
        RefusedError: the runtime's ports are exhausted.
        UnsupportedError: a superuser is asked for where clones cannot have own accounts.

    """
    host, runtime = work.host, work.runtime(clone.runtime)
    asked = {other.port for other in work.desired.clones.values() if other.port is not None}
    with host.reserving:
        clones = [volume.manifest for volume in work.volumes() if isinstance(volume.manifest, CloneManifest)]
        ports = {manifest.port for manifest in clones if manifest.port is not None}
        chosen = _port(clone, runtime, port, ports | asked | host.reserved)
        account = None
        if _needs_own_account(clone, runtime):
            accounts = {manifest.account for manifest in clones if manifest.account is not None}
            account = runtime.account("own", volume, accounts | host.reserved)
        mine = {number for number in (chosen, account.uid if account else None) if number is not None}
        host.reserved |= mine
    try:
        yield Allocation(chosen, account)
    finally:
        with host.reserving:
            host.reserved -= mine


def _port(clone: DesiredClone, runtime: Runtime, known: int | None, taken: set[int]) -> int | None:
    """Return the port that a clone asks for, has already, or gets; None where no server listens on one."""
    if not runtime.traits.servers or runtime.traits.databases:
        return None
    return clone.port or known or runtime.free_port(taken)


def _needs_own_account(clone: DesiredClone, runtime: Runtime) -> bool:
    """Whether a superuser acts in the clone, who can do all that the server's account can.

    Scripts with superuser rights are a grant of the host; where accounts cannot be had, it stands.
    In a container there is nothing else within reach.
    """
    if runtime.traits.containers:
        return False
    if any(user.role == "superuser" for user in clone.users):
        return True
    return bool(clone.scripts) and clone.superuser_scripts and runtime.traits.own_accounts


def _snapshot(work: Work, manifest: CloneManifest) -> SnapshotManifest:
    volume = work.volume(VolumeId(manifest.snapshot))
    if volume is not None and isinstance(volume.manifest, SnapshotManifest):
        return volume.manifest
    # A snapshot that was removed by hand does not keep its clones from being served:
    # the clone's own manifest carries what serving needs.
    return snapshot_of(manifest)
