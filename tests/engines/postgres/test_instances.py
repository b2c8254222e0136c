"""PostgreSQL's instances keep the contract; what is served by others there stays as it is."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from reconciler.engines.base import InstanceReach, UserWish
from reconciler.engines.postgres.instance.front import PostgresInstances
from reconciler.engines.postgres.instance.link import Link
from reconciler.errors import UnavailableError
from reconciler.ids import InstallationId, VolumeId
from reconciler.state.hosted import login_name
from reconciler.testing.instance import InstanceHarness, InstanceSuite
from tests.live import LiveServer, live_server
from tests.support import OLDER_MAJOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from reconciler.engines.base import CloneWork, Instance
    from tests.engines.conftest import PostgresHarness

pytestmark = pytest.mark.postgres


class OnPostgres(InstanceHarness):
    count_one = "SELECT 1 / (count(*) = 1)::int FROM item"
    count_two = "SELECT 1 / (count(*) = 2)::int FROM item"

    def __init__(self, engine: PostgresHarness, live: LiveServer) -> None:
        super().__init__()
        self.engine = engine
        self.live = live

    def instance(self, installation: InstallationId) -> Instance:
        return PostgresInstances().at(self.reach(installation))

    def reach(self, installation: InstallationId) -> InstanceReach:
        return InstanceReach(name="shared", installation=installation, secret="dsn", url=self.live.url, connections=20)

    @contextmanager
    def foreign(self, name: str) -> Iterator[None]:
        self.live.sql(f"CREATE DATABASE {name}")
        self.live.sql("CREATE TABLE mine (a int)", name)
        yield
        assert self.live.sql("SELECT count(*) FROM mine", name) == [(0,)]
        self.live.sql(f"DROP DATABASE {name}")

    def execute(self, database: str, login: str, password: str, statement: str) -> None:
        try:
            with psycopg.connect(self.live.url(login, database, password), autocommit=True) as conn:
                conn.execute(statement.encode())
        except psycopg.Error as error:
            raise UnavailableError(str(error)) from error

    def serving(self, work: CloneWork) -> AbstractContextManager[object]:
        return self.engine.serving(self.engine.engine.clone_server(work))


@pytest.fixture(scope="module", params=[OLDER_MAJOR, pytest.param("18", marks=pytest.mark.long)])
def harness(
    request: pytest.FixtureRequest, make_harness: Callable[[str], PostgresHarness]
) -> Iterator[InstanceHarness]:
    with live_server(request.param) as live:
        yield OnPostgres(make_harness(request.param), live)


class TestPostgresInstances(InstanceSuite):
    def test_the_logins_of_a_clone_that_is_being_made_outlive_the_removal_of_another_one(
        self, harness: OnPostgres, instance: Instance, work: CloneWork
    ) -> None:
        hosted, user = harness.hosted(work), UserWish("app", "owner", "a password for now")
        instance.create(hosted, [user])
        instance.remove(VolumeId("clone-other-g1"))
        instance.serve(hosted)
        instance.deliver(hosted, [user], [])
        harness.execute(hosted.clone, login_name(hosted.clone, user.name), user.password, harness.count_one)

    def test_what_is_made_is_on_the_disk_also_where_the_instance_does_not_wait_for_it(
        self, harness: OnPostgres
    ) -> None:
        harness.live.sql("ALTER ROLE boss SET synchronous_commit = off")
        try:
            link = Link(harness.reach(InstallationId("00000000-0000-0000-0000-000000000001")))
            with link.session() as conn:
                assert conn.execute("SHOW synchronous_commit").fetchone() == ("local",)
            link.close()
        finally:
            harness.live.sql("ALTER ROLE boss RESET synchronous_commit")
