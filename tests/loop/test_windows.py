"""Deletions and builds that wait for a maintenance window: through whole passes."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from reconciler.ids import ServerName
from reconciler.inspection import report
from reconciler.state.conditions import Kind
from reconciler.status.render import render_status
from tests.loop.conftest import CLONE, IMAGE, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NIGHT = {"kind": "allow", "schedule": "0 22 * * *", "duration": "6h", "timezone": "Europe/Paris"}  # it is noon


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        made = World(tmp_path, stack, settings={"windows": [NIGHT]})
        yield made
        made.reconciler.close(abandon=True)


def test_a_build_waits_for_the_night_and_the_loop_wakes_up_for_it(world: World) -> None:
    world.write(IMAGE, CLONE)
    for _ in range(3):
        view = world.apply()
    assert world.volumes() == []
    assert view.unwell == {}
    waits = world.conditions(Kind.IMAGE, "shop")["Waiting"]
    assert (waits.reason, "opens at 2026-11-20T22:00:00+01:00" in waits.message) == ("MaintenanceWindow", True)
    told = [str(event.object) for event in world.store.events() if event.reason == "MaintenanceWindow"]
    assert told == ["Clone/dev", "Image/shop"]
    shown = render_status(report(world.host))
    assert "PROBLEMS" not in shown
    assert "WAITING\n· Image/shop  build (there is no snapshot yet): heavy actions wait for" in shown
    assert view.plan is not None
    assert view.plan.held[0].until is not None
    assert 0 < world.reconciler._pause(view) < 64

    world.clock.advance(hours=8, minutes=59, seconds=30)
    assert 0 < world.reconciler._pause(world.apply()) < 31
    world.clock.advance(seconds=30)
    world.apply()

    assert world.running() == ["dev.1"]
    assert "Waiting" not in world.conditions(Kind.IMAGE, "shop")


@pytest.fixture
def served(world: World) -> World:
    """Return a world at noon, with a clone that was made in the night."""
    world.write(IMAGE, CLONE)
    world.clock.advance(hours=10)
    world.apply()
    world.clock.advance(hours=14)
    assert world.running() == ["dev.1"]
    return world


def test_the_next_refresh_is_shown_for_when_it_may_really_start(served: World) -> None:
    served.write(IMAGE + '  refresh: {schedule: "0 15 * * *"}\n', CLONE)
    served.apply()
    (image,) = report(served.host)["images"]
    assert image["nextRefreshAt"] == "2026-11-21T21:00:00Z"


def test_a_clone_without_a_document_is_served_until_the_window_opens(served: World) -> None:
    served.write(IMAGE)
    served.apply()
    assert served.running() == ["dev.1"]
    served.clock.advance(hours=10)
    served.apply()
    assert served.running() == []


def test_what_a_person_asks_for_does_not_wait(served: World) -> None:
    assert served.ask("reset", "dev").ok
    assert served.running() == ["dev.2"]


def test_apply_now_does_what_waits(served: World) -> None:
    served.write(IMAGE)
    outcome = served.ask("apply")
    assert (outcome.ok, "wait for a maintenance window" in outcome.message) == (True, True)
    assert served.running() == ["dev.1"]

    request = served.state.requests.submit("apply", now=served.clock.now(), at_once=True)
    served.apply()

    answer = served.state.requests.outcome(request.id)
    assert answer is not None
    assert (answer.ok, served.running()) == (True, [])


def test_a_deletion_that_has_to_be_approved_is_approved_when_it_may_be_done(served: World) -> None:
    served.write()
    refused = served.ask("approve")
    assert (refused.status, "approve then" in refused.message) == ("refused", True)
    assert served.running() == ["dev.1"]

    request = served.state.requests.submit("approve", now=served.clock.now(), at_once=True)
    served.apply()

    answer = served.state.requests.outcome(request.id)
    assert answer is not None
    assert (answer.ok, served.running()) == (True, [])


def test_a_suspended_host_looks_and_begins_nothing(served: World) -> None:
    served.host.config = served.host.config.model_copy(update={"suspend": True, "windows": ()})
    served.write(IMAGE, CLONE.replace("dev", "test"))
    served.servers.crash(ServerName("dev.1"))
    request = served.state.requests.submit("reset", "dev", now=served.clock.now())
    view = served.apply()
    assert view.plan is not None
    assert (view.plan.actions, served.running(), view.unwell) == ((), [], {})
    assert served.conditions(Kind.CLONE, "test")["Waiting"].reason == "HostSuspended"
    assert "the host is suspended" in render_status(report(served.host))

    served.host.config = served.host.config.model_copy(update={"suspend": False})
    served.apply()

    assert served.running() == ["test.1"]
    assert served.state.requests.outcome(request.id) is not None
