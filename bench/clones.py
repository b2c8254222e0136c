"""How soon clones answer: one, with larger images, and many at once; on btrfs.

Ours is measured in this process from a spec that the loop can see to a query that psql
had answered; the floor is a shell script of ``btrfs subvolume snapshot``, ``pg_ctl start
-w`` and psql, run with the same programs on the same data.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING

from bench import by_hand
from bench.figures import Figure, Options, in_turns
from bench.installation import Installation, installation, size_of

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.apply.executor import Task

SCALES = {"quick": (1, 10), "default": (10, 100), "full": (100, 1000)}
"""Scales of pgbench for the smaller and the larger image; 100 is 1.5 GB."""
_MANY = 15
_LANES = (1, 2, 4, 8, 15)
_PORT = 26000
_numbers = count()


def run(options: Options) -> list[Figure]:
    """Measure all of it."""
    small_scale, large_scale = SCALES[size_of(options)]
    repetitions = 1 if options.quick else options.repetitions
    with installation(options) as opened:
        small, large = opened.image("small", small_scale), opened.image("large", large_scale)
        by_size = _by_size(opened, small, large, repetitions)
        return [
            *_one(opened, "small", small, small_scale, repetitions),
            *_one(opened, "large", large, large_scale, repetitions),
            by_size,
            _many(opened, "small", small, 1 if options.quick else max(3, repetitions // 2)),
        ]


def _one(opened: Installation, image: str, data: Path, scale: int, repetitions: int) -> list[Figure]:
    source = by_hand.prepare(opened, data, f"{image}-source")
    ours, floor = in_turns(repetitions, lambda: _ours(opened, image, 1), lambda: _floor(opened, source))
    return [Figure(f"one more clone of an image of {_size(scale)}", ours, floor, 1.5)]


def _by_size(opened: Installation, small: Path, large: Path, repetitions: int) -> Figure:
    del small, large
    _ours(opened, "small", 1), _ours(opened, "large", 1)  # what a first time costs is not about size
    few, many = in_turns(repetitions, lambda: _ours(opened, "small", 1), lambda: _ours(opened, "large", 1))
    return Figure("a clone of an image 10 times as large, against the small one", many, few, 1.2)


def _many(opened: Installation, image: str, data: Path, repetitions: int) -> Figure:
    source = by_hand.prepare(opened, data, "many-source")
    times = in_turns(
        repetitions,
        lambda: _ours(opened, image, _MANY),
        *(lambda lanes=lanes: _floor_many(opened, source, lanes) for lanes in _LANES),
    )
    ours, floors = times[0], dict(zip(times[1:], _LANES, strict=True))
    best = min(floors)
    return Figure(
        f"{_MANY} clones in one commit", ours, best, 1.5, note=f"the script is fastest with {floors[best]} lanes"
    )


def _ours(opened: Installation, image: str, number: int) -> float:
    names = [f"bench-{next(_numbers)}" for _ in range(number)]
    opened.write_clones(image, names)
    start = time.perf_counter()
    tasks = opened.start_pass()
    with ThreadPoolExecutor(number) as pool:
        for answer in [pool.submit(_ask, opened, task) for task in tasks]:
            answer.result()
    seconds = time.perf_counter() - start
    if len(tasks) != number:
        raise RuntimeError(f"{len(tasks)} clones were made instead of {number}")
    opened.remove_clones()
    return seconds


def _ask(opened: Installation, task: Task) -> None:
    task.done.wait()
    if task.error is not None:
        raise task.error
    opened.psql(opened.clone(task.key.name), "SELECT 1")


def _floor(opened: Installation, source: Path) -> float:
    target = opened.by_hand / f"clone-{next(_numbers)}"
    where = (by_hand.programs(), by_hand.switch(opened))
    seconds = opened.script(by_hand.CLONE, source, target, str(_PORT), *where)
    opened.script(by_hand.REMOVE, *where, target)
    return seconds


def _floor_many(opened: Installation, source: Path, lanes: int) -> float:
    target = opened.by_hand / f"clones-{next(_numbers)}"
    where = (by_hand.programs(), by_hand.switch(opened))
    seconds = opened.script(by_hand.CLONES, source, target, str(_PORT), *where, str(_MANY), str(lanes), by_hand.CLONE)
    made = [target.with_name(f"{target.name}-{number}") for number in range(1, _MANY + 1)]
    opened.script(by_hand.REMOVE, *where, *made)
    return seconds


def _size(scale: int) -> str:
    return f"{scale * 0.015:.2g} GB"
