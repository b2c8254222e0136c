"""What a host refuses of a plan, with figures, and what goes on all the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.ids import ImageName, RuntimeName, VolumeId
from reconciler.plan.actions import DeleteClone, Plan
from reconciler.plan.policy import judge, pruned_objects
from reconciler.plan.render import plan_text
from reconciler.plan.settings import PolicySettings
from reconciler.state.desired import Resources, User
from reconciler.state.observed import Activity, Input
from tests.plan.world import (
    HOUR,
    NOW,
    REVISION,
    a_build,
    a_clone,
    a_generation,
    a_pool,
    a_request,
    a_snapshot,
    an_image,
    asked,
    clone_key,
    condition,
    derived,
    image_key,
    planned,
    reason,
    seen,
    served,
    snapshot_id,
    steps,
)

if TYPE_CHECKING:
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Observed

GIB = 2**30


@dataclass(frozen=True)
class Abilities:
    resources: frozenset[str] = frozenset()
    own_accounts: bool = False
    containers: bool = False


def judged(desired: Desired, observed: Observed, *, under_way: Plan | None = None, **settings: Any) -> Plan:  # noqa: ANN401 - fields of the settings
    """Judge a plan; what was ``under_way`` goes on as its own plan says."""
    actions = under_way.actions if under_way is not None else ()
    if actions:
        observed = replace(observed, in_flight=frozenset(action.key for action in actions))
    policy = PolicySettings(**settings)
    return judge(planned(desired, observed), desired, observed, NOW, settings=policy, under_way=actions)


def refusals(made: Plan) -> list[tuple[str, list[str]]]:
    return [(r.rule, [f"{a.verb} {a.key.name}" for a in r.actions]) for r in made.refused]


def clones(count: int) -> list[Any]:
    return [a_clone(f"c{number:02}") for number in range(count)]


def losing(count: int, *, of: int, more: tuple[Any, ...] = (), **observed: Any) -> tuple[Desired, Observed]:  # noqa: ANN401
    """A commit that lost ``count`` of ``of`` clones and still asks for the image."""
    volumes = [a_generation(clone) for clone in clones(of)]
    return asked(an_image(), *clones(of)[count:]), seen(a_snapshot(), *served(*volumes), *more, **observed)


def test_deletions_within_the_limit_proceed() -> None:
    assert steps(judged(*losing(2, of=9))) == ["delete c00", "delete c01"]


def test_more_deletions_than_allowed_are_refused_together() -> None:
    made = judged(*losing(3, of=30), max_delete=2)
    assert refusals(made) == [("prune-limit", ["delete c00", "delete c01", "delete c02"])]
    assert reason(made, clone_key("c01"), "Stalled") == "PruneLimitExceeded"
    assert "prune.maxDelete is 2" in made.refused[0].message
    assert made.hash in made.refused[0].message


def test_the_other_actions_of_the_plan_proceed() -> None:
    desired, observed = losing(3, of=30)
    desired = replace(desired, clones={**desired.clones, **asked(a_clone("new")).clones})
    assert steps(judged(desired, observed, max_delete=2)) == ["create new"]


def test_deletions_of_the_last_hour_count() -> None:
    recent = {f"Clone/gone{number}": NOW - timedelta(minutes=5) for number in range(9)}
    assert steps(judged(*losing(1, of=30, recent_deletions=recent))) == ["delete c00"]
    assert refusals(judged(*losing(2, of=30, recent_deletions=recent))) == [
        ("prune-limit", ["delete c00", "delete c01"])
    ]


def test_a_deletion_that_was_begun_within_the_limit_is_finished_whatever_the_limit_says() -> None:
    begun = {f"Clone/c{number:02}": NOW - timedelta(minutes=5) for number in range(10)}
    assert steps(judged(*losing(10, of=30, recent_deletions=begun))) == [f"delete c{n:02}" for n in range(10)]
    assert refusals(judged(*losing(11, of=30, recent_deletions=begun))) == [("prune-limit", ["delete c10"])]


def test_a_clone_that_was_made_again_after_its_deletion_counts_again() -> None:
    begun = {f"Clone/c{number:02}": NOW - timedelta(days=999) for number in range(10)}
    assert judged(*losing(11, of=30, recent_deletions=begun)).actions == ()


def test_an_approval_from_before_the_limit_looks_back_is_not_meant_for_this_plan() -> None:
    made = judged(*losing(12, of=30, requests=(a_request("approve", ago=timedelta(hours=2)),)))
    assert (made.actions, list(made.declined)) == ((), ["approve-"])


@pytest.mark.parametrize(("count", "of", "allowed"), [(3, 5, True), (4, 5, False), (2, 3, True), (3, 3, True)])
def test_the_percentage_applies_from_five_objects_up(count: int, of: int, allowed: bool) -> None:  # noqa: FBT001
    assert bool(judged(*losing(count, of=of)).actions) is allowed


def test_a_commit_without_documents_always_asks() -> None:
    observed = seen(*served(a_generation(a_clone())))
    made = judged(asked(), observed)
    assert made.actions == ()
    assert "no documents left" in made.refused[0].message


def test_expiry_retention_and_swaps_do_not_count() -> None:
    documents = [a_clone(f"c{number}", ttl=HOUR) for number in range(20)]
    observed = seen(a_snapshot(), *served(*(a_generation(clone) for clone in documents)))
    assert len(judged(asked(an_image(), *documents), observed, max_delete=1).actions) == 20


@pytest.mark.parametrize("named", [True, False])
def test_an_approval_lets_deletions_through(named: bool) -> None:  # noqa: FBT001 - a parameter of a test
    desired, observed = losing(3, of=30)
    wanted = planned(desired, observed).hash if named else None
    approved = replace(observed, requests=(a_request("approve", plan_hash=wanted),))
    assert len(judged(desired, approved, max_delete=2).actions) == 3


def test_an_approval_of_another_plan_does_not_count_and_says_so() -> None:
    desired, observed = losing(3, of=30, more=(a_request("approve", plan_hash="0" * 16),))
    made = judged(desired, observed, max_delete=2)
    assert made.actions == ()
    assert "approve again" in made.declined["approve-"]


def test_refusing_does_not_change_the_hash_of_a_plan() -> None:
    desired, observed = losing(3, of=30)
    assert judged(desired, observed, max_delete=2).hash == planned(desired, observed).hash


def test_a_pruned_image_counts_once_and_its_snapshots_wait_for_refused_clones() -> None:
    observed = seen(a_snapshot("store"), a_snapshot(), a_snapshot(age=2 * HOUR), *served(a_generation(a_clone())))
    desired = asked(an_image("store"))
    assert pruned_objects(planned(desired, observed).actions) == (clone_key("dev"), image_key("shop"))
    made = judged(desired, observed, max_delete=1)
    assert made.actions == ()
    assert refusals(made) == [("prune-limit", ["delete dev", "delete shop", "delete shop"])]


def test_a_protected_clone_is_kept_whatever_a_plan_says() -> None:
    clone = a_clone(protected=True)
    observed = seen(a_snapshot(), *served(a_generation(clone)))
    deletion = DeleteClone(clone=clone.name, volumes=(VolumeId("dev.1"),), reason="a plan gone wrong")
    wrong = Plan(revision=REVISION, actions=(deletion,))
    for desired in (asked(an_image()), asked(an_image(), clone)):
        made = judge(wrong, desired, observed, NOW, settings=PolicySettings())
        assert refusals(made) == [("protected", ["delete dev"])]


def test_a_clone_that_git_stopped_protecting_may_go() -> None:
    volume = a_generation(a_clone(protected=True))
    documents = asked(an_image(), a_clone(ttl=HOUR))
    assert steps(judged(documents, seen(a_snapshot(), *served(volume)))) == ["expire dev"]


FULL = a_pool(instant_clones=False, free_bytes=10 * GIB, reserve_bytes=4 * GIB)


def sized(**gib: int) -> dict[ImageName, Input]:
    """Sources that let these sizes expect."""
    return {ImageName(name): Input("input", size_bytes=size * GIB) for name, size in gib.items()}


def test_a_build_that_does_not_fit_is_refused_with_figures_and_what_waits_for_it_too() -> None:
    made = judged(asked(an_image(), a_clone()), seen(FULL, inputs=sized(shop=7)))
    assert refusals(made) == [("disk", ["build shop"]), ("dependency", ["create dev"])]
    assert made.refused[0].message == (
        "a snapshot of shop needs about 7.0 GiB; pool default has 6.0 GiB above its reserve"
        " (10.0 GiB free, 4.0 GiB of it reserved)"
    )
    assert reason(made, image_key("shop"), "Stalled") == "InsufficientDisk"
    assert condition(made, image_key("shop"), "Reconciling") is None


def test_a_build_takes_what_its_source_lets_expect_or_what_an_earlier_one_came_to() -> None:
    documents = asked(an_image(spec_digest="d2" * 32))
    observed = seen(FULL, a_snapshot(), inputs=sized(shop=3))
    assert steps(judged(documents, observed, sizes={snapshot_id(): 5 * GIB})) == ["build shop"]
    made = judged(documents, observed, sizes={snapshot_id(): 7 * GIB})
    assert "needs about 7.0 GiB" in made.refused[0].message


def test_builds_of_one_plan_take_room_one_after_the_other() -> None:
    made = judged(asked(an_image(), an_image("store")), seen(FULL, inputs=sized(shop=4, store=4)))
    assert steps(made) == ["build shop"]
    assert refusals(made) == [("disk", ["build store"])]


def test_a_build_in_flight_keeps_its_room() -> None:
    documents, observed = asked(an_image(), an_image("store")), seen(FULL, inputs=sized(shop=4, store=4))
    first = judged(asked(an_image()), observed)
    made = judged(documents, observed, under_way=first)
    assert refusals(made) == [("disk", ["build store"])]
    assert made.refused[0].message == (
        "a snapshot of store needs about 4.0 GiB; pool default has 2.0 GiB above its reserve"
        " (10.0 GiB free, 4.0 GiB of it reserved, 4.0 GiB kept for work under way)"
    )


def test_a_build_whose_document_is_gone_keeps_its_room_while_it_is_there() -> None:
    first = judged(asked(an_image()), seen(FULL, inputs=sized(shop=4)))
    observed = seen(FULL, a_build(age=timedelta(0)), inputs=sized(store=4))
    assert first.actions[0].volumes == (observed.volumes[0].id,)
    assert refusals(judged(asked(an_image("store")), observed, under_way=first)) == [("disk", ["build store"])]


def test_copies_in_flight_keep_their_room() -> None:
    sizes = {snapshot_id(): 3 * GIB}
    first = judged(asked(an_image(), *clones(1)), seen(FULL, a_snapshot()), sizes=sizes)
    made = judged(asked(an_image(), *clones(3)), seen(FULL, a_snapshot()), under_way=first, sizes=sizes)
    assert steps(made) == ["create c01"]
    assert refusals(made) == [("disk", ["create c02"])]


def test_a_build_in_flight_keeps_no_clone_waiting_that_takes_no_room() -> None:
    cow = replace(FULL, instant_clones=True)
    first = judged(asked(an_image("store")), seen(cow, inputs=sized(store=6)))
    made = judged(asked(an_image(), an_image("store"), a_clone()), seen(cow, a_snapshot()), under_way=first)
    assert steps(made) == ["create dev"]


def test_copies_take_room_one_after_the_other() -> None:
    made = judged(asked(an_image(), *clones(3)), seen(FULL, a_snapshot()), sizes={snapshot_id(): 3 * GIB - 1})
    assert steps(made) == ["create c00", "create c01"]
    assert refusals(made) == [("disk", ["create c02"])]


def test_instant_clones_take_no_room_until_the_reserve_is_reached() -> None:
    cow = replace(FULL, instant_clones=True)
    assert (
        len(judged(asked(an_image(), *clones(3)), seen(cow, a_snapshot()), sizes={snapshot_id(): 99 * GIB}).actions)
        == 3
    )
    at_reserve = replace(cow, free_bytes=4 * GIB)
    made = judged(asked(an_image(), *clones(1)), seen(at_reserve, a_snapshot()))
    assert refusals(made) == [("disk", ["create c00"])]


def test_near_the_reserve_running_clones_are_still_served() -> None:
    at_reserve = replace(FULL, free_bytes=0)
    made = judged(asked(an_image(), a_clone(owner="x")), seen(at_reserve, a_snapshot(), a_generation(a_clone())))
    assert steps(made) == ["start dev", "update dev"]


def test_what_retention_deletes_before_a_build_goes_though_the_build_is_refused() -> None:
    snapshots = [a_snapshot(age=hours * HOUR) for hours in (1, 2, 3, 4)]
    documents = asked(an_image(spec_digest="d2" * 32))
    made = judged(documents, seen(FULL, *snapshots, inputs=sized(shop=99)))
    assert steps(made) == ["delete shop"]
    assert refusals(made) == [("disk", ["build shop"]), ("dependency", ["delete shop"])]


def test_declared_memory_that_does_not_fit_is_refused_with_figures() -> None:
    resources = Resources(memory=GIB)
    documents = [a_clone(name, resources=resources) for name in ("a", "b", "c")]
    observed = seen(a_snapshot(), *served(a_generation(documents[0])))
    made = judged(asked(an_image(), *documents), observed, memory_limit=2 * GIB)
    assert steps(made) == ["create b"]
    assert made.refused[0].message == (
        "clone c declares 1.0 GiB of memory; 2.0 GiB of 2.0 GiB are declared by clones that run or are starting"
    )
    assert reason(made, clone_key("c"), "Stalled") == "InsufficientMemory"


def test_a_clone_in_the_making_counts_with_its_declared_memory() -> None:
    documents = [a_clone(name, resources=Resources(memory=GIB)) for name in ("a", "b")]
    first = judged(asked(an_image(), documents[0]), seen(a_snapshot()), memory_limit=GIB)
    made = judged(asked(an_image(), *documents), seen(a_snapshot()), under_way=first, memory_limit=GIB)
    assert steps(first) == ["create a"]
    assert refusals(made) == [("memory", ["create b"])]


def test_clones_that_declare_no_memory_or_are_stopped_need_none() -> None:
    big = Resources(memory=9 * GIB)
    documents = asked(an_image(), a_clone("a"), a_clone("b", resources=big, running=False))
    assert len(judged(documents, seen(a_snapshot()), memory_limit=GIB).actions) == 2


@pytest.mark.parametrize("image", [an_image(unmasked_reason="demo"), derived("shop", "base")])
def test_unmasked_data_is_neither_built_nor_delivered_where_it_is_denied(image: Any) -> None:  # noqa: ANN401
    base = an_image("base", unmasked_reason="demo", suspend=True)
    documents = asked(image, base, a_clone())
    made = judged(documents, seen(a_snapshot("base")), unmasked="deny")
    assert made.actions == ()
    assert reason(made, image_key("shop"), "Stalled") == "UnmaskedDenied"
    existing = judged(documents, seen(a_snapshot("base"), a_snapshot(base=snapshot_id("base"))), unmasked="deny")
    assert refusals(existing) == [("unmasked", ["create dev"])]


def test_resources_that_a_runtime_cannot_hold_are_refused() -> None:
    clone = a_clone(resources=Resources(memory=GIB, disk=GIB))
    can = {RuntimeName("process"): Abilities(frozenset({"memory"}))}
    made = judged(asked(an_image(), clone), seen(a_snapshot()), runtimes=can)
    assert refusals(made) == [("resources", ["create dev"])]
    assert ": disk (it can: memory)" in made.refused[0].message


def test_a_superuser_without_an_account_of_its_own_is_refused() -> None:
    clone = a_clone(users=(User("dba", "superuser"),))
    observed = seen(a_snapshot())
    shared = {RuntimeName("process"): Abilities()}
    own = {RuntimeName("process"): Abilities(own_accounts=True)}
    assert refusals(judged(asked(an_image(), clone), observed, runtimes=shared)) == [("superuser", ["create dev"])]
    assert steps(judged(asked(an_image(), clone), observed, runtimes=own)) == ["create dev"]
    boxed = {RuntimeName("process"): Abilities(containers=True)}
    assert steps(judged(asked(an_image(), clone), observed, runtimes=boxed)) == ["create dev"]


def test_a_long_list_of_refused_deletions_is_cut_short_in_its_message() -> None:
    made = judged(*losing(30, of=40))
    assert made.actions == ()
    assert len(made.refused[0].actions) == 30
    assert "and 20 more" in made.refused[0].message


def test_who_uses_clones_is_said_where_their_deletion_is_refused_and_where_it_is_planned() -> None:
    desired, observed = losing(3, of=30)
    busy = replace(observed, activity={VolumeId("c00.1"): Activity(2, NOW, ("psql",), 7)})
    (refusal,) = judged(desired, busy, max_delete=2).refused
    assert "in use now: c00 by 2 connections (psql); approve with" in refusal.message
    text = plan_text(planned(desired, busy))
    assert "what was written to c00.1 is deleted for good; in use now: 2 connections (psql)" in text
    assert planned(desired, busy).hash == planned(desired, observed).hash
