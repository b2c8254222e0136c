"""Quarantine, from a request or a commit to what runs: lasting, explained, and lifted where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.apply import clones
from reconciler.apply.context import Work
from reconciler.errors import RefusedError
from reconciler.ids import CloneName, SnapshotId, VolumeId
from reconciler.inspection import report
from reconciler.plan.actions import CreateClone, StartClone
from reconciler.state.conditions import Kind
from reconciler.state.observed import SnapshotManifest

from .conftest import CLONE, IMAGE

if TYPE_CHECKING:
    from .conftest import World


def manifest(world: World, snapshot: str) -> SnapshotManifest:
    found = next(v.manifest for v in world.storage.volumes() if v.id == snapshot)
    assert isinstance(found, SnapshotManifest)
    return found


def delivered(world: World) -> str:
    world.write(IMAGE, CLONE)
    world.apply()
    (snapshot,) = world.snapshots()
    return snapshot


def ask(world: World, verb: str, snapshot: str, note: str = "") -> str:
    request = world.state.requests.submit(
        "quarantine" if verb == "quarantine" else "release",
        snapshot,
        now=world.clock.now(),
        requested_by="ann",
        note=note,
    )
    world.apply()
    outcome = world.state.requests.outcome(request.id)
    assert outcome is not None
    return outcome.status


def test_a_request_stops_clones_and_stands_in_the_manifest(world: World) -> None:
    snapshot = delivered(world)
    assert ask(world, "quarantine", snapshot, "an address in note") == "succeeded"
    assert (world.running(), world.volumes()) == ([], ["dev.1", snapshot])
    known = manifest(world, snapshot).quarantine
    assert known is not None
    assert (known.reason, known.by) == ("an address in note", "ann")


def test_it_lasts_without_the_state_that_made_it(world: World) -> None:
    snapshot = delivered(world)
    ask(world, "quarantine", snapshot)
    assert world.state.requests.pending() == ()
    world.clock.advance(days=400)
    for _ in range(2):
        view = world.apply()
        assert view.plan is not None
        assert (view.plan.actions, world.running()) == ((), [])


def test_a_release_starts_the_clones_again_with_what_they_held(world: World) -> None:
    snapshot = delivered(world)
    ask(world, "quarantine", snapshot)
    assert ask(world, "release", snapshot) == "succeeded"
    world.apply()
    assert (manifest(world, snapshot).quarantine, world.running()) == (None, ["dev.1"])


def test_status_and_events_say_which_and_why(world: World) -> None:
    snapshot = delivered(world)
    ask(world, "quarantine", snapshot, "an address in note")
    assert world.conditions(Kind.CLONE, "dev")["Stalled"].reason == "Quarantined"
    assert "an address in note" in world.conditions(Kind.IMAGE, "shop")["Quarantined"].message
    told = [(str(event.object), event.reason) for event in world.store.events(limit=100)]
    assert (f"Snapshot/{snapshot}", "QuarantineSucceeded") in told
    assert ("Clone/dev", "StopSucceeded") in told
    (image,) = report(world.host)["images"]
    assert "an address in note" in image["snapshots"][0]["quarantined"]


def test_a_commit_quarantines_and_releases_by_itself(world: World) -> None:
    snapshot = delivered(world)
    world.write(f"{IMAGE}  quarantine: [{snapshot}]\n", CLONE, CLONE.replace("dev", "other"))
    world.apply()
    assert (world.running(), world.conditions(Kind.CLONE, "other")["Stalled"].reason) == ([], "Quarantined")
    world.write(IMAGE, CLONE)
    world.apply()
    assert world.running() == ["dev.1"]


def test_a_clone_that_follows_goes_on_with_the_snapshot_before(world: World) -> None:
    first = delivered(world)
    world.clock.advance(minutes=1)
    recreated = f"{CLONE}  onRefresh: recreate\n"
    world.write(IMAGE.replace("database shop", "database other"), recreated)
    world.apply()
    world.apply()
    second = next(snapshot for snapshot in world.snapshots() if snapshot != first)
    assert world.clone().snapshot == second
    ask(world, "quarantine", second)
    assert (world.clone().snapshot, world.running()) == (first, ["dev.3"])


def test_what_was_planned_before_a_quarantine_is_refused_after_it(world: World) -> None:
    snapshot = delivered(world)
    view = world.reconciler.look()
    ask(world, "quarantine", snapshot, "a leak")
    assert view.commit.desired is not None
    assert view.commit.tree is not None
    work = Work(host=world.host, desired=view.commit.desired, tree=view.commit.tree)
    name = CloneName("dev")
    with pytest.raises(RefusedError, match=r"is quarantined: .* a leak"):
        clones.start_clone(work, StartClone(clone=name, volume=VolumeId("dev.1"), fingerprint="", reason="late"))
    late = CreateClone(
        clone=name,
        snapshot=SnapshotId(snapshot),
        volume=VolumeId("dev.9"),
        generation=9,
        fingerprint="",
        reason="late",
    )
    with pytest.raises(RefusedError, match="is quarantined"):
        clones.create(work, late)
    assert (world.running(), "dev.9" in world.volumes()) == ([], False)


def test_a_quarantine_that_no_pass_has_seen_yet_holds_for_work_under_way(world: World) -> None:
    snapshot = delivered(world)
    view = world.reconciler.look()
    assert view.commit.desired is not None
    assert view.commit.tree is not None
    work = Work(host=world.host, desired=view.commit.desired, tree=view.commit.tree)
    start = StartClone(clone=CloneName("dev"), volume=VolumeId("dev.1"), fingerprint="", reason="late")
    world.state.requests.submit("quarantine", snapshot, now=world.clock.now(), note="a leak")
    with pytest.raises(RefusedError, match=r"is quarantined: asked for just now: a leak"):
        clones.start_clone(work, start)
    world.clock.advance(seconds=1)
    world.state.requests.submit("release", snapshot, now=world.clock.now())
    clones.start_clone(work, start)


def test_an_unknown_snapshot_is_answered(world: World) -> None:
    delivered(world)
    assert ask(world, "quarantine", "shop-20200101t000000z-00000000") == "refused"
