"""What readers of a clone see, and what they never do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from reconciler.engines.base import UserWish
from reconciler.engines.postgres import server
from reconciler.state.servers import Endpoint
from tests.support import OLDER_MAJOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reconciler.engines.base import CloneWork
    from tests.engines.conftest import PostgresHarness

pytestmark = pytest.mark.postgres
_PASSWORD = "a password"
_THINGS = """
CREATE SCHEMA {schema};
CREATE TABLE {schema}.plain (id serial);
CREATE TABLE {schema}.parted (id int) PARTITION BY LIST (id);
CREATE TABLE {schema}.part PARTITION OF {schema}.parted DEFAULT;
CREATE VIEW {schema}.view AS SELECT * FROM {schema}.plain;
CREATE MATERIALIZED VIEW {schema}.stored AS SELECT * FROM {schema}.plain;
"""
_OPEN_TO_ALL = """
CREATE TABLE open (id int, name text);
GRANT ALL ON open TO PUBLIC;
CREATE TABLE half_open (id int, name text);
GRANT UPDATE (name) ON half_open TO PUBLIC;
CREATE SEQUENCE counter;
GRANT ALL ON SEQUENCE counter TO PUBLIC;
CREATE SCHEMA free;
GRANT ALL ON SCHEMA free TO PUBLIC;
SELECT lo_create(4711);
GRANT ALL ON LARGE OBJECT 4711 TO PUBLIC;
CREATE TABLE guarded (id int);
INSERT INTO guarded VALUES (1);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
"""
_WRITES = (
    "INSERT INTO open VALUES (1)",
    "UPDATE open SET id = 2",
    "DELETE FROM open",
    "TRUNCATE open",
    "UPDATE half_open SET name = 'x'",
    "SELECT nextval('counter')",
    "CREATE TABLE free.made (id int)",
    "CREATE TABLE public.made (id int)",
    "CREATE SCHEMA made",
    "CREATE TEMPORARY TABLE made (id int)",
    "SELECT lo_put(4711, 0, 'x')",
)
_RELATIONS = ("plain", "parted", "part", "view", "stored", "plain_id_seq")
_SECRETS = (
    "pg_authid",
    "pg_user_mapping",
    "pg_statistic",
    "pg_statistic_ext_data",
    "pg_subscription",
    "pg_shadow",
    "pg_file_settings",
)


class Clones:
    """A running clone of a version, whose users are delivered one after the other."""

    def __init__(self, harness: PostgresHarness, work: CloneWork) -> None:
        self.harness = harness
        self.work = work

    def deliver(self, *names: str) -> None:
        roles = {"own": "owner", "later": "owner", "boss": "superuser", "ro": "readonly"}
        wishes = [UserWish(name, roles[name], _PASSWORD) for name in names]  # type: ignore[arg-type] # literals above
        self.harness.engine.deliver(self.work, wishes, [])

    def connect(self, user: str, database: str = "shop") -> psycopg.Connection:
        return self.harness.connect(Endpoint(self.work.host, self.work.port or 0, database, user), _PASSWORD)

    def make(self, user: str, schema: str, database: str = "shop") -> None:
        with self.connect(user, database) as conn:
            conn.execute(_THINGS.format(schema=schema).encode())

    def read(self, schema: str, database: str = "shop") -> None:
        with self.connect("ro", database) as conn:
            for relation in _RELATIONS:
                conn.execute(f"SELECT * FROM {schema}.{relation}".encode())


@pytest.fixture(scope="module", params=[OLDER_MAJOR, "18"])
def clone(request: pytest.FixtureRequest, make_harness: Callable[[str], PostgresHarness]) -> Iterator[Clones]:
    harness = make_harness(request.param)
    work = harness.build_work()
    snapshot = harness.build(work, "CREATE DATABASE shop", _THINGS.format(schema="built") + _OPEN_TO_ALL)
    served = harness.clone_work(work.directory, snapshot, port=harness.free_port())
    with harness.serving(harness.engine.clone_server(served)):
        made = Clones(harness, served)
        made.deliver("own")
        made.make("own", "before")
        made.deliver("own", "later", "boss", "ro")
        yield made


def test_a_reader_reads_what_the_image_has_and_what_was_made_before_it_came(clone: Clones) -> None:
    clone.read("built")
    clone.read("before")


@pytest.mark.parametrize("maker", ["own", "later", "boss"])
def test_a_reader_reads_what_anybody_makes_later(clone: Clones, maker: str) -> None:
    clone.make(maker, f"of_{maker}")
    clone.read(f"of_{maker}")


def test_a_reader_reads_databases_that_are_made_later(clone: Clones) -> None:
    with clone.connect("own") as conn:
        conn.execute("CREATE DATABASE more")
    clone.make("own", "there", "more")
    clone.read("there", "more")


@pytest.mark.parametrize("relation", _SECRETS)
def test_a_reader_sees_no_catalog_with_secrets_or_values_of_rows(clone: Clones, relation: str) -> None:
    with clone.connect("ro") as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(f"SELECT * FROM pg_catalog.{relation}".encode())


@pytest.mark.parametrize("statement", _WRITES)
def test_what_everybody_could_write_in_production_only_owners_write(clone: Clones, statement: str) -> None:
    with clone.connect("ro") as conn:
        conn.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(statement.encode())
    with clone.connect("own") as conn, conn.transaction(force_rollback=True):
        conn.execute(statement.encode())


@pytest.mark.parametrize("user", ["ro", "own"])
def test_row_security_hides_nothing_and_stops_no_dump(clone: Clones, user: str) -> None:
    with clone.connect(user) as conn:
        conn.execute("SET row_security = off")  # as pg_dump does
        assert conn.execute("SELECT count(*) FROM guarded").fetchone() == (1,)


def test_a_user_that_made_things_for_readers_can_go(clone: Clones) -> None:
    clone.harness.engine.deliver(clone.work, [], ["later"])
    with server.connect(clone.work, "shop") as conn:
        assert conn.execute("SELECT count(*) FROM pg_roles WHERE rolname = 'later'").fetchone() == (0,)
