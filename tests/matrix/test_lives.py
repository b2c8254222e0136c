"""The life of a clone in every combination of engine, runtime and storage; what does not go together is refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import psycopg
import pymysql
import pytest
import yaml

from reconciler.engine_rules import refused_parameters
from reconciler.engines.mysql.engine import MariaDbEngine
from reconciler.engines.postgres import server
from reconciler.spec.documents import SpecFile
from reconciler.spec.gaps import RUNTIME_GAPS
from reconciler.spec.loader import load
from tests.containers import IMAGE, MARIADB_IMAGE, container_daemon, host_major, host_mariadb, import_mariadb
from tests.engines.mysql.live import instance as live_mariadb
from tests.hosted.world import ON_SHARED, SECRET
from tests.live import live_server
from tests.matrix.combinations import EVERY, Combination
from tests.support import clone, document, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.containers import ContainerDaemon
    from tests.engines.mysql.live import Production
    from tests.live import LiveServer
    from tests.support import World

LIVED = [one for one in EVERY if one.gap is None]
SCRIPT = "CREATE TABLE item (name varchar(20) NOT NULL); INSERT INTO item VALUES ('one'), ('two');"
_POOLS = {"btrfs": "btrfs_path", "zfs": "zfs_path", "reflink": "xfs_path"}


@pytest.fixture(scope="module")
def daemon() -> Iterator[ContainerDaemon]:
    with container_daemon() as made:
        yield made


@pytest.fixture(scope="module")
def shared_postgres() -> Iterator[LiveServer]:
    """A server of somebody else's, for clones on an instance."""
    newest = max((one.major for one in server.installed_servers()), key=int)
    with live_server(newest) as made:
        yield made


@pytest.fixture(scope="module")
def shared_mariadb() -> Iterator[Production]:
    """The same of MariaDB."""
    with live_mariadb() as made:
        yield made


def _marks(one: Combination) -> list[pytest.MarkDecorator]:
    return [pytest.mark.long, *([pytest.mark.root] if one.storage in _POOLS or one.runtime == "docker" else [])]


@pytest.fixture(params=[pytest.param(one, marks=_marks(one), id="-".join(one)) for one in LIVED])
def combination(request: pytest.FixtureRequest) -> Combination:
    found: Combination = request.param
    if found.engine == "mariadb" and not MariaDbEngine().servers():
        pytest.skip("needs MariaDB on this host (packages mariadb-server-core, mariadb-client-core)")
    return found


@pytest.fixture
def world(combination: Combination, request: pytest.FixtureRequest) -> Iterator[World]:
    """An installation with the pool and the runtime of a combination."""
    place: Path | None = request.getfixturevalue(_POOLS[combination.storage]) if combination.storage in _POOLS else None
    if place is not None:
        place.chmod(0o755)
    made = new_world(driver=combination.storage, pool={} if place is None else {"path": str(place / "pool")})
    first, last = made.ports.start, made.ports.stop - 1
    runtimes: dict[str, Any] = {"process": {"ports": f"{first}-{first + 19}"}}
    if combination.runtime == "docker":
        daemon: ContainerDaemon = request.getfixturevalue("daemon")
        if combination.engine == "mariadb":
            import_mariadb(daemon)
        images = {combination.engine: contained(combination)[0]}
        runtimes["docker"] = {"socket": str(daemon.socket), "images": images, "pull": "never", "networks": ["apps"]}
        runtimes["docker"]["ports"] = f"{first + 20}-{last}"
    if combination.runtime == "instance":
        url = request.getfixturevalue(f"shared_{combination.engine}").url()
        (made.root / "secrets" / SECRET).write_text(url)
        (made.root / "secrets" / SECRET).chmod(0o600)
        runtimes["instance"] = {"shared": {"url": {"secret": SECRET}, "engine": combination.engine}}
    made.configure(runtimes=runtimes, prune={"maxDelete": 1000})
    try:
        yield made
    finally:
        made.close()


def contained(one: Combination) -> tuple[str, str]:
    """Return the image of containers that there is of an engine, and the version in it."""
    reference, version = (MARIADB_IMAGE, host_mariadb()) if one.engine == "mariadb" else (IMAGE, host_major())
    return f"{reference}:{version}", version


def documents(one: Combination) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an image of the engine, and a clone of it with the runtime."""
    image: dict[str, Any] = {"engine": one.engine, "source": {"empty": {}}, "databases": ["shop"]}
    image |= {"scripts": [{"inline": SCRIPT, "database": "shop"}], "unmasked": {"reason": "a test"}}
    if one.runtime == "docker":
        image |= {"runtime": "docker", "version": contained(one)[1]}
    wanted: dict[str, Any] = ON_SHARED if one.runtime == "instance" else {"runtime": one.runtime}
    return document("Image", "shop", image), clone("dev", **wanted, **({"users": []} if one.engine == "sqlite" else {}))


def rows(world: World, statement: str) -> list[tuple[Any, ...]]:
    """Run a statement on the clone, reached as its status says, as any application would."""
    url = world.run("url", "dev").stdout.strip()
    parts = urlsplit(url)
    if parts.scheme == "postgresql":
        with psycopg.connect(url, autocommit=True) as conn:
            cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []
    if parts.scheme == "sqlite":
        with closing(sqlite3.connect(unquote(parts.path), isolation_level=None)) as file:
            return file.execute(statement).fetchall()
    link = pymysql.connect(
        host=parts.hostname,
        port=parts.port or 0,
        database=parts.path.removeprefix("/"),
        user=parts.username,
        password=unquote(parts.password or ""),
        autocommit=True,
    )
    with link, link.cursor() as sent:
        sent.execute(statement)
        return list(sent.fetchall())


def test_a_clone_is_made_written_to_reset_and_removed(world: World, combination: Combination) -> None:
    image, dev = documents(combination)
    world.write("shop.yaml", image)
    world.write("dev.yaml", dev)
    world.apply().require()
    assert rows(world, "SELECT name FROM item ORDER BY name") == [("one",), ("two",)]
    rows(world, "INSERT INTO item VALUES ('more')")
    assert world.apply().require().actions == []
    assert rows(world, "SELECT count(*) FROM item") == [(3,)]
    world.apply(("reset", "dev")).require()
    assert rows(world, "SELECT name FROM item ORDER BY name") == [("one",), ("two",)]
    world.remove("dev.yaml")
    world.remove("shop.yaml")
    world.apply(("approve", "")).require()  # no document is left
    world.converge()
    assert world.volumes() == ()
    assert world.leftovers() == []


@pytest.mark.parametrize(("engine", "runtime"), RUNTIME_GAPS)
def test_what_does_not_go_together_is_refused_with_the_reason(engine: str, runtime: str) -> None:
    image, dev = documents(Combination(engine, runtime, "copy"))
    image["spec"].pop("runtime", None)
    dev["spec"]["runtime"] = runtime
    files = [SpecFile(f"{one['kind']}.yaml", yaml.safe_dump(one).encode()) for one in (image, dev)]
    (found,) = refused_parameters(load(files).documents)
    assert (found.code, found.file) == ("R032", "Clone.yaml")
    assert found.summary.endswith(RUNTIME_GAPS[engine, runtime].reason)
