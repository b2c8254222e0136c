"""Clones that start from what another clone holds, on a host in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.ids import VolumeId
from reconciler.inspection import report
from reconciler.state.conditions import Kind
from reconciler.state.observed import BuildManifest, SnapshotManifest, Volume, VolumeState
from tests.loop.conftest import CLONE, IMAGE

if TYPE_CHECKING:
    from tests.loop.conftest import World

SECOND = CLONE.replace("name: dev", "name: second").replace("image: shop", "image: {clone: dev}")


def work(world: World, rows: int, name: str = "dev") -> None:
    """Let the user of a clone add rows."""
    volume, user = world.current(name), "app"
    password = world.state.credentials.existing(world.clone(name).clone, user)
    assert password is not None
    for _ in range(rows):
        world.engine.execute(world.storage.path(volume.id), user, password, "row")


def rows(world: World, name: str) -> int:
    return world.engine.content(world.storage.path(world.current(name).id)).rows


def points(world: World) -> list[SnapshotManifest]:
    manifests = [v.manifest for v in world.storage.volumes() if isinstance(v.manifest, SnapshotManifest)]
    return [manifest for manifest in manifests if manifest.clone is not None]


def start_from_dev(world: World, *, rows: int = 3) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    work(world, rows)
    world.write(IMAGE, CLONE, SECOND)
    world.apply()


def test_a_clone_starts_from_what_the_other_one_holds_and_both_go_their_own_ways(world: World) -> None:
    start_from_dev(world)
    assert (rows(world, "dev"), rows(world, "second")) == (3, 3)
    work(world, 2)
    assert (rows(world, "dev"), rows(world, "second")) == (5, 3)
    assert world.running() == ["dev.1", "second.1"]
    (point,) = points(world)
    assert (point.image, point.clone, point.base) == ("shop", "dev", world.clone().snapshot)
    assert point.input_id.startswith("clone:dev.1:1:")


def test_users_of_the_source_are_nobody_in_what_starts_from_it(world: World) -> None:
    world.write(IMAGE, CLONE.replace("{name: app}", "{name: app}, {name: tester}"))
    world.apply()
    world.write(IMAGE, CLONE.replace("{name: app}", "{name: app}, {name: tester}"), SECOND)
    world.apply()
    assert set(world.engine.users(world.storage.path(world.current("second").id))) == {"app"}


def test_a_clone_waits_until_the_one_that_it_starts_from_is_there(world: World) -> None:
    world.write(IMAGE, CLONE, SECOND)
    world.apply()
    assert world.conditions(Kind.CLONE, "second")["Reconciling"].reason == "Creating"
    world.apply()
    assert world.running() == ["dev.1", "second.1"]
    assert world.apply().plan is not None
    assert world.apply().plan.actions == ()  # type: ignore[union-attr]  # asserted the line before


def test_only_a_rebase_takes_it_to_what_the_other_one_holds_later(world: World) -> None:
    start_from_dev(world)
    work(world, 4)
    world.clock.advance(hours=1)
    world.apply()
    assert rows(world, "second") == 3
    assert world.ask("reset", "second").ok
    assert rows(world, "second") == 3
    assert world.ask("rebase", "second").ok
    assert rows(world, "second") == 7
    assert world.ask("undo", "second").ok
    assert rows(world, "second") == 3


def test_a_point_goes_when_nothing_is_made_of_it_any_more(world: World) -> None:
    start_from_dev(world)
    world.write(IMAGE, CLONE)
    world.apply()
    world.apply()
    assert points(world) == []
    assert world.running() == ["dev.1"]


def test_when_the_source_expires_what_started_from_it_stays(world: World) -> None:
    short = CLONE + "  ttl: 1h\n"
    world.write(IMAGE, short)
    world.apply()
    work(world, 3)
    world.write(IMAGE, short, SECOND)
    world.apply()
    world.clock.advance(hours=2)
    for _ in range(2):
        world.apply()
    assert world.running() == ["second.1"]
    assert rows(world, "second") == 3
    assert world.ask("reset", "second").ok
    outcome = world.ask("rebase", "second")
    assert (outcome.ok, "is expired" in outcome.message) == (False, True)


def test_a_source_that_is_renamed_stays_the_source(world: World) -> None:
    start_from_dev(world)
    renamed = CLONE.replace("{name: dev}", "{name: first, formerly: dev}")
    for documents in (renamed, CLONE.replace("dev", "first")):
        world.write(IMAGE, documents, SECOND.replace("clone: dev", "clone: first"))
        for _ in range(2):
            world.apply()
    assert (world.clone("second").source_clone, world.clone("second").generation) == ("first", 1)
    assert [point.clone for point in points(world)] == ["first"]


def test_a_quarantine_of_the_snapshot_behind_it_reaches_a_clone_of_a_clone(world: World) -> None:
    start_from_dev(world)
    assert world.ask("quarantine", world.clone().snapshot).ok
    world.apply()
    assert world.running() == []
    assert world.conditions(Kind.CLONE, "second")["Stalled"].reason == "Quarantined"


def test_numbered_clones_start_from_one_point(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    world.write(IMAGE, CLONE, SECOND + "  count: 3\n")
    world.apply()
    assert len(points(world)) == 1
    work(world, 1)
    world.write(IMAGE, CLONE, SECOND + "  count: 4\n")
    world.apply()
    assert (len(points(world)), rows(world, "second-4")) == (1, 0)


def test_a_clone_of_a_clone_of_a_clone_has_the_work_of_both(world: World) -> None:
    start_from_dev(world)
    work(world, 1, "second")
    third = SECOND.replace("second", "third").replace("clone: dev", "clone: second")
    world.write(IMAGE, CLONE, SECOND, third)
    world.apply()
    assert rows(world, "third") == 4
    first, second = sorted(points(world), key=lambda point: point.created_at)
    assert (second.base, second.origins) == (first.snapshot, (first.base,))


def test_status_says_what_a_clone_started_from_and_shows_its_point_under_the_image(world: World) -> None:
    start_from_dev(world)
    document = report(world.host)
    assert [(c["name"], c["image"], c["sourceClone"], c["newer"]) for c in document["clones"]] == [
        ("dev", "shop", None, None),
        ("second", "shop", "dev", None),
    ]
    shown = {s["id"]: (s["clone"], s["usedBy"]) for s in document["images"][0]["snapshots"]}
    (point,) = points(world)
    assert shown == {point.snapshot: ("dev", ["second"]), world.clone().snapshot: (None, ["dev"])}


def test_a_cut_that_was_killed_is_dropped_and_made_again(world: World) -> None:
    start_from_dev(world)
    (point,) = points(world)
    left = BuildManifest(
        installation=point.installation,
        image=point.image,
        clone=point.clone,
        snapshot=point.snapshot,
        engine=point.engine,
        spec_digest=point.spec_digest,
        revision=point.revision,
        started_at=point.created_at,
    )
    volume = VolumeId("dev-20261101t000000z-00000000")
    world.storage.put(Volume(volume, world.storage.name, VolumeState.COMPLETE, left), {})
    world.apply()
    assert volume not in world.volumes()
    assert rows(world, "second") == 3
