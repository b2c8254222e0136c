"""How soon clones in containers answer: one, and 40 at once; on btrfs, with a daemon of the benchmark's own.

Ours is measured from a spec that the loop can see to a query that psql had answered; the
floor is a shell script of ``btrfs subvolume snapshot``, ``docker run`` and psql, with the
same image, network and limit. Of the 40 all have to answer, and none may outgrow its limit.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

import pytest

from bench import by_hand
from bench.clones import SCALES
from bench.figures import Figure, Options, SkippedError, in_turns
from bench.installation import Installation, installation, size_of
from tests.containers import IMAGE, ContainerDaemon, container_daemon, host_major

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from reconciler.apply.executor import Task

CLONE = """\
source=$1 target=$2 port=$3 image=$4 user=$5
btrfs --quiet subvolume snapshot "$source" "$target"
docker run --detach --name "by-hand-$port" --network bench --publish "127.0.0.1:$port:5432" --memory 128m \
    --user "$user" --volume "$target/data:/var/lib/postgresql/data" "$image" \
    postgres -D /var/lib/postgresql/data -c listen_addresses='*' -c unix_socket_directories=/tmp
until psql -XAtqc 'SELECT 1' -h 127.0.0.1 -p "$port" -U reconciler_admin bench 2>/dev/null; do sleep 0.02; done
"""
"""One more clone until it answers: the floor."""
REMOVE = """\
port=$1 target=$2
docker rm --force "by-hand-$port"
btrfs --quiet subvolume delete "$target"
"""
_LIMIT = 128 << 20
_MORE = "  runtime: docker\n  resources: {memory: 128Mi}"
_MANY = 40
_PORT = 26900
_numbers = count()


def run(options: Options) -> list[Figure]:
    """Measure all of it."""
    scale, _larger = SCALES[size_of(options)]
    many = 3 if options.quick else _MANY
    with _daemon() as daemon, installation(options, {"docker": _settings(daemon)}) as opened:
        data = opened.image("boxed", scale, host_major())
        daemon.docker("network", "create", "bench")
        source = by_hand.prepare(opened, data, "boxed-source")
        (source / "data/pg_hba.conf").write_text("host all all all trust\n")
        _ours(opened, 1), _floor(opened, daemon, source)  # what a first time costs: the image is looked into
        repetitions = 1 if options.quick else options.repetitions
        ours, floor = in_turns(repetitions, lambda: _ours(opened, 1), lambda: _floor(opened, daemon, source))
        return [Figure("one more clone in a container", ours, floor, 1.3), *_many(opened, daemon, many)]


@contextmanager
def _daemon() -> Iterator[ContainerDaemon]:
    try:
        with container_daemon() as daemon:
            yield daemon
    except pytest.skip.Exception as error:
        raise SkippedError(str(error)) from error


def _settings(daemon: ContainerDaemon) -> dict[str, object]:
    return {
        "socket": str(daemon.socket),
        "ports": "26000-26399",
        "images": {"postgres": f"{IMAGE}:{host_major()}"},
        "pull": "never",
        "networks": ["bench"],
    }


def _many(opened: Installation, daemon: ContainerDaemon, number: int) -> list[Figure]:
    largest: list[int] = []
    seconds = _ours(opened, number, lambda: largest.append(max(_memory(daemon))))
    return [
        Figure(f"{number} clones in containers at once, all of them answering", seconds, None, None),
        Figure(f"memory of the largest of {number}, against its limit", largest[0], None, _LIMIT, unit="B"),
    ]


def _ours(opened: Installation, number: int, look: Callable[[], None] = lambda: None) -> float:
    names = [f"bench-{next(_numbers)}" for _ in range(number)]
    opened.write_clones("boxed", names, more=_MORE)
    start = time.perf_counter()
    tasks = opened.start_pass()
    with ThreadPoolExecutor(number) as pool:
        for answer in [pool.submit(_ask, opened, task) for task in tasks]:
            answer.result()
    seconds = time.perf_counter() - start
    if len(tasks) != number:
        raise RuntimeError(f"{len(tasks)} clones were made instead of {number}")
    look()
    opened.remove_clones()
    return seconds


def _ask(opened: Installation, task: Task) -> None:
    task.done.wait()
    if task.error is not None:
        raise task.error
    opened.psql(opened.clone(task.key.name), "SELECT 1")


def _floor(opened: Installation, daemon: ContainerDaemon, source: Path) -> float:
    number = next(_numbers)
    target, port = opened.by_hand / f"clone-{number}", str(_PORT + number % 90)
    account = opened.account
    user = f"{account.uid}:{account.gid}" if account is not None else ""
    image = f"{IMAGE}:{host_major()}"
    seconds = opened.script(_with(daemon, CLONE), source, target, port, image, user)
    opened.script(_with(daemon, REMOVE), port, target)
    return seconds


def _with(daemon: ContainerDaemon, script: str) -> str:
    return f"export DOCKER_HOST=unix://{daemon.socket}\n{script}"


def _memory(daemon: ContainerDaemon) -> list[int]:
    """Return the bytes that each container uses."""
    told = daemon.docker("stats", "--no-stream", "--format", "{{json .MemPerc}}")
    return [int(float(json.loads(line).rstrip("%")) / 100 * _LIMIT) for line in told.splitlines()]
