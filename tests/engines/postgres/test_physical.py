"""Physical sources: real base backups and data directories, whole and damaged ones."""

from __future__ import annotations

import os
import shutil
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.base import LocalSource
from reconciler.engines.postgres import control, identify, physical, server
from reconciler.engines.postgres.engine import PostgresEngine
from reconciler.errors import BusyError, SourceError
from tests.support import OLDER_MAJOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from .conftest import Cluster

    Maker = Callable[..., AbstractContextManager[Cluster]]

pytestmark = pytest.mark.postgres

_REPLICATION = {
    "wal_level": "replica",
    "max_wal_senders": "4",
    "allow_in_place_tablespaces": "off",
    "max_connections": "140",
}

_ORIGINS = 12  # more than the ten that are the default of the limit


class Production:
    """A production cluster with a tablespace, its base backups and its stopped data directory."""

    def __init__(self, made: Cluster, major: str) -> None:
        self.made = made
        self.major = major
        self.root = made.root / "backups"
        self.tablespace = made.root / "space"
        for path in (self.root, self.tablespace):
            path.mkdir()
            if made.account:
                os.chown(path, made.account.uid, made.account.gid)
        conf = made.root / "volume" / "data" / "postgresql.conf"
        self._configure(conf)
        for text in (
            "CREATE TABLE marker AS SELECT g FROM generate_series(1, 1000) g",
            f"CREATE TABLESPACE far LOCATION '{self.tablespace}'",
            "CREATE TABLE far TABLESPACE far AS SELECT g FROM generate_series(1, 77) g",
            "SELECT pg_create_physical_replication_slot('standby', true)",
            f"SELECT pg_replication_origin_create('origin' || n) FROM generate_series(1, {_ORIGINS}) n",
            f"SELECT pg_replication_origin_advance('origin' || n, '0/100') FROM generate_series(1, {_ORIGINS}) n",
        ):
            made.tool("psql", "-X", "-q", "-c", text)
        mapping = f"--tablespace-mapping={self.tablespace}={self.root}/space"
        self._basebackup("plain", mapping, "--checkpoint=fast", "--write-recovery-conf")
        self._basebackup("tar", "--format=tar", "--checkpoint=fast")
        self._basebackup("gzip", "--format=tar", "--gzip", "--checkpoint=fast")
        self._basebackup("nowal", "--wal-method=none", f"{mapping}2", "--checkpoint=fast")
        made.stop()
        self.data = made.root / "volume" / "data"

    def _configure(self, conf: Path) -> None:
        self.made.stop()
        self.made.start(_REPLICATION)
        text = conf.read_text().replace("max_wal_senders = '0'", "max_wal_senders = '4'")
        conf.write_text(text.replace("wal_level = 'minimal'", "wal_level = 'replica'"))
        with (conf.parent / "pg_hba.conf").open("a") as hba:
            hba.write("local replication all peer map=reconciler\n")
        self.made.restart()

    def _basebackup(self, name: str, *words: str) -> None:
        self.made.tool("pg_basebackup", "-D", self.root / name, *words, as_account=True)


@pytest.fixture(scope="module")
def production(make_cluster: Maker) -> Iterator[Production]:
    with make_cluster("18") as made:
        yield Production(made, "18")


@pytest.fixture(scope="module")
def production_older(make_cluster: Maker) -> Iterator[Production]:
    with make_cluster(OLDER_MAJOR) as made:
        yield Production(made, OLDER_MAJOR)


@pytest.fixture
def target_older(make_cluster: Maker) -> Iterator[Cluster]:
    with make_cluster(OLDER_MAJOR, running=False) as made:
        yield made


@pytest.fixture
def target(production: Production, make_cluster: Maker) -> Iterator[Cluster]:
    with make_cluster(production.major, running=False) as made:
        yield made


def served(target: Cluster, source: Path, kind: str) -> tuple[object, object]:
    """Prepare a source, start a server on it, and return what its two tables hold."""
    work = target.work(source, kind=kind)
    physical.prepare_physical(work, target.programs)
    data = server.data_directory(work)
    target.start(control.required_settings(target.programs, data))
    return target.query("postgres", "SELECT count(*) FROM marker"), target.query("postgres", "SELECT count(*) FROM far")


@pytest.mark.parametrize("name", ["plain", "tar", "gzip"])
def test_a_base_backup_becomes_a_server_with_its_tablespaces_inside(
    production: Production, target: Cluster, name: str
) -> None:
    shutil.move(production.tablespace, f"{production.tablespace}.away")
    try:
        counts = served(target, production.root / name, "backup")
    finally:
        shutil.move(f"{production.tablespace}.away", production.tablespace)

    assert counts == ([(1000,)], [(77,)])
    data = target.root / "volume" / "data"
    assert [path for path in data.rglob("*") if path.is_symlink()] == []
    assert target.query("postgres", "SELECT count(*) FROM pg_replication_slots") == [(0,)]
    assert not (data / "standby.signal").exists()
    assert target.query("postgres", "SELECT pg_is_in_recovery()") == [(False,)]


@pytest.mark.parametrize("name", ["plain", "tar"])
def test_a_base_backup_of_an_older_server_becomes_a_server(
    production_older: Production, target_older: Cluster, name: str
) -> None:
    assert served(target_older, production_older.root / name, "backup") == ([(1000,)], [(77,)])


def test_more_origins_of_replication_than_a_server_allows_are_forgotten(
    production: Production, target: Cluster
) -> None:
    source = production.root / "plain"
    assert (source / "pg_logical" / "replorigin_checkpoint").stat().st_size > _ORIGINS * 10
    served(target, source, "backup")
    target.stop()

    PostgresEngine().build_server(target.work(source, kind="backup"))
    conf = server.data_directory(target.work()) / "postgresql.conf"
    conf.write_text(conf.read_text() + "max_active_replication_origins = 1\n")
    target.launch()

    assert target.query("postgres", "SELECT count(*) FROM pg_show_replication_origin_status()") == [(0,)]


def test_settings_that_the_data_needs_are_known(production: Production, target: Cluster) -> None:
    work = target.work(production.root / "plain", kind="backup")
    physical.prepare_physical(work, target.programs)

    settings = control.required_settings(target.programs, server.data_directory(work))

    assert settings["max_connections"] == "140"
    assert settings["allow_in_place_tablespaces"] == "on"


def test_a_backup_without_its_wal_is_refused(production: Production, target: Cluster) -> None:
    with pytest.raises(SourceError, match="lacks the WAL"):
        physical.prepare_physical(target.work(production.root / "nowal", kind="backup"), target.programs)


def test_a_changed_byte_is_found(production: Production, target: Cluster, tmp_path: Path) -> None:
    copy = copied(production, "plain", tmp_path)
    file = copy / "base" / "1" / "PG_VERSION"
    file.write_bytes(b"99\n")

    with pytest.raises(SourceError, match=r"does not match its manifest.*base/1/PG_VERSION"):
        physical.prepare_physical(target.work(copy, kind="backup"), target.programs)


def test_a_missing_file_is_found(production: Production, target: Cluster, tmp_path: Path) -> None:
    copy = copied(production, "plain", tmp_path)
    (copy / "global" / "1262").unlink()

    with pytest.raises(SourceError, match=r"does not match its manifest.*global/1262"):
        physical.prepare_physical(target.work(copy, kind="backup"), target.programs)


@pytest.mark.parametrize("name", ["tar/base.tar", "gzip/base.tar.gz"])
def test_a_truncated_tar_is_refused(production: Production, target: Cluster, tmp_path: Path, name: str) -> None:
    copy = copied(production, name.split("/", maxsplit=1)[0], tmp_path)
    file = copy / name.split("/")[1]
    os.truncate(file, file.stat().st_size * 2 // 3)

    with pytest.raises(SourceError, match=r"damaged or truncated|does not match|no PG_VERSION"):
        physical.prepare_physical(target.work(copy, kind="backup"), target.programs)


def test_a_truncated_manifest_is_an_interrupted_backup(production: Production, tmp_path: Path) -> None:
    copy = copied(production, "plain", tmp_path)
    os.truncate(copy / "backup_manifest", (copy / "backup_manifest").stat().st_size - 10)

    with pytest.raises(SourceError, match="truncated"):
        identify.identify(LocalSource("backup", copy))


def test_a_link_to_the_outside_is_refused(production: Production, target: Cluster, tmp_path: Path) -> None:
    copy = copied(production, "plain", tmp_path)
    oid = next((copy / "pg_tblspc").iterdir())
    oid.unlink()
    oid.symlink_to(production.tablespace)

    with pytest.raises(SourceError, match="is not part of this source"):
        physical.prepare_physical(target.work(copy, kind="backup"), target.programs)


def test_a_link_in_the_place_of_a_data_file_is_refused(production: Production, target: Cluster, tmp_path: Path) -> None:
    copy = copied(production, "plain", tmp_path)
    (copy / "base" / "1" / "PG_VERSION").unlink()
    (copy / "base" / "1" / "PG_VERSION").symlink_to("/etc/passwd")

    with pytest.raises(SourceError, match="symbolic link"):
        physical.prepare_physical(target.work(copy, kind="backup"), target.programs)


@pytest.mark.parametrize("name", ["../evil", "/evil"])
def test_a_tar_cannot_write_outside(production: Production, target: Cluster, tmp_path: Path, name: str) -> None:
    copy = copied(production, "tar", tmp_path)
    with tarfile.open(copy / "base.tar", "a") as tar:
        member = tarfile.TarInfo(name)
        tar.addfile(member)

    with pytest.raises(SourceError, match="outside of the backup"):
        physical.prepare_physical(target.work(copy, kind="backup"), target.programs)


def test_files_of_a_stopped_server_are_taken(production: Production, target: Cluster, tmp_path: Path) -> None:
    copy = tmp_path / "own" / "data"
    shutil.copytree(production.data, copy, symlinks=True)
    shutil.copytree(production.tablespace, tmp_path / "own" / "space")
    oid = next((copy / "pg_tblspc").iterdir())
    oid.unlink()
    oid.symlink_to(tmp_path / "own" / "space")

    assert served(target, copy, "files") == ([(1000,)], [(77,)])


def test_files_of_a_running_server_are_busy(production: Production, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    (copy / "global").mkdir(parents=True)
    shutil.copy(production.data / "global" / "pg_control", copy / "global")
    (copy / "postmaster.pid").write_text(f"{os.getpid()}\n{copy}\n")

    with pytest.raises(BusyError, match="runs on"):
        identify.identify(LocalSource("files", copy))

    (copy / "postmaster.pid").write_text(f"{os.getpid()}\n/somewhere/else\n")
    assert identify.identify(LocalSource("files", copy)).input_id.startswith("control:")


def test_another_major_version_is_refused_with_the_way_out(
    production: Production, target: Cluster, tmp_path: Path
) -> None:
    copy = copied(production, "plain", tmp_path)
    (copy / "PG_VERSION").write_text("13\n")

    with pytest.raises(SourceError, match=r'is of PostgreSQL 13.*set version: "13"'):
        physical.prepare_physical(target.work(copy, kind="backup"), target.programs)


def test_the_major_version_of_a_tar_set_is_read_from_it(production: Production) -> None:
    assert identify.source_major(LocalSource("backup", production.root / "gzip")) == production.major


def test_the_same_backup_has_the_same_identity_wherever_it_lies(production: Production, tmp_path: Path) -> None:
    copy = copied(production, "plain", tmp_path)
    original = identify.identify(LocalSource("backup", production.root / "plain"))

    assert replace(identify.identify(LocalSource("backup", copy)), modified_at=None) == replace(
        original, modified_at=None
    )
    assert original.input_id.startswith("manifest:")
    assert original.size_bytes > 1 << 20


@pytest.mark.parametrize("kind", ["backup", "files"])
def test_an_unrelated_directory_is_no_source(tmp_path: Path, kind: str) -> None:
    source = LocalSource(kind, tmp_path)  # type: ignore[arg-type] # one of the two literals

    with pytest.raises(SourceError, match="is no"):
        identify.identify(source)
    with pytest.raises(SourceError, match="PG_VERSION"):
        identify.source_major(source)


def copied(production: Production, name: str, tmp_path: Path) -> Path:
    """Return a copy of a backup that a test may damage; its tablespace lies beside it."""
    copy = tmp_path / name
    shutil.copytree(production.root / name, copy, symlinks=True)
    if (production.root / "space").exists() and name == "plain":
        shutil.copytree(production.root / "space", tmp_path / "space")
        for oid in (copy / "pg_tblspc").iterdir():
            oid.unlink()
            oid.symlink_to(tmp_path / "space")
    return copy
