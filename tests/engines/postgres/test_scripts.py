"""Scripts and checks of specs, on a running build server."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres import scripts, server
from reconciler.errors import CancelledError, CheckFailedError, ScriptError
from reconciler.state.desired import Check, Script

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.postgres


@pytest.fixture
def shop(build: Cluster) -> Cluster:
    build.tool("psql", "-X", "-q", "-c", "CREATE DATABASE shop")
    script = "CREATE ROLE app; CREATE TABLE theirs AS SELECT 1 AS a; ALTER TABLE theirs OWNER TO app;"
    build.tool("psql", "-X", "-q", "-c", f"{script} CREATE TABLE admins AS SELECT 2 AS a", database="shop")
    return build


def run(
    made: Cluster,
    text: str,
    *,
    database: str | None = None,
    databases: tuple[str, ...] = ("shop",),
    first_line: int = 1,
    superuser: bool = False,
) -> None:
    script = Script("sql/trim.sql", text, database=database, first_line=first_line)
    scripts.run_script(made.work(superuser=superuser), script, databases=databases)


def check(made: Cluster, sql: str, *, database: str | None = None) -> None:
    wanted = Check(sql, database=database, origin="images/shop.yaml", first_line=12)
    scripts.run_check(made.work(), wanted, databases=("shop",))


def test_a_script_changes_what_any_role_owns(shop: Cluster) -> None:
    run(shop, "UPDATE theirs SET a = 10; UPDATE admins SET a = 20; ALTER TABLE theirs ADD b int; CREATE TABLE own ()")

    assert shop.query("shop", "SELECT t.a, s.a FROM theirs t, admins s") == [(10, 20)]


def test_a_script_stops_at_its_first_error_and_says_where(shop: Cluster) -> None:
    text = "UPDATE theirs SET a = 5;\n\nUPDATE theirs\n   SET nowhere = 'private';\nUPDATE theirs SET a = 6;"

    with pytest.raises(ScriptError) as caught:
        run(shop, text, first_line=40)

    assert str(caught.value).startswith('sql/trim.sql:42: column "nowhere"')
    assert "UPDATE theirs SET nowhere" in str(caught.value)
    assert "private" not in str(caught.value)
    assert shop.query("shop", "SELECT a FROM theirs") == [(5,)]


_RAISING = """
CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
 RAISE 'bad %', 'PRIVATE' USING HINT = 'PRIVATE';
END $$;
SELECT f();
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('COPY theirs FROM stdin;\n41"PRIVATE"11\n\\.\n', 'for type integer: "…" (column a)'),
        ("COPY theirs FROM stdin;\n4111111111111111\n\\.\n", 'value "…" is out of range for type integer (column a)'),
        ("SELECT '4111111111111111e400'::real", '"…" is out of range for type real'),
        ("SELECT to_date('PRIVATE', 'YYYY')", 'invalid value "…"'),
        ("SELECT decode('PRIVATE', 'hex')", 'invalid hexadecimal digit: "…"'),
        ("SELECT 'PRIVATE:('::tsquery", 'syntax error in tsquery: "…"'),
        ("SELECT date_trunc('PRIVATE', now())", 'unit "…" not recognized'),
        ("ALTER TABLE theirs ADD CONSTRAINT c CHECK (a > 5)", 'check constraint "c" of relation "theirs" is violated'),
        (_RAISING, "SQLSTATE P0001 raised by PL/pgSQL function f() line 3 at RAISE; its text may quote rows, in:"),
        ("SELECT a FORM theirs", 'syntax error at or near "theirs"'),
    ],
)
def test_an_error_quotes_names_and_never_values(shop: Cluster, text: str, expected: str) -> None:
    with pytest.raises(ScriptError) as caught:
        run(shop, text)

    assert expected in str(caught.value)
    assert "PRIVATE" not in str(caught.value)
    assert "4111111111111111" not in str(caught.value)


def test_a_script_may_bring_rows_along(shop: Cluster) -> None:
    run(shop, "COPY theirs FROM stdin;\n7\n8\n\\.\nDELETE FROM theirs WHERE a = 8")

    assert shop.query("shop", "SELECT a FROM theirs ORDER BY a") == [(1,), (7,)]


def test_a_script_may_go_on_in_another_database(shop: Cluster) -> None:
    shop.tool("psql", "-X", "-q", "-c", "CREATE DATABASE other")

    run(shop, "\\c other\nCREATE TABLE here (a int);", databases=("shop", "other"), database="shop")

    assert shop.query("other", "SELECT count(*) FROM here") == [(0,)]
    with pytest.raises(ScriptError, match="cannot connect to database nonsuch"):
        run(shop, "\\c nonsuch\n")


def test_a_script_must_name_its_database_when_there_are_several(shop: Cluster) -> None:
    with pytest.raises(ScriptError, match="one of: shop, other"):
        run(shop, "SELECT 1", databases=("shop", "other"))
    with pytest.raises(ScriptError, match="no database shpo; there are: shop"):
        run(shop, "SELECT 1", database="shpo")


def test_no_value_of_a_row_gets_into_the_log_of_a_build(shop: Cluster) -> None:
    run(shop, "DO $$BEGIN RAISE LOG 'PRIVATE'; RAISE WARNING 'PRIVATE'; END$$")
    with pytest.raises(ScriptError):
        run(shop, "SELECT 'PRIVATE'::int")

    assert "PRIVATE" not in (shop.root / "log").read_text()


def test_a_script_without_commit_is_an_error(shop: Cluster) -> None:
    with pytest.raises(ScriptError, match="COMMIT is missing"):
        run(shop, "BEGIN; DELETE FROM theirs")

    assert shop.query("shop", "SELECT count(*) FROM theirs") == [(1,)]


@pytest.mark.parametrize(
    "text", ["\\! id", "COPY theirs FROM PROGRAM 'id'", "ALTER ROLE app SUPERUSER", "SELECT pg_read_file('PG_VERSION')"]
)
def test_a_script_has_no_power_over_the_host(shop: Cluster, text: str) -> None:
    with pytest.raises(ScriptError, match=r"refused|superuserScripts"):
        run(shop, text)


def test_a_granted_script_has_superuser_rights_but_no_programs(shop: Cluster) -> None:
    run(shop, "ALTER ROLE app SUPERUSER; CREATE TABLE deep (a int);", superuser=True)

    assert shop.query("shop", "SELECT rolsuper FROM pg_roles WHERE rolname = 'app'") == [(True,)]
    assert shop.query("shop", "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'deep'") == [
        ("public",)
    ]
    with pytest.raises(ScriptError, match="refused"):
        run(shop, "COPY theirs FROM PROGRAM 'id'", superuser=True)


def test_no_script_sees_a_password_of_production(shop: Cluster) -> None:
    shop.tool("psql", "-X", "-q", "-c", "ALTER ROLE app PASSWORD 'private'")

    run(shop, "CREATE TABLE found AS SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL")

    assert shop.query("shop", "SELECT count(*) FROM found") == [(0,)]


def test_a_cancelled_script_ends_at_once(shop: Cluster) -> None:
    work = shop.work()
    script = Script("sql/slow.sql", "SELECT pg_sleep(300)")
    threading.Timer(0.3, work.cancel.cancel).start()

    with pytest.raises(CancelledError):
        scripts.run_script(work, script, databases=("shop",))


def test_a_true_check_passes(shop: Cluster) -> None:
    check(shop, "SELECT count(*) = 1 FROM theirs;")


@pytest.mark.parametrize(
    "sql", ["SELECT false", "SELECT NULL::bool", "SELECT 1", "SELECT true WHERE false", "SELECT true, true"]
)
def test_anything_but_one_true_value_fails(shop: Cluster, sql: str) -> None:
    with pytest.raises(CheckFailedError, match=r"images/shop\.yaml:12: the check .* database shop"):
        check(shop, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT nowhere",
        "DELETE FROM theirs RETURNING true",
        "SELECT true; SELECT true",
        "COMMIT",
        "COPY theirs TO stdout",
    ],
)
def test_a_check_only_asks(shop: Cluster, sql: str) -> None:
    with pytest.raises((ScriptError, CheckFailedError), match=r"images/shop\.yaml:12"):
        check(shop, sql)

    assert shop.query("shop", "SELECT count(*) FROM theirs") == [(1,)]


def test_a_script_runs_on_an_older_server(build_older: Cluster) -> None:
    build_older.tool("psql", "-X", "-q", "-c", "CREATE DATABASE shop")

    run(build_older, "CREATE TABLE t (a int); INSERT INTO t VALUES (1)")

    assert build_older.query("shop", "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 't'") == [
        (server.BUILDER,)
    ]
