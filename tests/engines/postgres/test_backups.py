"""Which of several backups is taken, chains of incremental ones, and the WAL archive beside them."""

from __future__ import annotations

import gzip
import os
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from reconciler import proc
from reconciler.engines import files
from reconciler.engines.base import LocalSource
from reconciler.engines.postgres import backups, bootstrap, physical, recovery, settings
from reconciler.engines.postgres.identify import identify
from reconciler.engines.postgres.label import read_backup
from reconciler.errors import BusyError, SourceError
from tests.support import OLDER_MAJOR

from .production import Production, copied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    from reconciler.engines.base import BuildWork

    from .conftest import Cluster

    Maker = Callable[..., AbstractContextManager[Cluster]]

pytestmark = pytest.mark.postgres


@dataclass
class History:
    """What happened: a backup at 2 transactions, one at 4, on 18 each on the one before; 10 in the archive."""

    production: Production

    def __post_init__(self) -> None:
        self.incremental = int(self.production.major) >= 17
        self.production.add(2)
        self.first = self.production.backup("first")
        self.production.add(2)
        self.production.switch()
        self.second = self._on(self.first, "second")
        self.production.add(2)
        self.production.switch()
        self.third = self._on(self.second, "third")
        self.production.add(2)
        self.production.switch()
        self.production.add(1)
        self.production.switch()
        self.production.add(1)
        self.last = self.production.switch()

    def _on(self, before: Path, name: str) -> Path:
        return self.production.backup(name, *([f"--incremental={before}/backup_manifest"] if self.incremental else []))


@pytest.fixture(scope="module", params=[OLDER_MAJOR, "18"])
def history(request: pytest.FixtureRequest, make_cluster: Maker) -> Iterator[History]:
    with make_cluster(request.param) as made:
        yield History(Production(made))


@pytest.fixture(scope="module")
def history18(make_cluster: Maker) -> Iterator[History]:
    with make_cluster("18") as made:
        yield History(Production(made))


@pytest.fixture
def target(history: History, make_cluster: Maker) -> Iterator[Cluster]:
    with make_cluster(history.production.major, running=False) as made:
        yield made


@pytest.fixture
def target18(make_cluster: Maker) -> Iterator[Cluster]:
    with make_cluster("18", running=False) as made:
        yield made


def below(directory: Path, wal: Path | None = None, chosen: str = "") -> LocalSource:
    """Return what sources.backup makes of a directory with backups."""
    found = tuple(path.resolve() for path in sorted(directory.iterdir()) if path.is_dir())
    return LocalSource("backup", None, name=f"{directory}/*", candidates=found, wal=wal, chosen=chosen)


def built(target: Cluster, source: LocalSource) -> tuple[list[int], datetime]:
    """Build up to the isolation, and return the ledger and what the build says it reached."""
    work = prepared(target, source)
    reached = recovery.reached(work)
    assert reached is not None
    settings.write_build(work, target.programs, bootstrap.required(work, target.programs))
    target.launch()
    return [
        int(str(row[0])) for row in target.query("postgres", "SELECT id FROM ledger ORDER BY id")
    ], reached.data_as_of


def prepared(target: Cluster, source: LocalSource) -> BuildWork:
    work = replace(target.work(kind="backup"), source=source)
    physical.open_physical(work, target.programs)
    return work


def notes(source: LocalSource) -> str:
    return "; ".join(identify(source).notes)


def test_the_newest_by_its_own_start_is_taken_whatever_the_directories_say(history: History, tmp_path: Path) -> None:
    for number, name in enumerate(("third", "first", "second")):
        copy = copied(history.production.backups / name, tmp_path / f"{number}")
        os.utime(copy, (number * 1000, number * 1000))

    choice = backups.choose(below(tmp_path))

    assert choice.path == tmp_path / "0"
    assert choice.notes == ()


def test_incomplete_backups_are_passed_over_and_told(history18: History, tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    copied(history18.first, tmp_path / "first")
    unfinished = copied(history18.second, tmp_path / "unfinished")
    (unfinished / "backup_manifest").unlink()
    truncated = copied(history18.third, tmp_path / "truncated")
    os.truncate(truncated / "backup_manifest", 2000)

    found = identify(below(tmp_path))

    assert found.input_id == identify(LocalSource("backup", tmp_path / "first")).input_id
    assert f"{unfinished} has no backup_manifest: it is being written, or was interrupted" in found.notes
    assert any(note.startswith(f"{truncated}/backup_manifest is truncated") for note in found.notes)


def test_a_backup_that_is_still_being_copied_is_passed_over_although_its_manifest_is_there(
    history18: History, tmp_path: Path
) -> None:
    copied(history18.first, tmp_path / "first")
    growing = copied(history18.first, tmp_path / "growing")
    label = growing / "backup_label"
    label.write_text(label.read_text().replace("START TIME: 2", "START TIME: 3"))
    file = next(path for path in (growing / "base").rglob("*") if path.is_file() and path.stat().st_size > 8192)
    os.truncate(file, 8192)

    assert f"{file.relative_to(growing)} is missing or shorter than its manifest says" in notes(below(tmp_path))
    assert backups.choose(below(tmp_path)).path == tmp_path / "first"


def test_an_old_interrupted_backup_is_not_told_for_ever(history18: History, tmp_path: Path) -> None:
    old = copied(history18.first, tmp_path / "old")
    (old / "backup_manifest").unlink()
    copied(history18.production.backups / "third", tmp_path / "third")
    copied(history18.first, tmp_path / "whole")
    copied(history18.second, tmp_path / "second")

    assert notes(below(tmp_path)) == ""


def test_no_complete_backup_is_an_error_that_says_what_is_wrong_with_each(history18: History, tmp_path: Path) -> None:
    copy = copied(history18.first, tmp_path / "one")
    (copy / "backup_manifest").unlink()

    with pytest.raises(SourceError, match=r"no backup at .* is complete: .*/one has no backup_manifest"):
        identify(below(tmp_path))
    with pytest.raises(SourceError, match="there is no backup of PostgreSQL at"):
        identify(LocalSource("backup", name="/backups/*"))


def test_a_new_backup_changes_the_identity_and_a_copy_of_the_same_does_not(history18: History, tmp_path: Path) -> None:
    copied(history18.first, tmp_path / "one")
    before = identify(below(tmp_path)).input_id
    copied(history18.first, tmp_path / "two")
    assert identify(below(tmp_path)).input_id == before

    copied(history18.second, tmp_path / "three")

    assert identify(below(tmp_path)).input_id != before
    assert identify(below(tmp_path, chosen=before)).input_id == before


def test_a_build_takes_what_planning_chose_though_a_newer_one_came(
    history18: History, target18: Cluster, tmp_path: Path
) -> None:
    copied(history18.first, tmp_path / "one")
    chosen = identify(below(tmp_path)).input_id
    copied(history18.second, tmp_path / "two")

    assert built(target18, below(tmp_path, chosen=chosen))[0] == [1, 2]


def test_what_planning_chose_and_is_gone_is_looked_for_again(history18: History, tmp_path: Path) -> None:
    copied(history18.first, tmp_path / "one")
    chosen = identify(below(tmp_path)).input_id
    shutil.rmtree(tmp_path / "one")
    copied(history18.second, tmp_path / "two")
    copied(history18.first, tmp_path / "one")
    (tmp_path / "one" / "backup_manifest").unlink()

    with pytest.raises(BusyError, match="not there any more"):
        identify(below(tmp_path, chosen=chosen))


def test_a_chain_is_combined_to_what_its_newest_part_stands_for(history18: History, target18: Cluster) -> None:
    source = below(history18.production.backups)

    choice = backups.choose(source)
    ledger, as_of = built(target18, source)

    assert choice.places == (history18.first, history18.second, history18.third)
    assert ledger == [1, 2, 3, 4, 5, 6]
    assert as_of >= history18.production.committed_at(6)
    assert not (target18.root / "volume" / "chain").exists()


def test_tar_files_of_a_chain_are_combined(history18: History, target18: Cluster, tmp_path: Path) -> None:
    production = history18.production
    first = production.backup("tar1", "--format=tar", "--gzip")
    second = production.backup("tar2", "--format=tar", f"--incremental={first}/backup_manifest")
    for path in (first, second):
        shutil.move(path, tmp_path / path.name)

    ledger, _ = built(target18, below(tmp_path))

    assert ledger == list(range(1, 11))


def test_without_a_part_of_its_chain_the_newest_complete_one_is_taken_and_that_is_told(
    history18: History, tmp_path: Path
) -> None:
    copied(history18.first, tmp_path / "first")
    third = copied(history18.third, tmp_path / "third")

    choice = backups.choose(below(tmp_path))

    assert choice.places == (tmp_path / "first",)
    (note,) = choice.notes
    assert note.startswith(f"{third} is incremental, and the backup that starts at 0/")
    assert "on which third builds, is missing" in note


def test_incremental_backups_without_a_whole_one_are_an_error_that_names_what_is_missing(
    history18: History, tmp_path: Path
) -> None:
    copied(history18.second, tmp_path / "second")
    copied(history18.third, tmp_path / "third")

    with pytest.raises(SourceError, match=r"third is incremental, and the backup that starts at 0/\w+ on timeline 1"):
        identify(below(tmp_path))


def test_an_incremental_backup_of_another_server_is_no_part_of_a_chain(history18: History, tmp_path: Path) -> None:
    first = copied(history18.first, tmp_path / "first")
    copied(history18.second, tmp_path / "second")
    manifest = first / "backup_manifest"
    text = manifest.read_text()
    system = text.split('"System-Identifier": ')[1].split(",")[0]
    manifest.write_text(text.replace(system, "7" * len(system), 1))

    assert backups.choose(below(tmp_path)).places == (first,)


def test_damage_in_a_part_of_a_chain_is_found(history18: History, target18: Cluster, tmp_path: Path) -> None:
    for name in ("first", "second"):
        copied(history18.production.backups / name, tmp_path / name)
    file = next((tmp_path / "second" / "base").rglob("INCREMENTAL.*"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x77")

    with pytest.raises(SourceError, match=r"second does not match its manifest"):
        prepared(target18, below(tmp_path))


def test_the_archive_is_replayed_to_its_end_and_what_it_reached_is_what_production_had_then(
    history: History, target: Cluster, tmp_path: Path
) -> None:
    archive = copied(history.production.archive, tmp_path / "wal")  # only we can read what is below tmp_path

    ledger, as_of = built(target, below(history.production.backups, archive))

    assert ledger == history.production.committed_until(as_of) == list(range(1, 11))
    assert as_of == history.production.committed_at(10)


def test_a_backup_that_brings_no_wal_is_consistent_with_the_archive(
    history: History, target: Cluster, tmp_path: Path
) -> None:
    copied(history.first, tmp_path / "backups" / "first")
    shutil.rmtree(tmp_path / "backups" / "first" / "pg_wal")
    (tmp_path / "backups" / "first" / "pg_wal").mkdir()

    ledger, _ = built(target, below(tmp_path / "backups", history.production.archive))

    assert ledger == list(range(1, 11))


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".lz4"])
def test_compressed_segments_are_replayed(history18: History, target18: Cluster, tmp_path: Path, suffix: str) -> None:
    archive = copied(history18.production.archive, tmp_path / "wal")
    for path in archive.iterdir():
        if suffix == ".gz":
            path.with_name(path.name + suffix).write_bytes(gzip.compress(path.read_bytes(), 1))
        else:
            tool = {".zst": "zstd", ".lz4": "lz4"}[suffix]
            if shutil.which(tool) is None:
                pytest.skip(f"needs {tool}")
            proc.run([tool, "-q", path, path.with_name(path.name + suffix)])
        path.unlink()

    ledger, _ = built(target18, below(history18.production.backups, archive))

    assert ledger == list(range(1, 11))


def test_new_wal_changes_the_identity_and_unarchived_wal_does_not(history18: History, tmp_path: Path) -> None:
    archive = copied(history18.production.archive, tmp_path / "wal")
    newest = (archive / history18.last).read_bytes()
    (archive / history18.last).unlink()
    source = below(history18.production.backups, archive)
    before = identify(source).input_id
    (archive / history18.last).write_bytes(newest[:1000])  # still being written
    assert identify(source).input_id == before

    (archive / history18.last).write_bytes(newest)

    assert identify(source).input_id != before
    assert identify(replace(source, chosen=before)).input_id == before


def test_a_build_replays_the_wal_that_planning_saw(history18: History, target18: Cluster, tmp_path: Path) -> None:
    archive = copied(history18.production.archive, tmp_path / "wal")
    newest = (archive / history18.last).read_bytes()
    (archive / history18.last).unlink()
    chosen = identify(below(history18.production.backups, archive)).input_id
    (archive / history18.last).write_bytes(newest)

    assert built(target18, below(history18.production.backups, archive, chosen))[0] == list(range(1, 10))


def test_after_a_gap_nothing_is_replayed_and_the_gap_is_told(history: History, target: Cluster, tmp_path: Path) -> None:
    archive = copied(history.production.archive, tmp_path / "wal")
    segments = sorted(path.name for path in archive.iterdir() if len(path.name) == 24)
    missing = segments[-2]
    (archive / missing).unlink()
    source = below(history.production.backups, archive)

    ledger, as_of = built(target, source)

    assert f"{missing} is missing in the archive {archive}: the WAL after it, up to {history.last}" in notes(source)
    assert ledger == history.production.committed_until(as_of) == list(range(1, 9))


def test_a_gap_before_the_backup_is_consistent_is_an_error_that_names_the_segment(
    history18: History, tmp_path: Path
) -> None:
    archive = copied(history18.production.archive, tmp_path / "wal")
    copy = copied(history18.first, tmp_path / "backups" / "first")
    shutil.rmtree(copy / "pg_wal")
    (copy / "pg_wal").mkdir()
    backup = read_backup(copy)
    assert backup is not None
    (archive / backup.segment).unlink()

    with pytest.raises(SourceError, match=rf"to be consistent, and the archive .* lacks {backup.segment}"):
        identify(below(tmp_path / "backups", archive))


def test_damage_in_the_archive_is_an_error_that_names_the_file(
    history18: History, target18: Cluster, tmp_path: Path
) -> None:
    archive = copied(history18.production.archive, tmp_path / "wal")
    damaged = sorted(path for path in archive.iterdir() if len(path.name) == 24)[-2]
    packed = gzip.compress(damaged.read_bytes(), 1)
    damaged.with_name(damaged.name + ".gz").write_bytes(packed[: len(packed) // 2])
    damaged.unlink()

    with pytest.raises(SourceError, match=rf"{damaged.name}.gz is damaged or truncated"):
        prepared(target18, below(history18.production.backups, archive))


def test_wal_that_is_damaged_inside_does_not_end_recovery_in_silence(
    history18: History, target18: Cluster, tmp_path: Path
) -> None:
    archive = copied(history18.production.archive, tmp_path / "wal")
    damaged = sorted(path for path in archive.iterdir() if len(path.name) == 24)[-2]
    damaged.write_bytes(damaged.read_bytes()[:40] + bytes(damaged.stat().st_size - 40))

    with pytest.raises(SourceError, match=r"cannot be replayed from .* although it goes on to 0000"):
        prepared(target18, below(history18.production.backups, archive))


def test_recovery_follows_the_newest_timeline_and_not_what_its_fork_left_behind(
    history: History, make_cluster: Maker, target: Cluster
) -> None:
    with make_cluster(history.production.major) as made:
        production = Production(made)
        production.add(2)
        backup = production.backup("first")
        production.sql("SELECT pg_create_restore_point('fork')")
        production.add(3)  # 3, 4 and 5 are lost in the failover
        production.switch()
        with make_cluster(history.production.major, running=False) as other:
            fork(production, backup, other)
            ledger, as_of = built(target, below(production.backups, production.archive))

            assert ledger == [1, 2, 103, 104]
            rows = other.query("postgres", "SELECT max(pg_xact_commit_timestamp(xmin)) FROM ledger")
            assert rows == [(as_of,)]


def fork(production: Production, backup: Path, other: Cluster) -> None:
    """Fail over: another server goes on from the restore point, on timeline 2, and archives to the same place."""
    data = other.root / "volume" / "data"
    shutil.copytree(backup, data)
    if other.account:
        for path in (data, *data.rglob("*")):
            os.chown(path, other.account.uid, other.account.gid)
    settings.write_build(other.work(), other.programs, {})
    conf = data / "postgresql.conf"
    conf.write_text(
        conf.read_text()
        + production.settings
        + f"restore_command = 'cp {production.archive}/%f %p'\nrecovery_target_name = 'fork'\n"
        + "recovery_target_action = promote\nhot_standby = off\n"
    )
    files.write_file(data, "recovery.signal", "", other.account)
    other.launch()
    for number in (103, 104):
        other.tool("psql", "-X", "-q", "-c", f"INSERT INTO ledger VALUES ({number})")
    ((name,),) = other.query("postgres", "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
    other.tool("psql", "-X", "-q", "-c", "SELECT pg_switch_wal()")
    production.await_archived(str(name), other)


def test_times_of_labels_are_in_order_when_daylight_saving_ends() -> None:
    from reconciler.engines.postgres.label import _moment  # noqa: PLC0415 - what the label's parser makes of its zones

    before, after = _moment("2026-10-25 02:50:00", "CEST"), _moment("2026-10-25 02:10:00", "CET")
    assert before < after
    assert _moment("2026-10-25 02:50:00", "+05") < _moment("2026-10-25 02:50:00", "UTC")
