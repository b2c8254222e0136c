"""Images that follow a live primary, through the loop: copied, refreshed on time, and left without a trace."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.memory import MemoryMirrors, MemoryPrimary
from reconciler.ids import ImageName
from reconciler.state.observed import MirrorManifest, ObservedMirror, SnapshotManifest
from tests.loop.conftest import CLONE, IMAGE, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.engines.base import MirrorWork

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
    return a_primary_of(world)


def a_primary_of(world: World) -> MemoryPrimary:
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


def test_a_primary_that_hangs_is_one_that_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    production, end = a_primary_of(world), threading.Event()

    class Hanging(MemoryMirrors):
        def look(self, work: MirrorWork) -> ObservedMirror:
            if work.copy_rate is None:
                end.wait()
            return super().look(work)

    world.write(FOLLOWED)
    world.apply()
    world.engine.mirrors = hanging = Hanging(world.engine)
    hanging.primaries[URL] = production
    silent = ObservedMirror(following=False, problem="it or its primary did not answer in time")
    try:
        monkeypatch.setattr("reconciler.observe._MIRROR_SECONDS", 0.2)
        assert seen(world) == silent
        world.write(FOLLOWED.replace("{secret: dsn}", "{secret: dsn}, copyRate: 5Mi"))
        monkeypatch.setattr("reconciler.observe._MIRROR_SECONDS", 60)
        assert seen(world).following, "of a document that changed meanwhile the answer is another one"
    finally:
        end.set()


def seen(world: World) -> ObservedMirror:
    observed = world.reconciler.look().observed
    assert observed is not None
    return observed.mirrors[ImageName("shop")]


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


@pytest.fixture
def granted(tmp_path: Path) -> Iterator[World]:
    """A world that may read an archive."""
    with ExitStack() as stack:
        made = World(tmp_path, stack, settings={"sources": {"roots": [str(tmp_path)]}})
        yield made
        made.reconciler.close(abandon=True)


def test_what_comes_into_an_archive_is_replayed_by_every_pass_and_cut_when_it_is_time(
    granted: World, tmp_path: Path
) -> None:
    world, production = granted, a_primary_of(granted)
    world.write(FOLLOWED.replace("{secret: dsn}", f"{{secret: dsn}}, mode: archive, archive: {tmp_path}"))
    world.apply()
    assert ([manifest.slot for manifest in mirrors(world)], production.slots) == ([""], set())
    production.away, production.archived = True, 7
    world.apply()
    assert [manifest.facts["rows"] for manifest in snapshots(world)] == ["3"]
    world.clock.advance(hours=1)
    world.apply()
    assert [manifest.facts["rows"] for manifest in snapshots(world)] == ["3", "7"]
    world.write("")
    world.apply()
    world.ask("approve", "")
    assert mirrors(world) == [], "there is nothing to wait for at the primary"


def test_a_slot_at_a_primary_that_is_gone_for_good_is_forgotten_on_request(
    world: World, production: MemoryPrimary
) -> None:
    world.write(FOLLOWED)
    world.apply()
    production.away = True
    world.write(IMAGE.replace("name: shop", "name: other"))
    world.apply()
    assert [manifest.phase for manifest in mirrors(world)] == ["leaving"]
    outcome = world.ask("forget", "shop")
    assert outcome is not None
    assert (outcome.status, mirrors(world)) == ("succeeded", [])
    assert production.slots, "nobody could tell the primary"
