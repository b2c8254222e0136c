"""Finds our servers among the processes of this host, by marks that travel with them.

Called by the process runtime. There is no record of process numbers that could be
stale: a server carries who it is in its environment. What belongs to a server is
found by the same marks, by descent while the server lives, and, for processes that
overwrite their environment (PostgreSQL's backends), by the log that they write to.

Whoever has a shell on the host, such as a superuser of a clone, can start processes with
any environment. So the marks carry a proof that only the installation's key makes: a
process with marks that were not given by us is nobody's.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reconciler.ids import InstallationId, RuntimeName, ServerName
from reconciler.runtimes import processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from reconciler.runtimes.processes import Process
    from reconciler.state.servers import ServerSpec

_PREFIX = "RECONCILER_"
_SERVER = "RECONCILER_SERVER"
_RUNTIME = "RECONCILER_RUNTIME"
_DIRECTORY = "RECONCILER_DIRECTORY"
_PORT = "RECONCILER_PORT"
_STOP = "RECONCILER_STOP"
_PID = "RECONCILER_PID"
_PROOF = "RECONCILER_PROOF"

_MARKING_SHELL = ("/bin/sh", "-c", f'export {_PID}=$$; exec "$0" "$@"')
"""Adds the process's own number to its marks, which nobody knows before it exists; children inherit another's."""


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A running server of ours."""

    name: ServerName
    process: Process
    directory: str
    port: int | None
    stop_signals: tuple[tuple[signal.Signals, float], ...]
    """How it is stopped in an orderly way, as its start said; see ServerSpec."""


@dataclass(frozen=True, slots=True)
class Occupants:
    """Who uses a directory: servers of ours, what remains of servers of ours, and others."""

    servers: tuple[FoundServer, ...]
    remains: tuple[Process, ...]
    others: tuple[Process, ...]


@dataclass(frozen=True, slots=True)
class Discovery:
    """The marks of one runtime of one installation."""

    installation: InstallationId
    runtime: RuntimeName
    key: bytes = field(repr=False)
    """Secret of the installation; proves that marks were given by it."""

    def command(self, argv: Iterable[str]) -> list[str]:
        """Return the command that becomes a server in the same process, with all marks."""
        return [*_MARKING_SHELL, *argv]

    def marks(self, spec: ServerSpec) -> dict[str, str]:
        """Return the environment variables that make a process recognisable as this server."""
        port = {} if spec.port is None else {_PORT: str(spec.port)}
        marks = {
            _SERVER: self._mark(spec.name),
            _RUNTIME: self.runtime,
            _DIRECTORY: str(spec.directory.resolve()),
            _STOP: ",".join(f"{number.name}:{grace:g}" for number, grace in spec.stop_signals),
            **port,
        }
        return {**marks, _PROOF: self._proof(marks)}

    def servers(self) -> Iterator[FoundServer]:
        """Yield every running server of ours; reads the environment of session leaders only."""
        for process in processes.live():
            if process.leads_session and (found := self._server(process, self._own_marks(process))) is not None:
                yield found

    def find(self, name: ServerName) -> list[FoundServer]:
        """Return the running servers of this name, oldest first; more than one only if two reconcilers raced."""
        return sorted(
            (found for found in self.servers() if found.name == name), key=lambda found: found.process.started
        )

    def occupants(self, directory: Path, name: ServerName, log: Path) -> Occupants:
        """Return who uses ``directory`` or remains of the server ``name``, in one look at all processes."""
        place = str(directory.resolve())
        output = _stat(log)
        servers: list[FoundServer] = []
        remains: list[Process] = []
        others: list[Process] = []
        for process in processes.live():
            marks = self._own_marks(process)
            inside = _inside(processes.directory(process.pid), place)
            server = self._server(process, marks)
            if server is not None and (server.name == name or server.directory == place):
                servers.append(server)
            elif marks.get(_SERVER) == self._mark(name):
                remains.append(process)
            elif inside and process.pid != os.getpid():
                ours = output is not None and processes.writes_errors_to(process.pid, output)
                (remains if ours else others).append(process)
        family = _family({server.process.pid for server in servers}, remains + others)
        return Occupants(
            tuple(servers),
            tuple(process for process in remains if process.pid not in family),
            tuple(process for process in others if process.pid not in family),
        )

    def remains(self, name: ServerName, log: Path) -> list[Process]:
        """Return every live process that carries the server's mark or writes to its log."""
        output = _stat(log)
        return [process for process in processes.live() if self._belongs(process, name, output)]

    def _belongs(self, process: Process, name: ServerName, output: os.stat_result | None) -> bool:
        if self._own_marks(process).get(_SERVER) == self._mark(name):
            return True
        return output is not None and processes.writes_errors_to(process.pid, output)

    def _own_marks(self, process: Process) -> Mapping[str, str]:
        marks = processes.environment(process.pid, _PREFIX)
        ours = marks.get(_RUNTIME) == self.runtime and marks.get(_SERVER, "").startswith(f"{self.installation}/")
        return marks if ours and hmac.compare_digest(marks.get(_PROOF, ""), self._proof(marks)) else {}

    def _proof(self, marks: Mapping[str, str]) -> str:
        """Return what only this installation can say of these marks (RFC 2104, SHA-256)."""
        said = "\0".join(marks.get(name, "") for name in (_SERVER, _RUNTIME, _DIRECTORY, _PORT, _STOP))
        return hmac.new(self.key, said.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()

    def _server(self, process: Process, marks: Mapping[str, str]) -> FoundServer | None:
        if not process.leads_session or marks.get(_PID) != str(process.pid):
            return None
        port = marks.get(_PORT, "")
        return FoundServer(
            ServerName(marks[_SERVER].removeprefix(f"{self.installation}/")),
            process,
            marks.get(_DIRECTORY, ""),
            int(port) if port.isdigit() else None,
            _stop_signals(marks.get(_STOP, "")),
        )

    def _mark(self, name: ServerName) -> str:
        return f"{self.installation}/{name}"


def descendants(leader: Process) -> list[Process]:
    """Return what descends from a live process or shares its session, without itself.

    PostgreSQL's backends lead sessions of their own, so neither the group nor the
    session of a server holds all of it.
    """
    everyone = list(processes.live())
    family = _family({leader.pid}, everyone)
    members = (process for process in everyone if process.pid in family or process.session == leader.pid)
    return [process for process in members if process.pid != leader.pid]


def _family(ancestors: set[int], everyone: Iterable[Process]) -> set[int]:
    """Return the numbers of those that descend from ``ancestors``, and theirs."""
    children: dict[int, list[int]] = {}
    for process in everyone:
        children.setdefault(process.parent, []).append(process.pid)
    family, waiting = set(ancestors), list(ancestors)
    while waiting:
        found = [pid for pid in children.get(waiting.pop(), ()) if pid not in family]
        family.update(found)
        waiting.extend(found)
    return family


def _stop_signals(mark: str) -> tuple[tuple[signal.Signals, float], ...]:
    pairs = (part.partition(":") for part in mark.split(",") if part)
    return tuple((signal.Signals[name], float(grace)) for name, _, grace in pairs)


def _inside(directory: str, place: str) -> bool:
    return directory == place or directory.startswith(f"{place}/")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
