"""Users of a clone: their rights, their end, and what nobody gets to see."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest

from reconciler.engines.base import UserWish
from reconciler.engines.postgres import server
from reconciler.errors import PermanentError
from reconciler.state.desired import Script
from reconciler.state.servers import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reconciler.engines.base import CloneWork
    from reconciler.state.servers import ServerSpec
    from tests.engines.conftest import PostgresHarness

pytestmark = pytest.mark.postgres
_SECRET = "s3cret-of-a-user"  # a literal that must not turn up anywhere


class Running(NamedTuple):
    harness: PostgresHarness
    work: CloneWork
    spec: ServerSpec

    def deliver(self, *users: UserWish, drop: tuple[str, ...] = ()) -> None:
        self.harness.engine.deliver(self.work, users, drop)

    def connect(self, user: str) -> psycopg.Connection:
        return self.harness.connect(Endpoint(self.work.host, self.work.port or 0, "shop", user), _SECRET)


@pytest.fixture(scope="module")
def running(make_harness: Callable[[str], PostgresHarness]) -> Iterator[Running]:
    harness = make_harness(server.choose().major)
    chosen = {"log_statement": "all", "log_min_duration_statement": "0"}
    clone = replace(harness.clone_of_shop(), parameters=chosen)
    spec = harness.engine.clone_server(clone)
    with harness.serving(spec):
        yield Running(harness, clone, spec)


def test_neither_a_password_nor_its_verifier_is_logged(running: Running) -> None:
    running.deliver(UserWish("logged", "owner", _SECRET))
    with running.connect("logged") as conn:
        conn.execute("SELECT 'positive control'")
    log = running.harness.log(running.spec).read_text()
    assert "positive control" in log
    assert _SECRET not in log
    assert "SCRAM-SHA-256" not in log


def test_roles_change_in_place(running: Running) -> None:
    running.deliver(UserWish("changing", "superuser", _SECRET))
    with running.connect("changing") as conn:
        conn.execute("COPY (SELECT 1) TO PROGRAM 'cat >/dev/null'")
    running.deliver(UserWish("changing", "readonly", _SECRET))
    with running.connect("changing") as conn:
        assert conn.execute("SELECT count(*) FROM item").fetchone() == (1,)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            conn.execute("DELETE FROM item")
        conn.execute("SET default_transaction_read_only = off")
        for statement in ("DELETE FROM item", "COPY (SELECT 1) TO PROGRAM 'true'", "CREATE TABLE mine (id int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())
    running.deliver(UserWish("changing", "owner", _SECRET))
    with running.connect("changing") as conn:
        conn.execute("ALTER TABLE item ADD COLUMN more int")
        conn.execute("ALTER TABLE item DROP COLUMN more")


def test_an_owner_owns_also_when_production_has_a_role_of_its_name_that_inherits_nothing(running: Running) -> None:
    with server.connect(running.work, "shop") as conn:
        conn.execute("CREATE ROLE careful NOINHERIT NOLOGIN")
    running.deliver(UserWish("careful", "owner", _SECRET))
    with running.connect("careful") as conn:
        conn.execute("ALTER TABLE item ADD COLUMN more int")
        conn.execute("ALTER TABLE item DROP COLUMN more")


def test_a_reader_keeps_nothing_that_a_role_of_its_name_could_change(running: Running) -> None:
    with server.connect(running.work, "shop") as conn:
        conn.execute("CREATE ROLE writers; CREATE ROLE reporting IN ROLE writers")
        conn.execute("GRANT DELETE ON public.item TO writers; GRANT UPDATE ON public.item TO reporting")
    running.deliver(UserWish("demoted", "owner", _SECRET))
    with running.connect("demoted") as conn:
        conn.execute("CREATE TABLE of_demoted (name text)")
    running.deliver(UserWish("reporting", "readonly", _SECRET), UserWish("demoted", "readonly", _SECRET))
    for user in ("reporting", "demoted"):
        with running.connect(user) as conn:
            conn.execute("SET default_transaction_read_only = off")
            for statement in ("DELETE FROM item", "UPDATE item SET name = 'x'", "INSERT INTO of_demoted VALUES ('x')"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    conn.execute(statement.encode())


def test_what_a_dropped_user_made_stays_with_the_other_owners(running: Running) -> None:
    running.deliver(UserWish("leaving", "owner", _SECRET), UserWish("staying", "owner", _SECRET))
    with running.connect("leaving") as conn:
        conn.execute("CREATE TABLE left_behind (id int)")
        conn.execute("CREATE DATABASE left_behind")
        running.deliver(UserWish("staying", "owner", _SECRET), drop=("leaving", "absent"))
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
    with running.connect("staying") as conn:
        conn.execute("DROP TABLE left_behind")
        conn.execute("DROP DATABASE left_behind")
        assert conn.execute("SELECT count(*) FROM pg_roles WHERE rolname = 'leaving'").fetchone() == (0,)
    with pytest.raises(psycopg.OperationalError):
        running.connect("leaving")


def test_a_superuser_goes_whatever_it_made(running: Running) -> None:
    made = (
        "CREATE FUNCTION of_boss() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE EVENT TRIGGER of_boss ON ddl_command_end EXECUTE FUNCTION of_boss()",
        "ALTER EVENT TRIGGER of_boss ENABLE ALWAYS",
        "CREATE EVENT TRIGGER off_of_boss ON ddl_command_end EXECUTE FUNCTION of_boss()",
        "ALTER EVENT TRIGGER off_of_boss DISABLE",
        "CREATE PUBLICATION of_boss FOR ALL TABLES",
        "CREATE SUBSCRIPTION of_boss CONNECTION 'host=nowhere.invalid' PUBLICATION p WITH (connect = false)",
        "CREATE FOREIGN DATA WRAPPER of_boss",
        "CREATE TABLE of_boss (id int)",
        "SELECT lo_create(0)",
    )
    running.deliver(UserWish("boss", "superuser", _SECRET), UserWish("heir", "owner", _SECRET))
    with running.connect("boss") as conn:
        for statement in made:
            conn.execute(statement.encode())
    running.deliver(UserWish("heir", "owner", _SECRET), drop=("boss",))
    with running.connect("heir") as conn:
        assert conn.execute("SELECT count(*) FROM pg_roles WHERE rolname = 'boss'").fetchone() == (0,)
        conn.execute("DROP TABLE of_boss")
        triggers = conn.execute("SELECT evtname, evtenabled, evtowner::int FROM pg_event_trigger ORDER BY 1").fetchall()
        assert triggers == [("of_boss", "O", 10), ("off_of_boss", "D", 10)]
        assert conn.execute("SELECT pubowner::int FROM pg_publication").fetchall() == [(10,)]


@pytest.mark.parametrize("name", ["reconciler_admin", "reconciler_owner", "pg_monitor"])
def test_names_of_the_server_itself_are_refused(running: Running, name: str) -> None:
    with pytest.raises(PermanentError, match=name):
        running.deliver(UserWish(name, "owner", _SECRET))
    with pytest.raises(PermanentError, match=name):
        running.deliver(drop=(name,))


def test_odd_names_and_passwords_are_only_data(running: Running) -> None:
    name, password = 'o"dd; DROP ROLE x', 'it\'s \\ "quoted" é'
    running.deliver(UserWish(name, "owner", password))
    endpoint = Endpoint(running.work.host, running.work.port or 0, "shop", name)
    with running.harness.connect(endpoint, password) as conn:
        assert conn.execute("SELECT current_user").fetchone() == (name,)
    url = running.harness.engine.url(endpoint, password)
    with psycopg.connect(url) as conn:
        assert conn.execute("SELECT current_user::text").fetchone() == (name,)


def test_the_builder_of_a_clones_scripts_is_gone_afterwards(running: Running) -> None:
    running.harness.engine.run_scripts(running.work, [])
    with server.connect(running.work, "shop") as conn:
        found = conn.execute("SELECT count(*) FROM pg_roles WHERE rolname = %s", [server.BUILDER]).fetchone()
    assert found == (0,)


def test_scripts_leave_no_login_but_those_of_the_clones_users(running: Running) -> None:
    running.deliver(UserWish("kept", "owner", _SECRET))
    made = "CREATE ROLE back LOGIN CREATEROLE PASSWORD 'door'; CREATE ROLE side CREATEROLE; GRANT side TO back"
    running.harness.engine.run_scripts(running.work, [Script("roles.sql", made, database="shop")])
    with server.connect(running.work, "shop") as conn:
        rows = conn.execute(
            "SELECT rolname, rolcanlogin, rolcreaterole, rolpassword IS NULL FROM pg_authid"
            " WHERE rolname IN ('back', 'side', 'kept') ORDER BY 1"
        ).fetchall()
    assert rows == [("back", False, False, True), ("kept", True, False, False), ("side", False, False, True)]
    running.connect("kept").close()


def test_readers_see_what_scripts_made(running: Running) -> None:
    running.deliver(UserWish("watching", "readonly", _SECRET))
    made = "CREATE SCHEMA scripted; CREATE TABLE scripted.made (id int)"
    running.harness.engine.run_scripts(running.work, [Script("tables.sql", made, database="shop")])
    with running.connect("watching") as conn:
        assert conn.execute("SELECT count(*) FROM scripted.made").fetchone() == (0,)
