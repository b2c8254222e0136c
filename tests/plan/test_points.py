"""Points in the lives of clones: when they are cut, shared, waited for, and let go of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.ids import CloneName, PoolName, SecretName, SnapshotId, VolumeId
from reconciler.plan.actions import CreateClone, CutPoint, DeleteSnapshot, ReplaceClone
from reconciler.plan.policy import judge
from reconciler.plan.settings import AttestationRules, PolicySettings
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.desired import User
from reconciler.state.observed import Activity
from tests.plan.world import (
    HOUR,
    NOW,
    PROCESS,
    World,
    a_clone,
    a_failure,
    a_generation,
    a_policy,
    a_pool,
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
    snapshot_id,
    steps,
)

if TYPE_CHECKING:
    from reconciler.state.observed import Observed, Volume

DEV = a_clone()
SECOND = a_clone("second", source_clone=CloneName("dev"))
PLAIN = a_pool(atomic_snapshots=False)
POINT = ObjectKey(Kind.POINT, "dev")


def a_point(*, age: Any = HOUR, name: str = "", **changes: Any) -> Volume:  # noqa: ANN401 - as of a_snapshot
    wanted = SnapshotId(name or f"dev-20261122t11000{int(age / HOUR) % 10}z-00000000")
    return a_snapshot(age=age, snapshot=wanted, clone=CloneName("dev"), base=a_snapshot().id, **changes)


def a_world(*more: Any, **changes: Any) -> Observed:  # noqa: ANN401 - volumes, servers, pools
    """A clone ``dev`` of the image that runs."""
    return seen(a_snapshot(), *served(a_generation(DEV)), *more, **changes)


def test_a_point_is_cut_of_what_the_clone_is_served_from_and_the_clone_is_made_of_it() -> None:
    old, current = a_generation(DEV), a_generation(DEV, generation=2, age=HOUR / 2)
    cut, create = planned(asked(an_image(), DEV, SECOND), seen(a_snapshot(), old, *served(current))).actions
    assert isinstance(cut, CutPoint)
    assert isinstance(create, CreateClone)
    assert (cut.volume, cut.base, cut.at_rest) == (current.id, snapshot_id(), False)
    assert (create.snapshot, create.after) == (cut.snapshot, (POINT,))


def test_once_it_is_made_nothing_more_is_cut() -> None:
    there = World(asked(an_image(), DEV, SECOND), a_world())
    there.run(planned(there.desired, there.observed))
    assert planned(there.desired, there.observed).actions == ()


def test_clones_that_start_together_share_a_point_and_a_later_one_gets_its_own() -> None:
    third = a_clone("third", source_clone=CloneName("dev"))
    there = World(asked(an_image(), DEV, SECOND, third), a_world())
    made = planned(there.desired, there.observed)
    assert steps(made) == ["cut dev", "create second", "create third"]
    there.run(made)
    later = a_clone("later", source_clone=CloneName("dev"))
    made = planned(asked(an_image(), DEV, SECOND, third, later), there.observed)
    assert steps(made) == ["cut dev", "create later"]


def test_numbered_clones_of_one_document_start_from_one_point_at_any_time() -> None:
    numbered = [a_clone(f"qa-{n}", source_clone=CloneName("dev"), number=n) for n in (1, 2)]
    there = World(asked(an_image(), DEV, numbered[0]), a_world())
    there.run(planned(there.desired, there.observed))
    assert steps(planned(asked(an_image(), DEV, *numbered), there.observed)) == ["create qa-2"]


def test_a_point_that_was_cut_for_a_clone_that_failed_is_kept_for_it() -> None:
    there = World(asked(an_image(), DEV, SECOND), a_world(), broken=frozenset({clone_key("second")}))
    there.run(planned(there.desired, there.observed))
    assert planned(there.desired, there.observed).actions == ()
    there.broken = frozenset()
    there.observed = seen(*there.observed.volumes, *there.observed.servers.values())
    assert steps(planned(there.desired, there.observed)) == ["create second"]


def test_a_rebase_cuts_a_new_point_and_the_old_one_goes_with_the_retired_generation() -> None:
    old = a_point(age=2 * HOUR)
    second = a_generation(SECOND, old.id, age=2 * HOUR)
    there = World(asked(an_image(), DEV, SECOND), a_world(old, *served(second), a_request("rebase", "second")))
    made = planned(there.desired, there.observed)
    cut, replacement = made.actions
    assert isinstance(cut, CutPoint)
    assert isinstance(replacement, ReplaceClone)
    assert (replacement.snapshot, replacement.after) == (cut.snapshot, (POINT,))
    there.run(made)
    assert planned(there.desired, there.observed).actions == ()
    there.now += 2 * HOUR
    drop, deletion = planned(there.desired, there.observed, now=there.now).actions
    assert isinstance(deletion, DeleteSnapshot)
    assert (drop.volumes, VolumeId(deletion.snapshot), deletion.key) == ((second.id,), old.id, POINT)
    assert deletion.after == (clone_key("second"),)


def test_points_that_nothing_needs_go_together_also_those_that_a_clone_lets_go_of_now() -> None:
    before, after = a_point(age=2 * HOUR), a_point(age=HOUR)
    there = a_world(before, after, *served(a_generation(SECOND, after.id)))
    made = planned(asked(an_image(), DEV), there)
    deletions = [action for action in made.actions if isinstance(action, DeleteSnapshot)]
    assert {VolumeId(deletion.snapshot): deletion.after for deletion in deletions} == {
        before.id: (),
        after.id: (clone_key("second"),),
    }


def test_a_rebase_of_a_protected_clone_cuts_nothing() -> None:
    second = a_clone("second", source_clone=CloneName("dev"), protected=True)
    point = a_point()
    made = planned(
        asked(an_image(), DEV, second),
        a_world(point, *served(a_generation(second, point.id)), a_request("rebase", "second")),
    )
    assert made.actions == ()
    assert "protected" in made.declined["rebase-second"]


def test_a_newer_snapshot_of_the_image_and_a_reset_of_the_source_leave_a_clone_of_it_alone() -> None:
    point = a_point()
    second = a_generation(SECOND, point.id)
    there = a_world(point, a_snapshot(age=HOUR / 2), *served(second), a_request("reset", "dev"))
    assert steps(planned(asked(an_image(), DEV, SECOND), there)) == ["replace dev"]


def test_points_are_no_snapshots_of_the_image() -> None:
    point = a_point(age=HOUR / 2)
    second = a_generation(SECOND, point.id)
    third = a_clone("third")
    made = planned(asked(an_image(), DEV, SECOND, third), a_world(point, *served(second)))
    (create,) = made.actions
    assert isinstance(create, CreateClone)
    assert create.snapshot == snapshot_id()


@pytest.mark.parametrize("source", [None, "other"])
def test_another_source_replaces_the_clone(source: str | None) -> None:
    point = a_point()
    other = a_clone("other")
    moved = a_clone("second", source_clone=CloneName(source) if source else None)
    there = a_world(point, *served(a_generation(SECOND, point.id), a_generation(other)))
    made = planned(asked(an_image(), DEV, other, moved), there)
    assert steps(made) == (["cut other", "replace second"] if source else ["replace second"])


def test_it_waits_until_the_source_is_there_and_while_that_changes() -> None:
    documents = asked(an_image(), DEV, SECOND)
    made = planned(documents, seen(a_snapshot()))
    assert (steps(made), reason(made, clone_key("second"), "Reconciling")) == (["create dev"], "WaitingForClone")
    made = planned(documents, a_world(a_request("reset", "dev")))
    assert (steps(made), reason(made, clone_key("second"), "Reconciling")) == (["replace dev"], "WaitingForClone")
    made = planned(documents, a_world(in_flight=frozenset({clone_key("dev")}), in_use=frozenset()))
    assert reason(made, clone_key("second"), "Reconciling") == "WaitingForClone"


def test_where_it_has_to_stop_for_it_the_plan_says_so_and_nothing_else_happens_to_the_source() -> None:
    made = planned(asked(an_image(), DEV, SECOND), a_world(PLAIN))
    cut = made.actions[0]
    assert isinstance(cut, CutPoint)
    assert cut.at_rest
    assert "its server stops meanwhile" in cut.reason


@pytest.mark.parametrize("parameters", [{"fsync": "off"}, {"Full_Page_Writes": "false"}, None])
def test_a_clone_whose_files_recovery_could_not_make_whole_is_copied_at_rest(parameters: dict[str, str] | None) -> None:
    dev = a_generation(DEV, parameters=parameters, settings_digest="other")
    made = planned(asked(an_image(), DEV, SECOND), seen(a_snapshot(), *served(dev)))
    assert [action.at_rest for action in made.actions if isinstance(action, CutPoint)] == [True]


def test_a_protected_source_is_not_stopped_and_one_that_does_not_run_need_not_be() -> None:
    dev = a_clone(protected=True)
    made = planned(asked(an_image(), dev, SECOND), seen(PLAIN, a_snapshot(), *served(a_generation(dev))))
    assert (steps(made), reason(made, clone_key("second"), "Stalled")) == ([], "Protected")
    stopped = a_clone(protected=True, running=False)
    made = planned(asked(an_image(), stopped, SECOND), seen(PLAIN, a_snapshot(), a_generation(stopped)))
    assert steps(made) == ["cut dev", "create second"]


def test_a_protected_source_that_does_not_run_yet_is_not_stopped_as_soon_as_it_does() -> None:
    dev = a_clone(protected=True)
    made = planned(asked(an_image(), dev, SECOND), seen(PLAIN, a_snapshot(), a_generation(dev)))
    assert (steps(made), reason(made, clone_key("second"), "Stalled")) == (["start dev"], "Protected")


def test_a_protected_source_that_is_being_stopped_is_copied_then() -> None:
    dev = a_clone(protected=True, running=False)
    made = planned(asked(an_image(), dev, SECOND), seen(PLAIN, a_snapshot(), *served(a_generation(dev))))
    assert steps(made) == ["stop dev", "cut dev", "create second"]


def test_a_source_that_somebody_is_connected_to_is_not_stopped() -> None:
    used = {a_generation(DEV).id: Activity(2, NOW, ("psql",))}
    made = planned(asked(an_image(), DEV, SECOND), a_world(PLAIN, activity=used))
    found = condition(made, clone_key("second"), "Reconciling")
    assert found is not None
    assert (steps(made), "2 connections (psql)" in found.message) == ([], True)


def test_nothing_is_made_of_a_clone_with_a_superuser_now_or_before() -> None:
    boss = a_clone(users=(User("boss", "superuser"),))
    for dev in (boss, DEV):
        made = planned(asked(an_image(), dev, SECOND), seen(a_snapshot(), *served(a_generation(dev, account=70000))))
        assert not [action for action in made.actions if isinstance(action, CutPoint)]
        assert reason(made, clone_key("second"), "Stalled") == "SuperuserClone"


def test_nothing_is_made_of_a_clone_from_before_its_image_named_masking() -> None:
    masked = an_image(masking=(a_policy(),))
    made = planned(asked(masked, DEV, SECOND), a_world(secrets={SecretName("key"): "key-1"}))
    assert not [action for action in made.actions if isinstance(action, CutPoint)]


def test_a_quarantine_below_reaches_points_and_what_was_pruned_counts_too() -> None:
    gone = SnapshotId("shop-20261101t000000z-00000000")
    image = an_image(quarantine=(gone,))
    point = a_point(origins=(gone,))
    made = planned(asked(image, DEV, SECOND), a_world(point, *served(a_generation(SECOND, point.id))))
    assert steps(made) == ["stop second"]
    assert reason(made, clone_key("second"), "Stalled") == "Quarantined"


def test_a_cut_that_failed_for_good_stalls_what_waits_for_it_for_an_hour() -> None:
    documents, there = asked(an_image(), DEV, SECOND), a_world()
    cut = planned(documents, there).actions[0]
    assert isinstance(cut, CutPoint)
    failed = a_world(failures={POINT: (a_failure(cut.fingerprint),)})
    made = planned(documents, failed)
    assert (steps(made), reason(made, clone_key("second"), "Stalled")) == ([], "ScriptFailed")
    assert steps(planned(documents, failed, now=NOW + HOUR)) == ["cut dev", "create second"]


def test_points_stay_when_the_source_is_gone_from_its_host() -> None:
    point = a_point()
    made = planned(asked(an_image(), SECOND), seen(a_snapshot(), point, *served(a_generation(SECOND, point.id))))
    assert made.actions == ()


def test_points_are_refused_where_attestations_are_required() -> None:
    rules = AttestationRules(runtimes={PROCESS: "any"})
    documents, there = asked(an_image(), DEV, SECOND), a_world()
    judged = judge(planned(documents, there), documents, there, NOW, settings=PolicySettings(attestation=rules))
    assert [refusal.rule for refusal in judged.refused] == ["attestation"]
    assert reason(judged, clone_key("second"), "Stalled") == "AttestationRequired"


def test_a_cut_needs_room_where_copies_are_not_instant() -> None:
    pool = a_pool(atomic_snapshots=False, instant_clones=False, free_bytes=300)
    documents, there = asked(an_image(), DEV, SECOND), a_world(pool)
    sizes = {a_snapshot().id: 250}
    judged = judge(planned(documents, there), documents, there, NOW, settings=PolicySettings(sizes=sizes))
    assert [refusal.rule for refusal in judged.refused] == ["disk", "dependency"]


def test_a_rename_of_the_source_takes_its_points_and_what_started_from_them_along() -> None:
    point = a_point()
    first = a_clone("first", formerly=CloneName("dev"))
    second = a_clone("second", source_clone=CloneName("first"))
    there = World(asked(an_image(), first, second), a_world(point, *served(a_generation(SECOND, point.id))))
    made = planned(there.desired, there.observed)
    assert steps(made) == ["rename first"]
    there.run(made)
    assert planned(asked(an_image(), a_clone("first"), second), there.observed).actions == ()


def test_points_are_not_renamed_while_a_pool_is_away() -> None:
    first = a_clone("first", formerly=CloneName("dev"))
    second = a_clone("second", source_clone=CloneName("first"))
    point = a_point()
    there = seen(a_snapshot(), *served(a_generation(first)), point, *served(a_generation(SECOND, point.id)))
    assert steps(planned(asked(an_image(), first, second), there)) == ["rename first"]
    pools = {**there.pools, PoolName("other"): a_pool(PoolName("other"), available=False)}
    assert steps(planned(asked(an_image(), first, second), replace(there, pools=pools))) == []


def test_an_explicit_point_is_taken_if_it_is_one_of_the_source() -> None:
    point = a_point()
    chosen = a_clone("second", source_clone=CloneName("dev"), snapshot=point.manifest.snapshot)  # type: ignore[union-attr]  # a snapshot
    assert steps(planned(asked(an_image(), DEV, chosen), a_world(point))) == ["create second"]
    wrong = a_clone("second", source_clone=CloneName("dev"), snapshot=SnapshotId(a_snapshot().id))
    made = planned(asked(an_image(), DEV, wrong), a_world(point))
    assert reason(made, clone_key("second"), "Stalled") == "SnapshotMissing"


def test_pools_keep_their_points_while_something_is_away() -> None:
    point = a_point()
    away = a_pool(PoolName("other"), available=False)
    made = planned(asked(an_image(), DEV), a_world(point, a_pool(), away))
    assert made.actions == ()
