"""How long a clone's port does not answer while it is reset: on btrfs, with writes that have to reach the disk.

Replacements, recreations and rebases swap in the same way. Both sides are asked all the
time whether they take connections, as ``pg_isready`` does; the longest silence counts.
The floor stops and starts a server with ``pg_ctl`` by hand: the same programs, data,
settings and writes.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from psycopg.pq import PGconn, Ping

from bench import by_hand
from bench.figures import Figure, Options, in_turns
from bench.installation import Installation, installation, size_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCALES = {"quick": 1, "default": 10, "full": 100}
"""Scales of pgbench; 100 is 1.5 GB."""
_WRITES = "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 10 = 0"
_NAME, _PORT = "bench-swap", 26_500
_PAUSE = 0.002
RESTART = """\
programs=$1 as=$2 target=$3
$as "$programs/pg_ctl" --pgdata="$target/data" --mode=fast --silent --wait stop
$as "$programs/pg_ctl" --pgdata="$target/data" --log="$target/data/log" --silent --wait start
"""
START = """\
programs=$1 as=$2 target=$3
$as "$programs/pg_ctl" --pgdata="$target/data" --log="$target/data/log" --silent --wait start
"""
_OF_ITS_PLACE = ("port", "unix_socket", "listen_addresses", "cluster_name")


def run(options: Options) -> list[Figure]:
    """Measure all of it."""
    repetitions = 1 if options.quick else options.repetitions
    scale = SCALES[size_of(options)]
    with installation(options) as opened:
        data = opened.image("swap", scale)
        opened.write_clones("swap", [_NAME])
        opened.settle()
        target = _by_hand(opened, data)
        ours, floor = in_turns(repetitions, lambda: _ours(opened), lambda: _floor(opened, target))
        note = f"every tenth of {scale * 100_000} rows was written before; pg_ctl looks every 0.1 s"
        return [Figure("silence of a port during a reset, against a restart by hand", ours, floor, 1.2, note=note)]


def _by_hand(opened: Installation, data: Path) -> Path:
    """Start a server by hand on the same data, with the settings that the clone has."""
    written = (opened.data(opened.clone(_NAME)) / "postgresql.conf").read_text().splitlines()
    kept = [line for line in written if not line.startswith(_OF_ITS_PLACE)]
    settings = "\n".join([*kept, f"port = {_PORT}", "listen_addresses = '127.0.0.1'"]) + "\n"
    target = by_hand.prepare(opened, data, "swap", settings)
    opened.script(START, by_hand.programs(), by_hand.switch(opened), target)
    return target


def _ours(opened: Installation) -> float:
    clone = opened.clone(_NAME)
    opened.psql(clone, _WRITES)
    with _silence(clone.port) as silence:
        opened.ask("reset", _NAME)
    return max(silence)


def _floor(opened: Installation, target: Path) -> float:
    where = f"host=127.0.0.1 port={_PORT} user=reconciler_admin dbname=bench"
    with psycopg.connect(where, autocommit=True) as connection:
        connection.execute(_WRITES)
    with _silence(_PORT) as silence:
        opened.script(RESTART, by_hand.programs(), by_hand.switch(opened), target)
    return max(silence)


@contextmanager
def _silence(port: int) -> Iterator[list[float]]:
    """Ask all the time whether a port takes connections; yield the seconds between two answers that said so."""
    silences: list[float] = []
    ended = threading.Event()

    def listen() -> None:
        where = f"host=127.0.0.1 port={port} dbname=bench user=app connect_timeout=2".encode()
        last = time.perf_counter()
        while True:
            if PGconn.ping(where) == Ping.OK:
                now = time.perf_counter()
                silences.append(now - last)
                last = now
                if ended.is_set():
                    return
            time.sleep(_PAUSE)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield silences
    finally:
        ended.set()
        thread.join()
