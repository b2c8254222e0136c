"""Memory (PSS) of an idle clone, against a minimally configured server started by hand on the same data.

Both are measured at the same moment, so that what they share with other servers of the
host is divided alike.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import by_hand
from bench.clones import SCALES
from bench.figures import Figure, Options, in_turns
from bench.installation import installation, size_of
from reconciler.engines.postgres import server

if TYPE_CHECKING:
    from collections.abc import Iterator


_PORT = "26100"
_SETTLING_SECONDS = 3
_SYNC_IO = 18
_SMALL = """\
listen_addresses = '127.0.0.1'
shared_buffers = 64MB
wal_level = minimal
max_wal_senders = 0
max_logical_replication_workers = 0
"""
"""What somebody who wants a small server would write."""


def run(options: Options) -> list[Figure]:
    """Measure both a few times."""
    with installation(options) as opened:
        data = opened.image("small", SCALES[size_of(options)][0])
        opened.write_clones("small", ["idle"])
        opened.settle()
        source = by_hand.prepare(opened, data, "memory-source", _SMALL + _without_workers())
        target = opened.by_hand / "memory"
        where = (by_hand.programs(), by_hand.switch(opened))
        opened.script(by_hand.CLONE, source, target, _PORT, *where)
        clone = opened.clone("idle")
        opened.psql(clone, "SELECT 1")
        time.sleep(_SETTLING_SECONDS)
        ours, floor = in_turns(
            1 if options.quick else options.repetitions,
            lambda: _proportional(opened.data(clone)),
            lambda: _proportional(target / "data"),
        )
        opened.script(by_hand.REMOVE, *where, target)
    return [Figure("memory (PSS) of an idle clone", ours, floor, 1.2, "B")]


def _without_workers() -> str:
    return "io_method = sync\n" if int(server.choose().major) >= _SYNC_IO else ""


def _proportional(data: Path) -> float:
    """Return the proportional set size of a server with all its processes, in bytes."""
    return float(
        sum(
            proportional_set_size(Path("/proc", str(pid)))
            for pid in _family(int((data / "postmaster.pid").read_text().split()[0]))
        )
    )


def proportional_set_size(process: Path) -> int:
    """Return the proportional set size of one process (its directory in /proc), in bytes."""
    for line in (process / "smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            return int(rest.split()[0]) * 1024
    return 0


def _family(leader: int) -> Iterator[int]:
    yield leader
    for task in Path(f"/proc/{leader}/task").iterdir():
        children = task / "children"
        for child in children.read_text().split() if children.exists() else ():
            yield from _family(int(child))
