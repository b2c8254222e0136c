"""A daemon of the session's own, a small server in a container, and a whole installation that uses it."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pymysql
import pytest

from reconciler.ids import InstallationId, RuntimeName, ServerName
from reconciler.runtimes.docker.runtime import DockerRuntime
from reconciler.runtimes.docker.settings import DockerSettings
from reconciler.state.servers import Contained, ProductImage, ServerSpec
from reconciler.testing.runtime import RuntimeHarness, RuntimeSuite
from tests.containers import IMAGE, MARIADB_IMAGE, USER, container_daemon, host_major, host_mariadb, import_mariadb
from tests.runtimes.conftest import answers
from tests.support import PRODUCTS, World, free_block, image, new_world, release_block

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.runtimes.accounts import AccountSettings
    from tests.containers import ContainerDaemon

_SERVER = """
use Socket; $| = 1; $SIG{TERM} = sub { print "stopping as asked\\n"; exit 0 };
socket(T, PF_INET, SOCK_STREAM, 0); setsockopt(T, SOL_SOCKET, SO_REUSEADDR, 1);
bind(T, sockaddr_in(5432, INADDR_ANY)); listen(T, 9);
socket(U, PF_UNIX, SOCK_STREAM, 0); bind(U, sockaddr_un("/srv/socket")) or die "bind: $!"; listen(U, 9);
print "starting\\n"; while (1) { accept(C, U); close C; }
"""


@dataclass(frozen=True)
class Product:
    """A database product whose servers can be in containers, and how its words differ."""

    engine: str
    reference: str
    """The container image that the tests have of it."""
    major: str
    user: str
    files: str
    """Where the image expects data; there is that of a clone."""
    port: int
    told: str
    """What its server writes when it takes connections."""
    client: tuple[str, ...]
    """A program of the image that selects 7 in the clone ``dev`` as ``app``, from another container."""
    password: str
    """The variable that this takes the password from."""
    healthy: str
    """What the probe of a container's health writes."""
    powerful: str
    """Counts the users ``boss`` that may do everything."""
    exits: dict[str, str]
    """Settings with which it ends at once, and what it says then."""
    why: str
    pause: str
    """A statement that takes three seconds."""
    little: str
    """Memory that it runs with, and that ``hungry`` is too much for."""
    hungry: str

    def image(self, name: str = "shop", **spec: Any) -> dict[str, Any]:  # noqa: ANN401 - as YAML
        """Return an image with three products."""
        script = PRODUCTS if self.engine == "postgres" else _PRODUCTS_OF_MARIADB
        defaults = {"engine": self.engine, "version": self.major, "scripts": [{"inline": script, "database": "shop"}]}
        return image(name, **{**defaults, **spec})

    def rows(
        self, world: World, name: str, statement: str, user: str = "app", port: int | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a statement on a clone and return its rows; ``port`` is another one that leads to it."""
        if self.engine == "postgres":
            return world.sql(name, statement, user=user, port=port)
        connection = pymysql.connect(
            host="127.0.0.1",
            port=port or world.current(name).port or 0,
            user=user,
            password=world.password(name, user),
            database="shop",
            autocommit=True,
        )
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())


_PRODUCTS_OF_MARIADB = """
CREATE TABLE product (id int PRIMARY KEY, name text NOT NULL);
INSERT INTO product SELECT seq, CONCAT('Product ', seq) FROM seq_1_to_3;
"""


def postgres() -> Product:
    return Product(
        engine="postgres",
        reference=f"{IMAGE}:{host_major()}",
        major=host_major(),
        user="postgres",
        files="/var/lib/postgresql/data/PG_VERSION",
        port=5432,
        told="database system is ready",
        client=("psql", "-h", "dev", "-U", "app", "-Atc", "SELECT 7", "shop"),
        password="PGPASSWORD",
        healthy="",
        powerful="SELECT count(*) FROM pg_user WHERE usename = 'boss' AND usesuper",
        exits={"wal_level": "minimal", "max_wal_senders": "3"},
        why="WAL streaming (max_wal_senders > 0) requires",
        pause="SELECT pg_sleep(3)",
        little="64Mi",
        hungry="SELECT length(repeat(string_agg(n::text, ','), 20)) FROM generate_series(1, 3000000) n",
    )


def mariadb() -> Product:
    return Product(
        engine="mariadb",
        reference=f"{MARIADB_IMAGE}:{host_mariadb()}",
        major=host_mariadb(),
        user="mysql",
        files="/var/lib/mysql/data/ibdata1",
        port=3306,
        told="ready for connections",
        client=("mariadb", "--host=dev", "--user=app", "--skip-column-names", "--execute=SELECT 7", "shop"),
        password="MYSQL_PWD",
        healthy="mysqld is alive\n",
        powerful="SELECT count(*) FROM mysql.user WHERE user = 'boss' AND super_priv = 'Y'",
        exits={"sql_mode": "NONSENSE"},
        why="Error while setting value 'NONSENSE' to 'sql_mode'",
        pause="DO sleep(3)",
        little="160Mi",
        hungry="SET STATEMENT max_heap_table_size = 1073741824, tmp_memory_table_size = 1073741824 FOR "
        "SELECT count(*) FROM (SELECT DISTINCT seq, repeat('x', 200) FROM seq_1_to_3000000) AS all_of_them",
    )


PRODUCTS_OF_BOTH = {"postgres": postgres, "mariadb": mariadb}
both = pytest.mark.parametrize("product", list(PRODUCTS_OF_BOTH), indirect=True, scope="session")
"""Runs a test with each; others are with PostgreSQL."""


class DockerHarness(RuntimeHarness):
    """Runtimes on the session's daemon whose servers, logs and ports lie in one directory and port range."""

    def __init__(self, daemon: ContainerDaemon, directory: Path, accounts: AccountSettings, ports: range) -> None:
        self.daemon = daemon
        self.directory = directory
        self._accounts = accounts
        self._ports = ports

    def runtime(self, installation: InstallationId, ports: range | None = None, **settings: str) -> DockerRuntime:
        state = self.directory / f"state-{installation}"
        state.mkdir(exist_ok=True)
        images = {"memory": f"{IMAGE}:{host_major()}"}
        return DockerRuntime(
            RuntimeName("docker"),
            installation=InstallationId(f"{installation}-{self.directory.name}"),
            state=state,
            settings=DockerSettings(
                socket=self.daemon.socket,
                images=images | settings,
                pull="never",
                networks=("tests",),
                ports=ports or self._ports,
                host="127.0.0.1",
            ),
            accounts=self._accounts,
        )

    def server(
        self,
        name: ServerName,
        port: int | None = None,
        directory: Path | None = None,
        argv: tuple[str, ...] = ("perl", "-e", _SERVER),
    ) -> ServerSpec:
        place = directory or self.directory / name
        place.mkdir(exist_ok=True)
        os.chown(place, USER, USER)
        software = self.runtime(InstallationId("one")).software("memory", None, ProductImage("", "postgres"))
        assert software is not None
        return ServerSpec(
            name=name,
            argv=argv,
            directory=place,
            account=software.account,
            port=port,
            ready=lambda: answers(place / "socket"),
            ready_timeout=60.0,
            stale_files=(place / "socket",),
            contained=Contained(software=software, mounts={PurePosixPath("/srv"): place}, port=5432, health=("true",)),
            subject={"clone": name.partition(".")[0]},
        )

    def close(self) -> None:
        self.daemon.remove_all()


class ContainerSuite(RuntimeSuite):
    """The contract of runtimes, and what a daemon could do against it."""

    def test_a_server_that_is_stopped_ends_as_it_is_asked_to_and_is_not_started_again(
        self, harness: DockerHarness
    ) -> None:
        runtime, name = harness.runtime(InstallationId("one")), ServerName("shop.1")
        runtime.start(harness.server(name, runtime.free_port(frozenset())))
        runtime.stop(name)
        assert runtime.logs(name) == ["starting", "stopping as asked"]


@pytest.fixture(scope="session")
def daemon() -> Iterator[ContainerDaemon]:
    with container_daemon() as daemon:
        yield daemon


@pytest.fixture
def harness(daemon: ContainerDaemon, short_path: Path, account_settings: AccountSettings) -> Iterator[DockerHarness]:
    ports = free_block()
    harness = DockerHarness(daemon, short_path, account_settings, ports[:20])
    try:
        yield harness
    finally:
        harness.close()
        release_block(ports)


@pytest.fixture(scope="session", params=["postgres"])
def product(request: pytest.FixtureRequest, daemon: ContainerDaemon) -> Product:
    """The product that a test is about."""
    found = PRODUCTS_OF_BOTH[request.param]()
    if found.engine == "mariadb":
        import_mariadb(daemon)
    return found


@pytest.fixture(scope="session")
def built(daemon: ContainerDaemon, product: Product) -> Iterator[World]:
    """An installation with an image that was built by processes of the host."""
    world = new_world()
    try:
        configure(world, daemon, product)
        world.write("shop.yaml", product.image())
        world.converge()
        yield world
    finally:
        world.close()


@pytest.fixture
def shop(built: World, daemon: ContainerDaemon, product: Product) -> Iterator[World]:
    """The installation, without clones before and after the test."""
    try:
        yield built
    finally:
        if not daemon.running:
            daemon.start()
        configure(built, daemon, product)
        for path in (built.root / "specs").glob("*.yaml"):
            if path.name != "shop.yaml":
                path.unlink()
        daemon.remove_all()
        built.converge()
        assert built.leftovers() == []
        assert daemon.names() == set()


def configure(world: World, daemon: ContainerDaemon, product: Product, **docker: Any) -> None:  # noqa: ANN401 - as YAML
    """Write the configuration of a world whose clones can be in containers; ``docker`` are changes of that section."""
    first, last = world.ports.start, world.ports.stop - 1
    settings = {
        "socket": str(daemon.socket),
        "ports": f"{first + 20}-{last}",
        "images": {product.engine: product.reference},
        "pull": "never",
        "networks": ["compose"],
    }
    world.configure(
        runtimes={"process": {"ports": f"{first}-{first + 19}"}, "docker": settings | docker},
        prune={"maxDelete": 1000, "maxDeletePercent": 100},
    )
