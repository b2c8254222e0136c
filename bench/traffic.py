"""A primary under the load of pgbench, and how long its clients waited, and those of clones.

Used by the topics that look at what the product does to others. The server has the
settings of a careful owner: what is committed is on the disk.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from reconciler.engines.postgres import server
from reconciler.handover import give_tree
from reconciler.proc import Account

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_NOBODY = 65534
_ACCOUNT = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
_TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_FIELDS = 7
_MICROSECONDS = 1_000_000
_WORKERS = Path("/sys/devices/virtual/workqueue/cpumask")
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "replica",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "1min",
}


@dataclass(frozen=True, slots=True)
class Waited:
    """One transaction: when it should have begun (epoch), and the seconds from then to its end."""

    began: float
    seconds: float


@dataclass
class Clients:
    """What the clients of a server saw."""

    waited: list[Waited] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    """What pgbench says of clients that could not go on: their connection was lost, or their SQL failed."""


@dataclass
class Periods:
    """Times of what went on beside the transactions."""

    known: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Note the time of the block."""
        start = time.time()
        yield
        self.known.setdefault(what, []).append((start, time.time()))

    def seconds(self, what: str) -> float:
        return sum(end - start for start, end in self.known[what])

    def waits(self, everybody: Iterable[Waited], *kinds: str) -> list[float]:
        """Return the seconds of the transactions that should have begun in periods of some kinds."""
        spans = [span for kind in kinds for span in self.known[kind]]
        return [one.seconds for one in everybody if any(start <= one.began < end for start, end in spans)]


class Production:
    """A server of production with pgbench's tables in the database ``bench``; made once, kept in its directory.

    ``processors`` are those that it and its clients run on; left out: all.
    """

    def __init__(self, root: Path, scale: int, port: int, *, processors: frozenset[int] = frozenset()) -> None:
        self._root = root
        self._processors = processors or frozenset(os.sched_getaffinity(0))
        self._scale = scale
        self._port = port
        self._programs = server.choose()

    @property
    def url(self) -> str:
        return f"postgresql://boss@127.0.0.1:{self._port}/bench"

    @contextmanager
    def running(self) -> Iterator[None]:
        data, made = self._root / "data", self._root / "made"
        fresh = not made.exists()
        if fresh:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root.mkdir(parents=True)
            give_tree(self._root, Account(_NOBODY, _NOBODY))
            self._run("initdb", "-D", data, "-U", "boss", "--auth=trust", "--no-locale", "--encoding=UTF8")
        options = " ".join(f"-c {name}={value}" for name, value in {**_SETTINGS, "port": self._port}.items())
        self._run("pg_ctl", "start", "-w", "-t", "600", "-D", data, "-l", self._root / "log", "-o", options)
        try:
            if fresh:
                self.sql("CREATE DATABASE bench", "postgres")
                subprocess.run(
                    self._pgbench("--initialize", "--quiet", f"--scale={self._scale}"),
                    check=True,
                    stderr=subprocess.DEVNULL,
                )
                made.touch()
            self.sql("CHECKPOINT")
            yield
        finally:
            self._run("pg_ctl", "stop", "-w", "-m", "fast", "-D", data)

    def sql(self, statement: str, database: str = "bench") -> list[tuple[object, ...]]:
        where = f"host=127.0.0.1 port={self._port} user=boss dbname={database}"
        with psycopg.connect(where, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def position(self) -> str:
        return str(self.sql("SELECT pg_current_wal_lsn()::text")[0][0])

    def capacity(self, seconds: float) -> float:
        """Return how many transactions a second it does when it does nothing else."""
        argv = self._pgbench("--no-vacuum", "--client=4", f"--time={max(1, round(seconds))}")
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        found = _TPS.search(done.stdout)
        if found is None:
            raise RuntimeError(f"pgbench told no rate: {done.stdout}")
        return float(found[1])

    @contextmanager
    def load(self, rate: float, log: Path) -> Iterator[Clients]:
        """Have transactions at a rate while the block runs."""
        with clients(self._pgbench("--client=4"), rate, log) as seen:
            yield seen

    @property
    def _pinned(self) -> list[str | Path]:
        return ["taskset", "--cpu-list", ",".join(map(str, sorted(self._processors)))]

    def _pgbench(self, *words: str) -> list[str | Path]:
        program = server.program(self._programs, "pgbench")
        return [*self._pinned, program, "--host=127.0.0.1", f"--port={self._port}", "--username=boss", *words, "bench"]

    def _run(self, program: str, *words: str | Path) -> None:
        argv = [*self._pinned, server.program(self._programs, program), *words]
        subprocess.run(argv, check=True, cwd="/", env={"LC_ALL": "C"}, stdout=subprocess.DEVNULL, **_ACCOUNT)  # type: ignore[call-overload] # keywords for one platform


def halves() -> tuple[frozenset[int], frozenset[int]]:
    """Return the processors of this host in two halves; where there is one alone, both are that one."""
    known = sorted(os.sched_getaffinity(0))
    middle = len(known) // 2
    return frozenset(known[:middle] or known), frozenset(known[middle:])


@contextmanager
def on_processors(wanted: frozenset[int]) -> Iterator[None]:
    """Have this thread, what it starts, and the kernel's work for disks run on some processors only, in the block.

    Workers of the kernel are not bound to who made their work: a pool's file system would
    run on the others (Documentation/core-api/workqueue.rst, "cpumask"; as root).
    """
    before, workers = os.sched_getaffinity(0), _WORKERS.read_text() if os.access(_WORKERS, os.W_OK) else None
    os.sched_setaffinity(0, wanted)
    try:
        if workers is not None:
            _WORKERS.write_text(f"{sum(1 << number for number in wanted):x}")
        yield
    finally:
        os.sched_setaffinity(0, before)
        if workers is not None:
            _WORKERS.write_text(workers)


@contextmanager
def clients(
    argv: Sequence[str | Path], rate: float, log: Path, *, env: Mapping[str, str] | None = None
) -> Iterator[Clients]:
    """Run pgbench at a rate while the block runs, connections kept; what they saw is there afterwards."""
    for old in log.parent.glob(f"{log.name}.*"):
        old.unlink()
    words = [*argv, "--no-vacuum", f"--rate={rate:g}", "--time=3600", "--log", f"--log-prefix={log}"]
    seen = Clients()
    with subprocess.Popen(
        words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield seen
        finally:
            process.terminate()
            _, told = process.communicate()
            seen.aborted = [line for line in told.splitlines() if "abort" in line or "error" in line]
    for written in log.parent.glob(f"{log.name}.*"):
        seen.waited += _read(written)


def _read(log: Path) -> list[Waited]:
    """Read pgbench's log: client, transaction, microseconds, script, second and microsecond of the end, lag."""
    found = []
    for line in log.read_text().splitlines():
        words = line.split()
        if len(words) != _FIELDS:  # the last line may have been cut
            continue
        seconds = int(words[2]) / _MICROSECONDS
        found.append(Waited(int(words[4]) + int(words[5]) / _MICROSECONDS - seconds, seconds))
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
