"""A hand-made production cluster becomes a snapshot that cannot call home and holds none of its secrets."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest

from reconciler import proc
from reconciler.engines.base import LocalSource, UserWish
from reconciler.engines.postgres import isolate, server
from reconciler.engines.postgres.engine import CLONE_STOP
from reconciler.errors import SourceError
from reconciler.state.servers import Endpoint, ServerSpec
from reconciler.testing.engine import manifest
from tests.support import OLDER_MAJOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from reconciler.state.observed import SnapshotManifest
    from tests.engines.conftest import PostgresHarness

    from .conftest import Cluster

pytestmark = pytest.mark.postgres

_PRODUCTION = """
CREATE ROLE alice SUPERUSER LOGIN PASSWORD 'alice-password';
CREATE ROLE app LOGIN CREATEROLE PASSWORD 'app-password' VALID UNTIL '2001-01-01';
CREATE ROLE ops LOGIN PASSWORD 'ops-password';
GRANT boss, pg_execute_server_program TO ops;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO app;
CREATE DATABASE shop OWNER app;
CREATE DATABASE hidden;
ALTER DATABASE shop SET session_preload_libraries = 'absent_library';
ALTER DATABASE shop SET app.api_key = 'setting-password';
ALTER ROLE app SET app.api_key = 'setting-password';
ALTER ROLE app SET session_replication_role = 'replica';
ALTER ROLE app SET work_mem = '9MB';
ALTER ROLE boss SET default_transaction_read_only = on;
"""
_SHOP = """
SET session_preload_libraries = '';
CREATE TABLE customer (id int PRIMARY KEY, name text);
INSERT INTO customer VALUES (1, 'Ada');
CREATE TABLE of_alice (id serial PRIMARY KEY);
ALTER TABLE of_alice OWNER TO alice;
CREATE TABLE of_app (id int);
ALTER TABLE of_app OWNER TO app;
CREATE TYPE mood AS ENUM ('fine');
CREATE FUNCTION who() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text';
CREATE FUNCTION trip() RETURNS event_trigger LANGUAGE plpgsql AS
    $$BEGIN IF session_user NOT IN ('app', 'bob') THEN RAISE EXCEPTION 'production acted'; END IF; END$$;
CREATE SUBSCRIPTION news CONNECTION 'host=127.0.0.1 port=1 dbname=x password=subscription-password' PUBLICATION p
    WITH (connect = false, slot_name = 'news');
INSERT INTO pg_subscription_rel SELECT oid, 'customer'::regclass, 'd', NULL FROM pg_subscription;
CREATE PUBLICATION all_of_it FOR ALL TABLES;
CREATE EXTENSION postgres_fdw;
CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'production.example', dbname 'x');
CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'u', password 'mapping-password');
CREATE FOREIGN TABLE remote (id int) SERVER far OPTIONS (table_name 'customer');
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE program (line text) SERVER files OPTIONS (program 'touch production-acted');
CREATE EXTENSION dblink;
CREATE FUNCTION home() RETURNS text LANGUAGE sql SECURITY DEFINER AS
    $$SELECT dblink_connect('host=127.0.0.1 port=1 user=u password=p')$$;
CREATE SCHEMA cron;
CREATE TABLE cron.job (jobid int, command text);
INSERT INTO cron.job VALUES (1, 'SELECT 1');
SELECT pg_create_logical_replication_slot('slot', 'pgoutput');
SELECT lo_from_bytea(0, 'large');
ANALYZE;
CREATE EVENT TRIGGER trip ON ddl_command_start EXECUTE FUNCTION trip();
"""
_SECRETS = (
    b"SCRAM-SHA-256$",
    b"setting-password",
    b"subscription-password",
    b"mapping-password",
    b"production.example",
)
_OLD_SETTINGS = """
wal_level = logical
max_prepared_transactions = 7
max_connections = 137
archive_mode = on
archive_command = 'touch production-acted'
max_wal_senders = 5
listen_addresses = ''
"""


class Sealed(NamedTuple):
    harness: PostgresHarness
    directory: Path
    snapshot: SnapshotManifest
    before: set[bytes]


@pytest.fixture(scope="module", params=[(OLDER_MAJOR, "files"), ("18", "backup")], ids=["files", "backup"])
def sealed(request: pytest.FixtureRequest, make_harness: Callable[[str], PostgresHarness]) -> Sealed:
    """A snapshot built from production's files, and which secrets the files held before."""
    major, kind = request.param
    harness = make_harness(major)
    stopped, backup = _production(harness)
    production = stopped if kind == "files" else backup
    before = secrets_in(production)
    work = harness.build_work(source=LocalSource(kind, production))
    harness.engine.prepare(work)
    with harness.serving(harness.engine.build_server(work)), harness.engine.session(work) as session:
        session.restore()
        session.keep_databases()
        session.isolate()
        session.settle()
    return Sealed(harness, work.directory, manifest(harness.engine, harness.engine.finish(work)), before)


@pytest.fixture(scope="module")
def clone(sealed: Sealed) -> Iterator[Endpoint]:
    """A running clone whose owner is ``app``, a name that production has as well."""
    harness = sealed.harness
    work = harness.clone_work(sealed.directory, sealed.snapshot, port=harness.free_port())
    with harness.serving(harness.engine.clone_server(work)):
        harness.engine.deliver(work, [UserWish("app", "owner", "new"), UserWish("bob", "owner", "new")], [])
        yield Endpoint(work.host, work.port or 0, "shop", "app")


def _production(harness: PostgresHarness) -> tuple[Path, Path]:
    """Make, fill, back up and stop production's cluster; return its data directory and its backup."""
    volume, run = harness.volume(), harness.run_directory()
    data = volume / "data"
    initdb = server.program(harness.installed, "initdb")
    proc.run(
        [initdb, "-D", data, "-U", "boss", "-E", "UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync"],
        account=harness.account(),
        env=server.server_environment(),
    )
    with (data / "postgresql.conf").open("a") as file:
        file.write(_OLD_SETTINGS + f"unix_socket_directories = '{run}'\n")
    spec = ServerSpec(
        name=harness.build_work().server,
        argv=(str(server.program(harness.installed, "postgres")), "-D", str(data)),
        directory=data,
        env=server.server_environment(),
        account=harness.account(),
        ready=lambda: (run / ".s.PGSQL.5432").exists() and _answers(run),
        stop_signals=CLONE_STOP,
    )
    with harness.serving(spec):
        with _connect(run, "postgres") as conn:
            for statement in _PRODUCTION.strip().splitlines():
                conn.execute(statement.encode())
        with _connect(run, "shop") as conn:
            for statement in re.split(r";\n", _SHOP):
                conn.execute(statement.encode())
        with _connect(run, "shop") as conn:
            conn.execute("BEGIN; INSERT INTO customer VALUES (2, 'Prepared'); PREPARE TRANSACTION 'pending'")
        with _connect(run, "postgres") as conn:
            conn.execute("ALTER DATABASE hidden ALLOW_CONNECTIONS false")
            conn.execute("ALTER SYSTEM SET work_mem = '5MB'")
        backup = harness.volume() / "backup"
        basebackup = server.program(harness.installed, "pg_basebackup")
        argv: list[str | Path] = [basebackup, "-h", run, "-U", "boss", "-D", backup, "--checkpoint=fast", "--no-sync"]
        proc.run(argv, account=harness.account(), env=server.server_environment())
    return data, backup


def _connect(run: Path, database: str) -> psycopg.Connection:
    options = "-c session_preload_libraries= -c default_transaction_read_only=off"
    return psycopg.connect(host=str(run), dbname=database, user="boss", options=options, autocommit=True)


def _answers(run: Path) -> bool:
    try:
        _connect(run, "postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def secrets_in(directory: Path) -> set[bytes]:
    """Return which secrets occur in any file below a directory."""
    found: set[bytes] = set()
    for path in directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found |= {secret for secret in _SECRETS if secret in content}
    return found


def test_no_file_of_a_snapshot_holds_a_secret_of_production(sealed: Sealed) -> None:
    assert sealed.before == set(_SECRETS)
    assert secrets_in(sealed.directory) == set()


def test_a_snapshot_is_its_data_directory_and_nothing_else(sealed: Sealed) -> None:
    data = sealed.directory / "data"
    assert [entry.name for entry in sealed.directory.iterdir()] == ["data"]
    assert data.stat().st_mode & 0o777 == 0o700
    assert [name for name in ("postgresql.conf", "pg_hba.conf", "postmaster.pid") if (data / name).exists()] == []
    assert list((data / "pg_replslot").iterdir()) == []


def test_a_snapshot_says_what_its_servers_need(sealed: Sealed) -> None:
    assert sealed.snapshot.required == {"max_connections": "137", "max_prepared_transactions": "7"}
    assert sealed.snapshot.facts["admin"] == "boss"
    assert sealed.snapshot.databases == ("hidden", "shop")


def test_production_logins_and_their_powers_are_gone(sealed: Sealed, clone: Endpoint) -> None:
    with sealed.harness.connect(clone, "new") as conn:
        rows = conn.execute(
            "SELECT rolname, rolcanlogin, rolsuper, rolcreaterole FROM pg_roles"
            " WHERE rolname IN ('alice', 'ops', 'app')"
        ).fetchall()
        members = conn.execute(
            "SELECT count(*) FROM pg_auth_members WHERE roleid IN (10, 'pg_execute_server_program'::regrole)"
        ).fetchone()
    assert sorted(rows) == [
        ("alice", False, False, False),
        ("app", True, False, False),
        ("ops", False, False, False),
    ]
    assert members == (0,)


@pytest.mark.parametrize(
    ("relation", "expected"),
    [
        ("pg_subscription", 0),
        ("pg_replication_slots", 0),
        ("pg_user_mappings", 0),
        ("pg_prepared_xacts", 0),
        ("cron.job", 0),
        ("pg_foreign_server WHERE srvoptions IS NOT NULL", 0),
        ("pg_foreign_table WHERE ftoptions IS NOT NULL", 1),
        ("customer", 1),
        ("pg_publication", 0),
    ],
)
def test_what_could_act_or_call_home_is_cut(sealed: Sealed, clone: Endpoint, relation: str, expected: int) -> None:
    columns = "count(subname)" if relation == "pg_subscription" else "count(*)"
    with sealed.harness.connect(clone, "new") as conn:
        found = conn.execute(f"SELECT {columns} FROM {relation}".encode()).fetchone()
    assert found == (expected,)


def test_of_the_settings_of_roles_and_databases_only_harmless_ones_stay(sealed: Sealed, clone: Endpoint) -> None:
    with sealed.harness.connect(clone, "new") as conn:
        assert conn.execute("SELECT setconfig FROM pg_db_role_setting").fetchall() == [(["work_mem=9MB"],)]
        assert conn.execute("SHOW session_replication_role").fetchone() == ("origin",)


@pytest.mark.parametrize("user", ["app", "bob"])
def test_an_owner_may_change_everything_that_production_owned(sealed: Sealed, clone: Endpoint, user: str) -> None:
    with sealed.harness.connect(replace(clone, user=user), "new") as conn, conn.transaction(force_rollback=True):
        for statement in (
            "ALTER TABLE customer ADD COLUMN more text",
            "ALTER TABLE of_alice ADD COLUMN more text",
            "ALTER TABLE of_app ADD COLUMN more text",
            "ALTER TYPE mood ADD VALUE 'better'",
            "ALTER FUNCTION who() RENAME TO whom",
            "CREATE SCHEMA mine",
            "CREATE TABLE public.mine (id int)",
        ):
            conn.execute(statement.encode())
        assert conn.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata").fetchall() == [(1,)]


def test_an_owner_has_no_way_to_a_superuser(sealed: Sealed, clone: Endpoint) -> None:
    with sealed.harness.connect(clone, "new") as conn:
        assert conn.execute("SELECT who()").fetchone() == ("reconciler_owner",)
        for statement in (
            "ALTER EVENT TRIGGER trip DISABLE",
            "SET ROLE boss",
            "SET ROLE alice",
            "COPY customer FROM PROGRAM 'true'",
            "SELECT pg_read_file('PG_VERSION')",
            "ALTER ROLE bob SUPERUSER",
            "ALTER SYSTEM SET archive_command = 'true'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())


def test_functions_that_connect_to_other_hosts_cannot_be_called(sealed: Sealed, clone: Endpoint) -> None:
    with sealed.harness.connect(clone, "new") as conn:
        for statement in ("SELECT home()", "SELECT dblink_connect('x', 'host=127.0.0.1 port=1')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="dblink_connect"):
                conn.execute(statement.encode())


def test_a_program_behind_a_foreign_table_does_not_run(sealed: Sealed, clone: Endpoint) -> None:
    with sealed.harness.connect(clone, "new") as conn, pytest.raises(psycopg.Error):
        conn.execute("SELECT * FROM program")


_TRAP = """
CREATE FUNCTION public.trap() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        ALTER ROLE reconciler_builder SUPERUSER;
    END IF;
    RETURN NEW;
END $$;
CREATE SCHEMA timetable;
CREATE TABLE timetable.chain (live bool);
INSERT INTO timetable.chain VALUES (true);
CREATE TRIGGER trap BEFORE UPDATE ON timetable.chain FOR EACH ROW EXECUTE FUNCTION public.trap();
ALTER TABLE timetable.chain ENABLE ALWAYS TRIGGER trap;
"""


def test_code_behind_a_table_of_jobs_does_not_run_as_the_admin(build: Cluster) -> None:
    _database_of_the_builder(build, _TRAP)
    isolate.isolate_cluster(build.work())
    assert build.query("shop", "SELECT live FROM timetable.chain") == [(False,)]
    assert build.query("shop", "SELECT rolsuper FROM pg_roles WHERE rolname = 'reconciler_builder'") == [(False,)]


def test_a_table_that_only_has_the_name_of_a_scheduler_s_is_left_alone(build: Cluster) -> None:
    _database_of_the_builder(build, "CREATE SCHEMA timetable; CREATE TABLE timetable.chain (city text)")
    isolate.isolate_cluster(build.work())
    assert build.query("shop", "SELECT count(*) FROM timetable.chain") == [(0,)]


def test_jobs_that_cannot_be_stopped_fail_the_build(build: Cluster) -> None:
    refuse = "BEGIN RAISE EXCEPTION 'secret of a row'; END"
    _database_of_the_builder(build, re.sub(r"(?s)BEGIN.*?END (?=\$)", refuse, _TRAP))
    with pytest.raises(SourceError, match=r"timetable.chain of database shop cannot be stopped: RaiseException \("):
        isolate.isolate_cluster(build.work())


def test_event_triggers_fire_in_no_session_of_the_admin(build_older: Cluster) -> None:
    build_older.tool("psql", "-X", "-q", "-c", "CREATE DATABASE shop")
    trip = "CREATE FUNCTION trip() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'"
    always = "CREATE EVENT TRIGGER trip ON ddl_command_start EXECUTE FUNCTION trip(); ALTER EVENT TRIGGER trip ENABLE"
    build_older.tool("psql", "-X", "-q", "-c", trip, "-c", f"{always} ALWAYS", database="shop")
    isolate.isolate_cluster(build_older.work())
    assert build_older.query("shop", "SELECT evtenabled FROM pg_event_trigger") == [("O",)]


def _database_of_the_builder(made: Cluster, script: str) -> None:
    made.tool("psql", "-X", "-q", "-c", f"CREATE DATABASE shop OWNER {server.BUILDER}")
    with server.connect(made.work(), "shop", role=server.BUILDER) as conn:
        conn.execute(script.encode())
