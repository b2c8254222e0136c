"""A production server that archives its WAL and is backed up, for the tests of physical sources.

Every transaction of the ledger notes its number; :meth:`Production.ledger` says which of them
had committed at a moment, by the commit times that the server itself recorded.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from reconciler.engines.postgres import server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Cluster

_SETTINGS = """
wal_level = replica
max_wal_senders = 4
archive_mode = on
archive_command = 'cp %p {archive}/%f.part && mv {archive}/%f.part {archive}/%f'
track_commit_timestamp = on
summarize_wal = on
"""


class Production:
    """One cluster; ``archive`` and ``backups`` are directories that only the tests' own account reads."""

    def __init__(self, made: Cluster) -> None:
        self.made = made
        self.major = made.programs.major
        self.archive = self._directory("archive")
        self.backups = self._directory("backups")
        self.count = 0
        made.stop()
        self.conf = server.data_directory(made.work()) / "postgresql.conf"
        lines = _SETTINGS.format(archive=self.archive)
        if int(self.major) < 17:
            lines = lines.replace("summarize_wal = on\n", "")
        self.settings = lines
        self.conf.write_text(self.conf.read_text() + lines)
        with (self.conf.parent / "pg_hba.conf").open("a") as hba:
            hba.write("local replication all peer map=reconciler\n")
        made.launch()
        self.sql("CREATE TABLE ledger (id int PRIMARY KEY, filler text)")

    def _directory(self, name: str) -> Path:
        path = self.made.root / name
        path.mkdir(mode=0o700)
        if self.made.account:
            os.chown(path, self.made.account.uid, self.made.account.gid)
        return path

    def sql(self, text: str) -> None:
        self.made.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", text)

    def add(self, transactions: int = 1) -> None:
        """Commit transactions, one by one."""
        for _ in range(transactions):
            self.count += 1
            self.sql(f"INSERT INTO ledger VALUES ({self.count}, repeat('x', 1000))")

    def switch(self) -> str:
        """Have everything archived up to now; return the name of the last segment."""
        ((name,),) = self.made.query("postgres", "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        self.sql("SELECT pg_switch_wal()")
        self.await_archived(str(name), self.made)
        return str(name)

    def await_archived(self, name: str, by: Cluster) -> None:
        """Wait until a server has archived a segment."""
        wait = (
            "DO $$ BEGIN FOR i IN 1..600 LOOP PERFORM pg_stat_clear_snapshot();"
            f" EXIT WHEN (SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver);"
            " PERFORM pg_sleep(0.05); END LOOP; END $$"
        )
        by.tool("psql", "-X", "-q", "-c", wait)
        assert (self.archive / name).is_file()

    def backup(self, name: str, *words: str) -> Path:
        """Take a base backup."""
        path = self.backups / name
        self.made.tool("pg_basebackup", "-D", path, "--checkpoint=fast", *words, as_account=True)
        return path

    def committed_until(self, moment: datetime) -> list[int]:
        """Return the transactions that had committed at a moment, inclusively."""
        rows = self.made.query(
            "postgres",
            f"SELECT id FROM ledger WHERE pg_xact_commit_timestamp(xmin) <= '{moment.isoformat()}' ORDER BY id",
        )
        return [int(str(row[0])) for row in rows]

    def committed_at(self, number: int) -> datetime:
        ((at,),) = self.made.query("postgres", f"SELECT pg_xact_commit_timestamp(xmin) FROM ledger WHERE id = {number}")
        assert isinstance(at, datetime)
        return at


@contextmanager
def produced(made: Cluster) -> Iterator[Production]:
    """Make a running cluster a production server."""
    yield Production(made)


def copied(source: Path, target: Path) -> Path:
    """Copy a directory that a test may damage."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, symlinks=True)
    return target
