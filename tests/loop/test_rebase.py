"""Rebase, and what is newer, on a host in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.inspection import report
from tests.loop.conftest import CLONE, IMAGE

if TYPE_CHECKING:
    from tests.loop.conftest import World

SCRIPTS = 'scripts: [{inline: "database shop"}]'


def newer_snapshot(world: World, number: int, *clones: str) -> None:
    """Let the image change, so that it is built anew."""
    world.clock.advance(minutes=1)
    world.write(IMAGE.replace(SCRIPTS, f'scripts: [{{inline: "database shop{number}"}}]'), *clones)
    world.apply()


def newer(world: World) -> str | None:
    (clone,) = report(world.host)["clones"]
    return None if clone["newer"] is None else clone["newer"]["snapshot"]


def test_status_says_what_is_newer_and_a_rebase_takes_the_clone_there(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    assert newer(world) is None
    newer_snapshot(world, 1, CLONE)
    first, second = sorted(world.snapshots())
    port, user = world.clone().port, world.clone().users
    password = world.state.credentials.existing(world.clone().clone, "app")
    assert (world.clone().snapshot, newer(world)) == (first, second)
    assert world.ask("rebase", "dev").ok
    assert (world.clone().snapshot, world.clone().port, world.clone().users) == (second, port, user)
    assert (world.running(), newer(world)) == (["dev.2"], None)
    assert world.state.credentials.existing(world.clone().clone, "app") == password
    assert world.ask("undo", "dev").ok
    assert (world.clone().snapshot, newer(world)) == (first, second)


def test_a_clone_that_follows_stays_where_a_rebase_took_it_until_there_is_something_newer(world: World) -> None:
    follower = CLONE + "  onRefresh: recreate\n"
    world.write(IMAGE, follower)
    world.apply()
    newer_snapshot(world, 1, follower)
    world.apply()
    first, second = sorted(world.snapshots())
    assert world.clone().snapshot == second
    assert world.ask("rebase", "dev", snapshot=first).ok
    world.clock.advance(hours=1)
    world.apply()
    assert world.clone().snapshot == first
    assert world.ask("reset", "dev").ok
    world.apply()
    assert world.clone().snapshot == first
    newer_snapshot(world, 2, follower)
    world.apply()
    assert world.clone().snapshot == max(world.snapshots())
