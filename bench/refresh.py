"""What a refresh from a live primary costs when the database is larger and the change is the same; on btrfs.

For each size a primary with one large table is followed by a mirror. The same 20 MB of its
pages are changed, the mirror catches up, and a refresh is asked for. Seconds are those of
the pass that cuts, recovers, settles and seals; bytes are what the pool holds more than before
the change: pages of the mirror, its log, and what the snapshot has of its own. The same is
measured of an image that masks a small table beside the large one.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import psycopg

from bench.figures import Figure, Options
from bench.installation import Installation, installation, scratch_directory, size_of
from reconciler.engines.postgres import server
from reconciler.handover import give_tree
from reconciler.proc import Account

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCALES = {"quick": (1, 2), "default": (33, 133), "full": (33, 133, 533)}
"""Of pgbench; 33 is 0.5 GB, 533 is 8 GB."""
_PAGE = 8192
_CHANGED_BYTES = {"quick": 1 << 20, "default": 20 << 20, "full": 20 << 20}
_PORT = 25500
_NOBODY = 65534
_MAKE = """
CREATE TABLE account (id bigint, balance bigint NOT NULL DEFAULT 0, filler char(84) NOT NULL DEFAULT '')
  WITH (fillfactor = 80);
INSERT INTO account (id) SELECT generate_series(1, {rows});
ALTER TABLE account ADD PRIMARY KEY (id);
VACUUM (FREEZE, ANALYZE) account;
CREATE TABLE person (id int PRIMARY KEY, name text NOT NULL, email text NOT NULL);
INSERT INTO person SELECT n, 'Person ' || md5(n::text), md5(n::text) || '@corp.invalid'
  FROM generate_series(1, {persons}) AS n;
VACUUM (FREEZE, ANALYZE);
CHECKPOINT;
"""
_PERSONS = 10_000
_POLICY = "refreshed"
_RULES = "{id: keep, name: {fake: full_name}, email: email}"
_CHANGE = """
UPDATE account SET balance = balance + 1
WHERE id IN (SELECT 1 + n * ({rows} / {pages}) FROM generate_series(0, {pages} - 1) AS n)
"""


class _Primary:
    """A server of production with one large table."""

    def __init__(self, root: Path, rows: int, port: int) -> None:
        self._root = root
        self._rows = rows
        self._port = port
        self._programs = server.choose()
        self._account = Account(_NOBODY, _NOBODY)

    @property
    def url(self) -> str:
        return f"postgresql://boss@127.0.0.1:{self._port}/bench"

    @contextmanager
    def running(self) -> Iterator[None]:
        data = self._root / "data"
        fresh = not (self._root / "made").exists()
        if fresh:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root.mkdir(parents=True)
            give_tree(self._root, self._account)
            self._run("initdb", "-D", data, "-U", "boss", "--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8")
        options = f"-c port={self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c wal_level=replica"
        options += " -c max_wal_size=4GB -c checkpoint_timeout=1h -c autovacuum=off -c fsync=off"
        self._run("pg_ctl", "start", "-w", "-t", "600", "-D", data, "-l", self._root / "log", "-o", options)
        try:
            if fresh:
                self._psql("CREATE DATABASE bench", "postgres")
                for statement in _MAKE.format(rows=self._rows, persons=_PERSONS).split(";"):
                    self._psql(statement)
                (self._root / "made").touch()
            yield
        finally:
            self._run("pg_ctl", "stop", "-w", "-m", "fast", "-D", data)

    def change(self, size: int) -> None:
        self._psql(_CHANGE.format(rows=self._rows, pages=size // _PAGE))

    def position(self) -> str:
        return str(self._psql("SELECT pg_current_wal_lsn()::text")[0][0])

    def log_bytes(self, since: str) -> int:
        return int(str(self._psql(f"SELECT pg_current_wal_lsn() - '{since}'::pg_lsn")[0][0]))

    def _psql(self, statement: str, database: str = "bench") -> list[tuple[object, ...]]:
        with psycopg.connect(
            host="127.0.0.1", port=self._port, user="boss", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def _run(self, program: str, *words: str | Path) -> None:
        account = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        argv = [server.program(self._programs, program), *words]
        subprocess.run(argv, check=True, cwd="/", env={"LC_ALL": "C"}, stdout=subprocess.DEVNULL, **account)  # type: ignore[call-overload] # keywords for one platform


def run(options: Options) -> list[Figure]:
    """Measure all of it."""
    size = size_of(options)
    repetitions = 1 if options.quick else options.repetitions
    plain, masked = dict[int, _Cost](), dict[int, _Cost]()
    with installation(options) as opened:
        opened.write_policy(_POLICY, "person", _RULES)
        for number, scale in enumerate(SCALES[size]):
            root = scratch_directory(options) / f"production-{scale}"
            primary = _Primary(root, scale * 100_000, _PORT + number)
            with primary.running():
                for costs, kind in ((plain, "followed"), (masked, "masked")):
                    image = f"{kind}-{scale}"
                    opened.follow(image, primary.url, policy=_POLICY if costs is masked else None)
                    costs[scale] = _measure(opened, primary, image, _CHANGED_BYTES[size], repetitions)
                    opened.forget_image(image)
    small, large = SCALES[size][0], SCALES[size][-1]
    allowed = 2 * _CHANGED_BYTES[size] + plain[large].log
    ratio = f"{large * 0.015:.2g} GB against {small * 0.015:.2g} GB"
    return [
        Figure(f"a refresh with the same change: {ratio}", plain[large].seconds, plain[small].seconds, 1.3),
        Figure(f"… its new bytes: {ratio}", plain[large].bytes, plain[small].bytes, 1.3, unit="B"),
        Figure("… its new bytes, against the changed pages and log", plain[large].bytes, allowed, 1, unit="B"),
        Figure(f"… of a masked image: {ratio}", masked[large].seconds, masked[small].seconds, 1.3),
        Figure(f"… of a masked image, its new bytes: {ratio}", masked[large].bytes, masked[small].bytes, 1.3, unit="B"),
    ]


class _Cost(NamedTuple):
    """Seconds, new bytes and bytes of log of a refresh, each the median."""

    seconds: float
    bytes: float
    log: float


def _measure(opened: Installation, primary: _Primary, image: str, changed: int, repetitions: int) -> _Cost:
    """Return what a refresh of an image costs."""
    opened.settle()
    rounds = []
    for _ in range(repetitions + 1):
        opened.settle()
        before, since = opened.used_bytes(), primary.position()
        primary.change(changed)
        opened.await_mirror(image, primary.position())
        opened.request("refresh", image)
        start = time.perf_counter()
        opened.settle()
        seconds = time.perf_counter() - start
        rounds.append((seconds, opened.used_bytes() - before, primary.log_bytes(since)))
    counted = rounds[1:]  # the first one settles what production left to be done
    return _Cost(median(r[0] for r in counted), median(r[1] for r in counted), median(r[2] for r in counted))
