"""Images that follow a live primary, through the loop: copied, refreshed on time, and left without a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.engines.memory import MemoryMirrors, MemoryPrimary
from reconciler.ids import ImageName
from reconciler.state.observed import MirrorManifest, SnapshotManifest
from tests.loop.conftest import CLONE, IMAGE

if TYPE_CHECKING:
    from tests.loop.conftest import World

FOLLOWED = """\
apiVersion: reconciler/v1
kind: Image
metadata: {name: shop}
spec:
  engine: postgres
  source: {primary: {url: {secret: dsn}}}
  refresh: {schedule: "0 * * * *"}
  unmasked: {reason: a test}
"""
URL = "memory://primary/shop"


@pytest.fixture
def production(world: World) -> MemoryPrimary:
    primary = MemoryPrimary(("shop",), rows=3)
    assert isinstance(world.engine.mirrors, MemoryMirrors)
    world.engine.mirrors.primaries[URL] = primary
    world.secret("dsn", URL)
    return primary


def snapshots(world: World) -> list[SnapshotManifest]:
    return [v.manifest for v in world.storage.volumes() if isinstance(v.manifest, SnapshotManifest)]


def mirrors(world: World) -> list[MirrorManifest]:
    return [v.manifest for v in world.storage.volumes() if isinstance(v.manifest, MirrorManifest)]


def test_one_pass_copies_the_primary_cuts_a_snapshot_and_makes_a_clone(world: World, production: MemoryPrimary) -> None:
    world.write(FOLLOWED, CLONE)
    world.apply()
    assert [manifest.facts["rows"] for manifest in snapshots(world)] == ["3"]
    assert world.running() == ["dev.1", "shop.mirror"]
    assert production.slots == {manifest.slot for manifest in mirrors(world)}


def test_a_refresh_takes_what_came_and_builds_nothing_when_nothing_did(world: World, production: MemoryPrimary) -> None:
    world.write(FOLLOWED)
    world.apply()
    for rows in (3, 5, 5, 6):
        production.rows = rows
        world.clock.advance(hours=1)
        world.apply()
    assert [manifest.facts["rows"] for manifest in snapshots(world)] == ["3", "5", "6"]


def test_while_the_primary_is_away_nothing_is_lost_and_the_refresh_is_made_up_for(
    world: World, production: MemoryPrimary
) -> None:
    world.write(FOLLOWED, CLONE)
    world.apply()
    production.rows, production.away = 9, True
    world.clock.advance(hours=3)
    world.apply()
    assert len(snapshots(world)) == 1
    assert world.running() == ["dev.1", "shop.mirror"]
    production.away = False
    world.apply()
    assert [manifest.facts["rows"] for manifest in snapshots(world)] == ["3", "9"]


def test_when_the_image_goes_nothing_is_left_at_the_primary_however_late_it_answers(
    world: World, production: MemoryPrimary
) -> None:
    world.write(FOLLOWED)
    world.apply()
    production.away = True
    world.write(IMAGE.replace("name: shop", "name: other"))
    world.apply()
    assert production.slots
    assert [manifest.phase for manifest in mirrors(world)] == ["leaving"]
    production.away = False
    world.clock.advance(hours=1)
    world.apply()
    assert (production.slots, mirrors(world), world.running()) == (set(), [], [])


def test_a_mirror_that_nobody_has_used_for_too_long_goes_and_comes_back(
    world: World, production: MemoryPrimary
) -> None:
    without_schedule = FOLLOWED.replace('schedule: "0 * * * *"', "suspend: true")
    world.write(without_schedule.replace("{secret: dsn}", "{secret: dsn}, rawMaxAge: 2d"))
    world.apply()
    world.clock.advance(days=3)
    world.apply()
    assert (mirrors(world), production.slots) == ([], set())
    production.rows = 4
    world.ask("refresh", "shop")
    assert [manifest.image for manifest in mirrors(world)] == [ImageName("shop")]
    assert [manifest.facts["rows"] for manifest in snapshots(world)] == ["3", "4"]
