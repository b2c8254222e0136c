"""Every row about clones of "what a change of a spec does"."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.ids import CloneName, ImageName, PoolName, RuntimeName, SecretName, SnapshotId, VolumeId
from reconciler.plan.actions import (
    CreateClone,
    ExpireClone,
    ReplaceClone,
    RestartClone,
    RestoreClone,
    StartClone,
    StopClone,
    UpdateClone,
)
from reconciler.plan.fingerprints import delivery_fingerprint, serve_fingerprint, start_fingerprint
from reconciler.plan.schedule import expiry_text
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.desired import Resources, SnapshotAt, User
from reconciler.state.observed import CloneManifest, ClonePhase, Tombstone, VolumeState
from tests.plan.world import (
    APP,
    HOUR,
    NOW,
    OTHER_POOL,
    SETTINGS,
    a_clone,
    a_failure,
    a_generation,
    a_policy,
    a_pool,
    a_request,
    a_server,
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
    from reconciler.plan.actions import Plan
    from reconciler.state.desired import Desired, DesiredClone, DesiredImage
    from reconciler.state.observed import ObservedPool, Volume

DEV = clone_key("dev")
NEW = timedelta(minutes=10)


def standing(
    *,
    clone: DesiredClone | None = None,
    volume_of: DesiredClone | None = None,
    more: tuple[Any, ...] = (),
    **manifest: Any,  # noqa: ANN401 - fields of a manifest
) -> Plan:
    """A plan for a clone document, over a clone that was delivered as ``volume_of`` says."""
    delivered = a_generation(volume_of or a_clone(), **manifest)
    return planned(asked(an_image(), clone or a_clone()), seen(a_snapshot(), *served(delivered), *more))


def test_a_clone_that_is_as_its_document_says_needs_nothing() -> None:
    made = standing()
    assert made.actions == ()
    assert reason(made, DEV, "Ready") == "UpToDate"


def test_a_new_clone_is_made_from_the_newest_snapshot() -> None:
    made = planned(asked(an_image(), a_clone()), seen(a_snapshot(age=2 * HOUR), a_snapshot(age=HOUR)))
    (create,) = made.actions
    assert isinstance(create, CreateClone)
    assert (create.snapshot, create.volume, create.generation) == (snapshot_id(age=HOUR), "dev.1", 1)
    assert create.after == ()


@pytest.mark.parametrize(
    ("changed", "changes"),
    [
        ({"users": (APP, User("reader", "readonly"))}, ("users",)),
        ({"users": (User("app", "readonly"),)}, ("users",)),
        ({"users": ()}, ("users",)),
        ({"owner": "payments"}, ("owner",)),
        ({"protected": True}, ("protected",)),
        ({"owner": "payments", "protected": True}, ("owner", "protected")),
    ],
)
def test_users_owner_and_protection_change_in_place(changed: dict[str, Any], changes: tuple[str, ...]) -> None:
    (update,) = standing(clone=a_clone(**changed)).actions
    assert isinstance(update, UpdateClone)
    assert update.changes == changes


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": {"team": "x"}},
        {"ttl": 9 * HOUR},
        {"expires": NOW + HOUR},
        {"on_refresh": "recreate"},
        {"snapshot": snapshot_id()},
    ],
)
def test_labels_expiry_and_pinning_what_is_there_change_nothing_on_the_host(changed: dict[str, Any]) -> None:
    assert standing(clone=a_clone(**changed)).actions == ()


def test_a_rotated_password_is_an_update() -> None:
    clone = a_clone(users=(User("app", password=SecretName("shop-app")),))
    observed = seen(a_snapshot(), *served(a_generation(clone)), secrets={"shop-app": "another"})
    (update,) = planned(asked(an_image(), clone), observed).actions
    assert isinstance(update, UpdateClone)
    assert update.reason == "new password of user app"


def test_what_was_planned_before_is_forgotten_with_any_value_of_it() -> None:
    clone, image = a_clone(users=(User("app", password=SecretName("shop-app")),)), an_image()
    generation = a_generation(clone)
    secrets = {"shop-app": "fingerprint of shop-app"}
    another = a_generation(clone, owner="somebody else")

    def plan_of(clone: DesiredClone = clone, image: DesiredImage = image, volume: Volume = generation) -> Plan:
        return planned(asked(image, clone), seen(a_snapshot(), *served(volume), secrets=secrets))

    assert plan_of().actions == plan_of().actions == ()
    assert steps(plan_of(clone=replace(clone, protected=True))) == ["update dev"]
    assert steps(plan_of(image=replace(image, parameters={"work_mem": "8MB"}))) == ["restart dev"]
    assert steps(plan_of(volume=another)) == ["update dev"]
    assert plan_of().actions == ()
    secrets["shop-app"] = "another"
    assert steps(plan_of()) == ["update dev"]
    secrets.clear()
    assert reason(plan_of(), DEV, "Stalled") == "SecretUnavailable"


@pytest.mark.parametrize(
    ("changed", "changes"),
    [
        ({"port": 5700}, ("port",)),
        ({"parameters": {"work_mem": "8MB"}}, ("parameters",)),
        ({"resources": Resources(memory=2**30)}, ("resources",)),
        ({"port": 5700, "resources": Resources(cpus=1)}, ("port", "resources")),
    ],
)
def test_port_parameters_and_resources_restart(changed: dict[str, Any], changes: tuple[str, ...]) -> None:
    (restart,) = standing(clone=a_clone(**changed)).actions
    assert isinstance(restart, RestartClone)
    assert restart.changes == changes


def test_parameters_of_the_image_restart_its_clones() -> None:
    image = an_image(parameters={"work_mem": "8MB"})
    made = planned(asked(image, a_clone()), seen(a_snapshot(), *served(a_generation(a_clone()))))
    assert steps(made) == ["restart dev"]


def test_a_port_that_is_no_longer_asked_for_is_kept() -> None:
    assert standing(volume_of=a_clone(port=5700)).actions == ()


def test_state_stopped_stops_and_state_running_starts() -> None:
    volume = a_generation(a_clone())
    stop = planned(asked(an_image(), a_clone(running=False)), seen(a_snapshot(), *served(volume)))
    start = planned(asked(an_image(), a_clone()), seen(a_snapshot(), volume))
    assert (steps(stop), steps(start)) == (["stop dev"], ["start dev"])
    assert reason(start, DEV, "Ready") == "NotRunning"


def test_a_stopped_clone_that_should_be_stopped_is_ready() -> None:
    made = planned(asked(an_image(), a_clone(running=False)), seen(a_snapshot(), a_generation(a_clone())))
    assert (made.actions, reason(made, DEV, "Ready")) == ((), "Stopped")


def test_users_are_delivered_after_a_start_and_before_a_stop() -> None:
    users = (APP, User("reader", "readonly"))
    volume = a_generation(a_clone())
    start = planned(asked(an_image(), a_clone(users=users)), seen(a_snapshot(), volume))
    stop = planned(asked(an_image(), a_clone(users=users, running=False)), seen(a_snapshot(), *served(volume)))
    assert (steps(start), steps(stop)) == (["start dev", "update dev"], ["update dev", "stop dev"])


def test_a_server_on_another_port_is_restarted() -> None:
    volume = a_generation(a_clone())
    made = planned(asked(an_image(), a_clone()), seen(a_snapshot(), volume, a_server(volume, port=5999)))
    assert steps(made) == ["restart dev"]


def test_a_clone_of_files_only_needs_no_server() -> None:
    clone = a_clone(runtime=RuntimeName("none"))
    made = planned(asked(an_image(), clone), seen(a_snapshot(), a_generation(clone)))
    assert (made.actions, reason(made, DEV, "Ready")) == ((), "UpToDate")


def test_changed_scripts_do_not_run_again_but_are_reported() -> None:
    made = standing(clone=a_clone(scripts_digest="s2"))
    assert made.actions == ()
    assert reason(made, DEV, "ScriptsOutdated") == "ScriptsChanged"
    assert reason(made, DEV, "Ready") == "UpToDate"


def replaced_by(clone: DesiredClone) -> Plan:
    volume = a_generation(a_clone())
    documents = asked(an_image(), an_image("store"), clone)
    things = (a_snapshot(age=2 * HOUR), a_snapshot(), a_snapshot("store"), a_snapshot("store", age=2 * HOUR))
    return planned(documents, seen(*things, *served(volume)))


@pytest.mark.parametrize(
    ("changed", "snapshot"),
    [
        ({"image": "store"}, snapshot_id("store")),
        ({"snapshot": snapshot_id(age=2 * HOUR)}, snapshot_id(age=2 * HOUR)),
        ({"runtime": RuntimeName("docker")}, snapshot_id()),
        ({"snapshot": SnapshotAt(NOW - 1.5 * HOUR)}, snapshot_id(age=2 * HOUR)),
    ],
)
def test_image_snapshot_and_runtime_replace(changed: dict[str, Any], snapshot: str) -> None:
    (replacement,) = replaced_by(a_clone(**changed)).actions
    assert isinstance(replacement, ReplaceClone)
    assert replacement.destructive
    assert (replacement.cause, replacement.snapshot) == ("spec", snapshot)
    assert (replacement.volume, replacement.generation, replacement.current) == ("dev.2", 2, "dev.1")


def test_a_replacement_is_refused_while_protected_and_the_rest_goes_on() -> None:
    made = replaced_by(a_clone(image="store", protected=True))
    assert steps(made) == ["update dev"]
    assert [refusal.rule for refusal in made.refused] == ["protected"]
    assert [type(action) for action in made.refused[0].actions] == [ReplaceClone]
    assert reason(made, DEV, "Stalled") == "Protected"


def test_an_at_that_what_is_there_still_answers_keeps_it() -> None:
    assert standing(clone=a_clone(snapshot=SnapshotAt(NOW))).actions == ()


def test_a_missing_snapshot_stalls_and_says_what_exists() -> None:
    made = replaced_by(a_clone(snapshot=SnapshotId("shop-20200101t000000z-00000000")))
    assert made.actions == ()
    stall = condition(made, DEV, "Stalled")
    assert stall is not None
    assert stall.reason == "SnapshotMissing"
    assert snapshot_id() in stall.message


def test_a_snapshot_of_another_image_is_not_taken() -> None:
    made = planned(
        asked(an_image(), an_image("store"), a_clone(snapshot=snapshot_id("store"))),
        seen(a_snapshot(), a_snapshot("store")),
    )
    assert (made.actions, reason(made, DEV, "Stalled")) == ((), "SnapshotMissing")


def test_at_takes_the_newest_snapshot_whose_data_is_old_enough() -> None:
    data = [a_snapshot(age=age * HOUR, data_as_of=NOW - (age + 10) * HOUR) for age in (1, 2, 3)]
    made = planned(asked(an_image(), a_clone(snapshot=SnapshotAt(NOW - 12 * HOUR))), seen(*data))
    (create,) = made.actions
    assert isinstance(create, CreateClone)
    assert create.snapshot == snapshot_id(age=2 * HOUR)


def test_at_before_everything_stalls() -> None:
    made = planned(asked(an_image(), a_clone(snapshot=SnapshotAt(NOW - 100 * HOUR))), seen(a_snapshot()))
    assert (made.actions, reason(made, DEV, "Stalled")) == ((), "SnapshotMissing")


def two_generations(*, second_ago: timedelta = NEW) -> tuple[Any, ...]:
    """A clone whose first generation (of shop) was replaced by one of store."""
    first = a_generation(a_clone(), age=2 * HOUR)
    current = a_generation(a_clone(image="store"), generation=2, age=2 * HOUR, ready_at=NOW - second_ago)
    return (a_snapshot(), a_snapshot("store"), first, *served(current))


def test_a_reverted_commit_brings_the_old_volume_back() -> None:
    made = planned(asked(an_image(), an_image("store"), a_clone()), seen(*two_generations()))
    (restore,) = made.actions
    assert isinstance(restore, RestoreClone)
    assert (restore.volume, restore.generation, restore.current) == ("dev.1", 3, "dev.2")


def test_past_its_grace_the_old_volume_is_dropped_and_does_not_come_back() -> None:
    made = planned(asked(an_image(), an_image("store"), a_clone()), seen(*two_generations(second_ago=HOUR)))
    assert steps(made) == ["replace dev", "drop dev"]
    assert made.actions[1].volumes == ("dev.1",)
    assert made.actions[1].destructive


def test_a_retired_generation_is_kept_for_its_grace_and_its_server_stopped() -> None:
    volumes = two_generations()
    retired = next(v for v in volumes if getattr(v, "id", None) == "dev.1")
    made = planned(asked(an_image(), an_image("store"), a_clone(image="store")), seen(*volumes, a_server(retired)))
    assert steps(made) == ["stop dev"]
    assert made.actions[0].volumes == ("dev.1",)


def test_recreate_follows_a_newer_snapshot_and_keep_does_not() -> None:
    volume = a_generation(a_clone(), snapshot_id(age=2 * HOUR))
    observed = seen(a_snapshot(age=2 * HOUR), a_snapshot(), *served(volume))
    (follow,) = planned(asked(an_image(), a_clone(on_refresh="recreate")), observed).actions
    assert isinstance(follow, ReplaceClone)
    assert (follow.cause, follow.snapshot) == ("refresh", snapshot_id())
    assert planned(asked(an_image(), a_clone()), observed).actions == ()


def test_recreate_of_a_pinned_clone_stays() -> None:
    volume = a_generation(a_clone(), snapshot_id(age=2 * HOUR))
    pinned = a_clone(on_refresh="recreate", snapshot=snapshot_id(age=2 * HOUR))
    made = planned(asked(an_image(), pinned), seen(a_snapshot(age=2 * HOUR), a_snapshot(), *served(volume)))
    assert made.actions == ()


def test_a_reset_makes_a_new_volume_of_the_same_snapshot() -> None:
    (reset,) = standing(more=(a_request("reset", "dev"),)).actions
    assert isinstance(reset, ReplaceClone)
    assert (reset.cause, reset.snapshot, reset.request) == ("reset", snapshot_id(), "reset-dev")


def test_a_reset_of_a_protected_clone_is_refused_and_answered() -> None:
    clone = a_clone(protected=True)
    made = standing(clone=clone, volume_of=clone, more=(a_request("reset", "dev"),))
    assert made.actions == ()
    assert made.refused[0].rule == "protected"
    assert "protected" in made.declined["reset-dev"]


def test_a_reset_that_a_newer_generation_answered_is_not_served_again() -> None:
    made = standing(more=(a_request("reset", "dev", ago=2 * HOUR),))
    assert made.actions == ()
    assert "reset-dev" in made.served


def test_an_undo_brings_the_newest_retired_generation_back() -> None:
    first = a_generation(a_clone(), age=2 * HOUR)
    second = a_generation(a_clone(), generation=2, age=2 * HOUR, ready_at=NOW - NEW)
    observed = seen(a_snapshot(), first, *served(second), a_request("undo", "dev"))
    (undo,) = planned(asked(an_image(), a_clone()), observed).actions
    assert isinstance(undo, RestoreClone)
    assert (undo.volume, undo.generation, undo.request) == ("dev.1", 3, "undo-dev")


def test_an_undo_keeps_the_volume_that_it_needs_though_its_grace_is_over() -> None:
    first = a_generation(a_clone(), age=9 * HOUR)
    second = a_generation(a_clone(), generation=2, age=9 * HOUR, ready_at=NOW - 2 * HOUR)
    observed = seen(a_snapshot(), first, *served(second), a_request("undo", "dev"))
    assert steps(planned(asked(an_image(), a_clone()), observed)) == ["restore dev"]


def test_an_undo_against_the_document_is_answered_with_why_not() -> None:
    observed = seen(*two_generations(), a_request("undo", "dev"))
    made = planned(asked(an_image(), an_image("store"), a_clone(image="store")), observed)
    assert made.actions == ()
    assert "revert the commit" in made.declined["undo-dev"]


def test_an_undo_without_earlier_state_is_answered() -> None:
    made = standing(more=(a_request("undo", "dev"),))
    assert made.actions == ()
    assert "no earlier state" in made.declined["undo-dev"]


def test_a_clone_without_document_is_deleted_with_all_its_generations() -> None:
    made = planned(asked(an_image(), an_image("store")), seen(*two_generations()))
    assert steps(made) == ["delete dev"]
    assert made.actions[0].volumes == ("dev.1", "dev.2")


def test_a_protected_clone_without_document_is_kept() -> None:
    made = planned(asked(an_image()), seen(a_snapshot(), *served(a_generation(a_clone(protected=True)))))
    assert made.actions == ()
    assert made.refused[0].rule == "protected"
    assert reason(made, DEV, "Orphaned") == "Protected"


@pytest.mark.parametrize("expiry", [{"ttl": HOUR}, {"expires": NOW}, {"ttl": 9 * HOUR, "expires": NOW - HOUR}])
def test_a_clone_whose_time_is_over_expires(expiry: dict[str, Any]) -> None:
    clone = a_clone(**expiry)
    made = standing(clone=clone)
    (expire,) = made.actions
    assert isinstance(expire, ExpireClone)
    assert (expire.verb, expire.volumes) == ("expire", ("dev.1",))
    assert expire.expiry == expiry_text(clone)
    assert reason(made, DEV, "Ready") == "Expired"


def test_ttl_counts_from_the_creation_of_the_clone_not_of_its_generation() -> None:
    clone = a_clone(ttl=2 * HOUR)
    assert steps(standing(clone=clone, age=3 * HOUR, ready_at=NOW)) == ["expire dev"]
    assert standing(clone=clone).actions == ()


def test_a_protected_clone_does_not_expire() -> None:
    clone = a_clone(ttl=HOUR, protected=True)
    made = standing(clone=clone, volume_of=clone)
    assert made.actions == ()
    assert reason(made, DEV, "Stalled") == "Protected"


def test_an_expired_clone_does_not_come_back_until_its_expiry_changes() -> None:
    tombstone = Tombstone(CloneName("dev"), expiry_text(a_clone(ttl=HOUR)), NOW - HOUR)
    gone = planned(asked(an_image(), a_clone(ttl=HOUR)), seen(a_snapshot(), tombstone))
    longer = planned(asked(an_image(), a_clone(ttl=2 * HOUR)), seen(a_snapshot(), tombstone))
    endless = planned(asked(an_image(), a_clone()), seen(a_snapshot(), tombstone))
    assert (gone.actions, reason(gone, DEV, "Ready")) == ((), "Expired")
    assert steps(longer) == steps(endless) == ["clear dev", "create dev"]


def test_an_interrupted_expiry_is_finished() -> None:
    clone = a_clone(ttl=9 * HOUR)
    tombstone = Tombstone(CloneName("dev"), expiry_text(clone), NOW - NEW)
    assert steps(standing(clone=clone, more=(tombstone,))) == ["expire dev"]


def test_the_tombstone_of_a_removed_document_is_cleared() -> None:
    tombstone = Tombstone(CloneName("dev"), "ttl=3600s", NOW - HOUR)
    assert steps(planned(asked(an_image()), seen(a_snapshot(), tombstone))) == ["clear dev"]


def test_a_clone_whose_date_is_over_before_it_exists_is_not_created() -> None:
    made = planned(asked(an_image(), a_clone(expires=NOW)), seen(a_snapshot()))
    assert (made.actions, reason(made, DEV, "Ready")) == ((), "Expired")


def test_a_renamed_clone_keeps_its_volumes() -> None:
    made = planned(
        asked(an_image(), a_clone("new", formerly=CloneName("dev"))),
        seen(a_snapshot(), *served(a_generation(a_clone()))),
    )
    assert steps(made) == ["rename new"]
    assert made.actions[0].volumes == ("dev.1",)


def test_volume_ids_of_a_renamed_clone_are_not_given_again() -> None:
    moved = a_generation(a_clone("new"), volume="dev.1")
    observed = seen(a_snapshot(), *served(moved))
    made = planned(asked(an_image(), a_clone("new", formerly=CloneName("old")), a_clone("dev")), observed)
    (create,) = made.actions
    assert isinstance(create, CreateClone)
    assert (create.volume, create.generation) == ("dev.2", 2)


def test_a_rename_onto_an_existing_clone_is_a_conflict_and_touches_neither() -> None:
    mine, theirs = a_generation(a_clone("new"), age=9 * HOUR), a_generation(a_clone())
    made = planned(
        asked(an_image(), a_clone("new", formerly=CloneName("dev"))), seen(a_snapshot(), *served(mine, theirs))
    )
    assert (made.actions, reason(made, clone_key("new"), "Stalled")) == ((), "RenameConflict")


def test_an_interrupted_rename_goes_on() -> None:
    first = a_generation(a_clone("new"), volume="dev.1")
    second = a_generation(a_clone(), generation=2, ready_at=NOW - NEW)
    made = planned(
        asked(an_image(), a_clone("new", formerly=CloneName("dev"))), seen(a_snapshot(), first, *served(second))
    )
    assert steps(made) == ["rename new"]
    assert made.actions[0].volumes == ("dev.2",)


def test_an_interrupted_creation_is_dropped_and_made_anew_under_another_id() -> None:
    half = a_generation(a_clone(), phase=ClonePhase.CREATING)
    made = planned(asked(an_image(), a_clone()), seen(a_snapshot(), half))
    assert steps(made) == ["drop dev", "create dev"]
    assert (made.actions[0].volumes, made.actions[0].destructive) == (("dev.1",), False)
    assert made.actions[1].volumes == ("dev.2",)


def test_an_interrupted_replacement_leaves_the_current_volume_alone() -> None:
    half = a_generation(a_clone(), generation=2, phase=ClonePhase.CREATING)
    made = standing(more=(half,))
    assert steps(made) == ["drop dev"]
    assert made.actions[0].volumes == ("dev.2",)


def test_an_interrupted_deletion_is_finished() -> None:
    doomed = replace(a_generation(a_clone()), state=VolumeState.DELETING)
    assert steps(planned(asked(an_image()), seen(a_snapshot(), doomed))) == ["drop dev"]


@pytest.mark.parametrize(
    ("documents", "observed", "kind", "why"),
    [
        (asked(an_image(), a_clone(suspend=True)), {}, "Suspended", "Suspended"),
        (asked(an_image(), a_clone(), problems={DEV: ("NotGranted", "no")}), {}, "Stalled", "NotGranted"),
        (asked(an_image(), a_clone()), {"in_flight": frozenset({DEV})}, "Reconciling", "InProgress"),
        (asked(an_image(), a_clone()), {"unknown_runtimes": {"process": "gone"}}, "Ready", "RuntimeUnavailable"),
    ],
)
def test_suspended_broken_busy_and_unknown_clones_are_left_alone(
    documents: Desired, observed: dict[str, Any], kind: str, why: str
) -> None:
    old = a_clone(owner="x", users=(), port=5999, parameters={"a": "b"})
    half = a_generation(old, generation=2, phase=ClonePhase.CREATING)
    made = planned(documents, seen(a_snapshot(), a_generation(old), half, **observed))
    assert made.actions == ()
    assert reason(made, DEV, kind) == why


def test_a_document_that_could_not_be_resolved_at_all_is_not_pruned() -> None:
    made = planned(asked(an_image(), problems={DEV: ("NotGranted", "no")}), seen(a_snapshot(), a_generation(a_clone())))
    assert (made.actions, reason(made, DEV, "Stalled")) == ((), "NotGranted")


def test_a_runtime_that_this_host_does_not_have_stalls_what_asks_for_it() -> None:
    settings = replace(SETTINGS, runtimes=frozenset({RuntimeName("process")}))
    clone = a_clone(runtime=RuntimeName("docker"))
    new = planned(asked(an_image(), clone), seen(a_snapshot()), settings=settings)
    gone = planned(asked(an_image()), seen(a_snapshot(), a_generation(clone)), settings=settings)
    assert new.actions == gone.actions == ()
    assert reason(new, DEV, "Stalled") == reason(gone, DEV, "Stalled") == "RuntimeUnavailable"


def test_a_missing_secret_stalls_the_clone_but_its_server_is_kept_up() -> None:
    clone = a_clone(users=(User("app", password=SecretName("shop-app")),))
    new = planned(asked(an_image(), clone), seen(a_snapshot()))
    down = planned(asked(an_image(), clone), seen(a_snapshot(), a_generation(clone)))
    assert (new.actions, reason(new, DEV, "Stalled")) == ((), "SecretUnavailable")
    assert (steps(down), reason(down, DEV, "Stalled")) == (["start dev"], "SecretUnavailable")


def test_a_clone_whose_image_has_no_usable_document_lives_on() -> None:
    problems = {(image := an_image()).name: ("SourceMissing", "x")}
    desired = asked(a_clone(parameters={"a": "b"}), problems={clone_key("other"): ("a", "b")})
    assert problems
    assert image.name not in desired.images
    made = planned(desired, seen(*served(a_generation(a_clone()))))
    assert made.actions == ()
    new = planned(desired, seen())
    assert reason(new, DEV, "Stalled") == "ImageMissing"


def test_a_permanent_failure_stands_until_an_input_changes() -> None:
    image, clone = an_image(), a_clone()
    fingerprint = delivery_fingerprint(clone, image, snapshot=snapshot_id(), secrets={})
    failures = {DEV: (a_failure(fingerprint),)}
    same = planned(asked(image, clone), seen(a_snapshot(), failures=failures))
    other = planned(asked(image, a_clone(parameters={"work_mem": "1MB"})), seen(a_snapshot(), failures=failures))
    assert (same.actions, reason(same, DEV, "Stalled")) == ((), "ScriptFailed")
    assert steps(other) == ["create dev"]


@pytest.mark.parametrize(("retry_in", "expected"), [(HOUR, []), (-NEW, ["start dev"])])
def test_a_transient_failure_waits_for_its_time(retry_in: timedelta, expected: list[str]) -> None:
    volume = a_generation(a_clone())
    failure = a_failure(serve_fingerprint(a_clone(), an_image(), volume.id), permanent=False, retry_in=retry_in)
    made = planned(asked(an_image(), a_clone()), seen(a_snapshot(), volume, failures={DEV: (failure,)}))
    assert steps(made) == expected


def test_a_clone_that_went_down_while_its_new_settings_stall_starts_with_those_that_it_had() -> None:
    clone, volume = a_clone(parameters={"work_mem": "8MB"}), a_generation(a_clone())
    failure = a_failure(serve_fingerprint(clone, an_image(), volume.id))
    documents = asked(an_image(), clone)
    assert steps(planned(documents, seen(a_snapshot(), *served(volume), failures={DEV: (failure,)}))) == []
    down = planned(documents, seen(a_snapshot(), volume, failures={DEV: (failure,)}))
    assert (steps(down), reason(down, DEV, "Stalled")) == (["start dev"], "ScriptFailed")
    assert isinstance(volume.manifest, CloneManifest)
    before = a_failure(start_fingerprint(volume.manifest, volume.id), permanent=False, retry_in=HOUR)
    failures = (failure, before)
    assert steps(planned(documents, seen(a_snapshot(), volume, failures={DEV: failures}))) == []


def test_a_clone_of_which_nobody_knows_what_settings_it_had_waits_for_others() -> None:
    clone, volume = a_clone(parameters={"work_mem": "8MB"}), a_generation(a_clone(), parameters=None)
    failure = a_failure(serve_fingerprint(clone, an_image(), volume.id))
    made = planned(asked(an_image(), clone), seen(a_snapshot(), volume, failures={DEV: (failure,)}))
    assert (steps(made), reason(made, DEV, "Ready")) == ([], "NotRunning")


def test_a_failing_start_does_not_hold_back_the_end_of_a_clone() -> None:
    clone = a_clone(ttl=HOUR)
    volume = a_generation(clone)
    failure = a_failure(serve_fingerprint(clone, an_image(), volume.id))
    made = planned(asked(an_image(), clone), seen(a_snapshot(), volume, failures={DEV: (failure,)}))
    assert steps(made) == ["expire dev"]


AWAY = a_pool(OTHER_POOL, available=False, message="marker is missing")


def test_a_pool_whose_size_cannot_be_had_is_used_as_it_is_and_says_so() -> None:
    pool = replace(a_pool(), refusal="no room")
    made = planned(asked(an_image(), a_clone()), seen(pool, a_snapshot()))
    assert steps(made) == ["create dev"]
    said = made.conditions[ObjectKey(Kind.POOL, pool.name)]
    assert [(c.type, c.reason, c.message) for c in said] == [
        ("Ready", "Available", ""),
        ("Stalled", "SizeRefused", "no room"),
    ]


def test_a_pool_that_is_yet_to_grow_is_used_as_it_is_and_says_so() -> None:
    pool = replace(a_pool(), pending="after a restart")
    made = planned(asked(an_image(), a_clone()), seen(pool, a_snapshot()))
    assert steps(made) == ["create dev"]
    said = made.conditions[ObjectKey(Kind.POOL, pool.name)]
    assert [(c.type, c.reason, c.message) for c in said] == [
        ("Ready", "Available", ""),
        ("Reconciling", "SizePending", "after a restart"),
    ]


@pytest.mark.parametrize("pool", [AWAY, None])
def test_while_a_pool_is_away_a_clone_that_is_not_seen_is_not_created(pool: ObservedPool | None) -> None:
    settings = replace(SETTINGS, pools=frozenset({PoolName("default"), OTHER_POOL}))
    pools = (a_pool(),) if pool is None else (a_pool(), pool)
    made = planned(asked(an_image(), a_clone()), seen(*pools, a_snapshot()), settings=settings)
    assert (made.actions, reason(made, DEV, "Ready")) == ((), "PoolUnavailable")


@pytest.mark.parametrize(
    "clone",
    [
        a_clone(image="store"),
        a_clone(ttl=HOUR),
        a_clone(snapshot=snapshot_id(age=2 * HOUR)),
        None,
        a_clone("new", formerly=CloneName("dev")),
    ],
)
def test_while_a_pool_is_away_nothing_is_replaced_expired_renamed_or_deleted(clone: DesiredClone | None) -> None:
    documents = asked(an_image(), an_image("store"), *([clone] if clone else []))
    things = (a_pool(), AWAY, a_snapshot(), a_snapshot(age=2 * HOUR), a_snapshot("store"))
    made = planned(documents, seen(*things, *served(a_generation(a_clone()))))
    assert made.actions == ()


def test_while_a_pool_is_away_a_clone_elsewhere_is_still_kept_up() -> None:
    made = planned(asked(an_image(), a_clone(owner="x")), seen(a_pool(), AWAY, a_snapshot(), a_generation(a_clone())))
    assert steps(made) == ["start dev", "update dev"]


def test_while_a_pool_is_away_a_server_without_visible_volume_shows_that_the_clone_lives_there() -> None:
    old = a_generation(a_clone())
    made = planned(asked(an_image(), a_clone()), seen(a_pool(), AWAY, a_snapshot(), old, a_server("dev.2")))
    assert (made.actions, reason(made, DEV, "Ready")) == ((), "PoolUnavailable")


def test_volumes_listed_on_a_pool_that_is_away_are_not_touched() -> None:
    volume = a_generation(a_clone(), pool=OTHER_POOL)
    gone = planned(asked(an_image()), seen(a_pool(), AWAY, a_snapshot(), volume))
    there = planned(asked(an_image(), a_clone(owner="x")), seen(a_pool(), AWAY, a_snapshot(), volume))
    assert gone.actions == there.actions == ()


def test_another_installations_volumes_are_not_ours_to_see() -> None:
    theirs = a_generation(a_clone(), installation="theirs")
    assert planned(asked(an_image()), seen(a_snapshot(), theirs)).actions == ()


def test_what_runs_without_a_volume_is_stopped_only_while_every_pool_is_seen() -> None:
    stray = a_server("ghost.1")
    assert steps(planned(asked(an_image()), seen(a_snapshot(), stray))) == ["stop ghost"]
    assert planned(asked(an_image()), seen(a_pool(), AWAY, a_snapshot(), stray)).actions == ()
    busy = seen(a_snapshot(), stray, in_flight=frozenset({clone_key("ghost")}))
    assert planned(asked(an_image()), busy).actions == ()


def test_requests_for_what_does_not_exist_are_answered() -> None:
    made = planned(
        asked(an_image(suspend=True)), seen(a_snapshot(), a_request("reset", "x"), a_request("refresh", "shop"))
    )
    assert made.declined == {"reset-x": "there is no clone x", "refresh-shop": "image shop is suspended"}


def test_a_clone_that_follows_new_snapshots_and_changes_its_runtime_is_replaced_once() -> None:
    volume = a_generation(a_clone(), snapshot_id(age=2 * HOUR))
    clone = a_clone(runtime=RuntimeName("docker"), on_refresh="recreate")
    made = planned(asked(an_image(), clone), seen(a_snapshot(age=2 * HOUR), a_snapshot(), *served(volume)))
    assert [a.snapshot for a in made.actions if isinstance(a, ReplaceClone)] == [snapshot_id()]


def test_a_clone_that_can_neither_be_replaced_nor_started_is_left_at_rest() -> None:
    clone, volume = a_clone(image="store"), a_generation(a_clone())
    store = a_snapshot("store")
    deliver = delivery_fingerprint(clone, an_image("store"), snapshot=SnapshotId(store.id), secrets={})
    start = serve_fingerprint(clone, an_image(), volume.id)
    observed = seen(a_snapshot(), store, volume, failures={DEV: (a_failure(deliver), a_failure(start))})
    assert planned(asked(an_image(), an_image("store"), clone), observed).actions == ()


@pytest.mark.parametrize(
    ("documents", "things", "key"),
    [
        (
            asked(an_image(), a_clone("new", formerly=CloneName("dev"))),
            served(a_generation(a_clone())),
            clone_key("new"),
        ),
        (asked(an_image(), a_clone()), (Tombstone(CloneName("dev"), "ttl=1s", NOW),), DEV),
        (asked(an_image()), (Tombstone(CloneName("dev"), "ttl=1s", NOW),), DEV),
        (asked(an_image()), (a_server("ghost.1"),), clone_key("ghost")),
    ],
)
def test_what_failed_a_moment_ago_and_has_no_inputs_is_not_tried_in_every_pass(
    documents: Desired, things: tuple[Any, ...], key: ObjectKey
) -> None:
    failed = {key: (a_failure("", permanent=False, retry_in=HOUR),)}
    made = planned(documents, seen(a_snapshot(), *things, failures=failed))
    assert (made.actions, reason(made, key, "Reconciling")) == ((), "ScriptFailed")
    assert planned(documents, seen(a_snapshot(), *things)).actions != ()


def test_a_renamed_image_is_not_another_image() -> None:
    image = an_image("store", formerly=ImageName("shop"))
    made = planned(
        asked(image, a_clone(image="store", owner="x")), seen(a_snapshot(), *served(a_generation(a_clone())))
    )
    assert steps(made) == ["rename store", "update dev"]
    assert made.actions[0].volumes == (VolumeId("dev.1"), VolumeId(snapshot_id()))
    assert made.actions[1].after == (made.actions[0].key,)


def test_a_volume_with_an_unreadable_manifest_is_neither_replaced_by_a_new_one_nor_its_snapshot_deleted() -> None:
    torn = a_pool(unknown=("dev.1",))
    old = [a_snapshot(age=days * 24 * HOUR) for days in (5, 4, 3, 2, 1)]
    made = planned(asked(an_image(), a_clone(), a_clone("new")), seen(torn, *old, a_server("dev.1")))
    assert steps(made) == ["create new"]
    assert reason(made, DEV, "Ready") == "PoolUnavailable"


def test_while_an_unreadable_volume_may_be_anybodys_no_clone_is_created() -> None:
    made = planned(asked(an_image(), a_clone()), seen(a_pool(unknown=("before.1",)), a_snapshot()))
    assert (made.actions, reason(made, DEV, "Ready")) == ((), "ManifestUnreadable")


def test_a_snapshot_from_before_its_image_named_masking_is_not_handed_out() -> None:
    image = an_image(masking=(a_policy(),))
    old = a_snapshot()
    explicit = planned(asked(image, a_clone(snapshot=snapshot_id())), seen(old))
    assert steps(explicit) == []
    reset = planned(asked(image, a_clone()), seen(old, *served(a_generation(a_clone())), a_request("reset", "dev")))
    assert steps(reset) == []
    assert "masking" in reset.declined["reset-dev"]


def test_a_swap_that_was_interrupted_before_the_old_server_stopped_is_finished_in_order() -> None:
    first, second = a_generation(a_clone()), a_generation(a_clone(), generation=2, ready_at=NOW)
    made = planned(asked(an_image(), a_clone()), seen(a_snapshot(), *served(first), second))
    assert [(action.verb, action.volumes) for action in made.actions] == [("stop", ("dev.1",)), ("start", ("dev.2",))]


def test_a_start_that_was_interrupted_is_gone_on_with_and_what_should_not_run_is_stopped() -> None:
    volume = a_generation(a_clone())
    for clone, step in ((a_clone(), StartClone), (a_clone(running=False), StopClone)):
        plan = planned(asked(an_image(), clone), seen(a_snapshot(), volume, a_server(volume, starting=True)))
        assert [type(one) for one in plan.actions] == [step]
    whole = planned(asked(an_image(), a_clone()), seen(a_snapshot(), volume, a_server(volume)))
    assert whole.actions == ()
