"""Work that goes on between passes: what must hold while, and after, it does."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.apply.executor import Executor
from reconciler.engines.memory import MemoryEngine
from reconciler.ids import ImageName, PoolName, SnapshotId
from reconciler.loop import Reconciler
from reconciler.plan.actions import DeleteSnapshot, Plan
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.observed import Failure
from reconciler.storage.memory import MemoryStorage
from tests.support import until

from .conftest import CLONE, IMAGE
from .test_mirrors import FOLLOWED, a_primary_of, snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.engines.base import BuildWork, CloneWork
    from reconciler.state.desired import Script
    from reconciler.view import View

    from .conftest import World

SLOW = IMAGE.replace("shop", "slow")


class GatedEngine(MemoryEngine):
    """Builds of it wait while the gate is shut."""

    def __init__(self) -> None:
        super().__init__("postgres")
        self.reached = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def prepare(self, work: BuildWork) -> None:
        self.reached.set()
        assert self.gate.wait(30)
        super().prepare(work)

    def shut(self) -> None:
        self.reached.clear()
        self.gate.clear()


@pytest.fixture
def engine(world: World) -> Iterator[GatedEngine]:
    made = GatedEngine()
    world.engine = world.host.engines["postgres"] = made
    yield made
    made.gate.set()


SECOND = CLONE.replace("name: dev", "name: second").replace("image: shop", "image: {clone: dev}")


def test_a_cut_goes_on_while_passes_do_and_the_clone_is_not_held_up_by_it(world: World, engine: GatedEngine) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    engine.shut()
    world.write(SECOND, name="second.yaml")
    view = world.reconciler.one_pass()
    assert engine.reached.wait(30)
    world.write(IMAGE, CLONE + "  state: stopped\n")
    stopped = world.reconciler.one_pass()
    assert [action.verb for action in planned(stopped).actions] == ["stop"]
    engine.gate.set()
    world.reconciler.settle(view)
    assert world.running() == ["second.1"]


def test_a_cut_that_nothing_starts_from_any_more_is_given_up(world: World, engine: GatedEngine) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    engine.shut()
    world.write(IMAGE, CLONE, SECOND)
    world.reconciler.one_pass()
    assert engine.reached.wait(30)
    world.write(IMAGE, CLONE)
    view = world.reconciler.one_pass()
    engine.gate.set()
    world.reconciler.settle(view)
    world.apply()
    assert len(world.snapshots()) == 1
    assert world.running() == ["dev.1"]


def devs(*numbers: int) -> list[str]:
    return [CLONE.replace("dev", f"dev{number:02}") for number in numbers]


def planned(view: View) -> Plan:
    assert view.plan is not None
    return view.plan


def test_an_approval_does_not_outlive_its_pass_however_long_the_work_takes(world: World, engine: GatedEngine) -> None:
    world.write(IMAGE, *devs(*range(12)))
    world.apply()
    engine.shut()
    world.write(IMAGE, SLOW, *devs(*range(11)))
    world.state.requests.submit("approve", now=world.clock.now())
    world.reconciler.one_pass()
    assert engine.reached.wait(30)
    world.write(IMAGE, SLOW)
    view = world.reconciler.one_pass()
    refused = planned(view).refused
    engine.gate.set()
    world.reconciler.settle(view)
    assert [refusal.rule for refusal in refused] == ["prune-limit"]
    assert len(world.running()) == 11


def test_an_approval_that_a_reconciler_took_which_ended_counts_for_no_other(world: World, engine: GatedEngine) -> None:
    world.write(IMAGE, *devs(*range(24)))
    world.apply()
    engine.shut()
    world.write(IMAGE, SLOW, *devs(*range(12)))
    request = world.state.requests.submit("approve", now=world.clock.now())
    world.reconciler.one_pass()
    assert engine.reached.wait(30)
    world.write(IMAGE, SLOW)
    after_a_restart = Reconciler(world.host, world.host.commits())
    refused = planned(after_a_restart.one_pass()).refused
    engine.gate.set()
    after_a_restart.close(abandon=False)
    outcome = world.state.requests.outcome(request.id)
    assert [refusal.rule for refusal in refused] == ["prune-limit"]
    assert len(world.running()) == 12
    assert outcome is not None
    assert (outcome.ok, "approve anew" in outcome.message) == (False, True)


def test_a_pass_goes_on_when_its_commit_cannot_be_kept(world: World) -> None:
    world.write(IMAGE, *devs(*range(12)))
    world.apply()
    mirror = world.state.path / "repository-directory.git"
    mirror.rename(mirror.with_suffix(".away"))
    mirror.write_text("no directory")
    world.write(IMAGE)
    assert world.ask("approve").ok
    ready = world.conditions(Kind.REPOSITORY, "repository")["Ready"]
    assert (ready.status, "last good" in ready.message) == ("False", True)
    assert world.running() == []
    world.write(IMAGE, *devs(*range(12)))
    mirror.unlink()
    world.apply()
    assert world.conditions(Kind.REPOSITORY, "repository")["Ready"].status == "True"


def test_builds_that_do_not_fit_together_are_not_under_way_together(world: World, engine: GatedEngine) -> None:
    name = PoolName("default")
    small = MemoryStorage(name, installation=world.state.installation, total_bytes=1000)
    world.host.pools = {name: small}
    (world.specs / "shop.sql").write_text("x" * 600)
    dump = IMAGE.replace("{empty: {}}", "{dump: {path: shop.sql}}") + "  unmasked: {reason: test}\n"
    engine.shut()
    world.write(dump)
    world.reconciler.one_pass()
    assert engine.reached.wait(30)
    world.write(dump, dump.replace("shop}", "store}", 1))
    view = world.reconciler.one_pass()
    refused = planned(view).refused
    engine.gate.set()
    world.reconciler.settle(view)
    assert [(refusal.rule, str(refusal.actions[0].key)) for refusal in refused] == [("disk", "Image/store")]
    assert "600 B kept for work under way" in refused[0].message


def test_a_commit_that_arrives_while_work_goes_on_is_not_said_to_be_applied(world: World, engine: GatedEngine) -> None:
    engine.shut()
    world.write(IMAGE)
    view = world.reconciler.one_pass()
    world.write(IMAGE, *devs(1))
    engine.gate.set()
    world.reconciler.settle(view)
    assert view.commit.tree is not None
    assert world.store.revisions().applied == view.commit.tree.revision


def test_a_password_that_changes_while_a_clone_is_made_is_delivered_by_the_next_pass(world: World) -> None:
    class RotatingEngine(MemoryEngine):
        """Somebody rotates a secret while scripts run."""

        def run_scripts(self, work: CloneWork, scripts: Sequence[Script]) -> None:
            super().run_scripts(work, scripts)
            world.secret("app", "after")

    world.engine = world.host.engines["postgres"] = RotatingEngine("postgres")
    world.secret("app", "before")
    clone = CLONE.replace("{name: app}", "{name: app, password: {secret: app}}")
    world.write(IMAGE, f'{clone}  scripts: [{{inline: "row", database: shop}}]\n')
    world.apply()
    world.apply()
    world.engine.execute(world.storage.path(world.current().id), "app", "after", "expect 1")


def test_an_apply_waits_for_work_that_an_earlier_pass_began(world: World, engine: GatedEngine) -> None:
    engine.shut()
    world.write(IMAGE)
    world.reconciler.one_pass()
    request = world.state.requests.submit("apply", now=world.clock.now())
    view = world.reconciler.one_pass()
    before = world.state.requests.outcome(request.id)
    engine.gate.set()
    world.reconciler.settle(view)
    outcome = world.state.requests.outcome(request.id)
    assert before is None
    assert outcome is not None
    assert [result.action for result in outcome.results] == ["build"]


def test_an_apply_of_a_broken_commit_fails(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    world.write(IMAGE + "  wrong: field\n")
    outcome = world.ask("apply")
    assert (outcome.status, "1 error in" in outcome.message) == ("failed", True)


def test_wishes_are_answered_while_there_is_no_valid_commit(world: World) -> None:
    world.write("kind: nonsense\n")
    assert world.ask("apply").status == "refused"


def test_a_failed_wish_is_tried_once_and_answered_so(world: World) -> None:
    world.write(IMAGE.replace("database shop", "fail"))
    world.apply()
    first = world.store.failure(ObjectKey(Kind.IMAGE, "shop"), "build:")
    outcome = world.ask("refresh", "shop")
    world.apply()
    last = world.store.failure(ObjectKey(Kind.IMAGE, "shop"), "build:")
    assert first is not None
    assert last is not None
    assert (outcome.status, first.attempts, last.attempts) == ("failed", 1, 2)


def test_a_wish_that_was_made_before_other_work_failed_is_served_all_the_same(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    request = world.state.requests.submit("reset", "dev", now=world.clock.now())
    failure = Failure(
        "ServerStartFailed", "no", permanent=True, fingerprint="f", attempts=1, at=world.clock.now() + timedelta(1)
    )
    world.store.set_failure(ObjectKey(Kind.CLONE, "dev"), failure)
    world.apply()
    outcome = world.state.requests.outcome(request.id)
    assert outcome is not None
    assert (outcome.ok, world.running()) == (True, ["dev.2"])


def test_deletions_that_wait_for_their_turn_count_against_the_limit(world: World) -> None:
    world.write(IMAGE, *devs(*range(30)))
    world.apply()
    world.write(IMAGE, *devs(*range(9, 30)))
    with world.servers.lock:  # no server can be stopped, so no deletion gets beyond its first step
        world.reconciler.one_pass()
        world.write(IMAGE, *devs(*range(11, 30)))
        view = world.reconciler.one_pass()
        refused = planned(view).refused
    world.reconciler.settle(view)
    assert [refusal.rule for refusal in refused] == ["prune-limit"]
    assert len(world.running()) == 21


def test_a_refused_action_is_tried_again_after_a_while_and_not_at_once(world: World) -> None:
    world.write(IMAGE, *devs(*range(101)))
    world.apply()
    assert len(world.running()) == 100
    assert planned(world.apply()).actions == ()
    world.clock.advance(minutes=1)
    assert len(planned(world.apply()).actions) == 1


def test_what_waits_for_several_that_fail_ends_once(world: World) -> None:
    def deletion(name: str, *after: str) -> DeleteSnapshot:
        keys = tuple(ObjectKey(Kind.IMAGE, other) for other in after)
        pool, snapshot = PoolName("nowhere"), SnapshotId(name)
        return DeleteSnapshot(image=ImageName(name), snapshot=snapshot, pool=pool, reason="", after=keys)

    world.write(IMAGE)
    commit = world.host.commits().newest()
    assert commit.desired is not None
    assert commit.tree is not None
    names = [f"n{number}" for number in range(8)]
    plan = Plan(commit.desired.revision, (*map(deletion, names), deletion("last", *names), deletion("after", "last")))
    executor = Executor(world.host, concurrency=8)
    for _round in range(20):
        tasks = executor.submit(plan, commit.desired, commit.tree)
        assert all(task.done.wait(30) for task in tasks)
        assert all(task.error is not None for task in tasks)
        assert not executor.in_flight
    executor.close(abandon=False)


def test_a_volume_that_appeared_since_the_plan_was_made_is_not_thrown_away(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    world.write(IMAGE, CLONE)
    view = world.reconciler.look()
    world.apply()
    assert view.commit.desired is not None
    assert view.commit.tree is not None
    executor = Executor(world.host, concurrency=1)
    (task,) = executor.submit(planned(view), view.commit.desired, view.commit.tree)
    executor.close(abandon=False)
    assert "dev.1 is there already" in str(task.error)
    assert world.running() == ["dev.1"]


def test_an_image_that_fails_for_good_stays_so_when_an_old_snapshot_goes(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    world.write(IMAGE.replace("database shop", "database other"))
    world.apply()
    key = ObjectKey(Kind.IMAGE, "shop")
    failure = Failure("ScriptFailed", "no", permanent=True, fingerprint="f", attempts=1, at=world.clock.now())
    world.store.set_failure(key, failure)
    world.write(IMAGE.replace("database shop", "database other") + "  retention: {keep: 1}\n")
    assert [action.verb for action in planned(world.apply()).actions] == ["delete"]
    assert world.store.failures() == {key: (failure,)}


def test_an_image_that_fails_for_good_stays_so_when_an_old_snapshot_cannot_be_deleted(world: World) -> None:
    world.write(IMAGE.replace("database shop", "fail"))
    commit = world.apply().commit
    assert commit.desired is not None
    assert commit.tree is not None
    shop = ImageName("shop")
    deletion = DeleteSnapshot(image=shop, snapshot=SnapshotId("old"), pool=PoolName("nowhere"), reason="")
    executor = Executor(world.host, concurrency=1)
    executor.submit(Plan(commit.desired.revision, (deletion,)), commit.desired, commit.tree)
    executor.close(abandon=False)
    failures = world.store.failures()[deletion.key]
    assert [(failure.reason, failure.permanent) for failure in failures] == [
        ("PoolUnavailable", False),
        ("ScriptFailed", True),
    ]
    assert planned(world.apply()).actions == ()


def test_a_build_of_another_source_than_the_commit_names_is_cancelled(world: World, engine: GatedEngine) -> None:
    (world.specs / "shop.sql").write_text("one")
    dump = IMAGE.replace("{empty: {}}", "{dump: {path: shop.sql}}") + "  unmasked: {reason: test}\n"
    engine.shut()
    world.write(dump)
    world.reconciler.one_pass()
    assert engine.reached.wait(30)
    (task,) = world.reconciler.in_flight
    (world.specs / "shop.sql").write_text("two")
    view = world.reconciler.one_pass()
    assert task.cancel.cancelled
    engine.gate.set()
    world.reconciler.settle(view)
    assert world.snapshots() == []


def test_what_a_build_in_flight_started_from_stays_when_no_document_names_it_any_more(
    world: World, engine: GatedEngine
) -> None:
    world.write(IMAGE)
    world.apply()
    (base,) = world.snapshots()
    engine.shut()
    world.write(IMAGE, SLOW.replace("{empty: {}}", "{image: shop}"))
    world.reconciler.one_pass()
    assert engine.reached.wait(30)
    world.write(SLOW)
    view = world.reconciler.one_pass()
    assert (planned(view).actions, world.snapshots()) == ((), [base])
    engine.gate.set()
    world.reconciler.settle(view)
    world.apply()
    assert base not in world.snapshots()


def test_a_clone_that_waits_for_a_build_is_made_as_the_newest_commit_says(world: World, engine: GatedEngine) -> None:
    engine.shut()
    world.write(IMAGE, *devs(1, 2))
    world.reconciler.one_pass()
    world.write(IMAGE, *devs(1))
    view = world.reconciler.one_pass()
    engine.gate.set()
    world.reconciler.settle(view)
    assert world.running() == ["dev01.1"]
    assert not world.state.recent_deletions(world.clock.now())


def test_a_mirror_beyond_its_limit_is_left_once_a_long_build_is_cut_and_the_build_ends_well(
    world: World, engine: GatedEngine
) -> None:
    production = a_primary_of(world)
    world.write(FOLLOWED)
    world.apply()
    engine.shut()
    world.write(FOLLOWED.replace("name: shop}", "name: shop, annotations: {reconciler/refresh: now}}"))
    production.rows, production.held = 9, 11 << 30
    world.reconciler.one_pass()
    assert engine.reached.wait(30)
    view = world.reconciler.one_pass()
    assert [action.verb for action in planned(view).actions] == ["leave"]
    until(lambda: not production.slots, what="the end of the slot")
    engine.gate.set()
    world.reconciler.settle(view)
    assert [manifest.facts["rows"] for manifest in snapshots(world)] == ["3", "9"]
