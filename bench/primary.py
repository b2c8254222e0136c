"""What clients of a primary wait for while it is copied and refreshes are cut from its mirror.

pgbench runs all the time at half of what the primary can do, which is measured before.
In turns nothing of ours is there at all, and the primary is copied anew and refreshed
from, without a pause. What counts is how long 95 of 100 transactions took, and in each
kind of period: a copy that is slow lasts, and would hide what refreshes cost. A primary is
on a machine of its own: so it and its clients have half of the processors here, and its
files are in memory, where there is room; mirror and builds have the other half, and the disk.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bench.figures import Figure, Options
from bench.installation import Installation, installation, scratch_directory, size_of
from bench.traffic import Production, halves, on_processors, percentile

if TYPE_CHECKING:
    from collections.abc import Iterator

SCALES = {"quick": 1, "default": 20, "full": 133}
"""Of pgbench; 133 is 2 GB."""
_TURNS = {"quick": 1, "default": 3, "full": 8}
_SECONDS = {"quick": 2.0, "default": 20.0, "full": 30.0}
"""Of a period without, and of one of refreshes."""
_COPY_RATE = "20Mi"
"""What the documentation gives as an example for a primary that is busy."""
_PORT = 25580
_IMAGE = "busy"
_SHARE = 0.95
_ROOM_BYTES = 8 << 30
_WITHOUT, _COPY, _REFRESH = "without", "copy", "refresh"


def run(options: Options) -> list[Figure]:
    """Measure all of it."""
    size = size_of(options)
    theirs, ours = halves()
    with _place(options) as place, on_processors(ours), installation(options) as opened:
        primary = Production(place / "busy", SCALES[size], _PORT, processors=theirs)
        with primary.running():
            rate = primary.capacity(_SECONDS[size] / 2) / 2
            watched = _Watched(primary, rate, opened.scratch / "primary-waits")
            for _ in range(_TURNS[size]):
                _turn(opened, watched, _SECONDS[size])
    return _figures(watched)


@contextmanager
def _place(options: Options) -> Iterator[Path]:
    """Give a directory for the primary's files: apart from the disk of the pool, if memory has the room."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM_BYTES
    with TemporaryDirectory(prefix="bench-primary-", dir=memory if roomy else scratch_directory(options)) as place:
        Path(place).chmod(0o755)
        yield Path(place)


@dataclass
class _Watched:
    """A primary under load, and what its clients waited for in periods of each kind."""

    primary: Production
    rate: float
    log: Path
    waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Have the load while the block runs; what one period left undone is not the next one's."""
        with self.primary.load(self.rate, self.log) as seen:
            start = time.monotonic()
            yield
            self.seconds[kind] += time.monotonic() - start
        self.waits[kind] += [one.seconds for one in seen.waited]


def _turn(opened: Installation, watched: _Watched, seconds: float) -> None:
    with watched.during(_WITHOUT):
        time.sleep(seconds)
    with watched.during(_COPY):
        opened.follow(_IMAGE, watched.primary.url, copy_rate=_COPY_RATE)
        opened.settle()
    with watched.during(_REFRESH):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            opened.request("refresh", _IMAGE)
            opened.settle()
    opened.forget_image(_IMAGE)


def _figures(watched: _Watched) -> list[Figure]:
    waits, seconds = watched.waits, watched.seconds
    without, copying, refreshing = (percentile(waits[kind], _SHARE) for kind in (_WITHOUT, _COPY, _REFRESH))
    both = percentile([*waits[_COPY], *waits[_REFRESH]], _SHARE)
    note = (
        f"{watched.rate:.0f} transactions a second; {seconds[_COPY]:.0f} s of copies and first builds,"
        f" {seconds[_REFRESH]:.0f} s of refreshes, {seconds[_WITHOUT]:.0f} s without"
    )
    return [
        Figure("p95 of a primary's transactions during copies and refreshes", both, without, 1.3, note=note),
        Figure("… during copies and first builds alone", copying, without, 1.3),
        Figure("… during refreshes alone", refreshing, without, 1.3),
    ]
