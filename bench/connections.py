"""What users of clones notice of refreshes: lost connections, and how long their queries take; on btrfs.

Each clone has clients that stay connected, read, and now and then write. After every
other refresh comes a time of the same length in which the same number of bytes reaches the
pool's disk, written by nobody but a loop of plain writes: the control. Nothing is compared
that did not happen within the same minute.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.figures import Figure, Options
from bench.installation import Installation, installation, scratch_directory, size_of
from bench.traffic import Periods, Production, clients, percentile
from reconciler.engines.postgres import server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.installation import ClonedServer
    from bench.traffic import Clients

SCALES = {"quick": 1, "default": 10, "full": 100}
"""Of pgbench; 100 is 1.5 GB."""
_REFRESHES = {"quick": 2, "default": 50, "full": 50}
_LONGEST_SECONDS = {"quick": 240.0, "default": 240.0, "full": 3600.0}
"""After which no other refresh begins, on a host that is busy with something else."""
_CLONES = 3
_CLIENTS = 4
_RATE = 60.0
"""Transactions a second, of each clone's clients together, and of the primary's."""
_PORT = 25590
_IMAGE = "lived-in"
_SHARE = 0.99
_SETTLING_SECONDS = 2.0
_SECTOR = 512
_CHUNK = bytes(1 << 20)
_REFRESH, _CONTROL = "refresh", "control"


def run(options: Options) -> list[Figure]:
    """Measure all of it."""
    size, periods = size_of(options), Periods()
    primary = Production(scratch_directory(options) / f"lived-in-{SCALES[size]}", SCALES[size], _PORT)
    names = [f"lived-in-{number}" for number in range(_CLONES)]
    with installation(options) as opened, primary.running():
        opened.follow(_IMAGE, primary.url, keep=3)
        opened.settle()
        opened.write_clones(_IMAGE, names)
        opened.settle()
        with ExitStack() as stack:
            stack.enter_context(primary.load(_RATE, opened.scratch / "waits-primary"))
            users = [stack.enter_context(_users(opened, opened.clone(name))) for name in names]
            done = _measure(opened, periods, size)
        opened.remove_clones()
        opened.forget_image(_IMAGE)
    return _figures(periods, users, done)


@contextmanager
def _users(opened: Installation, clone: ClonedServer) -> Iterator[Clients]:
    """Have clients of a clone, which read four times as often as they write."""
    argv: list[str | Path] = [
        server.program(server.choose(), "pgbench"),
        "--host=127.0.0.1",
        f"--port={clone.port}",
        "--username=app",
    ]
    words = [f"--client={_CLIENTS}", "--builtin=select-only@4", "--builtin=tpcb-like@1", "bench"]
    env = {"PATH": os.defpath, "PGPASSWORD": clone.password}
    with clients([*argv, *words], _RATE, opened.scratch / f"waits-{clone.name}", env=env) as seen:
        yield seen


def _measure(opened: Installation, periods: Periods, size: str) -> int:
    """Refresh again and again; return how often."""
    disk = _Disk(opened.scratch / "pool")
    time.sleep(_SETTLING_SECONDS)
    usual = disk.written()
    time.sleep(_SETTLING_SECONDS)
    usual = (disk.written() - usual) / _SETTLING_SECONDS
    begun = time.monotonic()
    for number in range(_REFRESHES[size]):
        if time.monotonic() - begun > _LONGEST_SECONDS[size]:
            return number
        opened.request("refresh", _IMAGE)
        before, start = disk.written(), time.monotonic()
        with periods.of(_REFRESH):
            opened.settle()
        seconds = time.monotonic() - start
        own = disk.written() - before - usual * seconds
        if number % 2 == 0:
            with periods.of(_CONTROL):
                _write(opened.by_hand / "ballast", max(0, round(own)), seconds)
    return _REFRESHES[size]


def _write(path: Path, size: int, seconds: float) -> None:
    """Write so many bytes in so many seconds, evenly, and have them on the disk at the end."""
    start, pieces = time.monotonic(), max(1, size // len(_CHUNK))
    with path.open("wb") as file:
        for number in range(pieces):
            file.write(_CHUNK)
            file.flush()
            time.sleep(max(0.0, start + seconds * (number + 1) / pieces - time.monotonic()))
        os.fsync(file.fileno())
    path.unlink()


class _Disk:
    """The block device that a file system is on."""

    def __init__(self, mountpoint: Path) -> None:
        found = subprocess.run(
            ["findmnt", "--noheadings", "--output", "SOURCE", mountpoint], check=True, capture_output=True, text=True
        )
        self._counters = Path("/sys/class/block", Path(found.stdout.strip()).name, "stat")

    def written(self) -> float:
        """Return the bytes that were written to it; the seventh counter is of sectors (kernel, block/stat)."""
        return float(self._counters.read_text().split()[6]) * _SECTOR


def _figures(periods: Periods, users: list[Clients], refreshes: int) -> list[Figure]:
    waited = [one for seen in users for one in seen.waited]
    refreshing, control = (percentile(periods.waits(waited, kind), _SHARE) for kind in (_REFRESH, _CONTROL))
    lost = [line for seen in users for line in seen.aborted]
    note = f"{len(waited)} transactions of {len(users) * _CLIENTS} connections; " + (lost[0] if lost else "none failed")
    return [
        Figure(f"connections lost during {refreshes} refreshes", len(lost), None, 0, unit="connections", note=note),
        Figure("p99 of queries of clones during refreshes", refreshing, control, 2),
    ]
