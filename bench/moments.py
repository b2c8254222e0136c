"""How soon a clone of a moment answers, against a replay of the same log by hand and a clone of that; on btrfs.

A mirror follows a real primary, a raw copy is kept, and pgbench writes log. Ours is measured
from a spec that the loop can see to a query that psql had answered: the moment is built
(copied, replayed, isolated, settled, sealed) and cloned. By hand the same raw copy is snapshotted,
PostgreSQL replays the same log to the same time and is stopped cleanly, and a snapshot of that is
started. Both in turns, each time for another moment with the same log before it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from itertools import count
from statistics import median
from typing import TYPE_CHECKING

import psycopg

from bench import by_hand
from bench.figures import Figure, Options
from bench.installation import Installation, installation, scratch_directory, size_of
from reconciler.engines.postgres import server
from reconciler.handover import give_tree
from reconciler.proc import Account

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

_SIZES = {"quick": (1, 8 << 20), "default": (33, 300 << 20), "full": (133, 1 << 30)}
"""Scale of pgbench, and bytes of log between the raw copy and the moments."""
_TRANSACTIONS = 500
_PORT, _HAND_PORT = 25550, 26100
_NOBODY = 65534
_IMAGE = "moments"
_REPLAY = """\
raw=$1 kept=$2 live=$3 target=$4 at=$5 port=$6 programs=$7 as=$8
btrfs --quiet subvolume snapshot "$raw" "$target"
rm -f "$target/data/standby.signal" "$target/data/postmaster.pid"
cat > "$target/data/postgresql.conf" <<END
unix_socket_directories = ''
hot_standby = off
max_wal_size = 4GB
restore_command = 'cp $kept/%f %p 2>/dev/null || cp $live/%f %p'
${at:+recovery_target_time = '$at'
recovery_target_action = promote}
END
: > "$target/data/postgresql.auto.conf"
echo 'host all all 127.0.0.1/32 trust' > "$target/data/pg_hba.conf"
: > "$target/data/recovery.signal"
chown "$(stat -c %u:%g "$raw/data")" "$target/data/recovery.signal"
$as "$programs/pg_ctl" --pgdata="$target/data" -o "-p $port" --log="$target/data/log" -t 3600 --silent --wait start
until "$programs/psql" -XAtqc 'SELECT 1' -h 127.0.0.1 -p "$port" -U boss bench 2>/dev/null; do
    $as "$programs/pg_ctl" --pgdata="$target/data" status > /dev/null || { tail -3 "$target/data/log" >&2; exit 1; }
    sleep 0.05
done
$as "$programs/pg_ctl" --pgdata="$target/data" --mode=fast --silent --wait stop
btrfs --quiet subvolume snapshot "$target" "$target-clone"
$as "$programs/pg_ctl" --pgdata="$target-clone/data" -o "-p $port" --log="$target/data/log" --silent --wait start
"$programs/psql" -XAtqc 'SELECT count(*) FROM mark' -h 127.0.0.1 -p "$port" -U boss bench > "$target-clone/answer"
"""
_numbers = count(1)


class _Production:
    """A primary with the tables of pgbench, and marks that are committed one by one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._programs = server.choose()

    @property
    def url(self) -> str:
        return f"postgresql://boss@127.0.0.1:{_PORT}/bench"

    @contextmanager
    def running(self, scale: int) -> Iterator[None]:
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir(parents=True)
        give_tree(self._root, Account(_NOBODY, _NOBODY))
        data = self._root / "data"
        self._run("initdb", "-D", data, "-U", "boss", "--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8")
        options = f"-c port={_PORT} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c wal_level=replica"
        options += " -c max_wal_size=4GB -c fsync=off -c track_commit_timestamp=on"
        self._run("pg_ctl", "start", "-w", "-D", data, "-l", self._root / "log", "-o", options)
        try:
            self.sql("CREATE DATABASE bench", "postgres")
            self._pgbench("--initialize", "--quiet", f"--scale={scale}")
            self.sql("CREATE TABLE mark (at timestamptz NOT NULL DEFAULT clock_timestamp())")
            yield
        finally:
            self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", data)
            shutil.rmtree(self._root, ignore_errors=True)

    def write_log(self, size: int) -> None:
        """Have pgbench write at least so many bytes of log."""
        since = self.position()
        while int(str(self.sql(f"SELECT pg_current_wal_lsn() - '{since}'::pg_lsn")[0][0])) < size:
            self._pgbench("--client=4", f"--transactions={_TRANSACTIONS}", "--no-vacuum")

    def mark(self) -> datetime:
        """Commit a mark, and return a time after it."""
        self.sql("INSERT INTO mark DEFAULT VALUES")
        ((at,),) = self.sql("SELECT clock_timestamp()")
        return at  # type: ignore[return-value]  # a time

    def position(self) -> str:
        return str(self.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0])

    def sql(self, statement: str, database: str = "bench") -> list[tuple[object, ...]]:
        with psycopg.connect(host="127.0.0.1", port=_PORT, user="boss", dbname=database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def _pgbench(self, *words: str) -> None:
        self._run("pgbench", "-h", "127.0.0.1", "-p", str(_PORT), "-U", "boss", *words, "bench")

    def _run(self, program: str, *words: str | Path) -> None:
        account = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        argv = [server.program(self._programs, program), *words]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(argv, check=True, cwd="/", env={"LC_ALL": "C"}, **quiet, **account)  # type: ignore[call-overload] # keywords for one platform


def run(options: Options) -> list[Figure]:
    """Measure all of it."""
    scale, log = _SIZES[size_of(options)]
    repetitions = 1 if options.quick else options.repetitions
    production = _Production(scratch_directory(options) / "primary-moments")
    with installation(options) as opened, production.running(scale):
        opened.image("other", 1)  # a commit that lost its last document would ask before it deletes anything
        opened.settle()
        opened.follow(_IMAGE, production.url, with_past=True)
        try:
            opened.settle()
            while opened.raw_copy(_IMAGE) is None:
                opened.settle()
            production.write_log(log)
            production.sql("CHECKPOINT")
            moments = [production.mark() for _ in range(repetitions + 1)]
            moments += [production.mark()]
            opened.await_mirror(_IMAGE, production.position())
            rounds = [_round(opened, at, number, last=at == moments[-1]) for number, at in enumerate(moments, 1)]
        finally:
            opened.remove_clones()
            opened.forget_image(_IMAGE)
    *counted, idle = rounds[1:]  # the first one reads everything from disk
    what = f"a clone of a moment behind {log >> 20} MB of log"
    return [
        Figure(f"{what}, against the replay by hand and a clone", *_medians(counted), 1.2),
        Figure("… of one after which nothing was committed", *idle, 1.2),
    ]


def _medians(rounds: list[tuple[float, float]]) -> tuple[float, float]:
    return median(ours for ours, _floor in rounds), median(floor for _ours, floor in rounds)


def _round(opened: Installation, at: datetime, marks: int, *, last: bool) -> tuple[float, float]:
    """Return seconds of ours and by hand for one moment, at which there were so many marks.

    By hand all log is replayed for the ``last``: PostgreSQL refuses to end a recovery at a
    moment after which nothing was committed.
    """
    return _ours(opened, at, marks), _by_hand(opened, None if last else at, marks)


def _ours(opened: Installation, at: datetime, marks: int) -> float:
    name = f"moment-{next(_numbers)}"
    opened.write_clones(_IMAGE, [name], snapshot=f"{{at: {at.isoformat()}}}")
    start = time.perf_counter()
    opened.settle()
    answer = opened.psql(opened.clone(name), "SELECT count(*) FROM mark")
    seconds = time.perf_counter() - start
    if answer != str(marks):
        raise RuntimeError(f"the clone of {at} has {answer} marks instead of {marks}")
    opened.remove_clones()
    opened.settle()
    return seconds


def _by_hand(opened: Installation, at: datetime | None, marks: int) -> float:
    raw, mirror = opened.raw_copy(_IMAGE), opened.mirror(_IMAGE)
    if raw is None:
        raise RuntimeError("the raw copy is gone")
    target = opened.by_hand / f"moment-{next(_numbers)}"
    owner = (raw / "data").stat()
    where = f"setpriv --reuid={owner.st_uid} --regid={owner.st_gid} --clear-groups" if os.geteuid() == 0 else ""
    log = (mirror / "wal", mirror / "data" / "pg_wal")
    until = at.isoformat() if at is not None else ""
    seconds = opened.script(_REPLAY, raw, *log, target, until, str(_HAND_PORT), by_hand.programs(), where)
    answer = (target.with_name(f"{target.name}-clone") / "answer").read_text().strip()
    if answer != str(marks):
        raise RuntimeError(f"by hand {at or 'the end'} has {answer} marks instead of {marks}")
    clone = target.with_name(f"{target.name}-clone")
    opened.script(by_hand.REMOVE, by_hand.programs(), where, clone)
    opened.script('btrfs --quiet subvolume delete "$1"', target)
    return seconds
