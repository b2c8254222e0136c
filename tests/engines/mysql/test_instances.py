"""MariaDB's instances keep the contract; what is served by others there stays as it is."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pymysql
import pytest

from reconciler.engines.base import InstanceReach
from reconciler.engines.mysql.instance.front import MariaDbInstances
from reconciler.errors import UnavailableError
from reconciler.testing.instance import InstanceHarness, InstanceSuite
from tests.engines.mysql.live import instance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from reconciler.engines.base import CloneWork, Instance
    from reconciler.ids import InstallationId
    from tests.engines.mysql.conftest import MariaDbHarness
    from tests.engines.mysql.live import Production


class OnMariaDb(InstanceHarness):
    count_one = "SELECT count(*) = 1 FROM item"
    count_two = "SELECT count(*) = 2 FROM item"

    def __init__(self, engine: MariaDbHarness, live: Production, data_directory: Path | None) -> None:
        super().__init__()
        self.engine = engine
        self._live, self._data_directory = live, data_directory

    def instance(self, installation: InstallationId) -> Instance:
        reach = InstanceReach(
            name="shared",
            installation=installation,
            secret="dsn",
            url=self._live.url,
            connections=20,
            data_directory=self._data_directory,
        )
        return MariaDbInstances().at(reach)

    @contextmanager
    def foreign(self, name: str) -> Iterator[None]:
        self._live.sql(f"CREATE DATABASE `{name}`")
        self._live.sql(f"CREATE TABLE `{name}`.mine (a int)")
        yield
        assert self._live.sql(f"SELECT count(*) FROM `{name}`.mine") == [(0,)]
        self._live.sql(f"DROP DATABASE `{name}`")

    def execute(self, database: str, login: str, password: str, statement: str) -> None:
        try:
            with self.connect(database, login, password) as connection, connection.cursor() as cursor:
                cursor.execute(statement)
                if 0 in (row[0] for row in cursor.fetchall()):
                    raise UnavailableError(f"{statement} is not true")
        except pymysql.Error as error:
            raise UnavailableError(str(error)) from error

    def connect(self, database: str, login: str, password: str) -> pymysql.Connection[pymysql.cursors.Cursor]:
        return pymysql.connect(
            host="127.0.0.1",
            port=self._live.port or 0,
            database=database,
            user=login,
            password=password,
            autocommit=True,
        )

    def serving(self, work: CloneWork) -> AbstractContextManager[object]:
        return self.engine.serving(self.engine.engine.clone_server(work))


@pytest.fixture(scope="module", params=["rows", pytest.param("files", marks=pytest.mark.long)])
def harness(mariadb: MariaDbHarness, request: pytest.FixtureRequest) -> Iterator[InstanceHarness]:
    with instance(options=["--skip-log-bin"]) as live:
        yield OnMariaDb(mariadb, live, live.data if request.param == "files" else None)


class TestMariaDbInstances(InstanceSuite):
    pass
