"""Clones that nobody uses stop, stay stopped, and start again when somebody asks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.plan.actions import RestartClone, StartClone, StopClone
from reconciler.plan.fingerprints import document_digest
from reconciler.plan.timers import next_due
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.observed import Idle, Observed, Request, Volume
from tests.plan.world import (
    HOUR,
    NOW,
    SETTINGS,
    World,
    a_clone,
    a_generation,
    a_request,
    a_snapshot,
    an_image,
    asked,
    clone_key,
    condition,
    planned,
    reason,
    seen,
    served,
    steps,
)

if TYPE_CHECKING:
    from datetime import timedelta

    from reconciler.state.desired import DesiredClone

CLONE = a_clone(idle=HOUR / 2)


def running(*more: Request, ago: timedelta | None, clone: DesiredClone = CLONE) -> Observed:
    """A clone that runs and was used so long ago; None: nobody can tell."""
    volume = a_generation(clone)
    used = {} if ago is None else {volume.id: NOW - ago}
    return seen(a_snapshot(), *served(volume), *more, last_used=used)


def resting(*more: Request, clone: DesiredClone = CLONE) -> Observed:
    return seen(a_snapshot(), rested(clone), *more)


def rested(clone: DesiredClone, snapshot: str = "") -> Volume:
    return a_generation(clone, idle=Idle(NOW - 3 * HOUR, NOW - HOUR, document_digest(clone)), snapshot=snapshot)


def test_a_clone_that_nobody_used_for_so_long_is_stopped() -> None:
    (stop,) = planned(asked(an_image(), CLONE), running(ago=HOUR)).actions
    assert isinstance(stop, StopClone)
    assert (stop.idle_since, stop.destructive) == (NOW - HOUR, False)
    assert "reconciler start dev" in stop.reason


def test_a_clone_that_was_used_lately_or_cannot_tell_runs_on() -> None:
    documents = asked(an_image(), CLONE)
    assert steps(planned(documents, running(ago=HOUR / 3))) == []
    assert steps(planned(documents, running(ago=None))) == []
    assert steps(planned(asked(an_image(), a_clone()), running(ago=HOUR, clone=a_clone()))) == []


def test_the_loop_wakes_when_a_clone_may_be_idle() -> None:
    due = next_due(asked(an_image(), CLONE), running(ago=HOUR / 3), NOW, settings=SETTINGS)
    assert due == NOW + HOUR / 2 - HOUR / 3


def test_a_clone_that_rests_says_since_when_and_says_the_same_in_every_pass() -> None:
    made = [planned(asked(an_image(), CLONE), resting(), now=NOW + minutes) for minutes in (HOUR * 0, HOUR)]
    assert [steps(one) for one in made] == [[], []]
    assert made[0].conditions[clone_key("dev")] == made[1].conditions[clone_key("dev")]
    found = condition(made[0], clone_key("dev"), "Idle")
    assert found is not None
    assert (found.status, (NOW - 3 * HOUR).isoformat() in found.message) == ("True", True)
    assert reason(made[0], clone_key("dev"), "Ready") == "Idle"


def test_a_stop_that_was_interrupted_is_finished() -> None:
    volume = rested(CLONE)
    (stop,) = planned(asked(an_image(), CLONE), seen(a_snapshot(), *served(volume))).actions
    assert isinstance(stop, StopClone)
    assert stop.idle_since == NOW - 3 * HOUR


def test_a_change_of_the_document_starts_a_clone_that_rests() -> None:
    for changed in (replace(CLONE, owner="payments"), replace(CLONE, idle=2 * HOUR), replace(CLONE, idle=None)):
        made = planned(asked(an_image(), changed), resting())
        assert type(made.actions[0]) is StartClone


def test_a_request_starts_a_clone_that_rests() -> None:
    (start,) = planned(asked(an_image(), CLONE), resting(a_request("start", "dev"))).actions
    assert isinstance(start, StartClone)
    assert start.request == "start-dev"


def test_a_request_to_start_is_answered_where_there_is_nothing_to_start() -> None:
    wish = a_request("start", "dev")
    made = planned(asked(an_image(), CLONE), running(wish, ago=HOUR / 3))
    assert (steps(made), made.served) == ([], {"start-dev": "clone dev runs"})
    stopped = a_clone(running=False)
    made = planned(asked(an_image(), stopped), seen(a_snapshot(), a_generation(stopped), wish))
    assert "state: stopped" in made.declined["start-dev"]


def test_a_clone_that_its_document_stops_and_starts_again_runs() -> None:
    documents = asked(an_image(), replace(CLONE, running=False))
    world = World(documents, resting())
    world.run(planned(documents, world.observed))
    world.desired = asked(an_image(), CLONE)
    assert steps(planned(world.desired, world.observed)) == ["start dev"]


def test_new_settings_of_the_image_do_not_start_a_clone_that_rests_but_a_request_does() -> None:
    documents = asked(an_image(parameters={"work_mem": "8MB"}), CLONE)
    world = World(documents, resting())
    made = planned(documents, world.observed)
    assert [type(action) for action in made.actions] == [RestartClone]
    world.run(made)
    assert (dict(world.observed.servers), steps(planned(documents, world.observed))) == ({}, [])
    asking = planned(documents, resting(a_request("start", "dev")))
    assert [type(action) for action in asking.actions] == [RestartClone, StartClone]


def test_a_clone_that_rests_follows_a_newer_snapshot_and_rests_on() -> None:
    clone = a_clone(idle=HOUR / 2, on_refresh="recreate")
    documents = asked(an_image(), clone)
    world = World(
        documents,
        seen(a_snapshot(age=2 * HOUR), a_snapshot(age=HOUR / 2), rested(clone, snapshot=a_snapshot(age=2 * HOUR).id)),
    )
    made = planned(documents, world.observed)
    assert steps(made) == ["replace dev"]
    world.run(made)
    assert (dict(world.observed.servers), steps(planned(documents, world.observed))) == ({}, [])
    assert condition(planned(documents, world.observed), ObjectKey(Kind.CLONE, "dev"), "Idle") is not None
