"""Mirrors that replay an archive: nothing is made at the primary, and whatever the archive lacks is waited for."""

from __future__ import annotations

import gzip
import shutil
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.engines.postgres import server
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.observed import SnapshotManifest
from tests.followed.primary import CHAIN, Primary, archived, archiving, primary, remove
from tests.followed.test_following import FOLLOWER
from tests.followed.world import caught_up, follow, mirror_of, refresh, source_of
from tests.support import clone, new_world, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.state.conditions import Condition
    from tests.support import Pass, World

pytestmark = pytest.mark.postgres

_PAGE_HEADER = 40
MAJORS = sorted({installed.major for installed in server.installed_servers()})


@pytest.fixture(
    scope="module", params=[MAJORS[-1], *(pytest.param(major, marks=pytest.mark.long) for major in MAJORS[:-1])]
)
def everywhere(request: pytest.FixtureRequest) -> Iterator[Primary]:
    with primary(request.param) as made:
        archiving(made)
        made.enter(20)
        yield made


@pytest.fixture
def production() -> Iterator[Primary]:
    with primary() as made:
        archiving(made)
        made.enter(20)
        yield made


@contextmanager
def following(production: Primary, **spec: Any) -> Iterator[World]:  # noqa: ANN401 - as YAML
    """Have an installation with an image that follows the archive of a primary, and a clone of it."""
    made = new_world(settings={"sources": {"roots": [str(production.root)]}})
    try:
        follow(made, production, source=source_of(production), **spec)
        made.write("dev.yaml", FOLLOWER)
        made.apply().require()
        yield made
    finally:
        made.close()


def told(world: World) -> dict[str, Condition]:
    plan = world.look().plan
    assert plan is not None
    return {one.type: one for one in plan.conditions[ObjectKey(Kind.MIRROR, "shop")]}


def refreshed(world: World) -> Pass:
    refresh(world)
    return world.apply().require()


def has_all_of(world: World, production: Primary) -> None:
    """Insist that the clone has every entry, and its snapshot a time at which that was all."""
    current = world.current("dev").snapshot
    manifests = [volume.manifest for volume in world.volumes()]
    (found,) = [m for m in manifests if isinstance(m, SnapshotManifest) and m.snapshot == current]
    assert found.data_as_of is not None
    assert world.sql("dev", CHAIN)[0] == production.ledger_at(found.data_as_of) == production.sql(CHAIN)[0]


def test_refreshes_have_what_was_archived_and_nothing_is_made_at_the_primary(everywhere: Primary) -> None:
    with following(everywhere) as world:
        for _ in range(2):
            everywhere.enter(5)
            archived(everywhere)
            refreshed(world)
            has_all_of(world, everywhere)
        assert everywhere.slots() == {}
        assert mirror_of(world).slot == ""
        snapshots = world.snapshots()
        refreshed(world)
        assert world.snapshots() == snapshots, "up to date: nothing came"
        world.remove("shop.yaml")
        world.remove("dev.yaml")
        everywhere.stop()
        try:
            world.apply(("approve", "")).require()
            world.converge()
            assert (world.volumes(), world.leftovers()) == ((), []), "there is nothing to leave at the primary"
        finally:
            everywhere.start()


@pytest.mark.long
def test_segments_may_be_compressed_and_log_is_kept_for_moments(production: Primary) -> None:
    with following(production, pointInTime={"window": "1h"}) as world:
        world.converge()
        production.enter(3)
        ((at,),) = production.sql("SELECT pg_xact_commit_timestamp(xmin) FROM ledger WHERE id = 22")
        for _ in range(2):
            production.enter(1)
            last = production.root / "archive" / archived(production)
            last.with_name(f"{last.name}.gz").write_bytes(gzip.compress(last.read_bytes()))
            last.unlink()
        world.converge()
        production.enter(1)
        whole = gzip.compress((last := production.root / "archive" / archived(production)).read_bytes())
        last.unlink()
        growing = last.with_name(f"{last.name}.gz")
        growing.write_bytes(whole[:100])
        timer = threading.Timer(2, growing.write_bytes, [whole])
        timer.start()
        world.apply().require()
        timer.join()
        world.write("then.yaml", clone("then", snapshot={"at": at.isoformat()}))
        refreshed(world)
        has_all_of(world, production)
        assert world.sql("then", CHAIN)[0] == production.ledger_at(at)


@pytest.mark.long
def test_a_missing_segment_is_named_and_waited_for_and_clones_live_on(production: Primary) -> None:
    with following(production) as world:
        world.sql("dev", "CREATE TABLE work AS SELECT 1 AS n")
        production.enter(1)
        lost = production.root / "archive" / archived(production)
        hidden = shutil.move(lost, production.root / "hidden")
        production.enter(1)
        archived(production)
        before = world.snapshots()
        assert world.run("refresh", "shop").returncode == 1
        ready = told(world)["Ready"]
        assert (ready.status, ready.reason) == ("False", "NotFollowing")
        assert f"{lost.name} is missing in the archive" in ready.message
        assert "put the segment there" in ready.message
        assert world.snapshots() == before
        assert world.sql("dev", "SELECT n FROM work") == [(1,)]
        shutil.move(hidden, lost)
        until(lambda: _follows(world), what="the end of the gap")
        refreshed(world)
        has_all_of(world, production)


def _follows(world: World) -> bool:
    """Whether a pass, of its own accord, leaves nothing to be waited for."""
    world.apply()
    return told(world)["Ready"].status == "True"


@pytest.mark.long
def test_a_damaged_segment_is_told_and_replaced_without_a_hand(production: Primary) -> None:
    with following(production) as world:
        production.enter(1)
        damaged = production.root / "archive" / archived(production)
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:_PAGE_HEADER] + bytes(len(whole) - _PAGE_HEADER))
        production.enter(1)
        archived(production)
        done = world.apply()
        assert "damaged there" in done.errors["Mirror/shop"]
        assert "put a whole copy" in told(world)["Ready"].message
        damaged.write_bytes(whole)
        until(lambda: _follows(world), what="the end of the damage")
        refreshed(world)
        has_all_of(world, production)


@pytest.mark.long
def test_an_archive_that_ends_is_told_of_and_goes_on(production: Primary) -> None:
    with following(production) as world:
        production.sql("ALTER SYSTEM SET archive_command = 'false'", "postgres")
        production.sql("SELECT pg_reload_conf()", "postgres")
        for _ in range(6):
            production.enter(1)
            production.sql("SELECT pg_switch_wal()")
        behind = told(world)["Behind"]
        assert (behind.status, behind.reason) == ("True", "ArchiveBehind")
        assert "archive_command" in behind.message
        assert told(world)["Ready"].status == "True", "what there is can be cut"
        production.sql("ALTER SYSTEM RESET archive_command", "postgres")
        production.sql("SELECT pg_reload_conf()", "postgres")
        archived(production)
        refreshed(world)
        assert told(world)["Behind"].status == "False"
        has_all_of(world, production)


@pytest.mark.long
def test_a_timeline_switch_in_the_archive_is_followed(production: Primary) -> None:
    other = production.standby()
    try:
        with following(production) as world:
            (world.root / "secrets" / "dsn").write_text(
                production.url.replace(f":{production.port}", f":{production.port},127.0.0.1:{other.port}")
                + "?target_session_attrs=read-write"
            )
            production.enter(2)
            archived(production)
            production.stop()
            other.promote()
            other.enter(3)
            archived(other, production.root / "archive")
            refreshed(world)
            assert world.sql("dev", CHAIN) == other.sql(CHAIN)
            other.enter(3)
            archived(other, production.root / "archive")
            refreshed(world)
            assert world.sql("dev", CHAIN) == other.sql(CHAIN)
            assert mirror_of(world).slot == ""
    finally:
        remove(other)


@pytest.mark.long
def test_streaming_and_archive_are_exchanged_without_another_copy(production: Primary) -> None:
    with following(production) as world:
        copied = mirror_of(world).copied_at
        follow(world, production)
        world.apply().require()
        assert list(production.slots()) == [mirror_of(world).slot]
        production.enter(2)
        caught_up(world, production)
        refreshed(world)
        has_all_of(world, production)
        follow(world, production, source=source_of(production))
        world.apply().require()
        assert (production.slots(), mirror_of(world).slot) == ({}, "")
        production.enter(2)
        archived(production)
        refreshed(world)
        has_all_of(world, production)
        assert mirror_of(world).copied_at == copied


@pytest.mark.long
def test_without_its_primary_a_mirror_goes_on_with_the_archive(production: Primary) -> None:
    with following(production) as world:
        production.enter(3)
        archived(production)
        wanted = production.sql(CHAIN)
        production.stop()
        try:
            refreshed(world)
            assert world.sql("dev", CHAIN) == wanted
            assert "cannot be reached" in told(world)["Ready"].message
        finally:
            production.start()
