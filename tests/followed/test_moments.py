"""Clones of moments: exactly the transactions before, whatever the primary does meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from reconciler.apply import mirrors
from reconciler.apply.context import Work
from reconciler.ids import ImageName
from reconciler.plan.actions import DropRaw
from reconciler.state.observed import RawManifest, SnapshotManifest
from reconciler.storage.manifests import ManifestStore
from tests.followed.primary import CHAIN, primary
from tests.followed.world import caught_up, follow, refresh
from tests.support import clone, document, new_world, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.followed.primary import Primary
    from tests.support import World

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def production() -> Iterator[Primary]:
    with primary() as made:
        made.enter(5)
        yield made


@pytest.fixture
def world(production: Primary) -> Iterator[World]:
    """An installation with a past: a raw copy is kept, and its log."""
    made = new_world()
    try:
        follow(made, production, pointInTime={"window": "1h"})
        made.converge()
        yield made
    finally:
        made.write("shop.yaml", "")
        made.write("clones.yaml", "")
        made.apply()
        made.close()


def committed(production: Primary, number: int) -> datetime:
    ((at,),) = production.sql(f"SELECT pg_xact_commit_timestamp(xmin) FROM ledger WHERE id = {number}")
    assert isinstance(at, datetime)
    return at.astimezone(UTC)


def of(name: str, at: datetime) -> dict[str, object]:
    return clone(name, snapshot={"at": at.isoformat()})


def image_of(at: datetime, **spec: object) -> dict[str, object]:
    return document("Image", "then", {"engine": "postgres", "source": {"image": "shop"}, "at": at.isoformat(), **spec})


def raws(world: World) -> list[RawManifest]:
    return [volume.manifest for volume in world.volumes() if isinstance(volume.manifest, RawManifest)]


def test_a_raw_copy_says_until_when_it_is_and_log_is_kept_from_there(world: World, production: Primary) -> None:
    (kept,) = raws(world)
    assert kept.until is not None
    production.enter(1)
    production.forget_log()
    caught_up(world, production)
    assert list((world.pool_path / "volumes" / "shop.mirror" / "wal").iterdir())


def test_what_a_crash_left_of_a_kept_segment_is_replaced(world: World, production: Primary) -> None:
    ((name,),) = production.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
    kept = world.pool_path / "volumes" / "shop.mirror" / "wal" / name
    kept.touch()
    production.enter(1)
    production.forget_log()
    until(lambda: kept.stat().st_size == 16 << 20, what=f"the whole of {name}")


def test_clones_at_moments_between_commits_have_exactly_the_transactions_before(
    world: World, production: Primary
) -> None:
    ((before,),) = production.sql("SELECT max(id) FROM ledger")
    for number in range(6):
        production.enter(1)
        if number in (1, 3):
            production.forget_log()
    caught_up(world, production)
    wanted = {f"c{number}": committed(production, before + number) for number in (1, 3, 5)}
    exact = {"exact": wanted["c3"], **{n: at + timedelta(microseconds=1) for n, at in wanted.items()}}
    early = committed(production, before + 4) - timedelta(microseconds=1)
    world.write("clones.yaml", *(of(name, at) for name, at in {**exact, "early": early}.items()))
    world.apply().require()
    found = {name: world.sql(name, CHAIN)[0] for name in (*exact, "early")}
    assert {name: rows[1] - before for name, rows in found.items()} == {
        "exact": 3,
        "c1": 1,
        "c3": 3,
        "c5": 5,
        "early": 3,
    }
    for name, at in {**exact, "early": early}.items():
        assert found[name] == production.ledger_at(at)


def test_the_same_moment_is_built_once_however_it_is_written_and_goes_with_its_clones(
    world: World, production: Primary
) -> None:
    production.enter(2)
    caught_up(world, production)
    ((last,),) = production.sql("SELECT max(id) FROM ledger")
    at = committed(production, last - 1)
    world.write("clones.yaml", of("a", at), of("b", at.astimezone(ZoneInfo("Australia/Lord_Howe"))))
    world.apply().require()
    moments = [v.manifest for v in world.volumes() if isinstance(v.manifest, SnapshotManifest) and v.manifest.at]
    assert [manifest.at for manifest in moments] == [at]
    assert world.sql("a", CHAIN) == world.sql("b", CHAIN)
    world.remove("clones.yaml")
    world.converge()
    assert not [v for v in world.volumes() if isinstance(v.manifest, SnapshotManifest) and v.manifest.at]


def test_an_image_of_a_moment_shares_it_with_clones_and_lives_on_when_the_window_has_passed(
    world: World, production: Primary
) -> None:
    world.configure(prune={"maxDelete": 100, "maxDeletePercent": 100})
    production.enter(3)
    caught_up(world, production)
    ((last,),) = production.sql("SELECT max(id) FROM ledger")
    at = committed(production, last - 1)
    world.write("then.yaml", image_of(at))
    world.write("clones.yaml", of("direct", at), clone("trainee", image="then"))
    world.apply().require()
    assert world.sql("trainee", CHAIN) == world.sql("direct", CHAIN) == [production.ledger_at(at)]
    (then,) = [v for v in world.volumes() if isinstance(v.manifest, SnapshotManifest) and v.manifest.image == "then"]
    assert isinstance(then.manifest, SnapshotManifest)
    assert then.manifest.base == world.current("direct").snapshot
    assert then.manifest.data_as_of == at
    follow(world, production, pointInTime={"window": "1s", "every": "1s"})
    for _ in range(3):
        production.enter(1)
        caught_up(world, production)
        world.apply().require()
    script = {"inline": "DELETE FROM ledger WHERE id = 1", "database": "shop"}
    world.write("then.yaml", image_of(at, scripts=[script]))
    world.write("clones.yaml", clone("late", image="then"))
    world.apply().require()
    assert world.sql("late", "SELECT count(*)::int, max(id) FROM ledger") == [(last - 2, last - 1)]
    world.write("then.yaml", image_of(at - timedelta(days=9)))
    told = world.apply().require().condition("Image/then", "Stalled")
    assert told is not None
    assert told[1] == "MomentUnreachable"
    assert "image shop reaches from" in told[2]
    assert world.sql("late", "SELECT 1") == [(1,)]
    world.remove("then.yaml")
    world.write("clones.yaml", "")
    follow(world, production, pointInTime={"window": "1h"})
    world.converge()
    assert [v.manifest.image for v in world.volumes() if isinstance(v.manifest, SnapshotManifest)] == ["shop"]


def another_raw(world: World) -> None:
    """Run passes until another raw copy is due, and kept."""
    before = len(raws(world))
    world.apply_until(lambda _: len(raws(world)) > before, what="a raw copy")


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_twenty_moments_of_one_window_are_each_exactly_the_commits_before(world: World, production: Primary) -> None:
    """Serial commits; raw copies and new segments between them; at commits, right before, right after, and between."""
    follow(world, production, pointInTime={"window": "1h", "every": "1s"})
    ((before,),) = production.sql("SELECT max(id) FROM ledger")
    for number in range(1, 11):
        production.enter(1)
        if number in (2, 5, 6, 9):
            production.forget_log()
        if number in (3, 6, 8):
            caught_up(world, production)
            another_raw(world)
    caught_up(world, production)
    times = [committed(production, before + number) for number in range(1, 11)]
    instant = timedelta(microseconds=1)
    wanted = {f"c{number}": (at, number) for number, at in enumerate(times, 1)}
    wanted |= {f"b{number}": (times[number - 1] - instant, number - 1) for number in (2, 4, 6, 7, 9)}
    wanted |= {f"a{number}": (times[number - 1] + instant, number) for number in (1, 3, 8)}
    wanted |= {f"m{number}": (times[number - 1] + (times[number] - times[number - 1]) / 2, number) for number in (5, 9)}
    assert len(wanted) == 20
    world.write("clones.yaml", *(of(name, at) for name, (at, _number) in wanted.items()))
    world.apply().require()
    found = {name: world.sql(name, CHAIN)[0] for name in wanted}
    assert {name: rows[1] - before for name, rows in found.items()} == {
        n: number for n, (_at, number) in wanted.items()
    }
    assert found == {name: production.ledger_at(at) for name, (at, _number) in wanted.items()}
    started_from = {raw.taken_at for raw in raws(world)}
    assert len(started_from) > 2


def test_a_moment_after_the_last_commit_of_an_idle_primary_is_its_end(world: World, production: Primary) -> None:
    production.enter(1)
    caught_up(world, production)
    ((last,),) = production.sql("SELECT max(id) FROM ledger")
    at = committed(production, last) + timedelta(milliseconds=1)
    world.write("clones.yaml", of("idle", at))
    world.apply_until(
        lambda _: world.generations("idle"),
        what="the clock of the primary",
        waits={"Clone/idle": ["WaitingForMirror", "Creating"]},
    )
    assert world.sql("idle", CHAIN)[0] == production.ledger_at(at)


def test_the_oldest_moment_that_can_be_reached_is_that_of_the_first_raw_copy(world: World, production: Primary) -> None:
    (kept,) = raws(world)
    assert kept.until is not None
    world.write("clones.yaml", of("edge", kept.until), of("beyond", kept.until - timedelta(microseconds=1)))
    done = world.apply_until(  # of an idle primary, a raw copy may be dated to the second after its checkpoint
        lambda _: world.generations("edge"),
        what="the clock of the primary",
        waits={"Clone/edge": ["WaitingForMirror", "Creating"]},
    )
    assert world.sql("edge", CHAIN)[0] == production.ledger_at(kept.until)
    told = done.condition("Clone/beyond", "Stalled")
    assert told is not None
    assert kept.until.isoformat() in told[2]


def test_a_moment_that_is_too_long_ago_names_the_window(world: World) -> None:
    (kept,) = raws(world)
    assert kept.until is not None
    world.write("clones.yaml", of("early", kept.until - timedelta(hours=2)))
    done = world.apply().require()
    told = done.condition("Clone/early", "Stalled")
    assert told is not None
    assert kept.until.isoformat() in told[2]


def test_log_that_no_raw_copy_needs_is_removed(world: World, production: Primary) -> None:
    follow(world, production, pointInTime={"window": "2s", "every": "1s"})
    seen: set[str] = set()

    def some_is_removed() -> bool:
        production.enter(1)
        production.forget_log()
        caught_up(world, production)
        seen.update(_kept_log(world))
        world.apply().require()
        return not seen <= _kept_log(world)

    until(some_is_removed, what="the removal of log")
    assert len(raws(world)) <= 4
    kept = _kept_log(world)
    first = min(
        path.name
        for manifest in raws(world)
        for volume in world.volumes()
        if volume.manifest == manifest
        for path in (world.pool_path / "volumes" / volume.id / "data" / "pg_wal").iterdir()
        if len(path.name) == 24
    )
    assert all(name[8:] >= first[8:] for name in kept)
    assert {name for name in seen if name[8:] >= first[8:]} <= kept, "what is needed stays"
    assert kept


def _kept_log(world: World) -> set[str]:
    """Return the names of the segments that a mirror keeps."""
    place = world.pool_path / "volumes" / "shop.mirror" / "wal"
    return {path.name for path in place.iterdir() if len(path.name) == 24}


@pytest.mark.long
def test_log_that_an_unreadable_raw_copy_may_need_is_not_removed(world: World, production: Primary) -> None:
    follow(world, production, pointInTime={"window": "1h", "every": "1s"})
    for _ in range(2):
        production.enter(1)
        production.forget_log()
        caught_up(world, production)
        world.apply().require()
    place = world.pool_path / "volumes" / "shop.mirror" / "wal"
    kept = {path.name for path in place.iterdir()}
    first, *others = sorted((v for v in world.volumes() if isinstance(v.manifest, RawManifest)), key=lambda v: v.id)
    manifest = ManifestStore(world.pool_path / "manifests").file(first.id)
    readable = manifest.read_bytes()
    with world.host(writes=True) as host:
        commit = host.commits().newest()
        assert commit.desired is not None
        assert commit.tree is not None
        manifest.write_text("{")
        for raw in others:
            drop = DropRaw(image=ImageName("shop"), volume=raw.id, pool=raw.pool, pruned=False, reason="a test")
            mirrors.drop_raw(Work(host=host, desired=commit.desired, tree=commit.tree), drop)
        manifest.write_bytes(readable)
    assert [volume.id for volume in world.volumes() if isinstance(volume.manifest, RawManifest)] == [first.id]
    assert kept <= {path.name for path in place.iterdir()}


@pytest.mark.long
def test_a_refresh_and_a_moment_go_side_by_side(world: World, production: Primary) -> None:
    production.enter(3)
    caught_up(world, production)
    ((last,),) = production.sql("SELECT max(id) FROM ledger")
    refresh(world)
    world.write("clones.yaml", of("then", committed(production, last - 1)), clone("now"))
    world.converge()
    assert world.sql("now", CHAIN)[0][1] == last
    assert world.sql("then", CHAIN)[0][1] == last - 1
