"""Rolling a copy forward: to the end of the WAL, to a moment, and what it says it reached."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from typing import IO, TYPE_CHECKING

import pytest

from reconciler.engines.base import LocalSource
from reconciler.engines.postgres import bootstrap, feeding, physical, recovery, server, settings
from reconciler.engines.postgres.mirrorlog import MirrorLog
from reconciler.engines.postgres.recovery import Recovery
from reconciler.errors import BusyError, SourceError, UnavailableError
from reconciler.state.observed import ObservedMirror
from tests.support import OLDER_MAJOR, until

from .production import Production

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    from reconciler.engines.base import BuildWork

    from .conftest import Cluster

    Maker = Callable[..., AbstractContextManager[Cluster]]

pytestmark = pytest.mark.postgres


class Directory:
    """WAL in a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[str] = []

    def open(self, name: str) -> AbstractContextManager[IO[bytes]] | None:
        self.asked.append(name)
        return (self.path / name).open("rb") if (self.path / name).is_file() else None

    def after(self, name: str) -> str | None:
        return f"{name[:8]}{int(name[8:], 16) + 1:016X}" if not name.endswith(".history") else None


class Broken(Directory):
    """WAL that cannot be read."""

    def open(self, name: str) -> AbstractContextManager[IO[bytes]] | None:
        if name.endswith(".history"):
            return None
        raise UnavailableError(f"cannot read {name}")


class History:
    """A production server of a major version with a backup, and 9 transactions in the archive after it."""

    def __init__(self, made: Cluster) -> None:
        self.production = Production(made)
        self.production.add(2)
        self.backup = self.production.backup("full")
        for _ in range(3):
            self.production.add(3)
            ((position,),) = made.query("postgres", "SELECT pg_current_wal_lsn()::text")
            self.position = str(position)
            self.production.switch()


@pytest.fixture(scope="module", params=[OLDER_MAJOR, "18"])
def history(request: pytest.FixtureRequest, make_cluster: Maker) -> Iterator[History]:
    with make_cluster(request.param) as made:
        yield History(made)


@pytest.fixture
def target(history: History, make_cluster: Maker) -> Iterator[Cluster]:
    with make_cluster(history.production.major, running=False) as made:
        yield made


def recovered(target: Cluster, backup: Path, wanted: Recovery) -> BuildWork:
    """Prepare a backup and open it as ``wanted``."""
    work = target.work(backup, kind="backup")
    physical.prepare_physical(work, target.programs)
    bootstrap.open_source(work, target.programs, wanted)
    return work


def ledger(target: Cluster, work: BuildWork) -> list[int]:
    settings.write_build(work, target.programs, bootstrap.required(work, target.programs))
    target.launch()
    return [int(str(row[0])) for row in target.query("postgres", "SELECT id FROM ledger ORDER BY id")]


def test_all_of_an_archive_is_replayed_and_the_last_transaction_dated(history: History, target: Cluster) -> None:
    work = recovered(target, history.backup, Recovery(source=Directory(history.production.archive)))

    reached = recovery.reached(work)

    assert reached is not None
    assert reached.data_as_of == history.production.committed_at(11)
    assert ledger(target, work) == history.production.committed_until(reached.data_as_of) == list(range(1, 12))


def test_replay_stops_at_a_moment_with_exactly_the_transactions_until_then(history: History, target: Cluster) -> None:
    at = history.production.committed_at(6)

    work = recovered(target, history.backup, Recovery(source=Directory(history.production.archive), target_time=at))

    reached = recovery.reached(work)
    assert reached is not None
    assert reached.data_as_of == at
    recovery.require_not_after(work, at)
    with pytest.raises(BusyError, match="went on beyond"):
        recovery.require_not_after(work, at - timedelta(microseconds=1))
    assert ledger(target, work) == [1, 2, 3, 4, 5, 6]


def test_a_moment_between_two_transactions_is_before_the_second(history: History, target: Cluster) -> None:
    at = history.production.committed_at(6) - timedelta(microseconds=1)

    work = recovered(target, history.backup, Recovery(source=Directory(history.production.archive), target_time=at))

    assert ledger(target, work) == [1, 2, 3, 4, 5]


def test_a_moment_that_the_wal_does_not_reach_is_told(history: History, target: Cluster) -> None:
    at = history.production.committed_at(11) + timedelta(hours=1)

    with pytest.raises(SourceError, match="ends before") as caught:
        recovered(target, history.backup, Recovery(source=Directory(history.production.archive), target_time=at))
    assert caught.value.reason == "TargetNotReached"


def test_a_backup_alone_is_as_of_its_last_transaction_or_its_checkpoint(history: History, target: Cluster) -> None:
    work = recovered(target, history.backup, Recovery())

    reached = recovery.reached(work)
    assert reached is not None
    assert history.production.committed_at(2) <= reached.data_as_of
    assert ledger(target, work) == [1, 2]


@pytest.mark.parametrize(("later", "replays"), [(timedelta(0), 1), (timedelta(seconds=1), 2)])
def test_a_moment_at_the_end_of_a_mirrors_log_is_replayed_once_where_the_mirror_knows_of_nothing_after_it(
    history: History, target: Cluster, later: timedelta, replays: int, tmp_path: Path
) -> None:
    last = history.production.committed_at(11)
    told: list[str] = []

    work = replayed(history, target, keeping(history, tmp_path), last + timedelta(milliseconds=1), last + later, told)

    assert ledger(target, work) == list(range(1, 12))
    assert [told.count(text) for text in told[:1]] == [replays]


@pytest.mark.parametrize(
    ("how", "later", "reason", "words"),
    [
        ("missing", 0, "WalMissing", "is missing in"),
        ("short", 1, "WalMissing", "is not whole"),
        ("zeroed", 1, "WalDamaged", ""),
    ],
)
def test_a_moment_after_a_hole_in_the_log_of_a_mirror_is_refused_by_the_name_of_the_segment(
    history: History, target: Cluster, how: str, later: int, reason: str, words: str, tmp_path: Path
) -> None:
    mirror = keeping(history, tmp_path)
    victim = hole(mirror, how)
    last = history.production.committed_at(11)

    with pytest.raises(UnavailableError, match=f"{victim}.*{words}.*moments before that") as caught:
        replayed(history, target, mirror, last + timedelta(milliseconds=1), last + timedelta(seconds=later))
    assert caught.value.reason == reason


def test_a_moment_before_a_hole_is_replayed_from_where_segments_are_whole(
    history: History, target: Cluster, tmp_path: Path
) -> None:
    mirror = keeping(history, tmp_path)
    hole(mirror, "missing")
    for path in (mirror / "wal").iterdir():
        path.write_bytes(b"")

    at = history.production.committed_at(5) - timedelta(microseconds=1)

    assert ledger(target, replayed(history, target, mirror, at, history.production.committed_at(11))) == [1, 2, 3, 4]


def test_of_two_timelines_the_newest_one_has_the_end_of_the_log_of_a_mirror(tmp_path: Path) -> None:
    """The segment in which a primary failed over is there twice, and what was written after it on the old one stays."""
    mirror, build = tmp_path / "mirror", tmp_path / "build"
    for place in (mirror / "wal", mirror / "data" / "pg_wal", build):
        place.mkdir(parents=True)
    for name in ("000000010000000000000004", "000000010000000000000005", "000000010000000000000006"):
        (mirror / "wal" / name).write_bytes(b"old" + bytes((1 << 20) - 3))
        (mirror / "data" / "pg_wal" / name).write_bytes(b"old" + bytes((1 << 20) - 3))
    (mirror / "data" / "pg_wal" / "000000020000000000000005").write_bytes(b"new" + bytes((1 << 20) - 3))
    (mirror / "data" / "pg_wal" / "00000002.history").write_text("1\t0/5000A8\tno recovery target specified\n")

    log = MirrorLog(mirror, build, redo=4 << 20, segment_bytes=1 << 20)

    opened = log.open("000000020000000000000005")
    assert opened is not None
    with opened:
        assert opened.read(3) == b"new"
    assert log.open("000000010000000000000006") is None
    log.require_whole()
    (mirror / "wal" / "000000010000000000000004").unlink()
    (mirror / "data" / "pg_wal" / "000000010000000000000004").unlink()
    with pytest.raises(UnavailableError, match="000000010000000000000004 is missing"):
        log.require_whole()
    (build / "data" / "pg_wal").mkdir(parents=True)
    (build / "data" / "pg_wal" / "000000010000000000000004").touch()
    MirrorLog(mirror, build, redo=4 << 20, segment_bytes=1 << 20).require_whole()


def keeping(history: History, place: Path) -> Path:
    """Return the directory of a mirror that has kept the log of production, and has it in pg_wal as well."""
    shutil.copytree(history.production.archive, place / "mirror" / "wal")
    shutil.copytree(history.production.archive, place / "mirror" / "data" / "pg_wal")
    return place / "mirror"


def hole(mirror: Path, how: str) -> str:
    """Damage the second newest segment of a mirror; return its name."""
    victim = sorted(path.name for path in (mirror / "wal").iterdir() if len(path.name) == 24)[-2]
    (mirror / "data" / "pg_wal" / victim).unlink()
    kept = mirror / "wal" / victim
    if how == "missing":
        kept.unlink()
    else:
        kept.write_bytes(bytes(16 << 20 if how == "zeroed" else 0))
    return victim


def replayed(
    history: History, target: Cluster, mirror: Path, at: datetime, seen: datetime, told: list[str] | None = None
) -> BuildWork:
    """Replay the log of a mirror to a moment; the mirror says that its last transaction was ``seen``."""
    work = target.work(history.backup, kind="backup")
    physical.prepare_physical(work, target.programs)
    look = ObservedMirror(following=True, position=history.position, last_commit=seen)
    source = LocalSource("mirror", mirror, at=at, ask=lambda: look)
    work = replace(work, source=source, progress=(told if told is not None else []).append)
    physical.open_mirrored(work, target.programs)
    return work


def test_replayed_wal_does_not_pile_up(history: History, target: Cluster) -> None:
    seen: list[int] = []
    pg_wal = server.data_directory(target.work()) / "pg_wal"

    class Watched(Directory):
        def open(self, name: str) -> AbstractContextManager[IO[bytes]] | None:
            seen.append(len(list(pg_wal.glob("0*"))))
            return super().open(name)

    source = Watched(history.production.archive)
    recovered(target, history.backup, Recovery(source=source))

    assert len({name for name in source.asked if len(name) == 24}) > 4
    assert max(seen) <= 4


def test_wal_that_cannot_be_read_fails_with_the_cause_and_leaves_nothing(history: History, target: Cluster) -> None:
    with pytest.raises(UnavailableError, match="cannot read 0000"):
        recovered(target, history.backup, Recovery(source=Broken(history.production.archive)))
    assert not recovery.restore_directory(target.work()).exists()


def test_a_segment_that_is_asked_for_again_while_it_is_handed_out_is_handed_out_again(
    history: History, target: Cluster, tmp_path: Path
) -> None:
    """PostgreSQL reads the last segment twice, and the second time may come before we are done with the first."""
    work = target.work(history.backup, kind="backup")
    physical.prepare_physical(work, target.programs)
    notes = recovery.restore_directory(work)
    segment = min(path.name for path in history.production.archive.iterdir() if feeding.NAME.fullmatch(path.name))
    command = recovery.request(work, Recovery(source=Directory(history.production.archive)))["restore_command"]
    asking: list[subprocess.Popen[bytes]] = []

    def ask() -> None:
        words = command.replace("%f", segment).replace("%p", str(tmp_path / f"{len(asking)}")).replace("%%", "%")
        asking.append(subprocess.Popen(["sh", "-c", words]))

    class Interrupted(Directory):
        def after(self, name: str) -> str | None:
            if len(asking) == 1:
                assert asking[0].wait(10) == 0
                ask()
                until((notes / f"want.{segment}").exists, what="the second question")
            return super().after(name)

    try:
        with feeding.feeding(work, target.programs, Interrupted(history.production.archive)):
            ask()
            until(lambda: len(asking) == 2, what="the end of the first question")
            assert asking[1].wait(10) == 0
            assert not list(notes.glob("want.*"))
    finally:
        for one in asking:
            one.kill()
            one.wait()
    assert {path.stat().st_size for path in tmp_path.iterdir()} == {16 << 20}


def test_names_that_are_no_wal_are_not_looked_for(history: History, target: Cluster) -> None:

    work = target.work(history.backup, kind="backup")
    physical.prepare_physical(work, target.programs)
    source = Directory(history.production.archive)

    with feeding.feeding(work, target.programs, source):
        wanted = recovery.restore_directory(work)
        (wanted / "want.passwd").touch()
        (wanted / "want.00000001.history").touch()
        until(lambda: len(list(wanted.glob("absent.*"))) == 2, what="the answers")

    assert source.asked == ["00000001.history"]
