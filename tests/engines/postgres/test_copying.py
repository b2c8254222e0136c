"""Copies of a live primary with SQL alone: whole, as of one moment, and nothing left when they fail."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from reconciler.engines.base import BuildWork, LocalSource
from reconciler.engines.base import LiveServer as Live
from reconciler.engines.postgres import copying, primary, server
from reconciler.engines.postgres.engine import PostgresEngine
from reconciler.errors import (
    CancelledError,
    NotInstalledError,
    ReconcilerError,
    SourceError,
    UnavailableError,
    UnsupportedError,
)
from reconciler.proc import CancelToken
from tests import live
from tests.support import OLDER_MAJOR, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reconciler.engines.base import Sealed
    from tests.engines.conftest import PostgresHarness

    MakeHarness = Callable[[str], PostgresHarness]

pytestmark = pytest.mark.postgres
_SETUP = (
    "CREATE ROLE app LOGIN PASSWORD 'x'",
    "CREATE ROLE auditor BYPASSRLS",
    "CREATE ROLE clerk LOGIN IN ROLE app",
    "CREATE ROLE copier LOGIN BYPASSRLS IN ROLE pg_read_all_data",
    f"ALTER ROLE copier PASSWORD '{live.PASSWORD}'",
    "CREATE DATABASE bank",
    "CREATE DATABASE shop OWNER app",
    "ALTER DATABASE shop SET work_mem = '5MB'",
    "ALTER ROLE clerk SET statement_timeout = '7s'",
)
_BANK = """
CREATE TABLE entry (n int, filler text);
"""
_SHOP = """
CREATE EXTENSION citext;
SET ROLE app;
CREATE SCHEMA sales;
CREATE TABLE sales.item (id serial PRIMARY KEY, name citext NOT NULL, secret bool DEFAULT false);
INSERT INTO sales.item (name) SELECT 'item ' || g FROM generate_series(1, 500) g;
ALTER TABLE sales.item ENABLE ROW LEVEL SECURITY;
ALTER TABLE sales.item FORCE ROW LEVEL SECURITY;
CREATE POLICY open ON sales.item USING (NOT secret);
CREATE VIEW sales.short AS SELECT id FROM sales.item;
CREATE MATERIALIZED VIEW sales.total AS SELECT 500 AS n;
GRANT SELECT ON sales.item TO clerk;
CREATE TABLE entry (n int, filler text);
SELECT lo_from_bytea(4711, 'large'::bytea);
GRANT SELECT ON LARGE OBJECT 4711 TO copier;
"""


@contextmanager
def production(major: str) -> Iterator[live.LiveServer]:
    with live.live_server(major, "track_commit_timestamp=on") as made:
        for text in _SETUP:
            made.sql(text)
        made.sql(_BANK, "bank")
        made.sql(_SHOP, "shop")
        yield made


@pytest.fixture(scope="module")
def old() -> Iterator[live.LiveServer]:
    with production(OLDER_MAJOR) as made:
        yield made


@pytest.fixture(scope="module")
def new() -> Iterator[live.LiveServer]:
    with production("18") as made:
        yield made


@contextmanager
def ledger(made: live.LiveServer) -> Iterator[None]:
    """Write each number to bank and then to shop for as long as the block takes; each is a transaction."""
    ended = threading.Event()

    def write() -> None:
        with made.connect("bank") as bank, made.connect("shop") as shop:
            number = 0
            while not ended.is_set():
                number += 1
                bank.execute("INSERT INTO entry VALUES (%s)", [number])
                shop.execute("INSERT INTO entry VALUES (%s)", [number])

    for name in ("bank", "shop"):
        made.sql("TRUNCATE entry", name)
    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def source(made: live.LiveServer, user: str = "copier", databases: tuple[str, ...] = ()) -> LocalSource:
    return LocalSource("primary", primary=Live(made.url(user), "shop-dsn", "logical", databases))


class Copy:
    """A finished copy: what it held before it was isolated, and what became of it."""

    def __init__(self, harness: PostgresHarness, work: BuildWork, queries: dict[str, str]) -> None:
        engine = harness.engine
        engine.prepare(work)
        self.told: list[str] = []
        self.found: dict[str, object] = {}
        work = replace(work, progress=self.told.append)
        with harness.serving(engine.build_server(work)), engine.session(work) as session:
            session.restore()
            session.keep_databases()
            for query, database in queries.items():
                with server.connect(work, database) as conn:
                    self.found[query] = conn.execute(query.encode()).fetchall()
            session.isolate()
            session.settle()
        self.sealed: Sealed = engine.finish(work)
        self.left = sorted(path.name for path in work.directory.iterdir())


@pytest.mark.parametrize(("one", "major"), [("old", OLDER_MAJOR), ("old", "18"), ("new", "18")])
def test_a_copy_has_what_the_primary_had_at_one_moment_while_it_was_written_to(
    one: str, major: str, make_harness: MakeHarness, request: pytest.FixtureRequest
) -> None:
    made: live.LiveServer = request.getfixturevalue(one)
    ours = {
        "SELECT count(*), sum(n) FROM public.entry": "bank",
        "SELECT count(*), sum(n), 1 FROM public.entry": "shop",
        "SELECT count(*), min(name::text), max(id) FROM sales.item": "shop",
        "SELECT last_value, is_called FROM sales.item_id_seq": "shop",
        "SELECT lo_get(4711)": "shop",
        "SELECT n FROM sales.total": "shop",
        "SELECT polname::text FROM pg_policy": "shop",
        "SELECT pg_get_userbyid(relowner), has_table_privilege('clerk', oid, 'SELECT')"
        " FROM pg_class WHERE relname = 'item'": "shop",
        "SELECT extname FROM pg_extension ORDER BY 1": "shop",
        "SELECT setconfig FROM pg_db_role_setting WHERE setrole = 0": "shop",
        "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'shop'": "shop",
        "SELECT pg_has_role('clerk', 'app', 'MEMBER')": "shop",
    }
    harness = make_harness(major)
    with ledger(made):
        copy = Copy(harness, replace(harness.build_work(source=source(made)), jobs=2), ours)
    made.require_left()
    _prefix, state = (copy.sealed.input_id or "").rsplit(".", 1)
    moment = state.partition(":")[2]
    visible = f"pg_visible_in_snapshot(xmin::text::xid8, '{moment}')"
    for query, database in ours.items():
        exact = f"{query} WHERE {visible}" if "public.entry" in query else query
        assert copy.found[query] == made.sql(exact, database), query
    as_of = copy.sealed.data_as_of
    assert as_of is not None
    for database in ("bank", "shop"):
        times = made.sql(
            f"SELECT max(pg_xact_commit_timestamp(xmin)) FILTER (WHERE {visible}),"
            f" min(pg_xact_commit_timestamp(xmin)) FILTER (WHERE NOT {visible}) FROM entry",
            database,
        )
        assert times[0][0] <= as_of  # type: ignore[operator] # a time
        assert times[0][1] is not None
    assert (copy.sealed.databases, copy.left) == (("bank", "shop"), ["data"])
    assert "moments" not in copy.sealed.facts


def test_a_copy_knows_the_primary_again(new: live.LiveServer, postgres: PostgresHarness) -> None:
    copy = Copy(postgres, postgres.build_work(source=source(new)), {})
    assert copy.sealed.input_id == postgres.engine.identify(source(new)).input_id
    new.sql("INSERT INTO entry VALUES (0)", "bank")
    assert copy.sealed.input_id != postgres.engine.identify(source(new)).input_id


def test_only_the_wanted_databases_are_read(new: live.LiveServer, postgres: PostgresHarness) -> None:
    work = postgres.build_work(source=source(new, databases=("bank",)), databases=("bank",))
    copy = Copy(postgres, work, {})
    assert copy.sealed.databases == ("bank",)
    assert not [text for text in copy.told if "shop" in text]


def test_a_hot_standby_is_copied_like_a_primary(new: live.LiveServer, postgres: PostgresHarness) -> None:
    with new.standby() as standby:
        replayed, written = "SELECT pg_last_wal_replay_lsn()", "SELECT pg_current_wal_flush_lsn()"
        until(lambda: standby.sql(replayed) == new.sql(written), what="the standby")
        query = "SELECT count(*) FROM sales.item"
        copy = Copy(postgres, replace(postgres.build_work(source=source(standby)), jobs=2), {query: "shop"})
        assert copy.found[query] == [(500,)]


def test_a_copy_knows_a_hot_standby_again(new: live.LiveServer, postgres: PostgresHarness) -> None:
    with new.standby() as standby:
        new.stop()  # a primary that is not written to still notes which transactions run, seconds after the last one
        try:
            replayed = "SELECT pg_last_wal_replay_lsn() = pg_last_wal_receive_lsn()"
            until(lambda: standby.sql(replayed) == [(True,)], what="the standby")
            copy = Copy(postgres, replace(postgres.build_work(source=source(standby)), jobs=2), {})
            assert copy.sealed.input_id == postgres.engine.identify(source(standby)).input_id
        finally:
            new.start()
        new.sql("INSERT INTO entry VALUES (0)", "bank")
        until(
            lambda: copy.sealed.input_id != postgres.engine.identify(source(standby)).input_id, what="another identity"
        )


def test_roles_that_may_not_be_listed_come_with_what_they_own(new: live.LiveServer, postgres: PostgresHarness) -> None:
    new.sql("REVOKE SELECT ON pg_auth_members FROM PUBLIC", "shop")
    new.sql(f"ALTER ROLE app BYPASSRLS PASSWORD '{live.PASSWORD}'")
    query = "SELECT rolname FROM pg_roles WHERE rolname IN ('app', 'auditor') ORDER BY 1"
    wanted = LocalSource("primary", primary=Live(new.url("app", "shop"), "shop-dsn", "logical", ("shop",)))
    try:
        copy = Copy(postgres, postgres.build_work(source=wanted, databases=("shop",)), {query: "shop"})
    finally:
        new.sql("ALTER ROLE app NOBYPASSRLS")
        new.sql("GRANT SELECT ON pg_auth_members TO PUBLIC", "shop")
    assert [text for text in copy.told if "as far as objects name them" in text]
    assert copy.found[query] == [("app",)]


def failed(harness: PostgresHarness, work: BuildWork) -> ReconcilerError:
    """Copy, and return what went wrong."""
    harness.engine.prepare(work)
    with (
        harness.serving(harness.engine.build_server(work)),
        harness.engine.session(work) as session,
        pytest.raises(ReconcilerError) as caught,
    ):
        session.restore()
    assert not (work.directory / "copy").exists()
    assert live.PASSWORD not in str(caught.value)
    return caught.value


def test_a_table_that_may_not_be_read_is_named_with_what_to_grant(
    new: live.LiveServer, postgres: PostgresHarness
) -> None:
    new.sql("REVOKE pg_read_all_data FROM copier")
    try:
        error = failed(postgres, postgres.build_work(source=source(new)))
    finally:
        new.sql("GRANT pg_read_all_data TO copier")
    assert isinstance(error, SourceError)
    assert error.reason == "PrimaryRefused"
    assert "permission denied for table entry" in str(error)
    assert "pg_read_all_data" in str(error)
    new.require_left()


def test_rows_hidden_from_the_user_are_an_error_and_not_missing(
    new: live.LiveServer, postgres: PostgresHarness
) -> None:
    new.sql("ALTER ROLE copier NOBYPASSRLS")
    try:
        error = failed(postgres, postgres.build_work(source=source(new)))
    finally:
        new.sql("ALTER ROLE copier BYPASSRLS")
    assert isinstance(error, SourceError)
    assert "row-level security" in str(error)
    assert "BYPASSRLS" in str(error)


def test_databases_that_are_not_there_or_closed_are_errors_that_say_so(new: live.LiveServer) -> None:
    with pytest.raises(SourceError, match=r"no database stock; it has: bank, shop"):
        copying.identify(source(new, databases=("stock",)))
    new.sql("REVOKE CONNECT ON DATABASE bank FROM PUBLIC")
    try:
        with pytest.raises(SourceError, match="does not let us into the database bank"):
            copying.identify(source(new))
        assert copying.identify(source(new, databases=("shop",))).size_bytes > 0
    finally:
        new.sql("GRANT CONNECT ON DATABASE bank TO PUBLIC")


def test_a_primary_newer_than_the_image_or_than_all_software_is_refused(
    new: live.LiveServer, make_harness: MakeHarness
) -> None:
    with pytest.raises(UnsupportedError, match=rf"is PostgreSQL 18.*version {OLDER_MAJOR}"):
        PostgresEngine().prepare(replace(make_harness(OLDER_MAJOR).build_work(source=source(new)), version=OLDER_MAJOR))
    with pytest.raises(NotInstalledError, match="no pg_dump here can read it"):
        copying._nearest(primary.of_source(source(new)), 99)


def test_the_version_of_the_primary_is_served_where_it_is_here(old: live.LiveServer, postgres: PostgresHarness) -> None:
    work = replace(postgres.build_work(source=source(old)), version=None)
    assert copying.choose_server(work).major == OLDER_MAJOR


# -- interruptions --------------------------------------------------------------------


@pytest.fixture
def slow(new: live.LiveServer) -> Iterator[live.LiveServer]:
    """The primary with so many rows that there is time to interrupt a copy."""
    new.sql(
        "INSERT INTO entry SELECT g, (SELECT string_agg(md5(g::text || h), '') FROM generate_series(1, 30) h)"
        " FROM generate_series(1, 60000) g",
        "bank",
    )
    yield new
    new.sql("TRUNCATE entry", "bank")


@contextmanager
def while_copying(made: live.LiveServer, act: Callable[[], object]) -> Iterator[list[object]]:
    """Do something once rows are being read."""
    said: list[object] = []
    reading = (
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY %' AND state = 'active' AND application_name <> 'owner'"
    )

    def wait() -> None:
        with made.connect() as conn:
            while conn.execute(reading).fetchone() is None:
                pass
        said.append(act())

    thread = threading.Thread(target=wait)
    thread.start()
    yield said
    thread.join()


def test_a_connection_that_is_cut_is_an_interruption_and_leaves_nothing(
    slow: live.LiveServer, postgres: PostgresHarness
) -> None:
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY %' AND pid <> pg_backend_pid()"
    with while_copying(slow, lambda: slow.sql(cut)):
        error = failed(postgres, postgres.build_work(source=source(slow)))
    assert isinstance(error, UnavailableError)
    assert error.reason == "PrimaryUnavailable"
    slow.require_left()


def test_a_primary_that_is_restarted_is_an_interruption(slow: live.LiveServer, postgres: PostgresHarness) -> None:
    def restart() -> None:
        slow.stop("immediate")
        slow.start()

    with while_copying(slow, restart):
        error = failed(postgres, postgres.build_work(source=source(slow)))
    assert isinstance(error, UnavailableError)
    slow.require_left()


def test_a_cancelled_copy_leaves_nothing_at_the_primary(slow: live.LiveServer, postgres: PostgresHarness) -> None:
    token = CancelToken()
    with while_copying(slow, token.cancel):
        error = failed(postgres, replace(postgres.build_work(source=source(slow)), cancel=token))
    assert isinstance(error, CancelledError)
    slow.require_left()


def test_the_password_is_in_no_command_line_and_programs_run_under_our_own_account(
    slow: live.LiveServer, postgres: PostgresHarness
) -> None:
    def look() -> list[tuple[str, int]]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                found.append(((process / "cmdline").read_text(errors="replace"), process.stat().st_uid))
            except OSError:
                continue
        return found

    with while_copying(slow, look) as said:
        Copy(postgres, replace(postgres.build_work(source=source(slow)), jobs=2), {})
    (processes,) = said
    assert isinstance(processes, list)
    dumping = [(words, uid) for words, uid in processes if "pg_dump\0" in words and f"{slow.port}" not in words]
    assert dumping
    assert {uid for _words, uid in dumping} == {os.geteuid()}
    assert not [words for words, _uid in processes if live.PASSWORD in words or slow.url("copier") in words]


def test_a_table_locked_by_others_is_waited_for(slow: live.LiveServer, postgres: PostgresHarness) -> None:
    ended = threading.Event()

    def hold() -> None:
        with slow.connect("shop") as conn:
            conn.execute("BEGIN; LOCK TABLE sales.item IN ACCESS EXCLUSIVE MODE")
            waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'sales.item'::regclass"
            ended.set()
            while conn.execute(waiting).fetchone() is None:
                pass
            conn.execute("COMMIT")

    thread = threading.Thread(target=hold)
    thread.start()
    ended.wait()
    query = "SELECT count(*) FROM sales.item"
    copy = Copy(postgres, postgres.build_work(source=source(slow)), {query: "shop"})
    thread.join()
    assert copy.found[query] == [(500,)]


def test_a_wrong_password_is_refused_before_anything_is_made(new: live.LiveServer, postgres: PostgresHarness) -> None:
    wrong = LocalSource("primary", primary=Live(new.url("copier", password="hunter2"), "shop-dsn", "logical"))
    work = replace(postgres.build_work(source=wrong), version=None)
    with pytest.raises(SourceError, match=r"password authentication failed.*shop-dsn") as caught:
        postgres.engine.prepare(work)
    assert "hunter2" not in str(caught.value)
    assert list(work.directory.iterdir()) == []
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(new.url("copier", password="hunter2"))


def test_the_maintenance_database_is_copied_when_it_is_asked_for(
    new: live.LiveServer, postgres: PostgresHarness
) -> None:
    new.sql("CREATE TABLE kept AS SELECT 7 AS n")
    try:
        work = postgres.build_work(source=source(new, databases=("postgres",)), databases=("postgres",))
        copy = Copy(postgres, work, {"SELECT n FROM public.kept": "postgres"})
    finally:
        new.sql("DROP TABLE kept")
    assert copy.found == {"SELECT n FROM public.kept": [(7,)]}
    assert copy.sealed.databases == ("postgres",)


def test_an_event_trigger_is_made_when_all_databases_are_there(new: live.LiveServer, postgres: PostgresHarness) -> None:
    new.sql("CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'", "bank")
    new.sql("CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION watch()", "bank")
    query = "SELECT evtname::text FROM pg_event_trigger"
    try:
        copy = Copy(postgres, postgres.build_work(source=source(new)), {query: "bank"})
    finally:
        new.sql("DROP EVENT TRIGGER watch; DROP FUNCTION watch()", "bank")
    assert copy.found[query] == [("watch",)]
