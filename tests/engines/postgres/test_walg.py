"""Backups from a WAL-G repository, with a program that speaks as WAL-G does over real backups and real WAL."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.engines.base import BackupRepository, LocalSource
from reconciler.engines.postgres import bootstrap, physical, recovery, server, settings
from reconciler.engines.postgres.identify import identify, source_major
from reconciler.engines.postgres.label import read_backup
from reconciler.engines.postgres.walarchive import Stored
from reconciler.engines.postgres.walg import WalG
from reconciler.errors import BusyError, NotInstalledError, SourceError

from .production import Production

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from .conftest import Cluster

    Maker = Callable[..., AbstractContextManager[Cluster]]

pytestmark = pytest.mark.postgres

MAJOR = server.choose(None).major
PROGRAM = Path(__file__).with_name("walg_program.py")


class Repository:
    """A production server, and what WAL-G would have kept of it."""

    def __init__(self, made: Cluster, root: Path) -> None:
        self.production = Production(made)
        self.root = root
        for name in ("backups", "wal", "bin"):
            (root / name).mkdir()
        self.config = root / "walg.json"
        self.config.write_text(json.dumps({"WALG_FILE_PREFIX": str(root)}))
        program = root / "bin" / "wal-g"
        program.write_text(f"#!{sys.executable}\n{PROGRAM.read_text()}")
        program.chmod(0o755)

    def push(self) -> str:
        """Do what ``wal-g backup-push`` does: the label is in the backup, and the WAL is not."""
        production = self.production
        beside = production.backups / "space"
        mapping = f"--tablespace-mapping={production.made.root / 'space'}={beside}"
        taken = production.backup("taken", "--wal-method=none", mapping)
        label = read_backup(taken)
        assert label is not None
        name = f"base_{label.segment}"
        shutil.copytree(taken, self.root / "backups" / name, symlinks=False)
        for path in (taken, beside):
            shutil.rmtree(path)
        now = datetime.now(UTC).isoformat().replace("+00:00", "123Z")
        version = int(production.made.programs.version.replace(".", "000"))
        entry: dict[str, Any] = {"backup_name": name, "time": now, "wal_file_name": label.segment}
        entry |= {"storage_name": "default", "start_time": now, "finish_time": now, "date_fmt": "%Y-%m-%dT%H:%M:%S.%fZ"}
        entry |= {"hostname": "production", "data_dir": "/data", "pg_version": version, "start_lsn": label.start}
        entry |= {"finish_lsn": label.end, "is_permanent": False, "system_identifier": int(label.system or 0)}
        entry |= {"uncompressed_size": 40 << 20, "compressed_size": 4 << 20}
        (self.root / "backups" / f"{name}.json").write_text(json.dumps(entry))
        return name

    def archived(self) -> str:
        """Have everything archived up to now, as ``wal-g wal-push`` does; return the last segment."""
        last = self.production.switch()
        for file in self.production.archive.iterdir():
            if len(file.name) == 24 and not (self.root / "wal" / f"{file.name}.gz").exists():
                (self.root / "wal" / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 1))
        return last

    @property
    def source(self) -> LocalSource:
        return LocalSource("backup", name="shop", repository=BackupRepository("wal-g", "", self.config))


@pytest.fixture(scope="module")
def repository(make_cluster: Maker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    with make_cluster(MAJOR) as made:
        yield Repository(made, tmp_path_factory.mktemp("wal-g"))


@pytest.fixture(autouse=True)
def installed(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{repository.root / 'bin'}:{os.environ['PATH']}")


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
    repository.push()
    production.add(1)
    repository.archived()
    first = identify(repository.source)
    production.add(1)
    newest = repository.push()
    production.add(2)
    repository.archived()

    found = identify(repository.source)
    assert found.input_id.startswith(f"stock:{newest}/wal:")
    assert identify(replace(repository.source, chosen=first.input_id)).input_id == first.input_id
    assert source_major(repository.source) == production.major

    with make_cluster(MAJOR, running=False) as target:
        work = replace(target.work(kind="backup"), source=replace(repository.source, chosen=found.input_id))
        physical.open_physical(work, target.programs)
        reached = recovery.reached(work)
        settings.write_build(work, target.programs, bootstrap.required(work, target.programs))
        target.launch()
        assert reached is not None
        rows = target.query("postgres", "SELECT id FROM ledger ORDER BY id")
        assert [row[0] for row in rows] == production.committed_until(reached.data_as_of) == [1, 2, 3, 4, 5, 6]
        assert target.query("postgres", "SELECT count(*) FROM far") == [(77,)]
        data = server.data_directory(work)
        assert [path for path in data.rglob("*") if path.is_symlink()] == []
        assert not (work.directory / "tablespaces.json").exists()
    assert not list(Path(tempfile.gettempdir()).glob(f"reconciler-wal-g-{os.getpid()}-*"))


def test_wal_that_is_missing_is_where_it_ends_and_is_told(repository: Repository) -> None:
    production = repository.production
    repository.push()
    last = []
    for _ in range(3):
        production.add(1)
        last.append(repository.archived())
    gone = repository.root / "wal" / f"{last[1]}.gz"
    kept = gone.read_bytes()
    gone.unlink()
    found = identify(repository.source)
    assert last[0] in found.input_id
    assert any(f"{last[1]} is missing" in note for note in found.notes)
    gone.write_bytes(kept)
    assert last[2] in identify(repository.source).input_id


def test_a_segment_that_goes_between_listing_and_reading_is_looked_for_again(repository: Repository) -> None:
    assert repository.source.repository is not None
    tool = WalG(repository.source.repository)
    with pytest.raises(BusyError, match="is not in the repository any more"), tool._opening(Stored("0" * 24, 0)):
        pass


def test_a_backup_that_is_gone_is_looked_for_again(repository: Repository) -> None:
    with pytest.raises(BusyError, match="not in the repository any more"):
        identify(replace(repository.source, chosen="stock:base_000000010000000000000001/wal:-:-:0"))


def test_a_repository_that_cannot_be_read_is_an_error_of_the_source(repository: Repository, tmp_path: Path) -> None:
    broken = replace(repository.source, repository=BackupRepository("wal-g", "", tmp_path / "absent.json"))
    with pytest.raises(SourceError, match=r"wal-g backup-list .* failed: .* no such file"):
        identify(broken)


def test_a_host_without_the_program_says_so(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NotInstalledError, match="wal-g"):
        identify(repository.source)
