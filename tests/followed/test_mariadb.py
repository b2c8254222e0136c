"""Images that follow a live primary of MariaDB: what a refresh is of, what disturbs it, and what is left."""

from __future__ import annotations

import shutil
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pymysql
import pytest

from reconciler.engines.mysql.engine import MariaDbEngine
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.observed import MirrorManifest, MirrorPhase
from tests.engines.mysql.conftest import running
from tests.engines.mysql.live import COPIES, PASSWORD, Production
from tests.followed.network import network
from tests.followed.world import kill_mirror, mirror_of, mirror_servers, newest, refresh
from tests.primary.test_logical import give
from tests.support import document, new_world, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World

pytestmark = pytest.mark.long

_LEDGER = """
CREATE DATABASE shop; USE shop;
CREATE TABLE ledger (id int PRIMARY KEY AUTO_INCREMENT, at timestamp(6) DEFAULT current_timestamp(6)) ENGINE=InnoDB;
CREATE TABLE copy LIKE ledger;
CREATE TABLE old (id int) ENGINE=MyISAM;
CREATE USER app@'10.%' IDENTIFIED BY 'of production';
CREATE DEFINER=app@'10.%' VIEW entries AS SELECT count(*) AS n FROM ledger;
"""
_FOLLOWS = (*COPIES, "REPLICATION SLAVE ON *.*")
_CHAIN = "SELECT (SELECT count(*) FROM ledger), (SELECT count(*) FROM copy), (SELECT count(*) FROM old)"


@pytest.fixture(scope="module")
def production() -> Iterator[Production]:
    if not MariaDbEngine().servers():
        pytest.skip("needs MariaDB on this host (packages mariadb-server-core, mariadb-client-core)")
    with running(MariaDbEngine()) as host:
        made = Production(host.volume(), host.account(), setup=(), port=host.free_port())
        try:
            made.load(_LEDGER)
            made.let_in(*_FOLLOWS)
            enter(made, 20)
            yield made
        finally:
            made.stop(kill=True)


@pytest.fixture(scope="module")
def world(production: Production) -> Iterator[World]:
    """An installation with an image of the primary, and a clone of its newest snapshot."""
    made = new_world()
    try:
        follow(made, production)
        made.apply().require()
        yield made
    finally:
        made.close()


def follow(world: World, production: Production, *, port: int | None = None, **spec: Any) -> None:  # noqa: ANN401 - as YAML
    give(world, production.url(port=port))
    source = {"primary": {"url": {"secret": "shop-dsn"}}}
    wanted = {"engine": "mariadb", "source": source, "unmasked": {"reason": "a test"}, **spec}
    world.write("shop.yaml", document("Image", "shop", wanted))
    world.write("dev.yaml", document("Clone", "dev", {"image": "shop", "onRefresh": "recreate"}))


def enter(production: Production, times: int = 1) -> None:
    """Commit entries, each in three tables at once, of which one has no transactions."""
    with production.connect() as connection, connection.cursor() as cursor:
        cursor.execute("USE shop")
        for _ in range(times):
            for statement in (
                "BEGIN",
                *(f"INSERT INTO {name} () VALUES ()" for name in ("ledger", "copy", "old")),
                "COMMIT",
            ):
                cursor.execute(statement)


@contextmanager
def entering(production: Production) -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            enter(production)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def asked(world: World, query: str) -> list[tuple[Any, ...]]:
    """Ask the clone ``dev``."""
    user, _, rest = world.run("url", "dev").stdout.strip().removeprefix("mysql://").partition(":")
    password, _, place = rest.partition("@")
    host, _, port = place.partition("/")[0].partition(":")
    login: dict[str, Any] = {"host": host, "port": int(port), "user": user, "password": password, "database": "shop"}
    with pymysql.connect(**login) as connection, connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(query)
        return list(cursor.fetchall())


def agrees(world: World, *, between: bool = False) -> int:
    """Insist that the clone has as much in all tables, none of it younger than it says; return how much.

    ``between``: maybe one more in the table without transactions, which a primary writes, shows and logs at
    once, before the transaction that this is part of is committed.
    """
    assert world.current("dev").snapshot == newest(world).snapshot
    ((entries, copies, old),) = asked(world, _CHAIN)
    assert entries == copies
    assert old - entries in ({0, 1} if between else {0})
    assert asked(world, "SELECT n FROM entries") == [(entries,)]
    as_of = newest(world).data_as_of
    assert as_of is not None
    ((late,),) = asked(
        world, f"SELECT count(*) FROM ledger WHERE at >= '{as_of:%Y-%m-%d %H:%M:%S.%f}' + INTERVAL 1 SECOND"
    )
    assert late == 0
    return int(entries)


def purge(production: Production) -> None:
    """Have the primary forget its log, of which it keeps a part until what that says is on disk."""
    production.sql("FLUSH BINARY LOGS")
    ((last, *_rest),) = production.sql("SHOW MASTER STATUS")

    def purged() -> bool:
        production.sql(f"PURGE BINARY LOGS TO '{last}'")
        return len(production.sql("SHOW BINARY LOGS")) == 1

    until(purged, what="the end of the log")


def told(world: World) -> str:
    """Return what an installation says, to people and in its logs and manifests."""
    places = (world.root / "state" / "logs", world.pool_path / "manifests")
    texts = [path.read_text("utf-8", "replace") for place in places for path in place.rglob("*") if path.is_file()]
    return "\n".join((world.run("status", "-o", "json").stdout, *texts))


def caught_up(world: World, production: Production) -> None:
    """Wait until the mirror has what the primary has by now."""
    ((position,),) = production.sql("SELECT @@gtid_binlog_pos")

    def there() -> bool:
        seen = _seen(world)
        return seen is not None and seen.following and seen.position == position

    until(there, what="the mirror")


def _seen(world: World) -> Any:  # noqa: ANN401 - what was observed
    observed = world.look().observed
    assert observed is not None
    return observed.mirrors.get(mirror_of(world).image)


def test_snapshots_are_of_one_moment_each_and_have_more_every_time(world: World, production: Production) -> None:
    assert mirror_of(world).phase is MirrorPhase.FOLLOWING
    assert agrees(world) == 20
    with entering(production):
        until(lambda: _seen(world).position != newest(world).facts["gtid"], what="entries in the mirror")
        refresh(world)
        world.apply().require()
        assert agrees(world, between=True) > 20
    caught_up(world, production)
    refresh(world)
    world.apply().require()
    assert agrees(world) == production.sql("SELECT count(*) FROM shop.ledger")[0][0]
    before = world.snapshots()
    assert "build Image/shop" not in refresh(world).actions
    assert world.snapshots() == before
    assert PASSWORD not in told(world)


def test_no_copy_knows_a_way_to_the_primary(world: World, production: Production) -> None:
    found = [
        str(path.relative_to(world.pool_path))
        for path in world.pool_path.rglob("*")
        if path.is_file() and PASSWORD.encode() in path.read_bytes()
    ]
    assert found == []
    assert asked(world, "SELECT definer FROM information_schema.views WHERE table_name = 'entries'") == [
        ("reconciler_owner@localhost",)
    ]
    assert len(production.sql("SHOW SLAVE HOSTS")) == 1  # the mirror


def test_a_primary_that_is_away_is_followed_again_and_what_there_is_stays(world: World, production: Production) -> None:
    before = world.snapshots()
    production.stop()
    try:
        refused = world.run("refresh", "shop")
        assert refused.returncode == 1
        assert "does not follow" in refused.stdout + refused.stderr
        assert PASSWORD not in refused.stdout + refused.stderr
        plan = world.look().plan
        assert plan is not None
        assert plan.conditions[ObjectKey(Kind.MIRROR, "shop")][0].reason == "NotFollowing"
        assert world.snapshots() == before
    finally:
        production.start()
    enter(production, 3)
    caught_up(world, production)
    refresh(world)
    world.apply().require()
    assert agrees(world) == production.sql("SELECT count(*) FROM shop.ledger")[0][0]


def test_a_primary_that_hangs_holds_up_no_pass(world: World, production: Production) -> None:
    before = agrees(world)
    production.freeze()
    try:
        assert world.apply().require().actions == []
        assert agrees(world) == before
    finally:
        production.thaw()
    enter(production)
    caught_up(world, production)
    refresh(world)
    world.apply().require()
    assert agrees(world) == before + 1


def test_a_mirror_that_crashed_goes_on_and_one_whose_log_is_gone_is_copied_anew(
    world: World, production: Production
) -> None:
    kill_mirror(world)
    enter(production, 3)
    world.apply_until(lambda done: "follow Mirror/shop" in done.actions, what="the repair")
    caught_up(world, production)
    kill_mirror(world)
    until(lambda: production.sessions() == [], what="the end of the mirror's session")
    enter(production, 3)
    purge(production)
    world.apply().require()  # starts the mirror, which cannot go on
    until(lambda: "has not the log" in _seen(world).lost, what="the notice that it cannot")
    assert agrees(world) > 0
    assert refresh(world).actions[:2] == ["leave Mirror/shop", "copy Mirror/shop"]
    world.apply().require()
    assert agrees(world) == production.sql("SELECT count(*) FROM shop.ledger")[0][0]


def test_a_wrong_password_is_told_and_the_right_one_mends_it(world: World, production: Production) -> None:
    caught_up(world, production)
    give(world, production.url(password="hunter2"))
    assert world.apply().require().actions == ["follow Mirror/shop"]
    until(lambda: "Access denied" in _seen(world).problem, what="the refusal")
    assert _seen(world).lost == ""
    assert "hunter2" not in told(world)
    give(world, production.url())
    assert world.apply().require().actions == ["follow Mirror/shop"]
    caught_up(world, production)


def test_the_end_of_an_image_leaves_nothing_anywhere_and_a_copy_that_is_cut_off_neither(
    world: World, production: Production
) -> None:
    world.remove("shop.yaml")
    world.remove("dev.yaml")
    world.apply(("approve", ""))
    world.converge()
    assert world.volumes() == ()
    assert world.leftovers() == []
    assert mirror_servers(world) == []
    until(lambda: production.sessions() == [], what="the end of the mirror's session")
    assert production.sql("SHOW SLAVE HOSTS") == []
    production.sql("CREATE TABLE shop.large AS SELECT seq, repeat('x', 500) AS filler FROM shop.seq_1_to_10000")
    with network(production.port or 0) as way:
        follow(world, production, port=way.port)
        way.cut_after(1_000_000)
        failed = world.apply()
        assert "was interrupted" in failed.errors["Mirror/shop"]
        assert not any(isinstance(volume.manifest, MirrorManifest) for volume in world.volumes())
    until(lambda: production.sessions() == [], what="the end of the sessions")


@pytest.mark.root
def test_on_btrfs_the_mirror_goes_on_while_it_is_cut(production: Production) -> None:
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs the program mkfs.btrfs (package btrfs-progs)")
    world = new_world(driver="btrfs", pool={"size": "1500Mi"})
    try:
        follow(world, production)
        world.apply().require()
        started = {process.pid for process in mirror_servers(world)}
        with entering(production):
            until(lambda: _seen(world).position != newest(world).facts["gtid"], what="entries in the mirror")
            refresh(world)
            world.apply().require()
            agrees(world, between=True)
        assert {process.pid for process in mirror_servers(world)} == started
    finally:
        world.close()
