"""A dump of production becomes a snapshot that is fit for clones: what is in it, and what is not."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.engines.base import LocalSource, UserWish
from reconciler.engines.mysql import server
from reconciler.errors import CheckFailedError, PermanentError, ScriptError, SourceError
from reconciler.state.desired import Check, Script
from reconciler.state.servers import Endpoint
from tests.engines.mysql.production import DUMP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from reconciler.engines.base import CloneWork
    from reconciler.state.observed import SnapshotManifest
    from tests.engines.mysql.conftest import MariaDbHarness

    Ask = Callable[..., list[tuple[Any, ...]]]

_APP = UserWish("app", "owner", "it's a \\ password")
_REPORT = UserWish("report", "readonly", "battery staple")
_BOSS = UserWish("boss", "superuser", "correct horse")


@pytest.fixture(scope="module")
def snapshot(mariadb: MariaDbHarness) -> tuple[Path, SnapshotManifest]:
    path = mariadb.root / "shop.sql.gz"
    path.write_bytes(gzip.compress(DUMP.encode()))
    work = mariadb.build_work(source=LocalSource("dump", path=path))
    return work.directory, mariadb.build(work)


@pytest.fixture(scope="module")
def clone(mariadb: MariaDbHarness, snapshot: tuple[Path, SnapshotManifest]) -> Iterator[CloneWork]:
    work = mariadb.clone_work(*snapshot, port=mariadb.free_port())
    with mariadb.serving(mariadb.engine.clone_server(work)):
        mariadb.engine.deliver(work, [_APP, _REPORT, _BOSS], [])
        yield work


@pytest.fixture
def ask(mariadb: MariaDbHarness, clone: CloneWork) -> Ask:
    def rows(statement: str, user: UserWish = _APP, database: str = "shop") -> list[tuple[Any, ...]]:
        return mariadb.rows(Endpoint("127.0.0.1", clone.port or 0, database, user.name), user.password, statement)

    return rows


def test_everything_of_the_dump_is_there_in_its_own_encoding(ask: Ask) -> None:
    assert ask("SELECT id, name, upper_name, data FROM customer ORDER BY id") == [
        (1, "Zoë; 'O\\Neil' -- x", "ZOË; 'O\\NEIL' -- X", '{"a": 1}'),
        (2, "日本", "日本", None),
    ]
    assert ask("SELECT b FROM old") == [("café",)]
    assert ask("SELECT engine FROM information_schema.tables WHERE table_name = 'old'") == [("MyISAM",)]
    assert ask("SELECT count(*) FROM log") == [(2,)]
    assert ask("SELECT count(*) FROM names") == [(2,)]
    assert ask("SELECT count(*) FROM depot.shelf") == [(0,)]


def test_routines_work_with_the_rights_of_an_account_that_nobody_can_log_in_to(ask: Ask) -> None:
    assert ask("CALL who()") == [("reconciler_owner@localhost",)]
    accounts: dict[str, str] = dict(
        ask("SELECT user, json_value(priv, '$.account_locked') FROM mysql.global_priv", _BOSS)
    )
    assert accounts["reconciler_owner"] == "1"
    assert set(accounts) == {"app", "report", "boss", "reconciler_admin", "reconciler_owner", "mariadb.sys"}


def test_nothing_in_it_acts_or_reaches_out(ask: Ask) -> None:
    assert ask("SELECT event_name, status FROM information_schema.events") == [("e", "DISABLED")]
    assert "CONNECTION" not in ask("SHOW CREATE TABLE remote")[0][1]
    assert ask("SELECT count(*) FROM mysql.servers", _BOSS) == [(0,)]
    assert ask("SELECT count(*) FROM mysql.plugin", _BOSS) == [(0,)]
    assert ask("SHOW ALL SLAVES STATUS", _BOSS) == []
    assert ask("SELECT @@event_scheduler, @@log_bin, @@local_infile, @@have_symlink") == [("OFF", 0, 0, "DISABLED")]


def test_no_password_of_production_is_left_in_the_files(snapshot: tuple[Path, SnapshotManifest]) -> None:
    found = [path.name for path in snapshot[0].rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert found == []


def test_a_snapshot_is_only_its_data(snapshot: tuple[Path, SnapshotManifest]) -> None:
    assert [path.name for path in snapshot[0].iterdir()] == ["data"]
    names = {path.name for path in (snapshot[0] / "data").iterdir()}
    assert names & {"ib_buffer_pool", "ibtmp1", "auto.cnf", "multi-master.info"} == set()


_FORBIDDEN = (
    "LOAD DATA INFILE '/etc/passwd' INTO TABLE old",
    "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE old",
    "SELECT 1 INTO OUTFILE '/tmp/reconciler-out'",
    "INSTALL SONAME 'ha_connect'",
    "CREATE FUNCTION f RETURNS STRING SONAME 'x.so'",
    "SET GLOBAL general_log = 1",
    "SET GLOBAL event_scheduler = 1",
    "CREATE USER x",
    "GRANT ALL ON *.* TO reconciler_owner@localhost",
    "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'h')",
    "CREATE DEFINER=reconciler_admin@localhost PROCEDURE x() SELECT 1",
    "CREATE DEFINER=reconciler_admin@localhost VIEW x AS SELECT 1",
    "INSERT INTO mysql.plugin VALUES ('x', 'x.so')",
    "UPDATE mysql.global_priv SET priv = '{}'",
    "SELECT * FROM mysql.global_priv",
    "CREATE TABLE mysql.x (a int)",
    "DROP DATABASE mysql",
    "CHANGE MASTER TO MASTER_HOST = 'x'",
    "SHUTDOWN",
    "FLUSH PRIVILEGES",
)


@pytest.mark.parametrize("statement", _FORBIDDEN)
def test_sql_of_specs_reaches_neither_files_nor_rights_nor_other_servers(
    mariadb: MariaDbHarness, clone: CloneWork, statement: str
) -> None:
    with pytest.raises(ScriptError, match=r"x\.sql:3"):
        mariadb.engine.run_scripts(clone, [Script("x.sql", f"SELECT 1;\n\n{statement};", database="shop")])


def test_sql_places_no_file_elsewhere(mariadb: MariaDbHarness, clone: CloneWork) -> None:
    elsewhere = mariadb.volume()
    text = f"CREATE TABLE d1 (a int) DATA DIRECTORY='{elsewhere}';"
    text += f"CREATE TABLE d2 (a int) ENGINE=MyISAM DATA DIRECTORY='{elsewhere}';"
    mariadb.engine.run_scripts(clone, [Script("x.sql", text, database="shop")])
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("user", [_APP, _REPORT])
def test_users_have_no_way_to_the_servers_own_tables(ask: Ask, user: UserWish) -> None:
    for statement in ("SELECT * FROM mysql.global_priv", "SELECT 1 INTO OUTFILE '/tmp/reconciler-out'", "SHUTDOWN"):
        with pytest.raises(ScriptError):
            ask(statement, user)
    assert ask("SELECT load_file('/etc/passwd')", user) == [(None,)]


def test_owners_make_databases_and_readers_see_them_at_once(ask: Ask) -> None:
    ask("CREATE DATABASE extra")
    ask("CREATE TABLE extra.t (a int)")
    assert ask("SELECT count(*) FROM extra.t", _REPORT) == [(0,)]
    with pytest.raises(ScriptError):
        ask("INSERT INTO extra.t VALUES (1)", _REPORT)
    ask("DROP DATABASE extra")


def test_scripts_run_with_delimiters_and_name_the_line_of_a_failure(mariadb: MariaDbHarness, clone: CloneWork) -> None:
    text = (
        "DELIMITER $$\nCREATE PROCEDURE p1()\nBEGIN\n  SELECT 1;\nEND$$\nDELIMITER ;\nCALL p1();\nSELECT\n  FROM x;\n"
    )
    with pytest.raises(ScriptError, match=r"x\.sql:9: syntax error near 'FROM'"):
        mariadb.engine.run_scripts(clone, [Script("x.sql", text, database="shop")])


def test_errors_of_scripts_quote_no_row(mariadb: MariaDbHarness, clone: CloneWork) -> None:
    text = "CREATE TABLE u (a varchar(20) UNIQUE);\nINSERT INTO u SELECT 'alice' UNION ALL SELECT 'alice'"
    with pytest.raises(ScriptError, match=r"x\.sql:2: duplicate entry for key 'a'") as caught:
        mariadb.engine.run_scripts(clone, [Script("x.sql", text, database="shop")])
    assert "alice" not in str(caught.value)


def test_a_script_that_leaves_a_transaction_open_is_an_error(mariadb: MariaDbHarness, clone: CloneWork) -> None:
    with pytest.raises(ScriptError, match="COMMIT is missing"):
        mariadb.engine.run_scripts(clone, [Script("x.sql", "BEGIN; INSERT INTO old VALUES (2, 'x');", database="shop")])


def test_who_is_dropped_leaves_views_that_work_and_no_way_in(
    mariadb: MariaDbHarness, clone: CloneWork, ask: Ask
) -> None:
    mallory = UserWish("mallory", "owner", "m")
    mariadb.engine.deliver(clone, [mallory], [])
    ask("CREATE VIEW mine AS SELECT name FROM customer", mallory)
    mariadb.engine.deliver(clone, [], [mallory.name])
    assert ask("SELECT count(*) FROM mine") == [(2,)]
    with pytest.raises(ScriptError):
        ask("SELECT 1", mallory)
    again = UserWish("mallory", "readonly", "other")
    mariadb.engine.deliver(clone, [again], [])
    assert ask("SELECT count(*) FROM mine", again) == [(2,)]
    with pytest.raises(ScriptError):
        ask("DROP VIEW mine", again)


def test_a_user_cannot_have_the_name_of_the_administrator(mariadb: MariaDbHarness, clone: CloneWork) -> None:
    with pytest.raises(PermanentError, match=server.ADMIN):
        mariadb.engine.deliver(clone, [UserWish(server.ADMIN, "owner", "x")], [])


def test_the_administrator_cannot_come_by_network(mariadb: MariaDbHarness, clone: CloneWork) -> None:
    key = (clone.run_directory / "admin.key").read_text()
    with pytest.raises(ScriptError):
        mariadb.rows(Endpoint("127.0.0.1", clone.port or 0, "shop", server.ADMIN), key, "SELECT 1")


def _write_directory(path: Path) -> None:
    """Write what mydumper does: bodies without DELIMITER, views first as tables, rows packed."""
    path.mkdir()
    for name, text in (
        ("metadata", "Started dump at: x\nFinished dump at: y\n"),
        ("bins-schema-create.sql", "CREATE DATABASE `bins`;\n"),
        (
            "bins-schema-post.sql",
            "CREATE DEFINER=`root`@`%` FUNCTION `d`(a int) RETURNS int\nBEGIN RETURN 2 * a; END;\n",
        ),
        ("bins.bin-schema.sql", "CREATE TABLE `bin` (`a` int);\n"),
        (
            "bins.bin-schema-triggers.sql",
            "CREATE TRIGGER t BEFORE INSERT ON bin FOR EACH ROW BEGIN SET NEW.a = 0; END;\n",
        ),
        ("bins.doubled-schema.sql", "CREATE TABLE `doubled` (`double_a` int) ENGINE=MyISAM;\n"),
        (
            "bins.doubled-schema-view.sql",
            "DROP TABLE `doubled`;\nCREATE VIEW `doubled` AS SELECT d(a) double_a FROM bin;\n",
        ),
    ):
        (path / name).write_text(text)
    (path / "bins.bin.00000.sql.gz").write_bytes(gzip.compress(b"INSERT INTO `bin` VALUES\n(3),\n(7);\n"))


def test_builds_from_dumps_that_are_cut_off_fail_and_a_killed_one_is_not_sealed(mariadb: MariaDbHarness) -> None:
    path = mariadb.root / "cut.sql"
    work = mariadb.build_work(source=LocalSource("dump", path=path))
    mariadb.engine.prepare(work)
    spec = mariadb.engine.build_server(work)
    mariadb.start(spec)
    with mariadb.engine.session(work) as session:
        for content, told in (
            (DUMP[: DUMP.index("'{\\\"a")], "ends inside"),
            (DUMP[: DUMP.index("-- Dump completed")], "its last line"),
            ("CREATE TABLE a (b int);\nINSERT INTO a VALUES (1)", "ends inside this statement"),
            ("-- MariaDB dump 10.19\nSELECT 1;\n-- Dump completed", "holds no database"),
        ):
            path.write_text(content)
            with pytest.raises(SourceError, match=told):
                session.restore()
        path.unlink()
        _write_directory(path)
        session.restore()
        session.check(Check("SELECT sum(double_a) = 20 FROM bins.doubled"))
        shutil.rmtree(path)
        with pytest.raises(CheckFailedError, match="not true"):
            session.check(Check("SELECT 0", origin="x.yaml"))
        with pytest.raises(CheckFailedError, match="one row"):
            session.check(Check("SELECT 1 UNION ALL SELECT 1"))
        path.write_text("CREATE DATABASE cells; CREATE TABLE cells.m (a int) ENGINE=MEMORY;")
        session.restore()
        assert session.look_for_damage(final=True) >= 2
        session.isolate()
        session.settle()
    mariadb.kill(spec)
    for _ in range(2):
        with pytest.raises(PermanentError, match="not cleanly shut down"):
            mariadb.engine.finish(work)
        (work.run_directory / "mysql.pid").unlink(missing_ok=True)  # what a person would try next


def test_a_superusers_scripts_run_with_all_rights_where_the_host_grants_it(
    mariadb: MariaDbHarness, clone: CloneWork, ask: Ask
) -> None:
    granted = replace(clone, superuser_scripts=True)
    ((before,),) = ask("SELECT @@GLOBAL.max_connections")
    assert before != 99
    mariadb.engine.run_scripts(granted, [Script("x.sql", "SET GLOBAL max_connections = 99")])
    try:
        assert ask("SELECT @@GLOBAL.max_connections") == [(99,)]
    finally:
        mariadb.engine.run_scripts(granted, [Script("x.sql", f"SET GLOBAL max_connections = {before}")])
    assert ask("SELECT @@GLOBAL.max_connections") == [(before,)]


def test_what_a_clone_holds_becomes_a_snapshot_without_its_users(
    mariadb: MariaDbHarness, snapshot: tuple[Path, SnapshotManifest]
) -> None:
    first = mariadb.clone_work(*snapshot, port=mariadb.free_port())
    spec = mariadb.engine.clone_server(first)
    mariadb.start(spec)
    mariadb.engine.deliver(first, [_APP], [])
    endpoint = Endpoint("127.0.0.1", first.port or 0, "shop", _APP.name)
    mariadb.execute(endpoint, _APP.password, "INSERT INTO customer (id, name) VALUES (3, 'new')")
    mariadb.execute(endpoint, _APP.password, "CREATE VIEW mine AS SELECT name FROM customer")
    mariadb.kill(spec)  # as of one instant, which is what a cut is
    source = LocalSource("clone", path=first.directory, base=snapshot[1], users=(_APP.name,))
    work = mariadb.build_work(source=source)
    work.directory.rmdir()
    mariadb.copy(first.directory, work.directory)
    second = mariadb.clone_work(work.directory, mariadb.build(work), port=mariadb.free_port())
    endpoint = replace(endpoint, port=second.port or 0)
    with mariadb.serving(mariadb.engine.clone_server(second)):
        with pytest.raises(ScriptError):
            mariadb.execute(endpoint, _APP.password, "SELECT 1")
        other = UserWish("app", "owner", "another")
        mariadb.engine.deliver(second, [other], [])
        assert mariadb.rows(endpoint, other.password, "SELECT count(*) FROM mine") == [(3,)]
