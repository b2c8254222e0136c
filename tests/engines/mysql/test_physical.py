"""Files of a production server become a snapshot: recovered, complete, and with no way back to production."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pymysql
import pytest

from reconciler.engines.base import LocalSource, UserWish
from reconciler.errors import BusyError, ScriptError, SourceError, UnsupportedError
from reconciler.runtimes import processes
from reconciler.state.servers import Endpoint
from tests.engines.mysql.live import SECRETS, Production
from tests.engines.mysql.production import answers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.engines.mysql.conftest import MariaDbHarness

pytestmark = pytest.mark.long

_APP = UserWish("app", "owner", "of the clone")
_BOSS = UserWish("boss", "superuser", "also")


@pytest.fixture(scope="module")
def production(mariadb: MariaDbHarness) -> Iterator[Production]:
    made = Production(mariadb.volume(), mariadb.account())
    try:
        yield made
    finally:
        made.stop(kill=True)


def test_a_production_that_cannot_be_set_up_leaves_no_server(mariadb: MariaDbHarness) -> None:
    place = mariadb.volume()
    with pytest.raises(pymysql.Error):
        Production(place, mariadb.account(), setup=("no statement",))
    assert [one.pid for one in processes.live() if f"{processes.directory(one.pid)}/".startswith(f"{place}/")] == []


@pytest.fixture(scope="module")
def backups(production: Production) -> Path:
    """A full backup and two that go on from it."""
    if shutil.which("mariadb-backup") is None:
        pytest.skip("needs mariadb-backup on this host")
    full = production.back_up("full")
    production.sql("INSERT INTO shop.item VALUES (2, 'two')")
    production.back_up("one", base="full")
    production.sql("INSERT INTO shop.item VALUES (3, 'three')")
    production.sql("INSERT INTO shop.old VALUES (3)")
    production.back_up("two", base="one")
    return full.parent


def _source(root: Path) -> LocalSource:
    return LocalSource("backup", path=root, name=str(root), candidates=tuple(sorted(root.iterdir())))


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_backups_become_a_clone_with_their_last_row_and_nothing_of_production(
    mariadb: MariaDbHarness, backups: Path
) -> None:
    before = _contents(backups)
    work = mariadb.build_work(source=_source(backups))
    snapshot = mariadb.build(work)
    assert _contents(backups) == before
    assert snapshot.databases == ("shop",)
    found = [path for path, content in _contents(work.directory).items() if any(one in content for one in SECRETS)]
    assert found == []
    _require_isolated(mariadb, work.directory, snapshot, rows=3)


def _require_isolated(mariadb: MariaDbHarness, directory: Path, snapshot: object, *, rows: int) -> None:
    clone = mariadb.clone_work(directory, snapshot, port=mariadb.free_port())  # type: ignore[arg-type] # a manifest
    endpoint = Endpoint("127.0.0.1", clone.port or 0, "shop", _APP.name)
    with mariadb.serving(mariadb.engine.clone_server(clone)):
        mariadb.engine.deliver(clone, [_APP, _BOSS], [])
        assert mariadb.rows(endpoint, _APP.password, "SELECT count(*) FROM item") == [(rows,)]
        assert mariadb.rows(endpoint, _APP.password, "SELECT count(*) FROM names") == [(rows,)]
        with pytest.raises(ScriptError):  # its definer could, in production
            mariadb.rows(endpoint, _APP.password, "CALL pry()")
        boss = replace(endpoint, user=_BOSS.name)
        accounts = {row[0] for row in mariadb.rows(boss, _BOSS.password, "SELECT user FROM mysql.global_priv")}
        assert accounts == {"app", "boss", "mariadb.sys", "reconciler_admin", "reconciler_owner"}
        for nothing in ("mysql.servers", "mysql.plugin", "information_schema.events WHERE status = 'ENABLED'"):
            assert mariadb.rows(boss, _BOSS.password, f"SELECT count(*) FROM {nothing}") == [(0,)]
        assert mariadb.rows(boss, _BOSS.password, "SHOW ALL SLAVES STATUS") == []


@pytest.mark.usefixtures("backups")
def test_the_newest_stream_becomes_a_clone_whatever_it_is_packed_with(
    mariadb: MariaDbHarness, production: Production
) -> None:
    plain = production.stream("a.xb")
    production.sql("CREATE TABLE shop.in_the_newest (a int)")
    newest = production.stream("b.xb")
    packed = newest.with_name("b.xb.gz")
    packed.write_bytes(gzip.compress(newest.read_bytes(), 1))
    newest.unlink()
    for path, tables in ((plain, 0), (packed, 1)):
        source = LocalSource("backup", path=path.parent, name=str(path.parent), files=(plain, packed))
        chosen = (
            source if tables else replace(source, chosen=mariadb.engine.identify(replace(source, path=path)).input_id)
        )
        assert mariadb.engine.identify(chosen) == mariadb.engine.identify(replace(source, path=path))
        work = mariadb.build_work(source=chosen)
        snapshot = mariadb.build(work)
        found = [name for name, content in _contents(work.directory).items() if any(one in content for one in SECRETS)]
        assert (snapshot.databases, found) == (("shop",), [])
        assert [*work.directory.rglob("in_the_newest.frm")] == [work.directory / "data/shop/in_the_newest.frm"][:tables]
    production.sql("DROP TABLE shop.in_the_newest")


@pytest.mark.usefixtures("backups")
def test_a_stream_that_is_cut_off_or_builds_on_another_is_refused(
    mariadb: MariaDbHarness, production: Production
) -> None:
    whole = production.stream("whole.xb")
    cut, torn = whole.with_name("cut.xb"), whole.with_name("torn.xb.gz")
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    torn.write_bytes(gzip.compress(content, 1)[:-100_000])
    later = production.stream("later.xb", base="two")
    for path, message in ((cut, "is truncated|damaged or truncated"), (torn, "truncated"), (later, "incremental")):
        with pytest.raises(SourceError, match=message):
            mariadb.engine.prepare(mariadb.build_work(source=LocalSource("backup", path=path, name=str(path))))


def test_binary_logs_after_a_backup_bring_it_to_their_end(
    mariadb: MariaDbHarness, production: Production, backups: Path
) -> None:
    place = production.root / "logs"
    place.mkdir()
    production.sql("INSERT INTO shop.item VALUES (50, 'after it')")
    production.sql("FLUSH BINARY LOGS")
    production.sql("INSERT INTO shop.old VALUES (50)")
    production.sql("INSERT INTO shop.item VALUES (51, 'in the last log')")
    for log in production.data.glob("pid-bin.0*"):
        packed = log.name < max(path.name for path in production.data.glob("pid-bin.0*"))
        if packed:
            (place / f"{log.name}.gz").write_bytes(gzip.compress(log.read_bytes()))
        else:
            shutil.copy(log, place)
    source = replace(_source(backups), wal=place)
    identity = mariadb.engine.identify(source)
    production.sql("INSERT INTO shop.item VALUES (52, 'next build')")
    shutil.copy(max(production.data.glob("pid-bin.0*")), place)
    chosen = replace(source, chosen=identity.input_id)
    assert mariadb.engine.identify(chosen).input_id == identity.input_id
    assert mariadb.engine.identify(source).input_id != identity.input_id
    before = _contents(place)
    work = mariadb.build_work(source=chosen)
    snapshot = mariadb.build(work)
    assert _contents(place) == before
    wanted = "SELECT (SELECT max(id) FROM item WHERE id < 100), (SELECT count(*) FROM old WHERE a = 50)"
    assert answers(mariadb, work.directory, snapshot, [wanted]) == {wanted: [(51, 1)]}
    assert snapshot.data_as_of is not None
    assert abs(datetime.now(UTC) - snapshot.data_as_of) < timedelta(minutes=10)
    found = [path for path, content in _contents(work.directory).items() if any(one in content for one in SECRETS)]
    assert found == []

    for log in place.glob("*.gz"):
        log.unlink()
    with pytest.raises(SourceError, match=r"in which the backup ends, is not in"):
        mariadb.engine.identify(source)
    production.sql("DELETE FROM shop.item WHERE id BETWEEN 50 AND 52")


def test_files_of_a_server_that_runs_are_refused_and_of_one_that_crashed_recovered(
    mariadb: MariaDbHarness, production: Production
) -> None:
    source = LocalSource("files", path=production.data)
    with pytest.raises(BusyError, match="runs on"):
        mariadb.engine.identify(source)
    production.sql("INSERT INTO shop.item VALUES (100, 'committed')")
    production.stop(kill=True)
    try:
        assert mariadb.engine.identify(source) == mariadb.engine.identify(source)
        work = mariadb.build_work(source=source)
        snapshot = mariadb.build(work)
        found = [path for path, content in _contents(work.directory).items() if any(one in content for one in SECRETS)]
        assert found == []
    finally:
        production.start()
    assert snapshot.databases == ("shop",)
    clone = mariadb.clone_work(work.directory, snapshot, port=mariadb.free_port())
    with mariadb.serving(mariadb.engine.clone_server(clone)):
        mariadb.engine.deliver(clone, [_APP], [])
        endpoint = Endpoint("127.0.0.1", clone.port or 0, "shop", _APP.name)
        assert mariadb.rows(endpoint, _APP.password, "SELECT name FROM item WHERE id = 100") == [("committed",)]


def test_a_backup_is_served_by_its_own_version_only(mariadb: MariaDbHarness, backups: Path) -> None:
    work = replace(mariadb.build_work(source=_source(backups)), version="10.4")
    with pytest.raises(UnsupportedError, match=r"written by MariaDB 10\.\d+; the image asks for version 10\.4"):
        mariadb.engine.prepare(work)


def test_a_directory_that_is_no_data_directory_is_refused(mariadb: MariaDbHarness, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="ibdata1"):
        mariadb.engine.identify(LocalSource("files", path=tmp_path))
