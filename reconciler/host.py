"""One host put together: configuration, pools, runtimes, engines, state, secrets.

The composition root: the only place that turns names of the configuration into
drivers. Commands open a host, use it and close it. A host that only looks changes
nothing on disk that others could notice; one that writes holds the state's and the
pools' locks.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import structlog

from reconciler import plugins
from reconciler.clock import Clock, SystemClock
from reconciler.commits import Commits
from reconciler.errors import RefusedError, UnavailableError, UnsupportedError
from reconciler.ids import FILES, PoolName, RuntimeName, SecretName, VolumeId, instance_of, on_instance
from reconciler.plan.settings import AttestationRules, MaintenanceWindow, PlanSettings, PolicySettings
from reconciler.together import Looks

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

    from reconciler.engines.base import Engine, Instance
    from reconciler.ids import InstallationId
    from reconciler.masking.dsse import Signer
    from reconciler.masking.trust import Trust
    from reconciler.repository import Author, Repository
    from reconciler.runtimes.accounts import AccountSettings
    from reconciler.runtimes.base import Runtime
    from reconciler.secrets import SecretStore
    from reconciler.spec.config import Config, Pool
    from reconciler.state.observed import Activity, Input, ObservedMirror
    from reconciler.status.directory import StateDirectory
    from reconciler.status.store import StatusStore
    from reconciler.storage.base import Storage

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """Where servers of a runtime listen and who may connect."""

    host: str
    advertise: str
    allow: tuple[str, ...] = ()
    tls: tuple[Path, Path] | None = None
    port: int | None = None
    """The port of all of its clones, where they share one: on an instance."""


@dataclass(kw_only=True)
class Host:
    """Everything that passes work on; shared by threads."""

    config: Config
    installation: InstallationId
    state: StateDirectory
    store: StatusStore
    secrets: SecretStore
    pools: Mapping[PoolName, Storage]
    runtimes: Mapping[RuntimeName, Runtime]
    instances: Mapping[RuntimeName, Instance] = field(default_factory=dict)
    """Servers that exist already, by the runtimes of clones that are databases there."""
    engines: dict[str, Engine] = field(default_factory=dict)
    clock: Clock = field(default_factory=SystemClock)
    reserving: threading.Lock = field(default_factory=threading.Lock)
    cutting: dict[VolumeId, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))
    """One for each mirror: it is not started or stopped while a copy is taken of it."""
    reserved: set[int] = field(default_factory=set)
    """Ports and user ids that a clone in the making has chosen and not recorded yet."""
    source_looks: Looks[Hashable, Input] = field(default_factory=partial(Looks, takes_late=True))
    mirror_looks: Looks[Hashable, ObservedMirror] = field(default_factory=Looks)
    use_looks: Looks[tuple[VolumeId, float], Activity] = field(default_factory=Looks)
    """Questions to what may hang; these three are for the thread of passes alone."""
    held: ExitStack | None = None
    """Locks of the pools that are held until the host is closed; None for a host that only looks."""
    _held_pools: set[PoolName] = field(default_factory=set)
    _pool_locks: ExitStack = field(default_factory=ExitStack)

    def engine(self, name: str) -> Engine:
        """Return an engine, loaded at its first use.

        Raises:
            UnsupportedError: this version or host does not have it.

        """
        if name not in self.engines:
            self.engines[name] = plugins.load("engine", name)()
        return self.engines[name]

    def runtime(self, name: RuntimeName) -> Runtime:
        """Return a runtime of this host.

        Raises:
            UnsupportedError: this host has no such runtime.

        """
        runtime = self.runtimes.get(name)
        if runtime is None:
            known = ", ".join(sorted(self.runtimes))
            raise UnsupportedError(
                f"the runtime {name} is not available on this host",
                reason="RuntimeUnavailable",
                hint=f"available: {known}; others are where the configuration has a section under runtimes",
            )
        return runtime

    def instance(self, runtime: RuntimeName) -> Instance:
        """Return the server on which a runtime's clones are databases.

        Raises:
            UnsupportedError: this host has no such instance.

        """
        if runtime not in self.instances:
            raise UnsupportedError(
                f"the runtime {runtime} is not available on this host",
                reason="RuntimeUnavailable",
                hint="name the instance in the configuration, under runtimes.instance",
            )
        return self.instances[runtime]

    def serving(self, runtime: RuntimeName) -> ServingSettings:
        """Return where servers of a runtime listen.

        Raises:
            UnsupportedError: this host has no such runtime.
            SecretError: the secret with the URL of an instance cannot be used.

        """
        if (name := instance_of(runtime)) is not None:
            host, port = self.instance(runtime).address()
            known = self.config.runtimes.instance.get(name)
            return ServingSettings(host=host, advertise=(known.advertise if known else None) or host, port=port)
        if runtime in self.runtimes and not self.runtimes[runtime].traits.servers:
            return ServingSettings(host="", advertise="")
        settings = getattr(self.config.runtimes, runtime, None)
        if settings is None:
            raise UnsupportedError(f"the runtime {runtime} has no settings on this host", reason="RuntimeUnavailable")
        tls = getattr(settings, "tls", None)
        return ServingSettings(
            host=settings.host,
            advertise=settings.advertise or settings.host,
            allow=tuple(getattr(settings, "allow", ())),
            tls=(tls.cert, tls.key) if tls is not None else None,
        )

    def secret_fingerprint(self, name: SecretName) -> str | None:
        """Return the keyed fingerprint of a secret's value; None when there is none."""
        return self.secrets.fingerprint(name, self.state.fingerprint_key)

    @property
    def trust(self) -> Trust:
        """The keys whose signatures of attestations count."""
        from reconciler.masking.trust import trusted

        return trusted(self.config.attestation, self.secrets)

    def signer(self) -> Signer | None:
        """Return what signs attestations of this host; None where they are not signed.

        Raises:
            SecretError: a key is configured, and there is none that can be used.

        """
        from reconciler.masking.trust import signer

        return signer(self.config.attestation, self.secrets)

    @property
    def jobs(self) -> int:
        """How many processes one build may use."""
        return max(1, os.cpu_count() or 1)

    @property
    def plan_settings(self) -> PlanSettings:
        """What planning needs to know of this host."""
        settings = plan_settings(
            self.config, pools=frozenset(self.pools) | self.lost_pools, runtimes=frozenset(self.runtimes)
        )
        return replace(settings, attestation=self.attestation_rules)

    @property
    def lost_pools(self) -> frozenset[PoolName]:
        """Pools that were in use once and that the configuration does not name any more: away, not gone.

        A pool that only has another name now is not among them.
        """
        known = self.state.known_pools.all()
        present = {known[name] for name in self.pools if name in known}
        return frozenset(name for name, identity in known.items() if name not in self.pools and identity not in present)

    @property
    def policy_settings(self) -> PolicySettings:
        """What policy needs to know of this host."""
        usage = self.store.usage()
        return replace(
            policy_settings(self.config),
            memory_limit=self.config.limits.memory.of(_memory()),
            runtimes={name: runtime.traits for name, runtime in self.runtimes.items()},
            sizes={volume: used.logical_bytes for volume, used in usage.items()},
            attestation=self.attestation_rules,
        )

    @property
    def attestation_rules(self) -> AttestationRules:
        """What this host asks of attestations; keys are read only where it asks for any."""
        rules = attestation_rules(self.config)
        return replace(rules, trusted=frozenset(self.trust.keys)) if rules.pools or rules.runtimes else rules

    def hold_pools(self) -> None:
        """Make the pools ready and lock them; one that is away stays away, and is tried again at the next call.

        Those that are held already grow to their sizes, when there was no room for that before.

        Raises:
            BusyError: a pool belongs to, or is in use by, somebody else.

        """
        for name, storage in self.pools.items():
            if self.held is None:
                continue
            if name in self._held_pools:
                storage.grow()
                continue
            try:
                self.state.known_pools.remember(name, storage.prepare())
            except (UnavailableError, UnsupportedError, RefusedError) as error:
                log.warning("pool is not available", pool=name, error=str(error))
                continue
            self._pool_locks.enter_context(storage.lock())
            self.held.callback(self._pool_locks.close)
            self._held_pools.add(name)

    def release_pools(self) -> None:
        """Let go of the pools before the host is closed: whoever removes one must not hold it."""
        self._pool_locks.close()

    def commits(self) -> Commits:
        """Return a reader of this host's repository."""
        return Commits(self.repository(), self.config)

    def repository(self) -> Repository:
        """Return this host's repository, for one thread; all work on one mirror, each with refs of its own."""
        return configured_repository(self.config, self.state.mirror, self.secrets)

    @property
    def author(self) -> Author:
        """Whose commits those of this host are."""
        from reconciler.repository import Author

        settings = self.config.repository.write_back
        key = settings.signing_key
        return Author(
            name=settings.name,
            email=settings.email,
            key=(lambda: self.secrets.get(SecretName(key.secret))) if key is not None else None,
        )


def plan_settings(
    config: Config, *, pools: frozenset[PoolName], runtimes: frozenset[RuntimeName] | None
) -> PlanSettings:
    """Return what planning needs to know of a configuration, and of the host that it is planned for."""
    return PlanSettings(
        undo_grace=config.undo.grace,
        pools=pools,
        runtimes=runtimes,
        attestation=attestation_rules(config),
        write_back=config.repository.write_back.enabled,
    )


def policy_settings(config: Config) -> PolicySettings:
    """Return the limits of a configuration; what only its host can tell (memory, abilities, sizes) is left out."""
    return PolicySettings(
        max_delete=config.prune.max_delete,
        max_delete_percent=config.prune.max_delete_percent,
        unmasked=config.masking.unmasked,
        attestation=attestation_rules(config),
        suspended=config.suspend,
        windows=tuple(
            MaintenanceWindow(
                kind=window.kind,
                schedule=window.schedule,
                duration=window.duration,
                timezone=window.timezone,
                actions=frozenset(window.actions),
                only=window.only,
            )
            for window in config.windows
        ),
    )


def attestation_rules(config: Config) -> AttestationRules:
    """Return what a configuration asks of attestations; whom its host trusts is left out."""
    names = [name for name in type(config.runtimes).model_fields if name != "instance"]
    runtimes = {RuntimeName(name): getattr(config.runtimes, name) for name in names}
    runtimes |= {on_instance(name): settings for name, settings in config.runtimes.instance.items()}
    return AttestationRules(
        pools={PoolName(n): pool.require_attestation for n, pool in config.pools.items() if pool.require_attestation},
        runtimes={name: r.require_attestation for name, r in runtimes.items() if r.require_attestation},
        signs=config.attestation.key is not None,
    )


def secret_store(config: Config) -> SecretStore:
    """Return the secrets of a configuration."""
    from reconciler.secrets import SecretStore

    return SecretStore(config.secrets.directory, config.secrets.environment)


def configured_repository(config: Config, mirror: Path, secrets: SecretStore) -> Repository:
    """Return the repository of a configuration; what is fetched of a remote lies in ``mirror``."""
    from reconciler.repository import Limits, Signers, open_repository

    settings = config.repository
    credentials = settings.credentials
    verify = settings.verify
    return open_repository(
        mirror=mirror,
        url=settings.url,
        branch=settings.branch,
        path=settings.path,
        limits=Limits(files=settings.limits.files, total_bytes=settings.limits.total_size),
        credentials=(lambda: secrets.get(SecretName(credentials.secret))) if credentials is not None else None,
        known_hosts=settings.known_hosts,
        signers=Signers(
            allowed=verify.allowed_signers,
            revoked=verify.revoked_keys,
            gpg_keys=verify.gpg_keys,
            gnupg_home=verify.gnupg_home,
        )
        if verify is not None
        else None,
    )


@contextmanager
def open_host(config: Config, *, writes: bool, command: str = "") -> Iterator[Host]:
    """Open a host; with ``writes``, as the one writer of its state and pools.

    Raises:
        BusyError: another reconciler writes to this state directory or pool.

    """
    from reconciler.status.store import StatusStore

    clock = SystemClock()
    with ExitStack() as stack:
        state = stack.enter_context(_state(config.state, writes=writes))
        if writes:
            stack.enter_context(state.lock(command or " ".join(sys.argv), now=clock.now()))
            _end_leftovers()
        store = stack.enter_context(StatusStore(state.status_file, clock, read_only=not writes))
        secrets = secret_store(config)
        instances = _instances(config, state, secrets)
        for instance in instances.values():
            stack.callback(instance.close)
        host = Host(
            config=config,
            installation=state.installation,
            state=state,
            store=store,
            secrets=secrets,
            pools={PoolName(name): _pool(PoolName(name), pool, state) for name, pool in config.pools.items()},
            runtimes=_runtimes(config, state, instances),
            instances=instances,
            clock=clock,
            held=stack if writes else None,
        )
        host.hold_pools()
        yield host


@contextmanager
def _state(path: Path, *, writes: bool) -> Iterator[StateDirectory]:
    """Open a state directory; who only looks where there is none yet leaves none behind."""
    from reconciler.status.directory import StateDirectory

    if writes or not _is_missing(path):
        yield StateDirectory(path)
        return
    with TemporaryDirectory(prefix="reconciler-look-") as elsewhere:
        yield StateDirectory(Path(elsewhere) / "state")


def _is_missing(path: Path) -> bool:
    """Whether there is nothing; what may not be looked at is not missing."""
    try:
        path.stat()
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False


def _end_leftovers() -> None:
    """Kill tools that an earlier reconciler left behind when it was killed; they may still write to a pool."""
    from reconciler.runtimes.leftovers import end_leftover_tools

    ended, stuck = end_leftover_tools()
    if ended:
        log.info("ended tools that a dead reconciler left behind", processes=ended)
    for pid, title in stuck.items():
        log.warning("a tool that a dead reconciler left behind does not end; a disk may be away", pid=pid, tool=title)


def _memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _pool(name: PoolName, settings: Pool, state: StateDirectory) -> Storage:
    from reconciler.storage.select import PoolSettings, open_pool

    return open_pool(
        name,
        PoolSettings(
            driver=settings.driver,
            path=settings.directory,
            reserve=str(settings.reserve),
            size=settings.size,
            dataset=settings.dataset,
        ),
        installation=state.installation,
        known_pool_id=state.known_pools.all().get(name),
    )


def _instances(config: Config, state: StateDirectory, secrets: SecretStore) -> dict[RuntimeName, Instance]:
    """Return the servers that exist already; none of them is asked anything yet."""
    from reconciler.engines.base import InstanceReach

    found: dict[RuntimeName, Instance] = {}
    for name, settings in config.runtimes.instance.items():
        secret = SecretName(settings.url.secret)
        reach = InstanceReach(
            name=name,
            installation=state.installation,
            secret=secret,
            url=partial(secrets.get, secret),
            connections=settings.connections,
            data_directory=settings.data_directory,
        )
        found[on_instance(name)] = plugins.load("engine", settings.engine)().instances.at(reach)
    return found


def _runtimes(
    config: Config, state: StateDirectory, instances: Mapping[RuntimeName, Instance]
) -> dict[RuntimeName, Runtime]:
    """Return the runtimes of this host: containers only where the configuration speaks of them."""
    runtimes = {RuntimeName("process"): _process_runtime(config, state), FILES: _files_runtime(config)}
    if "docker" in config.runtimes.model_fields_set:
        runtimes[RuntimeName("docker")] = _docker_runtime(config, state)
    for name, instance in instances.items():
        runtimes[name] = plugins.load("runtime", "instance")(name, instance)
    return runtimes


def _docker_runtime(config: Config, state: StateDirectory) -> Runtime:
    from reconciler.runtimes.docker.settings import DockerSettings

    settings = config.runtimes.docker
    runtime: Runtime = plugins.load("runtime", "docker")(
        RuntimeName("docker"),
        installation=state.installation,
        state=state.path,
        settings=DockerSettings(
            socket=settings.socket,
            images=settings.images,
            pull=settings.pull,
            networks=settings.networks,
            shm_size=settings.shm_size,
            restart=settings.restart,
            ports=range(settings.ports.first, settings.ports.last + 1),
            host=settings.host,
        ),
        accounts=_accounts(config),
    )
    return runtime


def _accounts(config: Config) -> AccountSettings:
    from reconciler.runtimes.accounts import AccountSettings

    settings = config.runtimes.process.accounts
    return AccountSettings(
        build=settings.build, clone=settings.clone, own=range(settings.own.first, settings.own.last + 1)
    )


def _process_runtime(config: Config, state: StateDirectory) -> Runtime:
    settings = config.runtimes.process
    runtime: Runtime = plugins.load("runtime", "process")(
        RuntimeName("process"),
        installation=state.installation,
        key=state.fingerprint_key,
        logs=state.logs,
        ports=range(settings.ports.first, settings.ports.last + 1),
        host=settings.host,
        accounts=_accounts(config),
    )
    return runtime


def _files_runtime(config: Config) -> Runtime:
    runtime: Runtime = plugins.load("runtime", FILES)(FILES, account=config.runtimes.none.account)
    return runtime
