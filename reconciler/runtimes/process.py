"""Servers as ordinary processes of this host, which outlive the reconciler.

The member ``process`` of the runtime family; see ``base`` for its contract. A server
runs in a session of its own (in a scope of its own under systemd), carries its marks
in its environment, and is found again by them. Resource limits are those of its scope:
without systemd there are none.
"""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

from reconciler import proc
from reconciler.clock import SystemClock
from reconciler.errors import (
    BusyError,
    RefusedError,
    TimeoutExceededError,
    TransientError,
    UnsupportedError,
)
from reconciler.runtimes import ports as tcp
from reconciler.runtimes import processes, systemd
from reconciler.runtimes.accounts import Accounts, AccountSettings, Purpose
from reconciler.runtimes.base import RuntimeTraits
from reconciler.runtimes.discovery import Discovery, descendants
from reconciler.runtimes.handout import Handout
from reconciler.runtimes.logs import ServerLogs
from reconciler.runtimes.processes import Handle, Process
from reconciler.state.observed import ObservedServer, ServerState

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from reconciler.ids import InstallationId, RuntimeName, ServerName, VolumeId
    from reconciler.proc import Account, CancelToken
    from reconciler.state.servers import ProductImage, ServerSpec, Software

_DEFAULT_SIGNALS = ((signal.SIGTERM, 30.0),)
_FIRST_POLL_SECONDS = 0.002
_LONGEST_POLL_SECONDS = 0.05
_CHILDREN_GRACE_SECONDS = 1.0
_KILL_GRACE_SECONDS = 10.0
_ENDING_SECONDS = 1.0
"""A process that is ending is still in its directory when nothing says any more whose it is (do_exit of the kernel)."""
_KILL_ROUNDS = 10
_EXCERPT_BYTES = 2000


class ProcessRuntime:
    """Runs servers as processes.

    ``key`` is a secret of the installation, ``logs`` its private directory, ``host``
    the address that servers listen on.
    """

    def __init__(
        self,
        name: RuntimeName,
        *,
        installation: InstallationId,
        key: bytes,
        logs: Path,
        ports: range,
        host: str = tcp.LOOPBACK,
        accounts: AccountSettings,
    ) -> None:
        self.name = name
        self._accounts = Accounts(accounts)
        self.traits = RuntimeTraits(resources=systemd.enforceable(), own_accounts=self._accounts.can_switch)
        self._discovery = Discovery(installation, name, key)
        self._logs = ServerLogs(logs)
        self._ports = Handout(ports)
        self._host = host
        self._clock = SystemClock()

    def servers(self) -> Mapping[ServerName, ObservedServer]:
        proc.reap()
        booted = processes.boot_time()
        return {
            found.name: ObservedServer(
                found.name,
                self.name,
                ServerState.RUNNING,
                found.port,
                datetime.fromtimestamp(booted + found.process.started_seconds, UTC),
            )
            for found in self._discovery.servers()
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

    def start(self, spec: ServerSpec, *, fresh: bool = False, cancel: CancelToken | None = None) -> None:
        """Start a server and return once it answers; see the contract.

        A server of this name that runs already, perhaps started by a reconciler that
        was killed meanwhile, is waited for but never stopped: it may be somebody's work.
        """
        while not fresh and (running := self._make_way(spec)) is not None:
            if self._wait_until_ready(spec, running, cancel):
                return
        if spec.port is not None:
            tcp.require_free(spec.host or self._host, spec.port)
        for stale in spec.stale_files:
            stale.unlink(missing_ok=True)
        offset = self._logs.size(spec.name)
        child = self._spawn(spec)
        process = _process_of(child)
        try:
            if not self._wait_until_ready(spec, process, cancel):
                self._report_death(spec, child, offset)
        except BaseException:
            self._end(spec.name, process, spec.stop_signals)
            raise

    def stop(
        self, name: ServerName, *, spec: ServerSpec | None = None, own: Account | None = None, at_once: bool = False
    ) -> None:
        """Stop a server and everything that belongs to it, also what remained of one that died.

        A superuser can start processes that nothing of the server leads to: neither marks, nor
        descent, nor an open file. Their account does.

        Raises:
            BusyError: a process does not end, not even by SIGKILL.

        """
        for found in self._discovery.find(name) or (None,):
            known = (spec.stop_signals if spec else found.stop_signals if found else ()) or _DEFAULT_SIGNALS
            self._end(name, found.process if found else None, known[-1:] if at_once else known)
        if own is not None:
            self._accounts.end_all(own)

    def forget(self, name: ServerName) -> None:
        self._logs.remove(name)

    def logs(self, name: ServerName, *, lines: int = 100) -> list[str]:
        return self._logs.tail(name, lines)

    def free_port(self, taken: AbstractSet[int]) -> int:
        port = self._ports.take(taken, self._can_listen)
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
        return self._accounts.account(purpose, volume, taken)

    def rotate_logs(self) -> None:
        self._logs.rotate()

    def _can_listen(self, port: int) -> bool:
        return all(tcp.is_free(host, port) for host in sorted({tcp.LOOPBACK, self._host}))

    def _make_way(self, spec: ServerSpec) -> Process | None:
        """Return the process of the server if it runs; else end what remained of it.

        Raises:
            BusyError: somebody else uses its directory.

        """
        occupants = self._discovery.occupants(spec.directory, spec.name, self._logs.path(spec.name))
        running = next((server for server in occupants.servers if server.name == spec.name), None)
        if running is not None:
            return running.process
        for server in occupants.servers:
            raise BusyError(
                f"{spec.directory} is used by the server {server.name} (process {server.process.pid})",
                reason="DirectoryInUse",
            )
        for other in occupants.others:
            with Handle(other) as handle:
                if handle.ended_within(_ENDING_SECONDS):
                    continue
            raise BusyError(
                f"{spec.directory} is used by process {other.pid} ({processes.title(other.pid)}), which is no server "
                "of this installation",
                reason="DirectoryInUse",
            )
        if occupants.remains:
            self._kill(spec.name, occupants.remains)
        return None

    def _spawn(self, spec: ServerSpec) -> subprocess.Popen[bytes]:
        if not spec.argv:
            raise UnsupportedError(f"{spec.name} has no server that could run", hint="write runtime: none")
        proc.require_program(spec.argv[0], cwd=spec.directory)
        child = proc.spawn(
            self._discovery.command(spec.argv),
            log=self._logs.path(spec.name),
            env=proc.environment(spec.env) | self._discovery.marks(spec),
            cwd=spec.directory,
            account=spec.account,
            launcher=systemd.launcher(spec.name, spec.resources),
        )
        if spec.background:
            processes.give_way(child.pid)
        return child

    def _wait_until_ready(self, spec: ServerSpec, process: Process | None, cancel: CancelToken | None) -> bool:
        """Wait until the server answers; return False when its process ended instead."""
        if process is None:
            return False
        deadline = self._clock.monotonic() + spec.ready_timeout
        pause = _FIRST_POLL_SECONDS
        with Handle(process) as handle:
            while not spec.ready():
                if cancel is not None:
                    cancel.check()
                if self._clock.monotonic() >= deadline:
                    raise TimeoutExceededError(
                        f"the server {spec.name} did not answer within {spec.ready_timeout:g} s",
                        hint="its log may say why",
                    )
                if handle.ended_within(pause):
                    return False
                pause = min(pause * 1.5, _LONGEST_POLL_SECONDS)
            return not handle.ended_within(0)  # else somebody else answered

    def _report_death(self, spec: ServerSpec, child: subprocess.Popen[bytes], offset: int) -> NoReturn:
        code = child.wait()
        if spec.port is not None:
            tcp.require_free(spec.host or self._host, spec.port)
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        excerpt = self._logs.since(spec.name, offset, _EXCERPT_BYTES) or "(it wrote nothing)"
        raise TransientError(
            f"the server {spec.name} ended {how} while it started; the end of its log:\n{excerpt}",
            reason="ServerStartFailed",
            hint="out of memory?" if code == -signal.SIGKILL else None,
        )

    def _end(self, name: ServerName, process: Process | None, signals: Iterable[tuple[signal.Signals, float]]) -> None:
        """End a server in the order of its signals, then by force, with all that belongs to it."""
        family: list[Process] = []
        if process is not None:
            with Handle(process) as handle:
                family = descendants(process)
                for number, grace in signals:
                    handle.send(number)
                    if handle.ended_within(grace):
                        break
                handle.send(signal.SIGKILL)
                _require_end(handle, process)
        self._let_end(family)
        self._kill(name, family)
        proc.reap()

    def _let_end(self, family: Iterable[Process]) -> None:
        """Give children a moment to end by themselves once their server has."""
        deadline = self._clock.monotonic() + _CHILDREN_GRACE_SECONDS
        for member in family:
            with Handle(member) as handle:
                handle.ended_within(max(0.0, deadline - self._clock.monotonic()))

    def _kill(self, name: ServerName, first: Iterable[Process]) -> None:
        """Kill ``first`` and whatever carries the server's marks, again while these make new processes."""
        victims = list(first)
        log = self._logs.path(name)
        for _ in range(_KILL_ROUNDS):
            for victim in victims:
                with Handle(victim) as handle:
                    handle.send(signal.SIGKILL)
                    _require_end(handle, victim)
            victims = self._discovery.remains(name, log)
            if not victims:
                return
        raise BusyError(f"processes of the server {name} come back as fast as they are killed")


def _process_of(child: subprocess.Popen[bytes]) -> Process | None:
    """Return a fresh child's process; the parent tells it from another one, should its number be in use again."""
    process = processes.look(child.pid)
    return process if process is not None and process.parent == os.getpid() else None


def _require_end(handle: Handle, process: Process) -> None:
    if not handle.ended_within(_KILL_GRACE_SECONDS):
        raise BusyError(f"process {process.pid} ({processes.title(process.pid)}) does not end, not even by SIGKILL")
