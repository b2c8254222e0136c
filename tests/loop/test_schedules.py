"""Refreshes that wait, that are asked for in git, and what builds prove: through whole passes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.ids import VolumeId
from reconciler.inspection import report
from reconciler.state.conditions import Kind
from reconciler.state.observed import SnapshotManifest

from .conftest import CLONE, IMAGE

if TYPE_CHECKING:
    from .conftest import World

WINDOW = IMAGE + '  refresh: {window: {schedule: "0 18 * * *", duration: 6h}}\n'  # it is noon


def asked(value: str) -> str:
    return IMAGE.replace("{name: shop}", f"{{name: shop, annotations: {{reconciler/refresh: {value}}}}}")


def manifest(world: World) -> SnapshotManifest:
    (name,) = world.snapshots()
    found = next(volume.manifest for volume in world.storage.volumes() if volume.id == VolumeId(name))
    assert isinstance(found, SnapshotManifest)
    return found


def test_a_request_outside_of_the_window_is_kept_and_answered_when_it_opens(world: World) -> None:
    world.write(WINDOW)
    world.apply()
    request = world.state.requests.submit("refresh", "shop", now=world.clock.now())
    for _ in range(3):
        world.apply()
        assert world.state.requests.outcome(request.id) is None
    waiting = world.conditions(Kind.IMAGE, "shop")["Waiting"]
    assert (waiting.reason, "opens at 2026-11-20T18:00:00+00:00" in waiting.message) == ("RefreshWindow", True)
    world.clock.advance(hours=6)
    world.apply()
    outcome = world.state.requests.outcome(request.id)
    assert outcome is not None
    assert outcome.message == "image shop is up to date: its source has not changed"
    assert "Waiting" not in world.conditions(Kind.IMAGE, "shop")


def test_a_request_at_once_is_answered_at_once(world: World) -> None:
    world.write(WINDOW)
    world.apply()
    request = world.state.requests.submit("refresh", "shop", now=world.clock.now(), at_once=True)
    world.apply()
    outcome = world.state.requests.outcome(request.id)
    assert outcome is not None
    assert outcome.ok


def looks(world: World) -> int:
    """Count the looks that passes take until they have nothing to do."""
    return sum(bool(view.plan and view.plan.checked) for view in (world.apply() for _ in range(3)))


def test_an_annotation_is_answered_by_one_look_and_remembered(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    world.write(asked("one"))
    assert looks(world) == 1
    assert looks(world) == 0
    world.write(asked("two"))
    assert looks(world) == 1


def test_the_snapshot_remembers_which_value_it_answers_when_the_status_is_lost(world: World) -> None:
    world.write(asked("one"))
    world.apply()
    assert manifest(world).asked == "one"
    world.store.close()
    for file in world.state.path.glob("status.sqlite3*"):
        file.unlink()
    assert looks(world) == 0
    world.write(asked("two"))
    assert looks(world) == 1


def test_the_end_of_a_clone_is_announced_by_one_event_for_each_end(world: World) -> None:
    def warnings() -> list[str]:
        return [event.message for event in world.store.events() if event.severity == "warning"]

    world.write(IMAGE, CLONE + "  ttl: 10h\n")
    world.apply()
    assert warnings() == []
    world.clock.advance(hours=9, minutes=10)
    for _ in range(3):
        world.apply()
    (first,) = warnings()
    assert "its time is over at 2026-11-20T22:00:00+00:00" in first
    world.servers.unavailable = "away for a moment"
    world.apply()
    world.servers.unavailable = None
    world.clock.advance(minutes=10)
    world.apply()
    assert warnings() == [first]
    world.write(IMAGE, CLONE + "  ttl: 20h\n")
    world.apply()
    assert "Expiring" not in world.conditions(Kind.CLONE, "dev")
    world.clock.advance(hours=10)
    world.apply()
    assert warnings()[0] == first
    assert len(warnings()) == 2
    world.clock.advance(hours=1)
    world.apply()
    assert (world.running(), len(warnings())) == ([], 2)


def test_what_a_build_verified_is_kept_with_the_snapshot_and_shown(world: World) -> None:
    world.write(IMAGE + "  verify: {amcheck: true, checks: [{sql: 'true'}, {sql: '0'}]}\n")
    world.apply()
    verified = manifest(world).verified
    assert verified is not None
    assert verified.amcheck is not None
    assert (verified.amcheck.relations, verified.checks) == (1, 2)
    (image,) = report(world.host)["images"]
    (snapshot,) = image["snapshots"]
    assert snapshot["verified"]["amcheck"] == {"relations": 1}
    assert snapshot["keptBecause"] == ["keep"]
    assert image["lastRefresh"]["outcome"] == "Built"


def test_checks_of_verify_see_what_was_restored_and_not_what_scripts_made_of_it(world: World) -> None:
    checked = "  verify: {{checks: [{{sql: '{}'}}]}}\n"
    rows = IMAGE.replace('"database shop"}', '"database shop"}, {inline: row}')
    world.write(rows + checked.format(1))
    world.apply()
    assert (world.snapshots(), world.conditions(Kind.IMAGE, "shop")["Stalled"].reason) == ([], "CheckFailed")
    world.write(rows + checked.format(0))
    world.apply()
    assert len(world.snapshots()) == 1


def test_a_damaged_build_is_thrown_away_and_says_so(world: World) -> None:
    world.write(IMAGE.replace("database shop", "database damaged") + "  verify: {amcheck: true}\n")
    world.apply()
    world.apply()
    assert (world.volumes(), world.conditions(Kind.IMAGE, "shop")["Stalled"].reason) == ([], "DataDamaged")


def test_an_image_that_asks_for_no_proof_has_none(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    assert manifest(world).verified is None


def test_what_was_due_while_the_schedule_was_suspended_is_not_made_up_for(world: World) -> None:
    schedule = '  refresh: {{schedule: "0 14 * * *", suspend: {}}}\n'
    world.write(IMAGE + schedule.format("true"))
    world.apply()
    world.clock.advance(hours=3)
    assert looks(world) == 0
    world.write(IMAGE + schedule.format("false"))
    assert looks(world) == 0
    world.clock.advance(days=1)
    assert looks(world) == 1
    assert report(world.host)["images"][0]["nextRefreshAt"] == "2026-11-22T14:00:00Z"
    assert datetime(2026, 11, 21, 15, tzinfo=UTC) < world.clock.now()
