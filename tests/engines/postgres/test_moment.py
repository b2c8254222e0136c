"""Databases as of one moment, while they are written to, and what tells that they changed."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from reconciler.engines.postgres import moment, primary
from reconciler.errors import UnavailableError
from reconciler.proc import CancelToken
from tests import live
from tests.support import OLDER_MAJOR

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.postgres
_NAMES = ("bank", "shop")


@pytest.fixture(scope="module", params=[OLDER_MAJOR, "18"])
def server(request: pytest.FixtureRequest) -> Iterator[live.LiveServer]:
    with live.live_server(request.param) as made:
        for name in _NAMES:
            made.sql(f"CREATE DATABASE {name}")
            made.sql("CREATE TABLE entry (n int); CREATE TABLE other (n int)", name)
        yield made


@contextmanager
def writing(server: live.LiveServer) -> Iterator[None]:
    """Write the same numbers to both databases, one after the other, for as long as the block takes."""
    ended = threading.Event()

    def write() -> None:
        with server.connect(_NAMES[0]) as first, server.connect(_NAMES[1]) as second:
            number = 0
            while not ended.is_set():
                number += 1
                for conn in (first, second):
                    conn.execute("INSERT INTO entry VALUES (%s)", [number])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def pinned(server: live.LiveServer) -> primary.Primary:
    found = primary.parse(server.url(), "dsn")
    with primary.connect(found) as conn:
        return found.pinned(conn)


def seen(server: live.LiveServer, found: moment.Moment, name: str, query: str) -> object:
    """Return what a session sees that takes over the snapshot of a database."""
    with server.connect(name) as conn:
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        conn.execute(f"SET TRANSACTION SNAPSHOT '{found.snapshot(name)}'".encode())
        row = conn.execute(query.encode()).fetchone()
        return None if row is None else row[0]


def test_databases_are_seen_as_of_the_same_moment_while_both_are_written_to(server: live.LiveServer) -> None:
    here = pinned(server)
    for _ in range(5):
        with writing(server), moment.opened(here, _NAMES, CancelToken()) as found:
            bank, shop = (seen(server, found, name, "SELECT count(*) FROM entry") for name in _NAMES)
        assert found.apart is None
        assert bank in (shop, int(str(shop)) + 1)  # the first is written first


def test_a_primary_that_is_left_alone_stays_the_same_and_every_change_shows(server: live.LiveServer) -> None:
    with primary.connect(pinned(server)) as conn:
        with moment.opened(pinned(server), _NAMES, CancelToken()) as found:
            states = [found.identity]
        assert moment.state(conn, "x") == states[0]
        for change in (
            "INSERT INTO other VALUES (1)",
            "UPDATE other SET n = 2",
            "TRUNCATE other",
            "ALTER TABLE other ADD x int",
            "SELECT lo_create(0)",
            "ALTER DATABASE shop SET work_mem = '5MB'",
            "CREATE ROLE newcomer; DROP ROLE newcomer",
        ):
            server.sql(change, "shop")
            states.append(moment.state(conn, "x"))
    assert len(set(states)) == len(states)


def test_what_is_open_is_not_seen_and_shows_once_it_is_committed(server: live.LiveServer) -> None:
    with primary.connect(pinned(server)) as conn, server.connect("shop") as writer:
        writer.execute("BEGIN; INSERT INTO other VALUES (1)")
        with moment.opened(pinned(server), ("shop",), CancelToken()) as found:
            before = moment.state(conn, "x")
            assert found.identity == before
            writer.execute("COMMIT")
            assert moment.state(conn, "x") != before


def test_no_session_and_no_lock_is_left_behind(server: live.LiveServer) -> None:
    with moment.opened(pinned(server), _NAMES, CancelToken()) as found:
        found.release("bank")
        locks = (
            "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
            " WHERE datname = '{}' AND mode = 'AccessShareLock' AND relation > 16000"
        )
        while server.sql(locks.format("bank")) != [(0,)]:
            pass
        assert server.sql(locks.format("shop")) == [(2,)]
    server.require_left()


def test_a_held_table_cannot_be_emptied_until_its_database_is_released(server: live.LiveServer) -> None:
    with moment.opened(pinned(server), _NAMES, CancelToken()) as found, server.connect("shop") as other:
        other.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("TRUNCATE other")
        other.execute("INSERT INTO other VALUES (1)")
        found.release("shop")
        other.execute("TRUNCATE other")


def test_a_table_that_was_emptied_before_it_was_held_is_noticed(server: live.LiveServer) -> None:
    with server.connect("shop") as conn:
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        conn.execute("SET LOCAL search_path = pg_catalog")
        assert moment._hold_tables(conn) is None
        conn.execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        server.sql("INSERT INTO other VALUES (1); TRUNCATE other", "shop")
        assert moment._hold_tables(conn) == "public.other"


def test_sessions_that_never_see_the_same_say_how_far_they_are_apart(server: live.LiveServer) -> None:
    with live.live_server(server.programs.major) as elsewhere, ExitStack() as stack:
        elsewhere.sql("CREATE ROLE a; CREATE ROLE b")
        sessions = {
            "shop": stack.enter_context(primary.connect(pinned(server), "shop")),
            "postgres": stack.enter_context(primary.connect(pinned(elsewhere), "postgres")),
        }
        found = moment._find(pinned(server), sessions, CancelToken())
        assert found.apart is not None
        assert found.apart.total_seconds() >= 0


def test_a_standby_is_held_and_identified_by_what_it_replayed(server: live.LiveServer) -> None:
    with server.standby() as standby:
        here = pinned(standby)
        with moment.opened(here, _NAMES, CancelToken()) as found, primary.connect(here) as conn:
            assert found.apart is None
            assert moment.state(conn, "x") == found.identity
            server.sql("INSERT INTO other VALUES (77)", "shop")
            caught_up = "SELECT count(*) FROM other WHERE n = 77"
            while standby.sql(caught_up, "shop") != [(1,)]:
                pass
            assert moment.state(conn, "x") != found.identity
            assert seen(standby, found, "shop", caught_up) == 0


def test_too_few_connections_are_said_at_once_and_leave_none(server: live.LiveServer) -> None:
    server.sql("ALTER ROLE boss CONNECTION LIMIT 1; CREATE ROLE plain LOGIN PASSWORD 'x' CONNECTION LIMIT 1")
    url = server.url("plain", password="x")
    try:
        with (
            pytest.raises(UnavailableError, match="too many connections"),
            moment.opened(primary.parse(url, "dsn"), _NAMES, CancelToken()),
        ):
            pass
        server.require_left()
    finally:
        server.sql("ALTER ROLE boss CONNECTION LIMIT -1; DROP ROLE plain")
