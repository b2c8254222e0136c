"""Which backup is taken, and what is said of the others."""

from __future__ import annotations

import gzip
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.base import BackupRepository, LocalSource
from reconciler.engines.mysql.backups import choose
from reconciler.engines.mysql.product import MARIADB, MYSQL
from reconciler.engines.mysql.streams import find
from reconciler.errors import BusyError, SourceError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

_SERVER = "10.11.6-MariaDB-log"


def _backup(root: Path, name: str, begin: int, checkpoint: int, end: int, *, server: str = _SERVER) -> Path:
    path = root / name
    path.mkdir()
    kind = "incremental" if begin else "full-backuped"
    (path / "xtrabackup_checkpoints").write_text(
        f"backup_type = {kind}\nfrom_lsn = {begin}\nto_lsn = {checkpoint}\nlast_lsn = {end}\n"
    )
    (path / "xtrabackup_info").write_text(f"uuid = {name}\nserver_version = {server}\npartial = N\n")
    return path


def _source(root: Path, *, chosen: str = "") -> LocalSource:
    return LocalSource("backup", path=root, name=str(root), candidates=tuple(sorted(root.iterdir())), chosen=chosen)


def _names(root: Path, *, chosen: str = "") -> list[str]:
    return [part.path.name for part in choose(_source(root, chosen=chosen), MARIADB).parts]


def test_the_newest_backup_is_taken_with_all_that_it_builds_on_whatever_the_names(tmp_path: Path) -> None:
    _backup(tmp_path, "c-full", 0, 100, 110)
    _backup(tmp_path, "b-first", 100, 200, 210)
    _backup(tmp_path, "a-second", 200, 300, 310)
    assert _names(tmp_path) == ["c-full", "b-first", "a-second"]


def test_increments_between_which_no_checkpoint_was_build_on_the_full_one(tmp_path: Path) -> None:
    _backup(tmp_path, "full", 0, 100, 110)
    _backup(tmp_path, "inc1", 100, 100, 120)
    _backup(tmp_path, "inc2", 100, 100, 130)
    assert _names(tmp_path) == ["full", "inc2"]


def test_an_increment_without_its_base_is_passed_over_and_told(tmp_path: Path) -> None:
    _backup(tmp_path, "full", 0, 100, 110)
    _backup(tmp_path, "inc3", 300, 400, 410)
    found = choose(_source(tmp_path), MARIADB)
    assert [part.path.name for part in found.parts] == ["full"]
    assert "inc3 is incremental, and the backup up to 300" in found.notes[0]


def test_only_increments_are_an_error(tmp_path: Path) -> None:
    _backup(tmp_path, "inc1", 100, 200, 210)
    with pytest.raises(SourceError, match=r"up to 100 that inc1 builds on is missing"):
        choose(_source(tmp_path), MARIADB)


def test_increments_of_another_version_are_refused(tmp_path: Path) -> None:
    _backup(tmp_path, "full", 0, 100, 110, server="10.6.12-MariaDB")
    _backup(tmp_path, "inc1", 100, 200, 210)
    found = choose(_source(tmp_path), MARIADB)
    assert [part.path.name for part in found.parts] == ["full"]
    assert "inc1 is of version 10.11.6, and full, on which it builds, of 10.6.12" in found.notes[0]


def test_a_backup_of_the_other_product_is_refused(tmp_path: Path) -> None:
    _backup(tmp_path, "full", 0, 100, 110, server="8.0.36")
    with pytest.raises(SourceError, match=r"a backup of 8\.0\.36, not of MariaDB"):
        choose(_source(tmp_path), MARIADB)
    assert choose(_source(tmp_path), MYSQL).major == "8.0"


def test_a_backup_that_is_being_written_is_passed_over(tmp_path: Path) -> None:
    _backup(tmp_path, "full", 0, 100, 110)
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "backup-my.cnf").touch()
    found = choose(_source(tmp_path), MARIADB)
    assert [part.path.name for part in found.parts] == ["full"]
    assert "newer is not complete" in found.notes[0]


def test_what_planning_chose_is_taken_whatever_came_after(tmp_path: Path) -> None:
    _backup(tmp_path, "full", 0, 100, 110)
    chosen = choose(_source(tmp_path), MARIADB).identity
    _backup(tmp_path, "later", 0, 500, 510)
    assert _names(tmp_path) == ["later"]
    assert _names(tmp_path, chosen=chosen) == ["full"]
    with pytest.raises(BusyError, match="not there any more"):
        _names(tmp_path, chosen="chain:other")


def test_a_directory_without_backups_says_so(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(SourceError, match="is no backup of MariaDB"):
        choose(_source(tmp_path), MARIADB)


def test_what_this_version_cannot_do_is_refused_with_what_can_be_done(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="name directories of full and incremental backups"):
        choose(LocalSource("backup", repository=BackupRepository("pgbackrest", "x", tmp_path)), MARIADB)


def test_a_file_that_is_no_stream_is_refused_and_beside_directories_none_is_taken(tmp_path: Path) -> None:
    other, stream = tmp_path / "notes.txt", tmp_path / "shop.xb.gz"
    other.write_text("nothing")
    stream.write_bytes(gzip.compress(b"XBSTCK01 and so on"))
    with pytest.raises(SourceError, match="neither a directory nor a stream"):
        find(LocalSource("backup", path=other))
    source = LocalSource("backup", path=tmp_path, files=(other, stream))
    assert find(source) == stream
    assert find(replace(source, candidates=(_backup(tmp_path, "full", 0, 100, 110),))) is None
