"""What readers of a clone see, and what they never do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from reconciler.engines.base import UserWish
from reconciler.engines.postgres import server
from reconciler.state.servers import Endpoint

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


@pytest.fixture(scope="module", params=["15", "18"])
def clone(request: pytest.FixtureRequest, make_harness: Callable[[str], PostgresHarness]) -> Iterator[Clones]:
    harness = make_harness(request.param)
    work = harness.build_work()
    snapshot = harness.build(work, "CREATE DATABASE shop", _THINGS.format(schema="built"))
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


def test_a_user_that_made_things_for_readers_can_go(clone: Clones) -> None:
    clone.harness.engine.deliver(clone.work, [], ["later"])
    with server.connect(clone.work, "shop") as conn:
        assert conn.execute("SELECT count(*) FROM pg_roles WHERE rolname = 'later'").fetchone() == (0,)
