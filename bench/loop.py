"""Memory of the loop with 10,000 objects on memory drivers, in a process of its own.

Also run as ``python -m bench.loop DIRECTORY FILES PASSES``: that process is the one measured.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from bench.figures import Figure, Options
from bench.many import CLONE, many, write_specs
from bench.memory import proportional_set_size
from reconciler.loop import Reconciler

_FILES = 10_000
_QUICK_FILES = 200
_PASSES = 10
_LIMIT = 250_000_000


def run(options: Options) -> list[Figure]:
    """Measure after many passes, half of which see a new commit."""
    number, passes = (_QUICK_FILES, 2) if options.quick else (_FILES, _PASSES)
    with tempfile.TemporaryDirectory(prefix="reconciler-bench-") as directory:
        write_specs(Path(directory, "specs"), number)
        argv = [sys.executable, "-m", "bench.loop", directory, str(number), str(passes)]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
    first, last, highest = map(int, done.stdout.split())
    note = f"{first / 1e6:.0f} MB after the first pass, at most {highest / 1e6:.0f} MB resident"
    return [Figure(f"memory (PSS) of the loop with {number} objects", last, None, _LIMIT, "B", note)]


def _passes(directory: Path, passes: int) -> None:
    specs = directory / "specs"
    with many(directory, specs) as (host, commits):
        reconciler = Reconciler(host, commits)
        reconciler.one_pass()
        first = proportional_set_size(Path("/proc/self"))
        for number in range(passes):
            (specs / "clones" / "shop-000-000.yaml").write_text(
                CLONE.format(name="shop-000-000", image="shop-000", owner=f"team-{number}")
            )
            reconciler.settle(reconciler.one_pass())
        last = proportional_set_size(Path("/proc/self"))
        reconciler.close(abandon=True)
    print(first, last, _highest())


def _highest() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    _passes(Path(sys.argv[1]), int(sys.argv[3]))
