"""Sizes that status shows are those of what is there."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.housekeeping import Pace, measure
from reconciler.ids import PoolName
from reconciler.state.observed import BuildManifest, SnapshotManifest

from .conftest import CLONE, IMAGE, START

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.ids import VolumeId
    from reconciler.state.observed import Observed, Volume
    from reconciler.storage.base import Usage
    from reconciler.storage.memory import MemoryStorage

    from .conftest import World


def test_the_size_of_a_build_is_not_taken_for_that_of_its_snapshot(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    observed = world.reconciler.look().observed
    assert observed is not None
    (sealed,) = observed.volumes
    world.store.retain_usage(set())
    measure(world.host, replace(observed, volumes=(as_it_was_built(sealed),)))
    assert world.store.usage() == {}
    measure(world.host, observed)
    assert set(world.store.usage()) == {sealed.id}


def test_a_snapshot_has_a_size_from_the_moment_that_it_is_there(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    assert list(world.store.usage()) == world.snapshots()


SHARE = 0.003
"""Of a processor, that measuring again may take."""


class Slow:
    """Takes processor time for each look at volumes, and tells which those were."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage
        self.looks: list[list[str]] = []

    def usage(self, volumes: list[VolumeId]) -> Mapping[VolumeId, Usage]:
        self.looks.append([str(volume) for volume in volumes])
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass
        return self._storage.usage(volumes)


def test_what_is_new_is_measured_at_once_and_all_else_oldest_first_by_a_share_of_a_processor(world: World) -> None:
    names = [f"c{number:02}" for number in range(25)]
    world.write(IMAGE, *(clone(name) for name in names[5:]))
    world.apply()
    measure(world.host, observed(world))
    world.write(IMAGE, *(clone(name) for name in names[:-1]))
    world.apply()
    world.clock.advance(minutes=5)
    measure(world.host, observed(world))
    world.write(IMAGE, *(clone(name) for name in names))
    world.apply()
    world.clock.advance(minutes=11)
    slow, pace = Slow(world.storage), Pace(world.clock)
    host = replace(world.host, pools={PoolName("default"): slow})  # type: ignore[dict-item] # nothing else is asked of it
    pace.charge(60.0)

    looks = []
    for seconds in (60.1 / SHARE + 5, *[0.1 / SHARE + 5] * 3, 0):
        measure(host, observed(world), pace)
        looks.append(sorted(volume for look in slow.looks for volume in look))
        slow.looks.clear()
        world.clock.advance(seconds=seconds)

    assert looks[0] == ["c24.1"]
    assert sorted(looks[1] + looks[2])[-19:] == [f"{name}.1" for name in names[5:-1]]
    assert [len(look) for look in looks[1:]] == [10, 10, 5, 0]


def observed(world: World) -> Observed:
    seen = world.reconciler.look().observed
    assert seen is not None
    return seen


def clone(name: str) -> str:
    return CLONE.replace("name: dev", f"name: {name}")


def as_it_was_built(volume: Volume) -> Volume:
    manifest = volume.manifest
    assert isinstance(manifest, SnapshotManifest)
    build = BuildManifest(
        installation=manifest.installation,
        image=manifest.image,
        snapshot=manifest.snapshot,
        engine=manifest.engine,
        spec_digest=manifest.spec_digest,
        revision=manifest.revision,
        started_at=START,
    )
    return replace(volume, manifest=build)
