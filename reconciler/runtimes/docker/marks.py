"""Labels that make our containers recognisable, and the one look that finds them.

Called by ``runtime``. There is no record of container ids that could be stale: a container
carries who it is. Labels alone do not make it ours: an image that somebody made of one of
our containers hands its labels on to other containers. Ours also has the directory mounted
that its label names, which no image can bring about.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.ids import InstallationId, RuntimeName, ServerName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from reconciler.runtimes.docker.daemon import Facts
    from reconciler.state.servers import ServerSpec

PREFIX = "reconciler/"
INSTALLATION = f"{PREFIX}installation"
RUNTIME = f"{PREFIX}runtime"
CLONE = "clone"
"""What a server serves, as its subject says it."""
_SERVER = f"{PREFIX}server"
_DIRECTORY = f"{PREFIX}directory"
_PORT = f"{PREFIX}port"
_STOP = f"{PREFIX}stop"
_DEFAULT_GRACE_SECONDS = 30.0
_AT_WORK = ("running", "paused", "restarting")


@dataclass(frozen=True, slots=True)
class Found:
    """A container of ours. ``state`` is the daemon's word: created, running, paused, restarting, exited, dead."""

    id: str
    name: ServerName
    state: str
    directory: str
    port: int | None
    created_at: datetime
    grace: float
    """Seconds that its server may take to end."""
    clone: str | None
    """The clone that it serves, in whatever generation."""

    @property
    def ended(self) -> bool:
        """Whether nothing of it is at work, and nobody starts it again."""
        return self.state in ("exited", "dead")

    @property
    def runs(self) -> bool:
        """Whether its server is at work."""
        return self.state == "running"


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of one runtime of one installation."""

    installation: InstallationId
    runtime: RuntimeName

    def container_name(self, server: ServerName) -> str:
        """Return the name of a server's container, which no two can have."""
        digest = hashlib.sha256(f"{self.installation}/{self.runtime}".encode()).hexdigest()
        return f"reconciler-{digest[:8]}-{server}"

    def labels(self, spec: ServerSpec) -> dict[str, str]:
        """Return the labels of a server's container: who it is, and what it serves."""
        port = {} if spec.port is None else {_PORT: str(spec.port)}
        first_stop, grace = spec.stop_signals[0]
        return {
            **{f"{PREFIX}{word}": value for word, value in spec.subject.items()},
            INSTALLATION: self.installation,
            RUNTIME: self.runtime,
            _SERVER: spec.name,
            _DIRECTORY: str(spec.directory.resolve()),
            _STOP: f"{first_stop.name}:{grace:g}",
            **port,
        }

    def filters(self, server: ServerName | None = None) -> list[str]:
        """Return what to ask the daemon for, to see our containers, or those of one server."""
        ours = [f"{INSTALLATION}={self.installation}", f"{RUNTIME}={self.runtime}"]
        return ours if server is None else [*ours, f"{_SERVER}={server}"]

    def ours(self, containers: Iterable[Facts]) -> Iterator[Found]:
        """Yield those that are ours, of a list of the daemon's."""
        for facts in containers:
            labels = facts.get("Labels") or {}
            directory = labels.get(_DIRECTORY)
            mine = labels.get(INSTALLATION) == self.installation and labels.get(RUNTIME) == self.runtime
            if mine and directory and directory in mounted(facts):
                yield _found(facts, labels)


def mounted(facts: Facts) -> frozenset[str]:
    """Return the directories of this host that a container has mounted."""
    return frozenset(mount["Source"] for mount in facts.get("Mounts") or () if mount.get("Source"))


def published(facts: Facts) -> frozenset[int]:
    """Return the ports of this host that lead into a container now."""
    return frozenset(int(port["PublicPort"]) for port in facts.get("Ports") or () if port.get("PublicPort"))


def title(facts: Facts) -> str:
    """Return a container's name for people."""
    names = facts.get("Names") or [facts["Id"][:12]]
    return str(names[0]).lstrip("/")


def users_of(containers: Iterable[Facts], directory: Path) -> list[str]:
    """Return the names of running containers that have a directory mounted."""
    wanted = str(directory.resolve())
    return [title(facts) for facts in containers if wanted in mounted(facts) and facts.get("State") in _AT_WORK]


def _found(facts: Facts, labels: dict[str, str]) -> Found:
    port = labels.get(_PORT)
    return Found(
        id=str(facts["Id"]),
        name=ServerName(labels.get(_SERVER, "")),
        state=str(facts.get("State", "")).lower(),
        directory=labels[_DIRECTORY],
        port=int(port) if port and port.isdigit() else None,
        created_at=datetime.fromtimestamp(float(facts.get("Created", 0)), UTC),
        grace=_grace(labels.get(_STOP, "")),
        clone=labels.get(f"{PREFIX}{CLONE}"),
    )


def _grace(stop: str) -> float:
    try:
        return float(stop.partition(",")[0].partition(":")[2])
    except ValueError:
        return _DEFAULT_GRACE_SECONDS
