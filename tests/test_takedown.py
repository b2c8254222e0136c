"""Ending all servers, and removing everything that an installation made: on memory drivers."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import RefusedError, UnavailableError
from reconciler.ids import PoolName
from reconciler.takedown import halt, inventory, obstacles, remove_volumes
from tests.loop.conftest import CLONE, IMAGE, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POOLS = frozenset({PoolName("default")})
TEST = CLONE.replace("dev", "test").replace("image: shop", "image: {clone: dev}")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        made = World(tmp_path, stack)
        made.write(IMAGE, CLONE, TEST)
        made.apply()
        made.apply()
        assert made.running() == ["dev.1", "test.1"]
        yield made
        made.reconciler.close(abandon=True)


def test_halted_servers_come_back_with_the_next_pass(world: World) -> None:
    assert halt(world.host, POOLS) == ("dev.1", "test.1")
    assert world.running() == []
    assert halt(world.host, POOLS) == ()
    world.apply()
    assert world.running() == ["dev.1", "test.1"]


def test_nothing_is_halted_while_a_runtime_cannot_be_asked(world: World) -> None:
    world.servers.unavailable = "away"
    with pytest.raises(UnavailableError, match="runtime process: "):
        halt(world.host, POOLS)
    world.servers.unavailable = None
    assert len(world.running()) == 2


def test_everything_is_listed_and_then_removed(world: World) -> None:
    listed = [(item.kind, item.name) for item in inventory(world.host)]
    assert ("clone", "dev.1") in listed
    assert len([kind for kind, _ in listed if kind == "snapshot"]) == 2
    told: list[str] = []

    remove_volumes(world.host, told.append)

    assert (world.volumes(), world.running()) == ([], [])
    assert "removing Clone/dev" in told


def test_a_protected_clone_keeps_everything(world: World) -> None:
    world.write(IMAGE, CLONE + "  protected: true\n")
    world.apply()
    before = world.volumes()
    with pytest.raises(RefusedError, match="clone dev is protected"):
        remove_volumes(world.host, lambda _: None)
    assert world.volumes() == before


def test_a_quarantined_snapshot_is_an_obstacle(world: World) -> None:
    (snapshot,) = [name for name in world.snapshots() if name.startswith("shop-2")]
    assert world.ask("quarantine", snapshot).ok
    assert [one for one in obstacles(world.host) if snapshot in one and "evidence" in one]


def test_what_cannot_be_seen_is_an_obstacle(world: World) -> None:
    world.state.known_pools.remember(PoolName("elsewhere"), "0123")
    world.servers.unavailable = "away"
    assert [one.split(":")[0] for one in obstacles(world.host)] == [
        "pool elsewhere was in use and is not in the configuration any more",
        "the runtime process cannot be asked",
    ]


def test_what_was_begun_is_finished_by_the_next_call(world: World) -> None:
    failing = world.storage.delete
    calls = 0

    def once(volume: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise UnavailableError("not now")
        failing(volume)  # type: ignore[arg-type]  # as given

    world.host.pools = {PoolName("default"): _Deleting(world.storage, once)}  # type: ignore[dict-item]  # the rest is as it was
    told: list[str] = []
    for _ in range(2):
        with suppress(UnavailableError):
            remove_volumes(world.host, told.append)
    assert (world.volumes(), calls > 1) == ([], True)


class _Deleting:
    """A storage whose deletions are somebody else's."""

    def __init__(self, storage: object, delete: object) -> None:
        self._storage, self.delete = storage, delete

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)
