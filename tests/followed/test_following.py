"""Images that follow a live primary: what a refresh is of, what disturbs it, and what is left when it ends."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from reconciler.engines.postgres import server
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.observed import MirrorManifest, MirrorPhase
from tests.followed.primary import CHAIN, PASSWORD, primary, remove
from tests.followed.world import agrees, caught_up, follow, kill_mirror, mirror_of, mirror_servers, newest, refresh
from tests.support import clone, document, new_world, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.followed.primary import Primary
    from tests.support import World

pytestmark = pytest.mark.postgres

FOLLOWER = clone("dev", onRefresh="recreate")
MAJORS = sorted({installed.major for installed in server.installed_servers()})


@pytest.fixture(
    scope="module", params=[MAJORS[-1], *(pytest.param(major, marks=pytest.mark.long) for major in MAJORS[:-1])]
)
def production(request: pytest.FixtureRequest) -> Iterator[Primary]:
    with primary(request.param) as made:
        made.enter(20)
        yield made


@pytest.fixture
def world(production: Primary) -> Iterator[World]:
    """An installation with an image of the primary, and a clone that somebody works in."""
    made = new_world()
    try:
        follow(made, production)
        made.write("dev.yaml", FOLLOWER)
        made.apply().require()
        yield made
    finally:
        made.write("shop.yaml", "")
        made.write("dev.yaml", "")
        with made.host(writes=True):
            pass
        made.close()
        production.drop_slots()


def test_the_first_snapshot_has_what_the_primary_had_at_its_time(world: World, production: Primary) -> None:
    agrees(world, production)
    assert mirror_of(world).phase is MirrorPhase.FOLLOWING
    assert list(production.slots()) == [mirror_of(world).slot]


def test_refreshes_under_load_are_of_one_moment_each(world: World, production: Primary) -> None:
    seen = []
    with production.entering():
        for _ in range(3):
            refresh(world)
            world.apply().require()
            agrees(world, production)
            seen.append(world.sql("dev", CHAIN)[0][0])
    assert seen == sorted(set(seen)), "each has more than the one before"


def test_a_refresh_without_a_change_builds_nothing(world: World, production: Primary) -> None:
    """A primary at rest writes a last record a quarter of a minute after its last transaction, and then nothing."""

    def at_rest() -> bool:
        caught_up(world, production)
        before = world.snapshots()
        built = "build Image/shop" in refresh(world).actions
        return not built and world.snapshots() == before

    until(at_rest, what="a refresh that has nothing to do")


def test_a_primary_that_is_away_keeps_what_there_is_and_is_followed_again(world: World, production: Primary) -> None:
    before = world.snapshots()
    production.enter(5)
    caught_up(world, production)
    production.stop()
    try:
        refused = world.run("refresh", "shop")
        assert refused.returncode == 1
        assert "does not follow" in refused.stdout + refused.stderr
        assert PASSWORD not in refused.stdout + refused.stderr
        assert world.snapshots() == before
        told = world.look().plan
        assert told is not None
        assert told.conditions[ObjectKey(Kind.MIRROR, "shop")][0].reason == "NotFollowing"
        assert world.sql("dev", "SELECT 1") == [(1,)]
    finally:
        production.start()
    production.enter(5)
    caught_up(world, production)
    refresh(world)
    world.apply().require()
    assert len(world.snapshots()) == len(before) + 1
    agrees(world, production)


def test_a_slot_that_somebody_dropped_is_made_again(world: World, production: Primary) -> None:
    slot = mirror_of(world).slot
    production.drop_slots()
    assert production.slots() == {}
    world.apply_until(lambda done: "follow Mirror/shop" in done.actions, what="the repair")
    caught_up(world, production)
    assert list(production.slots()) == [slot]
    refresh(world)
    world.apply().require()
    agrees(world, production)


def test_a_mirror_whose_log_is_gone_is_copied_anew_and_clones_live_on(world: World, production: Primary) -> None:
    slot = mirror_of(world).slot
    world.sql("dev", "CREATE TABLE work AS SELECT 1 AS n")
    kill_mirror(world)
    until(lambda: not production.slots()[slot], what="the end of the mirror's session")
    production.sql(f"SELECT pg_drop_replication_slot('{slot}')")
    production.enter(3)
    production.forget_log()
    world.apply().require()  # starts the mirror, which cannot go on
    until(lambda: _lost(world), what="the notice that it cannot")
    assert world.sql("dev", "SELECT n FROM work") == [(1,)]
    done = refresh(world)
    assert done.actions[:2] == ["leave Mirror/shop", "copy Mirror/shop"]
    world.apply().require()
    agrees(world, production)
    assert list(production.slots()) == [mirror_of(world).slot]


def _lost(world: World) -> bool:
    observed = world.look().observed
    assert observed is not None
    return any(seen.lost for seen in observed.mirrors.values())


def test_a_mirror_that_was_killed_is_started_again(world: World, production: Primary) -> None:
    production.enter(3)
    kill_mirror(world)
    assert "follow Mirror/shop" in world.apply().require().actions
    caught_up(world, production)
    refresh(world)
    world.apply().require()
    agrees(world, production)


def test_settings_that_the_primary_raised_are_the_mirrors_too(world: World, production: Primary) -> None:
    production.configure(max_connections="150")
    production.stop()
    production.start()
    production.enter(1)
    caught_up(world, production, passes=True)
    refresh(world)
    world.apply().require()
    agrees(world, production)


def test_a_primary_of_a_new_timeline_is_followed(production: Primary) -> None:
    world = new_world()
    other = production.standby()
    try:
        follow(world, other)
        world.write("dev.yaml", FOLLOWER)
        other.run("psql", "-X", "-q", "-d", "postgres", "-c", "SELECT 1")
        world.apply().require()
        agrees(world, production)
        other.promote()
        other.enter(4)
        caught_up(world, other, passes=True)
        refresh(world)
        world.apply().require()
        agrees(world, other)
        assert world.sql("dev", CHAIN)[0][0] == other.sql(CHAIN)[0][0]
    finally:
        world.close()
        remove(other)


def test_nothing_is_left_at_the_primary_when_the_image_goes(world: World, production: Primary) -> None:
    world.remove("shop.yaml")
    world.remove("dev.yaml")
    world.apply(("approve", ""))
    world.converge()
    assert production.slots() == {}
    assert world.volumes() == ()
    assert world.leftovers() == []
    ((sessions,),) = production.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'follower'")
    assert sessions == 0


@pytest.mark.long
def test_an_installation_that_goes_leaves_nothing_at_the_primary(world: World, production: Primary) -> None:
    slot = mirror_of(world).slot
    removed = world.run("uninstall", "--yes")
    assert removed.returncode == 0, removed.stderr
    assert f"with the slot {slot} at its primary" in removed.stdout
    assert production.slots() == {}
    assert world.processes() == []


def test_what_cannot_be_removed_at_a_primary_is_told_and_removed_later(world: World, production: Primary) -> None:
    slot = mirror_of(world).slot
    world.remove("shop.yaml")
    world.remove("dev.yaml")
    production.stop()
    try:
        world.apply_until(
            lambda done: list(done.errors) == ["Mirror/shop"],
            ("approve", ""),
            what="a try to leave the primary",
            fails=["Mirror/shop"],
        )
        (volume,) = [v for v in world.volumes() if isinstance(v.manifest, MirrorManifest)]
        assert not list((world.pool_path / "volumes" / volume.id).iterdir()), "the raw data is gone at once"
        document = world.run("status", "-o", "json")
        assert slot in document.stdout
        assert PASSWORD not in document.stdout + world.run("events").stdout
    finally:
        production.start()
    world.apply_until(lambda _: not world.volumes(), what="the end of the slot", fails=["Mirror/shop"])
    assert production.slots() == {}


def test_the_mirror_is_nobodys_to_read_and_shows_no_password(world: World) -> None:
    volume = world.pool_path / "volumes" / "shop.mirror"
    found = subprocess.run(
        ["grep", "-rlF", PASSWORD, volume, world.state / "logs", world.state / "status.sqlite3"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert found.stdout == "", "not in its volume, which is copied, nor in logs"
    mirrors = mirror_servers(world)
    assert mirrors
    assert [found for process in mirrors for found in _listening(process)] == []


def _listening(process: psutil.Process) -> list[Any]:
    return [found for found in process.net_connections("tcp") if found.status == psutil.CONN_LISTEN]


def test_a_wrong_password_is_told_and_nothing_is_made(production: Primary) -> None:
    world = new_world()
    try:
        follow(world, production)
        world.write("dev.yaml", FOLLOWER)
        (world.root / "secrets" / "dsn").write_text(production.url.replace("nobody", "somebody"))
        told = str(world.apply().final.plan)
        assert "does not let us in" in told
        assert "somebody" not in told
        assert world.volumes() == ()
        (world.root / "secrets" / "dsn").write_text(production.url)
        world.apply(("refresh", "shop")).require()
        assert len(world.snapshots()) == 1
    finally:
        world.remove("shop.yaml")
        world.remove("dev.yaml")
        world.apply()
        world.close()


def test_a_primary_is_copied_no_faster_than_its_image_allows(production: Primary) -> None:
    world, rate = new_world(), 3 << 20
    production.sql("ALTER SYSTEM SET checkpoint_completion_target = 0")  # else its next checkpoint takes minutes
    production.sql("SELECT pg_reload_conf()")
    try:
        follow(world, production, source={"primary": {"url": {"secret": "dsn"}, "copyRate": str(rate)}})
        world.write("dev.yaml", FOLLOWER)
        started = time.monotonic()
        world.apply().require()
        ((copied,),) = production.sql("SELECT sum(pg_database_size(oid)) FROM pg_database")
        assert time.monotonic() - started > float(copied) / rate
        agrees(world, production)
    finally:
        production.sql("ALTER SYSTEM RESET checkpoint_completion_target")
        production.sql("SELECT pg_reload_conf()")
        world.remove("shop.yaml")
        world.remove("dev.yaml")
        world.apply()
        world.close()


@pytest.mark.root
def test_on_btrfs_the_mirror_goes_on_while_it_is_cut(production: Primary) -> None:
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs the program mkfs.btrfs (package btrfs-progs)")
    world = new_world(driver="btrfs", pool={"size": "600Mi"})
    try:
        follow(world, production)
        world.write("dev.yaml", FOLLOWER)
        world.apply().require()
        started = {process.pid for process in mirror_servers(world)}
        with production.entering():
            for _ in range(3):
                refresh(world)
                world.apply().require()
                agrees(world, production)
        assert {process.pid for process in mirror_servers(world)} == started
    finally:
        world.write("shop.yaml", "")
        world.write("dev.yaml", "")
        world.apply()
        world.close()


def test_masked_it_is_as_any_build(world: World, production: Primary) -> None:
    (world.root / "secrets" / "key").write_text("masking key")
    rules = [{"table": "public.ledger", "columns": {"id": "keep", "filler": "hash", "chain": "null"}}]
    production.sql("ALTER TABLE ledger ALTER COLUMN chain DROP NOT NULL")
    world.write("pii.yaml", document("MaskingPolicy", "pii", {"key": {"secret": "key"}, "rules": rules}))
    follow(world, production, masking=["pii"])
    world.apply().require()
    world.apply().require()
    rows = world.sql("dev", "SELECT count(*) FILTER (WHERE filler LIKE 'xxx%'), count(chain), count(*) > 0 FROM ledger")
    assert rows == [(0, 0, True)]
    assert newest(world).masked_by == ("pii",)


@pytest.mark.long
def test_a_tablespace_that_the_primary_makes_ends_the_mirror_and_the_next_refresh_copies_it() -> None:
    with primary() as production:
        production.enter(5)
        world = new_world()
        try:
            follow(world, production)
            world.write("dev.yaml", FOLLOWER)
            world.apply().require()
            before = mirror_of(world).slot
            space = production.root / "space"
            space.mkdir()
            shutil.chown(space, production.data.stat().st_uid)
            production.sql(f"CREATE TABLESPACE far LOCATION '{space}'")
            production.sql("CREATE TABLE far TABLESPACE far AS SELECT 1 AS n")
            production.enter(2)
            until(lambda: not mirror_servers(world), what="the end of the mirror")
            assert world.sql("dev", CHAIN)[0][0] == 5, "clones live on"
            world.apply()
            assert str(space) in mirror_of(world).lost
            world.apply()
            assert production.slots() == {}, "nothing is copied before the next refresh"
            world.apply(("refresh", "shop")).require()
            world.apply().require()
            agrees(world, production)
            assert world.sql("dev", "SELECT n FROM far") == [(1,)]
            assert list(production.slots()) == [mirror_of(world).slot]
            assert mirror_of(world).slot != before
            production.sql("CREATE TABLE further TABLESPACE far AS SELECT 2 AS n")
            kill_mirror(world)
            caught_up(world, production, passes=True)  # the start that failed before is tried again after a while only
            refresh(world)
            world.apply().require()
            assert world.sql("dev", "SELECT n FROM further") == [(2,)], "it goes on with that tablespace"
        finally:
            world.close()


@pytest.mark.long
def test_a_primary_that_failed_over_is_followed_though_its_slot_stayed_behind() -> None:
    with primary() as production:
        production.enter(5)
        other = production.standby()
        world = new_world()
        try:
            follow(world, production)
            both = production.url.replace(f":{production.port}", f":{production.port},127.0.0.1:{other.port}")
            (world.root / "secrets" / "dsn").write_text(f"{both}?target_session_attrs=read-write")
            world.write("dev.yaml", FOLLOWER)
            world.apply().require()
            production.enter(2)
            caught_up(world, production)
            production.stop()
            other.promote()
            assert other.slots() == {}
            other.enter(3)
            caught_up(world, other, passes=True)
            refresh(world)
            world.apply().require()
            assert world.sql("dev", CHAIN) == other.sql(CHAIN)
            assert list(other.slots()) == [mirror_of(world).slot]
        finally:
            world.close()
            remove(other)


@pytest.mark.long
def test_a_primary_that_failed_over_without_what_the_mirror_has_is_copied_anew() -> None:
    with primary() as production:
        production.enter(5)
        other = production.standby()
        world = new_world()
        try:
            follow(world, production)
            both = production.url.replace(f":{production.port}", f":{production.port},127.0.0.1:{other.port}")
            (world.root / "secrets" / "dsn").write_text(f"{both}?target_session_attrs=read-write")
            world.write("dev.yaml", FOLLOWER)
            world.apply().require()
            other.stop()
            production.enter(4)
            caught_up(world, production)
            production.stop()
            other.start()
            other.promote()
            other.enter(1)
            until(lambda: _lost(world), what="the notice that it cannot be followed")
            assert world.sql("dev", CHAIN)[0][0] == 5, "clones live on"
            assert "copy Mirror/shop" in refresh(world).actions
            world.apply().require()
            assert world.sql("dev", CHAIN) == other.sql(CHAIN)
        finally:
            world.close()
            remove(other)


@pytest.mark.long
def test_what_is_left_at_a_primary_that_is_gone_for_good_is_forgotten_on_request() -> None:
    with primary() as production:
        world = new_world()
        try:
            follow(world, production)
            world.apply().require()
            slot = mirror_of(world).slot
            refused = world.run("forget", "shop")
            assert (refused.returncode, "nothing of image shop waits" in refused.stderr) == (1, True)
            assert list(production.slots()) == [slot]
            world.remove("shop.yaml")
            production.stop()
            world.apply(("approve", ""))
            told = world.run("status", "-o", "json").stdout
            assert "reconciler forget shop" in told
            assert slot in told
            done = world.run("forget", "shop")
            assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "forget shop: 1 object changed")
            assert slot in world.run("events").stdout, "what may be dropped by hand stays to be read"
            assert (world.volumes(), world.leftovers()) == ((), [])
            assert world.run("forget", "shop").returncode == 1
        finally:
            world.close()
