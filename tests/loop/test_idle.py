"""Clones that nobody uses: looks at them, their stop, and what wakes them, in passes on a host in memory."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from reconciler.apply.context import Work
from reconciler.apply.worker import perform
from reconciler.errors import BusyError
from reconciler.inspection import report
from reconciler.loop import Reconciler
from reconciler.state.conditions import Kind
from tests.loop.conftest import CLONE, IMAGE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.loop.conftest import World

IDLE = CLONE + "  idle: 30m\n"
MINUTES = 5


def pass_time(world: World, minutes: int) -> list[str]:
    """Let time go by, with a pass every few minutes; return what was planned."""
    planned: list[str] = []
    for _ in range(minutes // MINUTES):
        world.clock.advance(minutes=MINUTES)
        view = world.apply()
        planned += [action.verb for action in view.plan.actions] if view.plan is not None else []
    return planned


@pytest.fixture
def directory(world: World) -> Path:
    world.write(IMAGE, IDLE)
    world.apply()
    return world.storage.path(world.current().id)


@pytest.mark.usefixtures("directory")
def test_a_clone_that_nobody_uses_is_stopped_once_and_stays_stopped(world: World) -> None:
    assert pass_time(world, 120) == ["stop"]
    conditions = world.conditions(Kind.CLONE, "dev")
    assert (world.running(), conditions["Idle"].status, conditions["Ready"].status) == ([], "True", "True")
    assert "reconciler start dev" in conditions["Idle"].message


def test_a_clone_to_which_somebody_is_connected_runs_on(world: World, directory: Path) -> None:
    world.engine.connect(directory, "app", world.clock.now())
    assert pass_time(world, 120) == []
    world.engine.disconnect(directory, "app")
    assert pass_time(world, 25) == []
    assert pass_time(world, 15) == ["stop"]


def test_a_connection_between_two_looks_counts(world: World, directory: Path) -> None:
    pass_time(world, 25)
    world.engine.connect(directory, "app", world.clock.now())
    world.engine.disconnect(directory, "app")
    assert pass_time(world, 25) == []


def test_who_connects_after_the_plan_was_made_is_not_thrown_out(world: World, directory: Path) -> None:
    pass_time(world, 25)
    world.clock.advance(minutes=10)
    view = world.reconciler.look()
    assert view.plan is not None
    assert view.commit.desired is not None
    assert view.commit.tree is not None
    (stop,) = view.plan.actions
    world.engine.connect(directory, "app", world.clock.now())
    with pytest.raises(BusyError, match="somebody uses clone dev"):
        perform(Work(host=world.host, desired=view.commit.desired, tree=view.commit.tree), stop)
    assert (world.running(), world.clone().idle) == (["dev.1"], None)


@pytest.mark.usefixtures("directory")
def test_a_clone_that_does_not_say_who_uses_it_runs_on(world: World) -> None:
    world.engine.silent = True
    assert (pass_time(world, 120), world.running()) == ([], ["dev.1"])


@pytest.mark.usefixtures("directory")
def test_a_request_starts_it_and_it_is_idle_again_only_after_the_whole_time(world: World) -> None:
    pass_time(world, 60)
    assert world.ask("start", "dev").ok
    assert (world.running(), world.clone().idle) == (["dev.1"], None)
    assert "Idle" not in world.conditions(Kind.CLONE, "dev")
    assert pass_time(world, 25) == []
    assert pass_time(world, 15) == ["stop"]


@pytest.mark.usefixtures("directory")
def test_another_reconciler_on_this_host_leaves_it_stopped(world: World) -> None:
    pass_time(world, 60)
    with ExitStack() as stack:
        again = Reconciler(world.host, world.host.commits())
        stack.callback(again.close, abandon=True)
        view = again.one_pass()
    assert view.plan is not None
    assert (view.plan.actions, world.running()) == ((), [])


@pytest.mark.usefixtures("directory")
def test_a_lost_status_store_makes_nobody_idle_before_the_time(world: World) -> None:
    pass_time(world, 25)
    world.state.status_file.unlink()
    assert pass_time(world, 25) == []


@pytest.mark.usefixtures("directory")
def test_a_reset_of_a_clone_that_rests_runs(world: World) -> None:
    pass_time(world, 60)
    assert world.ask("reset", "dev").ok
    assert world.running() == ["dev.2"]


@pytest.mark.usefixtures("directory")
def test_users_of_a_clone_that_rests_are_changed_without_waking_it_for_long(world: World) -> None:
    pass_time(world, 60)
    world.write(IMAGE, IDLE.replace("[{name: app}]", "[{name: app}, {name: other}]"))
    world.apply()
    assert world.running() == ["dev.1"]
    assert pass_time(world, 60) == ["stop"]


def test_status_tells_who_uses_a_clone_when_asked(world: World, directory: Path) -> None:
    at = world.clock.now()
    world.engine.connect(directory, "psql", at)
    (clone,) = report(world.host, activity=True)["clones"]
    assert (clone["activity"]["connections"], clone["activity"]["applications"]) == (1, ["psql"])
    (clone,) = report(world.host)["clones"]
    assert clone["activity"] is None


def test_the_plan_says_who_uses_a_clone_whose_document_is_gone(world: World, directory: Path) -> None:
    world.engine.connect(directory, "psql", world.clock.now())
    world.write(IMAGE)
    view = world.reconciler.look()
    assert view.plan is not None
    (deletion,) = view.plan.actions
    assert getattr(deletion, "used", None) == "1 connection (psql)"
