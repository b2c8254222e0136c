"""What goes wrong around a mirror: clones go on, the last snapshot stays, people are told, and no hand is needed."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.observed import MirrorPhase
from tests.followed.network import network
from tests.followed.primary import CHAIN, PASSWORD, primary
from tests.followed.world import agrees, caught_up, follow, kill_mirror, mirror_of, newest, refresh
from tests.support import clone, new_world, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import LoopMounts
    from tests.followed.network import Network
    from tests.followed.primary import Primary
    from tests.support import World

pytestmark = pytest.mark.postgres

MIDST = 6 << 20
"""Bytes of a base backup after which it is not done by far."""


@pytest.fixture
def production() -> Iterator[Primary]:
    with primary() as made:
        made.enter(5)
        yield made


@pytest.fixture
def line(production: Primary) -> Iterator[Network]:
    with network(production.port) as made:
        yield made


@pytest.fixture
def world() -> Iterator[World]:
    made = new_world()
    try:
        yield made
    finally:
        made.close()


def told(world: World) -> str:
    """Return everything that the conditions of the image's mirror say now."""
    plan = world.look().plan
    assert plan is not None
    return "; ".join(f"{one.reason}: {one.message}" for one in plan.conditions[ObjectKey(Kind.MIRROR, "shop")])


def refreshed(world: World, before: list[str]) -> bool:
    world.apply()
    return len(world.snapshots()) > len(before)


def gone(world: World) -> bool:
    world.apply()
    return not world.volumes()


def test_a_mirror_that_is_emptied_while_it_is_asked_is_told_and_ends_no_pass(world: World, production: Primary) -> None:
    follow(world, production)
    world.apply().require()
    data = world.pool_path / "volumes" / "shop.mirror" / "data"
    data.rename(data.with_name("gone"))
    assert "No such file or directory" in told(world)
    data.with_name("gone").rename(data)
    assert "Following" in told(world)


@pytest.mark.long
def test_a_network_cut_in_the_middle_of_a_base_backup_costs_nobody_anything(
    world: World, production: Primary, line: Network
) -> None:
    follow(world, production, port=line.port)
    world.write("dev.yaml", clone("dev", onRefresh="recreate"))
    world.apply().require()
    world.sql("dev", "CREATE TABLE work AS SELECT 1 AS n")
    before = world.snapshots()
    lose(world, production)
    line.cut_after(MIDST)
    follow(world, production, port=line.port, asked="now")
    done = world.apply()
    assert line.is_cut.is_set(), "the copy had begun"
    assert "copy Mirror/shop" in done.actions
    assert str(production.port) not in done.errors["Mirror/shop"]
    assert PASSWORD not in done.errors["Mirror/shop"]
    assert world.snapshots() == before
    assert world.sql("dev", "SELECT n FROM work") == [(1,)]
    world.apply()
    assert f"127.0.0.1:{line.port} cannot be reached" in told(world)
    line.mend()
    until(lambda: refreshed(world, before), what="the refresh")
    world.converge()
    agrees(world, production)
    assert list(production.slots()) == [mirror_of(world).slot]
    assert world.leftovers() == []


def lose(world: World, production: Primary) -> None:
    """Let the primary forget the log that the mirror needs, so that it has to be copied anew."""
    slot = mirror_of(world).slot
    kill_mirror(world)
    until(lambda: not production.slots()[slot], what="the end of the mirror's session")
    production.sql(f"SELECT pg_drop_replication_slot('{slot}')")
    production.enter(3)
    production.forget_log()
    world.apply()  # starts the mirror, which cannot go on
    until(lambda: "removed log" in told(world) or "cannot follow" in told(world), what="the notice")


def test_an_image_that_goes_while_its_first_copy_is_cut_off_leaves_nothing_at_the_primary(
    world: World, production: Primary, line: Network
) -> None:
    follow(world, production, port=line.port)
    line.cut_after(MIDST)
    errors = world.apply().errors
    assert "Mirror/shop" in errors
    assert line.is_cut.is_set(), errors
    left = mirror_of(world)
    assert left.phase is MirrorPhase.LEAVING
    assert list(production.slots()) == [left.slot]
    world.remove("shop.yaml")
    world.apply(("approve", ""))
    assert left.slot in told(world)
    assert left.slot in world.run("status", "-o", "json").stdout
    line.mend()
    until(lambda: gone(world), what="the end of the slot")
    assert production.slots() == {}
    assert production.sql("SELECT pid FROM pg_stat_activity WHERE usename = 'follower'") == []
    assert world.leftovers() == []


@pytest.mark.long
def test_a_primary_that_hangs_holds_up_no_pass_and_keeps_nothing_once_it_is_back(
    world: World, production: Primary
) -> None:
    follow(world, production)
    world.write("dev.yaml", clone("dev"))
    world.apply().require()
    production.freeze()
    try:
        assert world.sql("dev", CHAIN)[0][0] == 5
        world.remove("shop.yaml")
        world.remove("dev.yaml")
        assert list(world.apply(("approve", "")).errors) == ["Mirror/shop"]
        assert "LeftAtPrimary" in told(world)
    finally:
        production.thaw()
    until(lambda: gone(world), what="the end of the slot")
    assert production.slots() == {}
    assert production.sql("SELECT pid FROM pg_stat_activity WHERE usename = 'follower'") == []


ROOM = 24 << 20
GROWTH = "CREATE TABLE growth AS SELECT repeat(md5(n::text), 30) FROM generate_series(1, 60000) AS n"


@pytest.mark.long
@pytest.mark.root
def test_a_disk_that_is_full_stops_the_mirror_and_nothing_else_until_there_is_room(
    production: Primary, loop_mounts: LoopMounts
) -> None:
    mountpoint = loop_mounts.make("mirrored", 900, "mkfs.ext4", "-q", "-m", "0", options="loop,noatime")
    world = new_world(pool={"path": str(mountpoint), "reserve": "1Mi"})
    try:
        follow(world, production)
        world.write("dev.yaml", clone("dev", onRefresh="recreate"))
        world.apply().require()
        world.sql("dev", "CREATE TABLE work AS SELECT 1 AS n")
        before = world.snapshots()
        ballast = mountpoint / "ballast"
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(mountpoint).free - ROOM)
        production.sql(GROWTH)
        until(lambda: stopped(world), what="the end of the mirror")
        assert "InsufficientDisk" in told(world)
        assert world.servers() == {"dev.1"}
        assert world.snapshots() == before
        assert newest(world).snapshot == before[-1]
        assert world.sql("dev", "SELECT n FROM work") == [(1,)]
        ballast.unlink()
        caught_up(world, production, passes=True)
        refresh(world)
        world.apply().require()
        agrees(world, production)
        assert world.sql("dev", "SELECT count(*) FROM growth") == [(60000,)]
    finally:
        world.close()


def stopped(world: World) -> bool:
    world.apply()
    return not any(name.endswith(".mirror") for name in world.servers())
