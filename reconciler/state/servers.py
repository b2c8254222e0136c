"""How a server is launched: the vocabulary between engines, which know what to run, and runtimes, which run it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from reconciler.ids import CloneName, ServerName, SnapshotId, VolumeId
from reconciler.proc import Account
from reconciler.state.desired import Resources


@dataclass(frozen=True, slots=True)
class ProductImage:
    """The image of containers that a product's makers publish, and the user in it whom the data belongs to."""

    reference: str
    user: str


@dataclass(frozen=True, slots=True)
class Software:
    """Server programs in an image of containers, in place of those of this host.

    ``reference`` is what was asked for (``postgres:18``), ``digest`` the content that it means
    now. ``ask`` runs a program of the image, without network or files of the host, and returns
    what it wrote; equal questions are asked once, since an image never changes.
    """

    reference: str
    digest: str
    environment: Mapping[str, str]
    """What the image sets for its programs."""
    account: Account | None
    """The image's own user, whom the data belongs to; None: there is no such user in it."""
    ask: Callable[[tuple[str, ...]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contained:
    """What a server needs to run in a container; ``argv`` and ``env`` of its spec are the image's then."""

    software: Software
    mounts: Mapping[PurePosixPath, Path]
    """Where the server finds directories and files, and what they are on this host."""
    port: int
    """TCP port that it listens on; the spec's port of the host leads there."""
    health: tuple[str, ...]
    """The product's own probe: ends with 0 when the server takes connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """A clone whose databases are on a server that exists already, in place of a server of its own."""

    volume: VolumeId
    clone: CloneName
    snapshot: SnapshotId
    databases: tuple[str, ...]
    """What they are called in the snapshot."""
    private: bool = False
    """Whether nobody but us gets in: before it is delivered, or while it is worked on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """One server, ready to start.

    ``ready`` is a cheap probe (milliseconds) that says whether the server answers.
    ``stale_files`` are left by a crashed server and removed once the runtime made
    sure that no process uses ``directory``. ``stop_signals`` are sent in order, each
    with its grace in seconds, before SIGKILL; the last one is for a quick end, after
    which nobody needs the data.
    """

    name: ServerName
    argv: tuple[str, ...]
    """Empty: there is nothing to run; ``directory`` is all that is served (by the runtime ``none``)."""
    directory: Path
    """Data directory and working directory of the server; no two servers share it."""
    env: Mapping[str, str] = field(default_factory=dict)
    account: Account | None = None
    host: str | None = None
    port: int | None = None
    """TCP port, or None for a private server without TCP."""
    ready: Callable[[], bool]
    ready_timeout: float = 60.0
    stale_files: tuple[Path, ...] = ()
    stop_signals: tuple[tuple[signal.Signals, float], ...] = ((signal.SIGTERM, 30.0),)
    contained: Contained | None = None
    """How it runs in a container; None: with programs of this host."""
    hosted: Hosted | None = None
    """What is served by a server that exists already; there is nothing to run then, and nothing in ``directory``."""
    resources: Resources = field(default_factory=Resources)
    """Limits that it is held to, of those that the runtime offers."""
    subject: Mapping[str, str] = field(default_factory=dict)
    """What it serves (clone, image, snapshot, commit, owner), for people and tools that meet it on the host."""
    background: bool = False
    """Whether it runs behind everything else on a busy host: a build or a mirror, whom nobody waits for."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a clone is reached: on a port, or where no server serves it, as a file."""

    host: str
    port: int
    database: str
    user: str
    path: Path | None = None
    """The file of ``database``, which whoever uses it opens; host, port and user say nothing then."""
