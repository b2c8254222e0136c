"""Who uses a clone: the processes that have its files open.

Called by the engine. A library keeps no list of who uses it, but the operating system
does (/proc on Linux, read with psutil): of our own processes for an ordinary user, of
everybody's for root. Nothing of it is left behind.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psutil

from reconciler.engines.sqlite.databases import databases_in, file_of
from reconciler.engines.sqlite.identify import BESIDE
from reconciler.state.observed import Activity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import CloneWork

_MOST_NAMES = 10


def activity_of(work: CloneWork) -> Activity:
    """Return who has the files of a clone open.

    How often somebody was there is not known; ``sessions`` is another number than before when
    something was written meanwhile, and somebody who only read leaves no trace.
    """
    files = [file_of(work.directory, name) for name in databases_in(work.directory)]
    everything = [file for one in files for file in (one, *(one.with_name(one.name + end) for end in BESIDE))]
    written = [file.stat().st_mtime_ns for file in everything if file.exists()]
    open_now = [name for name, paths in _processes() if paths & {str(file) for file in everything}]
    at = datetime.fromtimestamp(max(written) / 1e9, UTC) if open_now and written else None
    return Activity(len(open_now), at, tuple(sorted(set(open_now)))[:_MOST_NAMES], max(written, default=0))


def _processes() -> Iterator[tuple[str, set[str]]]:
    """Yield the processes that may be looked at, but for this one, with the files that they have open."""
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            yield process.name(), {one.path for one in process.open_files()}
        except (psutil.Error, OSError):  # it is gone, or somebody else's
            continue
