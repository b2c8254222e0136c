"""Servers in containers, which outlive the reconciler.

The member ``docker`` of the runtime family; see ``base`` for its contract. A container is
made for each start and removed at the stop, with what it wrote last kept in a log of ours:
so it is always what its document asks for now, and nothing is left behind. Of containers that
the daemon, or a person, stopped or paused, those are brought back that are ours.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from reconciler.clock import SystemClock
from reconciler.errors import (
    BusyError,
    RefusedError,
    TimeoutExceededError,
    TransientError,
    UnavailableError,
    UnsupportedError,
)
from reconciler.runtimes import ports as tcp
from reconciler.runtimes.accounts import Accounts, AccountSettings, Purpose
from reconciler.runtimes.base import RuntimeTraits
from reconciler.runtimes.docker import marks
from reconciler.runtimes.docker.daemon import AbsentError, ConflictError, Daemon, DaemonError
from reconciler.runtimes.docker.images import Images
from reconciler.runtimes.docker.keeping import KeptLogs
from reconciler.runtimes.docker.marks import Found, Marks
from reconciler.runtimes.docker.networks import Networks
from reconciler.runtimes.docker.recipe import aliases, contained, recipe
from reconciler.runtimes.handout import Handout
from reconciler.state.observed import ObservedServer, ServerState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from reconciler.ids import InstallationId, RuntimeName, ServerName, VolumeId
    from reconciler.proc import Account, CancelToken
    from reconciler.runtimes.docker.settings import DockerSettings
    from reconciler.state.servers import ProductImage, ServerSpec, Software

_FIRST_POLL_SECONDS = 0.005
_LATER_POLLS = 1.2
"""So nobody waits for a server that answers longer than a fifth of what it took to start."""
_LONGEST_POLL_SECONDS = 0.1
_INSPECT_SECONDS = 0.2
_EXCERPT_BYTES = 2000
_EXCERPT_LINES = 50
_PORT_TAKEN = re.compile(r"address already in use|port is already allocated", re.IGNORECASE)
_NO_PROGRAM = re.compile(r"executable file not found|no such file or directory", re.IGNORECASE)


class DockerRuntime:
    """Runs servers as containers. ``state`` is the installation's directory, for logs and answers of images."""

    def __init__(
        self,
        name: RuntimeName,
        *,
        installation: InstallationId,
        state: Path,
        settings: DockerSettings,
        accounts: AccountSettings,
    ) -> None:
        self.name = name
        self.traits = RuntimeTraits(resources=frozenset({"memory", "cpus"}), own_accounts=False, containers=True)
        self._settings = settings
        self._accounts = Accounts(accounts)
        self._daemon = Daemon(settings.socket)
        self._marks = Marks(installation, name)
        mine = {marks.INSTALLATION: installation}
        self._images = Images(self._daemon, settings, state / "images", mine | {marks.RUNTIME: name})
        self._networks = Networks(self._daemon, mine)
        self._logs = KeptLogs(self._daemon, state / "logs")
        self._ports = Handout(settings.ports)
        self._clock = SystemClock()
        self._never = threading.Event()

    def servers(self) -> Mapping[ServerName, ObservedServer]:
        return {
            found.name: ObservedServer(found.name, self.name, ServerState.RUNNING, found.port, found.created_at)
            for found in self._marks.ours(self._daemon.containers(self._marks.filters()))
            if found.runs
        }

    def software(
        self, engine: str, major: str | None, default: ProductImage, *, asked: str | None = None
    ) -> Software | None:
        named = self._settings.images
        reference = asked or named.get(f"{engine}:{major}") or named.get(engine) or default.reference
        return self._images.software(reference, default.user)

    def start(self, spec: ServerSpec, *, fresh: bool = False, cancel: CancelToken | None = None) -> None:
        """Start a server and return once it answers; see the contract.

        A container of this name that runs already, perhaps started by a reconciler that was
        killed meanwhile, is waited for but never stopped: it may be somebody's work.
        """
        contained(spec)
        running = None if fresh else self._make_way(spec)
        if running is not None and self._wait_until_ready(spec, running.id, cancel, adopted=True):
            return
        if running is not None:
            self._remove(running)
        if spec.port is not None:
            self._require_free(spec, spec.port)
        for stale in spec.stale_files:
            stale.unlink(missing_ok=True)
        container = self._create(spec)
        try:
            self._begin(spec, container)
            if not self._wait_until_ready(spec, container, cancel):
                self._report_death(spec, container)
        except BaseException:
            self._daemon.remove(container)
            raise

    def stop(
        self,
        name: ServerName,
        *,
        spec: ServerSpec | None = None,  # noqa: ARG002 - its container knows how it ends
        own: Account | None = None,  # noqa: ARG002 - whatever a server starts is in its container
        at_once: bool = False,
    ) -> None:
        """Stop a server and remove its container; what was started in it ends with it.

        It gets the first of its signals, and is killed after the grace of that: all processes of a container end
        at once then, so that nothing is gained by another signal before. One whose data is thrown away is killed
        at once: nothing of it is in shared memory outside of its container.
        """
        for found in self._containers(name):
            if not at_once and found.state in ("running", "paused"):
                if found.state == "paused":
                    self._daemon.unpause(found.id)
                self._daemon.stop(found.id, found.grace)
            self._remove(found)
            if self._daemon.inspect(found.id) is not None:
                raise BusyError(f"the container of the server {name} does not end, not even by force")

    def forget(self, name: ServerName) -> None:
        self._logs.remove(name)

    def logs(self, name: ServerName, *, lines: int = 100) -> list[str]:
        return self._logs.tail(name, [found.id for found in self._containers(name)], lines)

    def free_port(self, taken: AbstractSet[int]) -> int:
        used = {port for facts in self._daemon.containers() for port in marks.published(facts)}
        port = self._ports.take(taken | used, self._can_publish)
        if port is None:
            numbers = self._ports.numbers
            raise RefusedError(
                f"no port is free: all {len(numbers)} from {numbers.start} to {numbers.stop - 1} are allocated or in "
                "use",
                reason="PortsExhausted",
                hint=f"widen runtimes.{self.name}.ports in the host configuration",
            )
        return port

    def account(self, purpose: Purpose, volume: VolumeId, taken: AbstractSet[int]) -> Account | None:
        if purpose == "own":
            raise UnsupportedError(f"{volume} needs no account of its own: it is in a container")
        return self._accounts.account(purpose, volume, taken)

    def rotate_logs(self) -> None:
        self._logs.rotate()

    def _can_publish(self, port: int) -> bool:
        return all(tcp.is_free(host, port) for host in sorted({tcp.LOOPBACK, self._settings.host}))

    def _containers(self, name: ServerName) -> list[Found]:
        """Return our containers of a server; more than one only if somebody renamed one."""
        return [one for one in self._marks.ours(self._daemon.containers(self._marks.filters(name))) if one.name == name]

    def _make_way(self, spec: ServerSpec) -> Found | None:
        """Return the server's container if it runs, woken up if it was paused; else remove what remained of it.

        Raises:
            BusyError: another container uses its directory.

        """
        everybody = self._daemon.containers()
        ours = list(self._marks.ours(everybody))
        mine = [found for found in ours if found.name == spec.name]
        clone = spec.subject.get(marks.CLONE)
        for found in ours:  # a reconciler that was killed left the container of the generation before
            if clone is not None and found.clone == clone and found.name != spec.name and found.ended:
                self._remove(found)
        for found in mine:
            if found.state == "paused":
                self._daemon.unpause(found.id)
            if found.state in ("running", "paused"):
                return found
            self._remove(found)
        ids = {found.id for found in mine}
        users = marks.users_of((facts for facts in everybody if facts["Id"] not in ids), spec.directory)
        if users:
            raise BusyError(f"{spec.directory} is used by the container {users[0]}", reason="DirectoryInUse")
        return None

    def _require_free(self, spec: ServerSpec, port: int) -> None:
        try:
            tcp.require_free(spec.host or self._settings.host, port)
        except BusyError as error:
            raise self._port_taken(port) or error from error

    def _port_taken(self, port: int) -> BusyError | None:
        """Return an error that names the container that has a port; None when none has."""
        holders = [marks.title(facts) for facts in self._daemon.containers() if port in marks.published(facts)]
        if not holders:
            return None
        return BusyError(f"port {port} is in use by the container {holders[0]}", reason="PortInUse")

    def _create(self, spec: ServerSpec) -> str:
        if spec.port is not None:
            self._networks.ensure(self._settings.networks)
        name, body = self._marks.container_name(spec.name), recipe(spec, self._settings, self._marks.labels(spec))
        try:
            return self._daemon.create(name, body)
        except ConflictError as error:
            raise BusyError(
                f"there is a container {name} already that does not serve {spec.directory}",
                reason="ContainerNameInUse",
                hint="remove or rename it",
            ) from error
        except AbsentError as error:
            raise UnavailableError(f"the container image is gone since it was looked for: {error.message}") from error
        except DaemonError as error:
            raise _not_startable(spec, error) from error

    def _begin(self, spec: ServerSpec, container: str) -> None:
        try:
            for network in self._settings.networks[1:] if spec.port is not None else ():
                self._daemon.join(container, network, aliases(spec))
            self._daemon.start(container)
        except DaemonError as error:
            if spec.port is not None and _PORT_TAKEN.search(error.message):
                raise self._port_taken(spec.port) or BusyError(
                    f"port {spec.port} is in use", reason="PortInUse"
                ) from error
            self._networks.forget()
            raise _not_startable(spec, error) from error

    def _wait_until_ready(
        self, spec: ServerSpec, container: str, cancel: CancelToken | None, *, adopted: bool = False
    ) -> bool:
        """Wait until the server answers; return False when it ended instead, even if the daemon started it again."""
        started = self._clock.monotonic()
        pause, looked = _FIRST_POLL_SECONDS, started
        restarts = self._restarts(container) if adopted else 0
        while not spec.ready():
            if cancel is not None:
                cancel.check()
            now = self._clock.monotonic()
            if now - started >= spec.ready_timeout:
                raise TimeoutExceededError(
                    f"the server {spec.name} did not answer within {spec.ready_timeout:g} s",
                    hint="its log may say why",
                )
            if now - looked >= _INSPECT_SECONDS:
                looked = now
                if self._restarts(container) != restarts:
                    return False
            self._clock.wait(self._never, pause)
            pause = min(pause * _LATER_POLLS, _LONGEST_POLL_SECONDS)
        return True

    def _restarts(self, container: str) -> int | None:
        """Return how often the daemon has started a container again by itself; None when it does not run."""
        facts = self._daemon.inspect(container)
        if facts is None or not facts["State"].get("Running"):
            return None
        return int(facts.get("RestartCount") or 0)

    def _report_death(self, spec: ServerSpec, container: str) -> NoReturn:
        facts: dict[str, Any] = self._daemon.inspect(container) or {}
        state = facts.get("State", {})
        self._logs.keep(spec.name, container)
        written = self._daemon.logs(container, _EXCERPT_LINES).decode("utf-8", "replace").strip()
        out_of_memory, code = state.get("OOMKilled"), state.get("ExitCode")  # which a restart by the daemon forgets
        how = " because it ran out of memory" if out_of_memory else f" with exit code {code}" if code else ""
        raise TransientError(
            f"the server {spec.name} ended{how} while it started; the end of its log:\n"
            f"{written[-_EXCERPT_BYTES:] or '(it wrote nothing)'}",
            reason="ServerStartFailed",
            hint="raise resources.memory" if out_of_memory else None,
        )

    def _remove(self, found: Found) -> None:
        self._logs.keep(found.name, found.id)
        self._daemon.remove(found.id)


def _not_startable(spec: ServerSpec, error: DaemonError) -> UnsupportedError | TransientError:
    if _NO_PROGRAM.search(error.message):
        image = contained(spec).software.reference
        return UnsupportedError(f"the container image {image} cannot run {spec.argv[0]}: {error.message}")
    return TransientError(
        f"the container of {spec.name} cannot be started: {error.message}", reason="ServerStartFailed"
    )
