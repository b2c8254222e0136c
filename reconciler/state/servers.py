"""How a server is launched: the vocabulary between engines, which know what to run, and runtimes, which run it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.ids import ServerName
from reconciler.proc import Account


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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a clone is reached: on a port, or where no server serves it, as a file."""

    host: str
    port: int
    database: str
    user: str
    path: Path | None = None
    """The file of ``database``, which whoever uses it opens; host, port and user say nothing then."""
