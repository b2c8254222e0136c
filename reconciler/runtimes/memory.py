"""Servers that exist in memory only: the family's member for tests of planning and of the loop.

It keeps the contract of ``base`` without processes, files or sockets. What survives a
reconciler is the :class:`MemoryHost`; runtimes on the same host see each other's
servers only if they share the installation.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from reconciler import proc
from reconciler.clock import Clock, SystemClock
from reconciler.errors import BusyError, RefusedError, TimeoutExceededError, UnavailableError, UnsupportedError
from reconciler.ids import InstallationId, RuntimeName, ServerName
from reconciler.runtimes.base import RuntimeTraits
from reconciler.runtimes.handout import Handout
from reconciler.state.observed import ObservedServer, ServerState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from reconciler.ids import VolumeId
    from reconciler.state.servers import ProductImage, ServerSpec, Software

_Owner = tuple[InstallationId, RuntimeName]
_OWN_ACCOUNTS = range(70_000, 80_000)


@dataclass(frozen=True, slots=True)
class _Server:
    observed: ObservedServer
    directory: Path


@dataclass(slots=True)
class MemoryHost:
    """A host: the servers that run on it, and whether it can be asked.

    ``unavailable`` is the reason why runtimes on it raise UnavailableError, while it is set.
    """

    unavailable: str | None = None
    strays: set[int] = field(default_factory=set)
    """User ids of own accounts under which something runs besides servers."""
    running: dict[tuple[_Owner, ServerName], _Server] = field(default_factory=dict)
    written: dict[tuple[_Owner, ServerName], list[str]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def crash(self, name: ServerName) -> None:
        """Let the servers of this name die, as a killed process would."""
        with self.lock:
            for key in [key for key in self.running if key[1] == name]:
                del self.running[key]
                self.written[key].append("crashed")


class MemoryRuntime:
    """A runtime on a :class:`MemoryHost`."""

    def __init__(
        self,
        name: RuntimeName,
        *,
        installation: InstallationId,
        host: MemoryHost | None = None,
        ports: range = range(5600, 6000),
        own_accounts: bool = False,
        resources: frozenset[str] = frozenset(),
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.traits = RuntimeTraits(resources=resources, own_accounts=own_accounts)
        self.host = host or MemoryHost()
        self._owner: _Owner = (installation, name)
        self._ports = Handout(ports)
        self._accounts = Handout(_OWN_ACCOUNTS)
        self._clock = clock or SystemClock()

    def servers(self) -> Mapping[ServerName, ObservedServer]:
        self._require_available()
        with self.host.lock:
            return {
                name: server.observed for (owner, name), server in self.host.running.items() if owner == self._owner
            }

    def software(
        self,
        engine: str,  # noqa: ARG002 - part of the contract: the engine finds the host's own programs
        major: str | None,  # noqa: ARG002
        default: ProductImage,  # noqa: ARG002
        *,
        asked: str | None = None,  # noqa: ARG002
    ) -> Software | None:
        return None

    def start(self, spec: ServerSpec, *, fresh: bool = False, cancel: proc.CancelToken | None = None) -> None:  # noqa: ARG002 - looking is cheap here
        self._require_available()
        if cancel is not None:
            cancel.check()
        key = (self._owner, spec.name)
        with self.host.lock:
            if key in self.host.running:
                return
            self._require_free(spec)
            if not spec.ready():
                raise TimeoutExceededError(f"the server {spec.name} did not answer within {spec.ready_timeout:g} s")
            observed = ObservedServer(spec.name, self.name, ServerState.RUNNING, spec.port, self._clock.now())
            self.host.running[key] = _Server(observed, spec.directory)
            self.host.written.setdefault(key, []).append("started")

    def stop(
        self,
        name: ServerName,
        *,
        spec: ServerSpec | None = None,  # noqa: ARG002 - part of the contract
        own: proc.Account | None = None,
        at_once: bool = False,  # noqa: ARG002 - part of the contract
    ) -> None:
        self._require_available()
        with self.host.lock:
            if own is not None:
                self.host.strays.discard(own.uid)
            if self.host.running.pop((self._owner, name), None) is not None:
                self.host.written[self._owner, name].append("stopped")

    def forget(self, name: ServerName) -> None:
        with self.host.lock:
            self.host.written.pop((self._owner, name), None)

    def logs(self, name: ServerName, *, lines: int = 100) -> list[str]:
        with self.host.lock:
            return self.host.written.get((self._owner, name), [])[-lines:] if lines > 0 else []

    def free_port(self, taken: AbstractSet[int]) -> int:
        with self.host.lock:
            used = {server.observed.port for server in self.host.running.values()}
        port = self._ports.take(taken, lambda candidate: candidate not in used)
        if port is None:
            raise RefusedError(f"all {len(self._ports.numbers)} ports are in use", reason="PortsExhausted")
        return port

    def account(
        self, purpose: Literal["build", "clone", "own"], volume: VolumeId, taken: AbstractSet[int]
    ) -> proc.Account | None:
        if purpose != "own":
            return None
        if not self.traits.own_accounts:
            raise UnsupportedError(f"{volume} needs an account of its own, which the runtime {self.name} cannot give")
        number = self._accounts.take(taken | self.host.strays, lambda _candidate: True)
        if number is None:
            raise RefusedError(f"all {len(_OWN_ACCOUNTS)} own accounts are in use")
        return proc.Account(number, number)

    def rotate_logs(self) -> None:
        with self.host.lock:
            for lines in self.host.written.values():
                del lines[:-1000]

    def _require_available(self) -> None:
        if self.host.unavailable is not None:
            raise UnavailableError(f"the runtime {self.name} cannot be asked: {self.host.unavailable}")

    def _require_free(self, spec: ServerSpec) -> None:
        for (_owner, name), server in self.host.running.items():
            if spec.port is not None and server.observed.port == spec.port:
                raise BusyError(f"port {spec.port} is in use by the server {name}", reason="PortInUse")
            if server.directory == spec.directory:
                raise BusyError(f"{spec.directory} is used by the server {name}", reason="DirectoryInUse")
