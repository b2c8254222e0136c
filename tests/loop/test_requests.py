"""Requests: served once, answered, and never at the cost of somebody's work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.ids import CloneName

from .conftest import CLONE, IMAGE

if TYPE_CHECKING:
    from .conftest import World


def write_row(world: World) -> None:
    password = world.state.credentials.credential(world.clone().clone, "app")
    world.engine.execute(world.storage.path(world.current().id), "app", password, "row")


def expect_rows(world: World, number: int) -> None:
    password = world.state.credentials.credential(world.clone().clone, "app")
    world.engine.execute(world.storage.path(world.current().id), "app", password, f"expect {number}")


def test_reset_goes_back_to_the_snapshot_on_the_same_port(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    port = world.clone().port
    write_row(world)
    assert world.ask("reset", "dev").ok
    expect_rows(world, 0)
    assert (world.running(), world.clone().port) == (["dev.2"], port)


def test_undo_brings_back_what_a_reset_put_aside(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    write_row(world)
    world.ask("reset", "dev")
    assert world.ask("undo", "dev").ok
    expect_rows(world, 1)
    assert world.running() == ["dev.1"]


def test_what_a_reset_put_aside_goes_when_its_grace_ends(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    world.ask("reset", "dev")
    assert "dev.1" in world.volumes()
    world.clock.advance(hours=2)
    world.apply()
    assert "dev.1" not in world.volumes()
    assert world.ask("undo", "dev").ok is False


def test_a_protected_clone_is_not_reset(world: World) -> None:
    world.write(IMAGE, CLONE + "  protected: true\n")
    world.apply()
    write_row(world)
    outcome = world.ask("reset", "dev")
    assert (outcome.ok, "protected" in outcome.message) == (False, True)
    expect_rows(world, 1)


def test_a_refresh_of_an_unchanged_source_builds_nothing(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    outcome = world.ask("refresh", "shop")
    assert (outcome.ok, len(world.snapshots())) == (True, 1)


def test_a_request_for_what_does_not_exist_is_answered(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    assert world.ask("reset", "nobody").ok is False


def test_deleting_more_than_the_limit_waits_for_an_approval(world: World) -> None:
    clones = [CLONE.replace("dev", f"dev{number}") for number in range(12)]
    world.write(IMAGE, *clones)
    world.apply()
    assert len(world.running()) == 12
    world.write(IMAGE, clones[0])
    view = world.apply()
    assert view.plan is not None
    assert [refusal.rule for refusal in view.plan.refused] != []
    assert len(world.running()) == 12
    assert world.ask("approve", plan_hash="0" * 16).ok is False
    assert len(world.running()) == 12
    world.ask("approve", plan_hash=view.plan.hash)
    assert world.running() == ["dev0.1"]


def test_an_approval_is_answered_with_what_its_pass_did_also_where_nothing_had_to_be_approved(world: World) -> None:
    world.write(IMAGE)
    assert world.ask("approve").message == "1 object changed"
    assert world.ask("approve").message == "nothing to do"
    assert world.state.requests.pending() == ()


def test_a_commit_that_is_not_taken_fails_an_apply_and_stands_in_its_document(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    world.write(IMAGE.replace("engine", "engin"))
    outcome = world.ask("apply")
    assert (outcome.ok, outcome.document and outcome.document["later"]) == (False, [])
    assert outcome.document is not None
    rows = outcome.document["stalled"]
    assert isinstance(rows, list)
    assert [(row["kind"], "error" in row["message"]) for row in rows] == [("Repository", True)]


def test_a_commit_without_documents_always_asks(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    (world.specs / "specs.yaml").unlink()
    world.apply()
    assert world.running() == ["dev.1"]
    world.ask("approve")
    world.apply()
    assert world.running() == []


def test_an_undo_brings_users_to_what_the_document_says_now(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    world.ask("reset", "dev")
    world.state.credentials.forget(CloneName("dev"))
    world.apply()
    assert world.ask("undo", "dev").ok
    write_row(world)


RECREATED = CLONE + "  onRefresh: recreate\n"


def test_an_undo_of_a_recreation_holds_until_a_newer_snapshot_comes(world: World) -> None:
    world.write(IMAGE, RECREATED)
    world.apply()
    write_row(world)
    another_snapshot(world, "one")
    assert world.running() == ["dev.2"]
    assert world.ask("undo", "dev").ok
    world.apply()
    assert world.running() == ["dev.1"]
    expect_rows(world, 1)
    another_snapshot(world, "two")
    assert world.running() == ["dev.4"]
    expect_rows(world, 0)


def test_an_undo_never_takes_a_clone_forward(world: World) -> None:
    world.write(IMAGE, RECREATED)
    world.apply()
    write_row(world)
    world.write(image("one"), RECREATED)
    world.apply()
    world.write(image("one"), CLONE + "  onRefresh: keep\n")
    outcome = world.ask("undo", "dev")
    assert (outcome.ok, outcome.message) == (False, "clone dev has no earlier state to go back to")
    expect_rows(world, 1)


def image(name: str) -> str:
    return IMAGE.replace("database shop", f"database {name}")


def another_snapshot(world: World, name: str) -> None:
    """Change what the image is built from, and let clones follow."""
    world.write(image(name), RECREATED)
    world.apply()
    world.apply()
