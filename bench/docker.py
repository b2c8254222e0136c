"""How soon clones in containers answer: one, and 40 at once; on btrfs, with a daemon of the benchmark's own.

Ours is measured from a spec that the loop can see to a query that the product's client had
answered; the floor is a shell script of ``btrfs subvolume snapshot``, ``docker run`` and the
client, with the same image, network and limit. Of the 40 all have to answer, none may have
been started twice, as one would that outgrew its limit, and the largest is shown.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import pytest

from bench import by_hand, clones, mariadb
from bench.figures import Figure, Options, SkippedError, in_turns
from bench.installation import Installation, installation, size_of
from tests.containers import (
    IMAGE,
    MARIADB_IMAGE,
    ContainerDaemon,
    container_daemon,
    host_major,
    host_mariadb,
    images,
    import_mariadb,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from reconciler.apply.executor import Task

_CLONE = """\
source=$1 target=$2 port=$3 image=$4 user=$5
btrfs --quiet subvolume snapshot "$source" "$target"
docker run --detach --name "by-hand-$port" --network bench --publish "127.0.0.1:$port:{inside}" --memory 128m \\
    --user "$user" --volume "$target/data:{data}" "$image" {server}
until {client} 2>/dev/null; do sleep 0.02; done
"""
"""One more clone until it answers: the floor."""
_REMOVE = """\
port=$1 target=$2
docker rm --force "by-hand-$port"
btrfs --quiet subvolume delete "$target"
"""
_LIMIT = 128 << 20
_MORE = "  runtime: docker\n  resources: {memory: 128Mi}"
_MANY = 40
_PORT = 26900
_numbers = count()


@dataclass(frozen=True)
class Product:
    """A database product in containers, and what a person would type for it."""

    title: str
    image: str
    """The image that clones are of, and of containers the one that serves them."""
    reference: str
    source: Path
    """A subvolume that a server can be started on without the product."""
    inside: int
    data: str
    server: str
    client: str
    ask: Callable[[Installation, str], object]
    """Asks a clone of ours."""


def run(options: Options) -> list[Figure]:
    """Measure all of it."""
    many = 3 if options.quick else _MANY
    with _daemon() as daemon, installation(options, {"docker": _settings(daemon)}) as opened:
        daemon.docker("network", "create", "bench")
        return [
            figure
            for prepare in (_postgres, *([_mariadb] if "mariadb" in images() else []))
            for figure in _figures(opened, daemon, prepare(opened, daemon, options), options, many)
        ]


def _figures(
    opened: Installation, daemon: ContainerDaemon, product: Product, options: Options, many: int
) -> list[Figure]:
    _ours(opened, product, 1), _floor(opened, daemon, product)  # what a first time costs: the image is looked into
    repetitions = 1 if options.quick else options.repetitions
    ours, floor = in_turns(repetitions, lambda: _ours(opened, product, 1), lambda: _floor(opened, daemon, product))
    one = Figure(f"one more clone of {product.title} in a container", ours, floor, 1.3)
    return [one, *_many(opened, daemon, product, many)]


def _postgres(opened: Installation, daemon: ContainerDaemon, options: Options) -> Product:
    del daemon  # has the image
    scale, _larger = clones.SCALES[size_of(options)]
    source = by_hand.prepare(opened, opened.image("boxed", scale, host_major()), "boxed-source")
    (source / "data/pg_hba.conf").write_text("host all all all trust\n")
    data = "/var/lib/postgresql/data"
    return Product(
        title="PostgreSQL",
        image="boxed",
        reference=f"{IMAGE}:{host_major()}",
        source=source,
        inside=5432,
        data=data,
        server=f"postgres -D {data} -c listen_addresses='*' -c unix_socket_directories=/tmp",
        client="psql -XAtqc 'SELECT 1' -h 127.0.0.1 -p \"$port\" -U reconciler_admin bench",
        ask=lambda opened, name: opened.psql(opened.clone(name), "SELECT 1"),
    )


def _mariadb(opened: Installation, daemon: ContainerDaemon, options: Options) -> Product:
    import_mariadb(daemon)
    snapshot = opened.image_of("boxed-mariadb", "mariadb", mariadb.script(options), host_mariadb())
    data = "/var/lib/mysql"
    client = mariadb.client()
    return Product(
        title="MariaDB",
        image="boxed-mariadb",
        reference=f"{MARIADB_IMAGE}:{host_mariadb()}",
        source=mariadb.prepare(opened, snapshot, "boxed-mariadb-source", "%"),
        inside=3306,
        data=data,
        server=f"mariadbd --no-defaults --datadir={data} {mariadb.SETTINGS} --socket=/tmp/socket",
        client=f"{client} --no-defaults --protocol=tcp -h127.0.0.1 -P\"$port\" -ubench -pbench -e 'SELECT 1' bench",
        ask=mariadb.ask,
    )


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
        "images": images(),
        "pull": "never",
        "networks": ["bench"],
    }


def _many(opened: Installation, daemon: ContainerDaemon, product: Product, number: int) -> list[Figure]:
    largest: list[int] = []
    seconds = _ours(opened, product, number, lambda: largest.append(_largest(daemon)))
    what = f"{number} clones of {product.title}"
    return [
        Figure(f"{what} in containers at once, all of them answering", seconds, None, None),
        Figure(f"… memory of the largest of {number}, against its limit", largest[0], None, _LIMIT, unit="B"),
    ]


def _ours(opened: Installation, product: Product, number: int, look: Callable[[], None] = lambda: None) -> float:
    names = [f"bench-{next(_numbers)}" for _ in range(number)]
    opened.write_clones(product.image, names, more=_MORE)
    start = time.perf_counter()
    tasks = opened.start_pass()
    with ThreadPoolExecutor(number) as pool:
        for answer in [pool.submit(_ask, opened, product, task) for task in tasks]:
            answer.result()
    seconds = time.perf_counter() - start
    if len(tasks) != number:
        raise RuntimeError(f"{len(tasks)} clones were made instead of {number}")
    look()
    opened.remove_clones()
    return seconds


def _ask(opened: Installation, product: Product, task: Task) -> None:
    task.done.wait()
    if task.error is not None:
        raise task.error
    product.ask(opened, task.key.name)


def _floor(opened: Installation, daemon: ContainerDaemon, product: Product) -> float:
    number = next(_numbers)
    target, port = opened.by_hand / f"clone-{number}", str(_PORT + number % 90)
    account = opened.account
    user = f"{account.uid}:{account.gid}" if account is not None else ""
    script = _CLONE.format(inside=product.inside, data=product.data, server=product.server, client=product.client)
    seconds = opened.script(_with(daemon, script), product.source, target, port, product.reference, user)
    opened.script(_with(daemon, _REMOVE), port, target)
    return seconds


def _with(daemon: ContainerDaemon, script: str) -> str:
    return f"export DOCKER_HOST=unix://{daemon.socket}\n{script}"


def _largest(daemon: ContainerDaemon) -> int:
    """Return the bytes of the largest container.

    Raises:
        RuntimeError: one was ended for want of memory, or for something else, and was started again.

    """
    running = [daemon.inspect(name) for name in daemon.names()]
    if failed := [facts["Name"] for facts in running if facts["RestartCount"] or facts["State"]["OOMKilled"]]:
        raise RuntimeError(f"ended and started again: {', '.join(failed)}")
    told = daemon.docker("stats", "--no-stream", "--format", "{{json .MemPerc}}")
    return max(int(float(json.loads(line).rstrip("%")) / 100 * _LIMIT) for line in told.splitlines())
