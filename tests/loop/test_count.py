"""One document, many clones: they come and go by their number, and are addressed one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.plan.actions import DeleteClone
from reconciler.state.conditions import Kind
from tests.loop.conftest import CLONE, IMAGE

if TYPE_CHECKING:
    from tests.loop.conftest import World


def counted(number: int, more: str = "") -> str:
    return f"{CLONE}  count: {number}\n{more}"


def names(world: World) -> list[str]:
    return [name.rpartition(".")[0] for name in world.running()]


def test_growing_makes_new_ones_and_shrinking_deletes_the_highest(world: World) -> None:
    world.write(IMAGE, counted(2))
    world.apply()
    assert names(world) == ["dev-1", "dev-2"]
    world.write(IMAGE, counted(4))
    world.apply()
    assert names(world) == ["dev-1", "dev-2", "dev-3", "dev-4"]
    world.write(IMAGE, counted(3))
    view = world.apply()
    assert view.plan is not None
    (deletion,) = view.plan.actions
    assert isinstance(deletion, DeleteClone)
    assert (deletion.clone, deletion.reason) == ("dev-4", "its document asks for fewer now")
    assert names(world) == ["dev-1", "dev-2", "dev-3"]


def test_shrinking_by_more_than_the_limit_waits_for_an_approval(world: World) -> None:
    world.write(IMAGE, counted(12))
    world.apply()
    world.write(IMAGE, counted(1))
    world.apply()
    assert len(names(world)) == 12
    assert world.conditions(Kind.CLONE, "dev-12")["Stalled"].reason == "PruneLimitExceeded"
    assert world.ask("approve").ok
    assert names(world) == ["dev-1"]


def test_protected_ones_are_not_deleted_by_a_lower_count(world: World) -> None:
    world.write(IMAGE, counted(2, "  protected: true\n"))
    world.apply()
    world.write(IMAGE, counted(1, "  protected: true\n"))
    world.apply()
    assert names(world) == ["dev-1", "dev-2"]
    assert world.conditions(Kind.CLONE, "dev-2")["Orphaned"].status == "True"


def test_requests_are_about_single_ones(world: World) -> None:
    world.write(IMAGE, counted(2))
    world.apply()
    assert world.ask("reset", "dev-2").ok
    assert world.running() == ["dev-1.1", "dev-2.2"]


def test_each_has_a_generated_password_and_a_port_of_its_own(world: World) -> None:
    world.write(IMAGE, counted(2))
    world.apply()
    first, second = world.clone("dev-1"), world.clone("dev-2")
    passwords = {world.state.credentials.existing(clone.clone, "app") for clone in (first, second)}
    assert (len(passwords), first.port != second.port) == (2, True)


def test_a_clone_that_gets_a_count_can_stay_as_the_first(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    world.write(IMAGE, counted(2).replace("{name: dev}", "{name: dev, formerly: dev}"))
    world.apply()
    assert world.running() == ["dev-2.1", "dev.1"]
    assert (world.clone("dev-1").generation, len(world.volumes())) == (1, 3)
