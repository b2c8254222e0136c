"""Clones on an instance in many passes: what is loaded for them, what is unknown, and what others did there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.engines.memory_instance import MemoryInstance, MemoryServer
from reconciler.ids import CloneName, RuntimeName, VolumeId, on_instance
from reconciler.runtimes.instance import InstanceRuntime
from tests.loop.conftest import CLONE, IMAGE

if TYPE_CHECKING:
    from tests.loop.conftest import World

SHARED = on_instance("shared")
HOSTED = f"{CLONE}  runtime: instance\n  instance: shared\n"
CHANGED = IMAGE.replace("database shop", "database shop\\nrow")


@pytest.fixture
def server(world: World) -> MemoryServer:
    """A server that exists already, as an instance of the world's host."""
    made = MemoryServer()
    instance = MemoryInstance(world.engine, made, world.state.installation)
    world.host.instances = {SHARED: instance}
    world.host.runtimes = {**world.host.runtimes, SHARED: InstanceRuntime(RuntimeName(SHARED), instance)}
    return made


def run(world: World, server: MemoryServer, statement: str, name: str = "dev") -> None:
    password = world.state.credentials.credential(CloneName(name), "app")
    server.execute(name, f"{name}_app", password, statement)


def test_one_pass_builds_loads_and_delivers(world: World, server: MemoryServer) -> None:
    world.write(IMAGE, HOSTED)
    world.apply()
    run(world, server, "expect 0")
    assert len(server.templates) == 1
    assert world.apply().plan.actions == ()  # type: ignore[union-attr] # a plan was made


def test_what_is_loaded_follows_what_clones_are_of(world: World, server: MemoryServer) -> None:
    world.write(IMAGE, f"{HOSTED}  onRefresh: recreate\n")
    world.apply()
    before = set(server.templates)
    world.write(CHANGED, f"{HOSTED}  onRefresh: recreate\n")
    for _ in range(4):
        world.apply()
    run(world, server, "expect 1")
    assert before < set(server.templates), "what it was before is one undo away, and a reset of that"
    world.clock.advance(hours=2)
    for _ in range(3):
        world.apply()
    assert len(server.templates) == 1
    assert before.isdisjoint(server.templates)


def test_a_silent_instance_changes_nothing_and_holds_nobody_up(world: World, server: MemoryServer) -> None:
    world.write(IMAGE, HOSTED)
    world.apply()
    run(world, server, "row")
    clones, templates = dict(server.clones), dict(server.templates)
    server.away = "no route to host"
    world.write(CHANGED, CLONE.replace("dev", "other"))
    for _ in range(3):
        world.apply()
        world.clock.advance(hours=5)
    assert (server.clones, server.templates) == (clones, templates)
    assert VolumeId("other.1") in {volume.id for volume in world.storage.volumes()}
    server.away = None
    world.write(CHANGED, CLONE.replace("dev", "other"), HOSTED)
    world.apply()
    run(world, server, "expect 1")


def test_what_others_dropped_is_told_and_made_anew_on_request_only(world: World, server: MemoryServer) -> None:
    world.write(IMAGE, HOSTED)
    world.apply()
    server.clones.clear()
    server.templates.clear()
    for _ in range(3):
        view = world.apply()
        world.clock.advance(hours=1)
    told = {condition.reason for conditions in view.plan.conditions.values() for condition in conditions}  # type: ignore[union-attr]
    assert ("DatabaseGone" in told, server.clones) == (True, {})
    world.state.requests.submit("reset", "dev", now=world.clock.now())
    for _ in range(3):
        world.apply()
    run(world, server, "expect 0")


def test_a_database_whose_volume_is_gone_is_refused_and_made_anew(world: World, server: MemoryServer) -> None:
    world.write(IMAGE, HOSTED)
    world.apply()
    run(world, server, "row")
    world.write(IMAGE)
    world.storage.delete(VolumeId("dev.1"))
    world.apply()
    assert [one.open for one in server.clones.values()] == [False]
    world.write(IMAGE, HOSTED)
    world.apply()
    run(world, server, "expect 0")


def test_the_end_of_a_clone_is_the_end_of_its_databases_and_logins(world: World, server: MemoryServer) -> None:
    world.write(IMAGE, HOSTED)
    world.apply()
    world.write(IMAGE)
    world.apply()
    assert (server.clones, server.logins, len(server.templates)) == ({}, {}, 1)
