"""The networks in which containers reach each other by name; made when they do not exist, never removed.

Called by ``runtime``. A network that exists already, such as one of a Compose application,
is used as it is.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reconciler.runtimes.docker.daemon import Daemon


@dataclass(slots=True)
class Networks:
    """The networks of one runtime; safe to call from several threads."""

    daemon: Daemon
    labels: Mapping[str, str]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: set[str] = field(default_factory=set)

    def ensure(self, names: Sequence[str]) -> None:
        """See to it that networks exist. Names are no keys to the daemon: two at once would make two."""
        with self._lock:
            for name in names:
                if name not in self._seen:
                    if not self.daemon.network(name):
                        self.daemon.create_network(name, self.labels)
                    self._seen.add(name)

    def forget(self) -> None:
        """Look again before the next use: somebody may have removed one."""
        with self._lock:
            self._seen.clear()
