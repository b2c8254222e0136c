"""How fast spec files are read, against only parsing the same files with PyYAML's CSafeLoader.

Ours is a whole look of the loop on a host where everything exists: read, validate,
resolve, observe and plan. In processor time, in turns, after imports.
"""

from __future__ import annotations

import gc
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from bench.figures import Figure, Options, in_turns
from bench.many import many, write_specs
from reconciler.loop import Reconciler

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.host import Host

_FILES = 10_000
_QUICK_FILES = 200


def run(options: Options) -> list[Figure]:
    """Measure cold and warm."""
    number = _QUICK_FILES if options.quick else _FILES
    with tempfile.TemporaryDirectory(prefix="reconciler-bench-") as directory:
        files = write_specs(Path(directory, "specs"), number)
        with many(Path(directory), Path(directory, "specs")) as (host, _commits):
            floor, cold, warm = _times(host, files, 1 if options.quick else max(3, options.repetitions // 2))
    return [
        Figure(f"{len(files)} spec files: read, validate, resolve, plan", cold, floor, 3),
        Figure("the same, nothing changed, against the first time", warm, cold, 0.05),
    ]


def _times(host: Host, files: list[Path], repetitions: int) -> list[float]:
    reader = Reconciler(host, host.commits())

    def cold() -> float:
        nonlocal reader
        commits = host.commits()
        reader = Reconciler(host, commits)
        seconds = _seconds(reader.look)
        commits.settle()  # as the loop does before it waits for the next pass
        return seconds

    return in_turns(
        repetitions,
        lambda: _seconds(lambda: [yaml.load(file.read_bytes(), Loader=yaml.CSafeLoader) for file in files]),
        cold,
        lambda: _seconds(reader.look),
    )


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start
