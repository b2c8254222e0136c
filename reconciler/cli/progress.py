"""Progress of work in flight: one live line per object on a terminal, nothing elsewhere; failures at the end."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from reconciler.cli.output import note

if TYPE_CHECKING:
    from reconciler.apply.executor import Task
    from reconciler.state.conditions import ObjectKey

_AFTER_SECONDS = 1.0


class Progress:
    """Shows tasks while they run; keeps them for the report."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._seen: dict[str, Task] = {}
        self._lines = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._clear()

    def show(self, tasks: tuple[Task, ...]) -> None:
        """Show what goes on, once it takes longer than a second."""
        self._seen |= {str(task.key): task for task in tasks}
        if not sys.stderr.isatty() or time.monotonic() - self._started < _AFTER_SECONDS:
            return
        self._clear()
        elapsed = time.monotonic() - self._started
        for task in tasks[:8]:
            sys.stderr.write(f"\x1b[2m{elapsed:6.1f} s\x1b[0m  {task.key}  {task.progress[:60]}\n")
        self._lines = len(tasks[:8])
        sys.stderr.flush()

    def report(self) -> dict[ObjectKey, str]:
        """Say which objects failed and why; return the same as data."""
        failed = {task.key: task.complaint for _name, task in sorted(self._seen.items()) if task.error is not None}
        for key, complaint in failed.items():
            note(f"failed: {key}: {complaint}")
        return failed

    def _clear(self) -> None:
        if self._lines:
            sys.stderr.write(f"\x1b[{self._lines}F\x1b[J")
            self._lines = 0
