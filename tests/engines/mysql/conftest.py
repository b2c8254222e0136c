"""A host for MariaDB under test: the servers that builds and clones of the suite run on."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymysql
import pytest

from reconciler.engines.mysql.engine import MariaDbEngine, MysqlEngine
from reconciler.errors import ScriptError
from tests.engines.conftest import ServerHost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.state.servers import Endpoint


class MariaDbHarness(ServerHost):
    """Runs MariaDB."""

    create_database = "CREATE DATABASE shop"
    create_table = "CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item VALUES (0, 'zero');"
    broken_script = "SELECT 1;\nSELECT nothing FROM nowhere;"
    true_check = "SELECT true"
    false_check = "SELECT false"
    count_items = "SELECT count(*) FROM item"
    add_item = "INSERT INTO item SELECT count(*), 'more' FROM item"

    def __init__(self, root: Path, engine: MysqlEngine | None = None) -> None:
        super().__init__(root)
        self.engine: MysqlEngine = engine or MariaDbEngine()

    @contextmanager
    def connected(self, endpoint: Endpoint, password: str, application: str) -> Iterator[object]:
        connection = self.connect(endpoint, password, application)
        try:
            yield connection
        finally:
            connection.close()

    def connect(self, endpoint: Endpoint, password: str, application: str = "tests") -> pymysql.Connection[Any]:
        return pymysql.connect(
            host=endpoint.host,
            port=endpoint.port,
            user=endpoint.user,
            password=password,
            database=endpoint.database,
            program_name=application,
            autocommit=True,
        )

    def execute(self, endpoint: Endpoint, password: str, statement: str) -> None:
        self.rows(endpoint, password, statement)

    def rows(self, endpoint: Endpoint, password: str, statement: str) -> list[tuple[Any, ...]]:
        try:
            connection = self.connect(endpoint, password)
            try:
                with connection.cursor() as cursor:
                    cursor.execute(statement)
                    return list(cursor.fetchall())
            finally:
                connection.close()
        except pymysql.Error as error:
            raise ScriptError(str(error)) from error


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDbHarness]:
    """A harness of the newest version on this host."""
    if not MariaDbEngine().servers():
        pytest.skip("needs MariaDB on this host (packages mariadb-server-core, mariadb-client-core)")
    with running(MariaDbEngine()) as harness:
        yield harness


@contextmanager
def running(engine: MysqlEngine) -> Iterator[MariaDbHarness]:
    """Have a harness for a while."""
    root = Path(tempfile.mkdtemp(prefix="rmy-"))
    root.chmod(0o755)
    harness = MariaDbHarness(root, engine)
    try:
        yield harness
    finally:
        harness.close()
