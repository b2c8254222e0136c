"""What containers wrote, kept beyond their end: the daemon's own log goes with the container.

Called by ``runtime``. The daemon keeps the log of a container that exists, within bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.runtimes.logs import ServerLogs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from reconciler.ids import ServerName
    from reconciler.runtimes.docker.daemon import Daemon

_KEPT_LINES = 2000


class KeptLogs:
    """Logs of the servers of one runtime, across their containers."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self._daemon = daemon
        self._files = ServerLogs(directory)

    def keep(self, name: ServerName, container: str) -> None:
        """Keep the end of what a container wrote, which is about to be removed."""
        written = self._daemon.logs(container, _KEPT_LINES)
        if written:
            self._files.append(name, written)

    def tail(self, name: ServerName, containers: Sequence[str], lines: int) -> list[str]:
        """Return the last lines of a server, oldest first; of a silent daemon's only what was kept."""
        if lines <= 0:
            return []
        found = self._files.tail(name, lines)
        for container in containers:
            found += self._daemon.logs(container, lines).decode("utf-8", "replace").splitlines()
        return found[-lines:]

    def remove(self, name: ServerName) -> None:
        """Forget what a server wrote; absent is fine."""
        self._files.remove(name)

    def rotate(self) -> None:
        """Keep what is kept within its bounds."""
        self._files.rotate()
