"""What wakes a running loop besides its timers: signals, requests, and edits of a plain directory.

Used by the loop while it runs. Only ever decides when a pass runs, never what it does.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reconciler.host import Host

log = structlog.get_logger(__name__)


class Wakeable(Protocol):
    """A loop."""

    def wake(self) -> None:
        """Run a pass now."""
        ...

    def stop(self) -> None:
        """End."""
        ...


class Triggers:
    """Signals and file watching, for as long as the loop runs."""

    def __init__(self, loop: Wakeable, host: Host) -> None:
        self._loop = loop
        self._host = host
        self._stop = threading.Event()
        self._before: dict[signal.Signals, object] = {}
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            handlers = {
                signal.SIGHUP: lambda *_: self._loop.wake(),
                signal.SIGTERM: lambda *_: self._loop.stop(),
                signal.SIGINT: lambda *_: self._loop.stop(),
            }
            for number, handler in handlers.items():
                self._before[number] = signal.signal(number, handler)
        self._thread.start()

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned it also takes

    def _watch(self) -> None:
        import watchfiles  # noqa: PLC0415 - a second of import that only the loop pays

        usual = watchfiles.DefaultFilter()
        requests = self._host.state.requests.directory
        own = (self._host.state.path, *(pool.directory for pool in self._host.config.pools.values()))

        def matters(change: watchfiles.Change, path: str) -> bool:
            return usual(change, path) and is_of_people(Path(path), requests=requests, own=own)

        paths = [requests]
        repository = self._host.config.repository
        if repository.url is None:
            paths.append(Path(repository.path))
        try:
            for _changes in watchfiles.watch(
                *paths, watch_filter=matters, stop_event=self._stop, debounce=200, raise_interrupt=False
            ):
                self._loop.wake()
        except (OSError, RuntimeError) as error:
            # Watching is a convenience: without it (no inotify left) polling still finds every change.
            log.warning("file watching is off", error=str(error))


def is_of_people(path: Path, *, requests: Path, own: Iterable[Path]) -> bool:
    """Whether a changed file is a wish or an edit: state and pools inside the watched directory change by passes."""
    return path.is_relative_to(requests) or not any(path.is_relative_to(directory) for directory in own)
