"""A live primary that knows nothing of the reconciler: reached by TCP, written to, and treated badly.

Each transaction of the ledger notes its number and a checksum over all before it, so that
a copy shows by itself whether it is whole; :meth:`Primary.ledger_at` says what there was at
a moment, by the commit times that the server itself recorded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from reconciler.engines.postgres import server
from tests.support import free_block, pause, release_block, resume, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import InstalledServer

_NOBODY = 65534
FAKE_CLOCK = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
"""A library that gives a program another time (package faketime); None where it is not installed."""
USER, PASSWORD = "follower", "nobody may see this"
_HBA = f"""local all all trust
local replication all trust
host all {USER} 127.0.0.1/32 scram-sha-256
host replication {USER} 127.0.0.1/32 scram-sha-256
host replication boss 127.0.0.1/32 trust
"""
_LEDGER = """
CREATE TABLE ledger (id integer PRIMARY KEY, filler text NOT NULL, chain text NOT NULL);
CREATE FUNCTION enter() RETURNS void LANGUAGE sql AS $$
  INSERT INTO ledger
  SELECT coalesce(max(id), 0) + 1, repeat('x', 500),
         md5(coalesce((SELECT chain FROM ledger ORDER BY id DESC LIMIT 1), '') || (coalesce(max(id), 0) + 1))
  FROM ledger
$$;
"""
CHAIN = """
SELECT count(*)::int, coalesce(max(id), 0), coalesce(max(chain) FILTER (WHERE id = last), '')
FROM (SELECT *, max(id) OVER () AS last FROM ledger) l
"""
"""How many entries, the last number, and the checksum over all of them."""


class Primary:
    """One server with the database ``shop``."""

    def __init__(self, root: Path, port: int, programs: InstalledServer) -> None:
        self.root = root
        self.port = port
        self.programs = programs
        self._clock: dict[str, str] = {}

    def set_clock(self, now: datetime) -> None:
        """Let the next start, and all that is run here, believe that it is ``now``; time goes on from there."""
        behind = int((datetime.now(UTC) - now).total_seconds())
        self._clock = {"LD_PRELOAD": str(FAKE_CLOCK), "FAKETIME": f"-{behind}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.port}/shop"

    @property
    def data(self) -> Path:
        return self.root / "data"

    def make(self) -> None:
        self.run("initdb", "-D", self.data, "-U", "boss", "--locale=C.UTF-8", "--no-sync")
        # a world that ends in the middle of a test leaves its slot
        self.configure(
            max_replication_slots="50",
            track_commit_timestamp="on",
            wal_level="replica",
            max_wal_size="64MB",
            fsync="off",
        )
        (self.data / "pg_hba.conf").write_text(_HBA)
        self.start()
        self.sql(f"CREATE ROLE {USER} LOGIN REPLICATION PASSWORD '{PASSWORD}'", "postgres")
        self.sql("CREATE DATABASE shop", "postgres")
        self.sql(_LEDGER)

    def configure(self, **settings: str) -> None:
        """Add settings; the next start, or reload, takes them."""
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self) -> None:
        options = f"-c unix_socket_directories={self.root} -c listen_addresses=127.0.0.1 -c port={self.port}"
        self.run("pg_ctl", "start", "-w", "-D", self.data, "-l", self.root / "log", "-o", options)

    def stop(self, how: str = "fast") -> None:
        with suppress(subprocess.CalledProcessError):
            self.run("pg_ctl", "stop", "-w", "-m", how, "-D", self.data)

    def sql(self, statement: str, database: str = "shop") -> list[tuple[Any, ...]]:
        with psycopg.connect(
            host=str(self.root), port=self.port, user="boss", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def enter(self, times: int = 1) -> None:
        """Commit entries, one by one."""
        for _ in range(times):
            self.sql("SELECT enter()")

    @contextmanager
    def entering(self) -> Iterator[None]:
        """Have entries committed all the time while the block runs."""
        stop = threading.Event()

        def work() -> None:
            with psycopg.connect(
                host=str(self.root), port=self.port, user="boss", dbname="shop", autocommit=True
            ) as connection:
                while not stop.is_set():
                    connection.execute("SELECT enter()")
                    stop.wait(0.002)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def ledger_at(self, moment: datetime) -> tuple[int, int, str]:
        """Return what :data:`CHAIN` would have said at a moment, inclusively."""
        query = CHAIN.replace(
            "FROM ledger)", f"FROM ledger WHERE pg_xact_commit_timestamp(xmin) <= '{moment.isoformat()}')"
        )
        count, last, chain = self.sql(query)[0]
        return count, last, chain

    def slots(self) -> dict[str, bool]:
        """Return the replication slots, and whether they are in use."""
        return dict(self.sql("SELECT slot_name, active FROM pg_replication_slots"))

    def drop_slots(self, *, keep: str = "") -> None:
        """Drop the slots of whoever has gone; who still uses one is disconnected."""
        for slot in self.slots():
            if slot != keep:
                until(lambda slot=slot: self._dropped(slot), what=f"the end of slot {slot}")  # type: ignore[misc] # a lambda with a default

    def _dropped(self, slot: str) -> bool:
        self.sql(f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}'")
        with suppress(psycopg.errors.ObjectInUse):
            self.sql(f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'")
        return slot not in self.slots()

    def forget_log(self) -> None:
        """Have the log so far removed as far as the server can."""
        for _ in range(3):
            self.sql("SELECT pg_switch_wal()")
            self.sql("CHECKPOINT")

    def standby(self) -> Primary:
        """Return a standby of its own, at another port."""
        root = _directory()
        other = Primary(root, self.port + 1, self.programs)
        self.run("pg_basebackup", "-D", other.data, "-R", "--checkpoint=fast", "--no-sync", "-X", "stream")
        other.start()
        return other

    def promote(self) -> None:
        self.run("pg_ctl", "promote", "-w", "-D", self.data)

    def freeze(self) -> None:
        """Let the server stop answering without closing a connection."""
        pause(self._pid())

    def thaw(self) -> None:
        resume(self._pid())

    def _pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def run(self, program: str, *words: str | Path) -> None:
        argv = [server.program(self.programs, program), *words]
        subprocess.run(argv, env=self.environment(), cwd="/", check=True, stdout=subprocess.DEVNULL, **account())

    def environment(self) -> dict[str, str]:
        """Return the environment in which PostgreSQL's programs reach it as its superuser."""
        known = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PGHOST": str(self.root), "PGUSER": "boss"}
        return {**known, "PGPORT": str(self.port), **self._clock}


def account() -> dict[str, Any]:
    """Return the keywords by which ``subprocess`` runs a program as somebody who may run servers."""
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


@contextmanager
def primary(major: str | None = None, *, clock: datetime | None = None) -> Iterator[Primary]:
    """Have a primary in the block, whose ``clock`` shows another time than the host's."""
    block = free_block()
    made = Primary(_directory(), block.start, server.choose(major))
    try:
        if clock is not None:
            made.set_clock(clock)
        made.make()
        yield made
    finally:
        remove(made)
        release_block(block)


def remove(made: Primary) -> None:
    """End a server and remove its files."""
    with suppress(OSError, IndexError):
        made.thaw()
    made.stop("immediate")
    shutil.rmtree(made.root, ignore_errors=True)


def waited(made: Primary, slot: str) -> None:
    """Wait until a slot is in use."""
    until(lambda: made.slots().get(slot, False), what=f"the use of slot {slot}")


def archiving(made: Primary) -> Path:
    """Have a primary archive from now on, into the directory that is returned."""
    place = made.root / "archive"
    place.mkdir(exist_ok=True)
    os.chown(place, made.root.stat().st_uid, -1)
    # what is there already and the same is well (manual, 25.3.1): a standby that is promoted archives some anew
    made.configure(
        archive_mode="on", archive_command=f'f="{place}/%f"; cmp -s %p "$f" || {{ test ! -e "$f" && cp %p "$f"; }}'
    )
    made.stop()
    made.start()
    return place


def archived(production: Primary, archive: Path | None = None) -> str:
    """Have the log so far archived; return the last segment."""
    place = archive or production.root / "archive"
    # a switch right after another one would be none, and the segment is not archived until more is written
    production.sql("SELECT pg_create_restore_point('archived')")
    ((last,),) = production.sql("SELECT pg_walfile_name(pg_switch_wal() - 1)")

    def there() -> bool:
        return (place / last).exists() and production.sql(
            f"SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver"
        ) == [(True,)]

    until(there, what=f"the archive of {last}")
    return str(last)


def _directory() -> Path:
    root = Path(tempfile.mkdtemp(prefix="primary-"))
    if os.geteuid() == 0:
        os.chown(root, _NOBODY, _NOBODY)
    return root
