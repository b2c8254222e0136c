"""Backups from a real pgBackRest repository."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler import proc
from reconciler.engines.base import BackupRepository, LocalSource
from reconciler.engines.postgres import bootstrap, physical, recovery, settings
from reconciler.engines.postgres.identify import identify, source_major
from reconciler.errors import BusyError, SourceError, UnsupportedError
from tests.support import OLDER_MAJOR

from .production import Production

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from .conftest import Cluster

    Maker = Callable[..., AbstractContextManager[Cluster]]

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(shutil.which("pgbackrest") is None, reason="needs pgbackrest"),
]


class Repository:
    """A production server of a version that the distribution's pgBackRest knows; it archives to a repository."""

    def __init__(self, made: Cluster) -> None:
        self.production = Production(made)
        self.made = made
        self.root = made.root / "pgbackrest"
        self.root.mkdir(mode=0o700)
        if made.account:
            os.chown(self.root, made.account.uid, made.account.gid)
        self.config = self.root / "pgbackrest.conf"
        self.config.write_text(
            f"[global]\nrepo1-path={self.root}/repo\nlog-path={self.root}\nlock-path={self.root}\n"
            f"spool-path={self.root}/spool\n"
            "repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=not-for-clones\nstart-fast=y\ncompress-type=gz\n"
            f"[main]\npg1-path={made.root}/volume/data\npg1-socket-path={made.root}/run\npg1-user=reconciler_admin\n"
        )
        if made.account:
            os.chown(self.config, made.account.uid, made.account.gid)
        push = f"archive_command = 'pgbackrest --config={self.config} --stanza=main archive-push %p'\n"
        self.production.conf.write_text(self.production.conf.read_text() + push)
        self.command("stanza-create")
        self.production.sql("SELECT pg_reload_conf()")

    def command(self, *words: str) -> None:
        env = proc.environment({"LC_ALL": "C"})
        argv = ["pgbackrest", f"--config={self.config}", "--stanza=main", "--log-level-console=off", *words]
        proc.run(argv, env=env, account=self.made.account)

    def backup(self, kind: str) -> None:
        self.command("backup", f"--type={kind}")

    def archived(self) -> None:
        """Have everything archived up to now."""
        self.command("check")

    @property
    def source(self) -> LocalSource:
        return LocalSource("backup", name="shop", repository=BackupRepository("pgbackrest", "main", self.config))


@pytest.fixture(scope="module")
def repository(make_cluster: Maker) -> Iterator[Repository]:
    with make_cluster(OLDER_MAJOR) as made:
        yield Repository(made)


def test_the_newest_backup_is_restored_with_the_wal_after_it(repository: Repository, make_cluster: Maker) -> None:
    production = repository.production
    space = production.made.root / "space"
    space.mkdir()
    if production.made.account:
        os.chown(space, production.made.account.uid, production.made.account.gid)
    production.sql(f"CREATE TABLESPACE far LOCATION '{space}'")
    production.sql("CREATE TABLE far TABLESPACE far AS SELECT g FROM generate_series(1, 77) g")
    with pytest.raises(SourceError, match="has no backup"):
        identify(repository.source)
    production.add(2)
    repository.backup("full")
    first = identify(repository.source)
    assert first == replace(first, notes=())
    production.add(2)
    repository.backup("incr")
    production.add(2)
    repository.archived()

    archiving = repository.root / "spool" / "archive" / "main" / "out" / "000000010000000000000001.ok"
    archiving.parent.mkdir(parents=True)
    archiving.touch()

    found = identify(repository.source)
    assert found.input_id != first.input_id
    assert identify(replace(repository.source, chosen=first.input_id)).input_id == first.input_id
    assert source_major(repository.source) == OLDER_MAJOR

    with make_cluster(OLDER_MAJOR, running=False) as target:
        work = replace(target.work(kind="backup"), source=replace(repository.source, chosen=found.input_id))
        physical.open_physical(work, target.programs)
        assert archiving.exists(), "what production archives is touched"
        reached = recovery.reached(work)
        settings.write_build(work, target.programs, bootstrap.required(work, target.programs))
        target.launch()

        assert reached is not None
        rows = target.query("postgres", "SELECT id FROM ledger ORDER BY id")
        assert [row[0] for row in rows] == production.committed_until(reached.data_as_of) == [1, 2, 3, 4, 5, 6]
        assert target.query("postgres", "SELECT count(*) FROM far") == [(77,)]
        data = target.root / "volume" / "data"
        assert [path for path in data.rglob("*") if path.is_symlink()] == []
        assert "not-for-clones" not in "".join(path.read_text() for path in data.glob("*.conf"))


def test_a_backup_that_is_gone_is_looked_for_again(repository: Repository) -> None:
    with pytest.raises(BusyError, match="not in the repository any more"):
        identify(replace(repository.source, chosen="stock:20200101-000000F/wal:-:-:0"))


def test_a_repository_that_cannot_be_read_is_an_error_of_the_source(repository: Repository, tmp_path: Path) -> None:
    broken = replace(repository.source, repository=BackupRepository("pgbackrest", "main", tmp_path / "absent.conf"))
    with pytest.raises(SourceError, match="pgbackrest info of stanza main failed"):
        identify(broken)


def test_a_stanza_that_is_not_there_is_named(repository: Repository) -> None:
    other = replace(repository.source, repository=BackupRepository("pgbackrest", "other", repository.config))
    with pytest.raises(SourceError, match="stanza other of pgBackRest has no backup"):
        identify(other)


def test_tools_that_this_version_does_not_know_are_refused(tmp_path: Path) -> None:
    unknown = LocalSource("backup", name="shop", repository=BackupRepository("barman", "main", tmp_path))
    with pytest.raises(UnsupportedError, match="repositories of barman are not available"):
        identify(unknown)
