"""When a snapshot is built, and when not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.ids import CloneName, ImageName, PoolName, SecretName, VolumeId
from reconciler.plan.actions import BuildSnapshot, CreateClone, Plan
from reconciler.plan.diff import builds_due, plan
from reconciler.plan.fingerprints import build_fingerprint
from reconciler.state.desired import Desired, DesiredImage, DumpSource, EmptySource, PrimarySource, Refresh, SourcePath
from reconciler.state.observed import Input, Observed, Volume, VolumeState
from tests.plan.world import (
    HOUR,
    INPUT,
    NOW,
    OTHER_POOL,
    SETTINGS,
    a_build,
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
    derived,
    image_key,
    only_build,
    planned,
    reason,
    seen,
    served,
    snapshot_id,
    steps,
)

SHOP = image_key("shop")
DAILY = Refresh("0 2 * * *")
OTHER_DIGEST = "d2" * 32
AWAY = a_pool(OTHER_POOL, available=False, message="marker is missing")


def test_the_first_snapshot_is_built() -> None:
    build = only_build(planned(asked(an_image()), seen()))
    assert build.snapshot == "shop-20261122t120000z-d1d1d1d1"
    assert (build.input_id, build.base, build.key_id) == (INPUT, None, None)


def test_an_image_with_a_snapshot_of_its_spec_is_up_to_date() -> None:
    made = planned(asked(an_image()), seen(a_snapshot()))
    assert (made.actions, reason(made, SHOP, "Ready")) == ((), "UpToDate")


def test_changed_build_inputs_make_a_new_snapshot_and_leave_clones_alone() -> None:
    made = planned(
        asked(an_image(spec_digest=OTHER_DIGEST), a_clone()), seen(a_snapshot(), *served(a_generation(a_clone())))
    )
    assert only_build(made).snapshot == "shop-20261122t120000z-d2d2d2d2"


@pytest.mark.parametrize(
    "changed",
    [{"labels": {"a": "b"}}, {"pool": OTHER_POOL}, {"parameters": {"work_mem": "1MB"}}, {"unmasked_reason": "x"}],
)
def test_labels_pool_and_parameters_build_nothing(changed: dict[str, Any]) -> None:
    assert planned(asked(an_image(**changed)), seen(a_pool(), a_pool(OTHER_POOL), a_snapshot())).actions == ()


def test_another_engine_is_an_error_while_snapshots_exist() -> None:
    image = an_image(engine="mariadb", spec_digest=OTHER_DIGEST)
    made = planned(asked(image), seen(a_snapshot()))
    assert (made.actions, reason(made, SHOP, "Stalled")) == ((), "EngineChanged")
    assert steps(planned(asked(image), seen())) == ["build shop"]


MASKED = an_image(masking=(a_policy(),))


def test_a_rotated_masking_key_makes_a_build_due() -> None:
    same = planned(asked(MASKED), seen(a_snapshot(key_id="k1", masked_by=("pii",)), secrets={"key": "k1"}))
    rotated = planned(asked(MASKED), seen(a_snapshot(key_id="k1", masked_by=("pii",)), secrets={"key": "k2"}))
    assert same.actions == ()
    assert only_build(rotated).key_id == "k2"


def test_a_missing_masking_key_stalls() -> None:
    made = planned(asked(MASKED), seen())
    assert (made.actions, reason(made, SHOP, "Stalled")) == ((), "SecretUnavailable")


@pytest.mark.parametrize(
    ("age", "due"),
    [(timedelta(hours=9, minutes=59), False), (timedelta(hours=10, minutes=1), True)],
)
def test_a_refresh_is_due_once_its_schedule_has_passed(age: timedelta, due: bool) -> None:  # noqa: FBT001 - a parameter of a test
    observed = seen(a_snapshot(age=age, input_id="older"))
    assert bool(planned(asked(an_image(refresh=DAILY)), observed).actions) is due
    assert bool(builds_due(asked(an_image(refresh=DAILY)), observed, NOW)) is due


def test_a_schedule_counts_in_its_time_zone() -> None:
    paris = Refresh("30 12 * * *", timezone="Europe/Paris")  # 11:30 UTC in winter
    observed = seen(a_snapshot(age=timedelta(minutes=40), input_id="older"))
    assert steps(planned(asked(an_image(refresh=paris)), observed)) == ["build shop"]
    assert planned(asked(an_image(refresh=replace(paris, timezone="UTC"))), observed).actions == ()


def test_a_suspended_refresh_is_never_due() -> None:
    image = an_image(refresh=replace(DAILY, suspend=True))
    assert planned(asked(image), seen(a_snapshot(age=99 * HOUR, input_id="older"))).actions == ()


def test_an_unknown_time_zone_stalls_that_image_alone() -> None:
    image = an_image(refresh=Refresh("0 2 * * *", timezone="Mars/Olympus"))
    made = planned(asked(image, an_image("store")), seen(a_snapshot()))
    assert (steps(made), reason(made, SHOP, "Stalled")) == (["build store"], "ScheduleInvalid")


def test_a_refresh_that_finds_the_source_unchanged_builds_nothing_and_says_it_looked() -> None:
    made = planned(asked(an_image(refresh=DAILY)), seen(a_snapshot(age=20 * HOUR)))
    assert (made.actions, made.checked) == ((), ("shop",))


def test_a_refresh_that_was_looked_at_is_not_due_again() -> None:
    observed = seen(a_snapshot(age=20 * HOUR, input_id="older"), refreshed={ImageName("shop"): NOW - HOUR})
    assert planned(asked(an_image(refresh=DAILY)), observed).actions == ()


def test_a_requested_refresh_builds_when_the_source_differs() -> None:
    build = only_build(planned(asked(an_image()), seen(a_snapshot(input_id="older"), a_request("refresh", "shop"))))
    assert (build.request, build.reason) == ("refresh-shop", "a refresh was requested")


def test_a_requested_refresh_of_an_unchanged_source_is_answered() -> None:
    made = planned(asked(an_image()), seen(a_snapshot(), a_request("refresh", "Image/shop")))
    assert made.actions == ()
    assert "up to date" in made.served["refresh-Image/shop"]


def test_a_request_older_than_the_newest_snapshot_is_answered() -> None:
    made = planned(asked(an_image()), seen(a_snapshot(input_id="older"), a_request("refresh", "shop", ago=2 * HOUR)))
    assert (made.actions, list(made.served)) == ((), ["refresh-shop"])


COMMITTED = an_image(source=DumpSource(SourcePath("dumps/shop.sql", object_id="b10b")))


def test_a_changed_file_of_the_commit_makes_a_build_due() -> None:
    observed = seen(a_snapshot(input_id="blob:a11a"), inputs={ImageName("shop"): Input("blob:b10b")})
    assert builds_due(asked(COMMITTED), observed, NOW) == {"shop"}
    assert only_build(planned(asked(COMMITTED), observed)).input_id == "blob:b10b"


def test_an_input_id_that_names_no_blob_is_asked_for_and_compared() -> None:
    observed = seen(a_snapshot(input_id="sum"), inputs={ImageName("shop"): Input("sum")})
    assert builds_due(asked(COMMITTED), observed, NOW) == {"shop"}
    assert planned(asked(COMMITTED), observed).actions == ()


def test_a_source_that_cannot_be_identified_stalls_with_its_reason() -> None:
    observed = seen(inputs={ImageName("shop"): Input(None, "no such file", "SourceMissing")})
    made = planned(asked(an_image()), observed)
    assert (made.actions, reason(made, SHOP, "Stalled")) == ((), "SourceMissing")


def test_an_image_on_an_image_is_built_after_its_base_and_on_its_snapshot() -> None:
    made = planned(asked(derived("child", "base"), an_image("base")), seen())
    base, child = made.actions
    assert isinstance(base, BuildSnapshot)
    assert isinstance(child, BuildSnapshot)
    assert (base.image, child.image) == ("base", "child")
    assert (child.base, child.input_id, child.after) == (base.snapshot, base.snapshot, (base.key,))


def test_a_new_snapshot_of_the_base_makes_a_build_due() -> None:
    child = a_snapshot("child", base=snapshot_id("base", age=2 * HOUR))
    things = (a_snapshot("base", age=2 * HOUR), a_snapshot("base"), child)
    build = only_build(planned(asked(derived("child", "base"), an_image("base")), seen(*things)))
    assert (build.image, build.base, build.after) == ("child", snapshot_id("base"), ())


def test_an_image_waits_for_a_base_that_is_stalled_or_being_built() -> None:
    documents = asked(derived("child", "base"), an_image("base"))
    broken = planned(documents, seen(inputs={ImageName("base"): Input(None, "gone")}))
    busy = planned(documents, seen(in_flight=frozenset({image_key("base")})))
    assert broken.actions == busy.actions == ()
    assert reason(broken, image_key("child"), "Reconciling") == "WaitingForBase"


def test_an_image_is_not_built_on_a_snapshot_that_its_base_does_not_stand_for_any_more() -> None:
    documents = asked(derived("child", "base"), an_image("base", spec_digest=OTHER_DIGEST))
    made = planned(documents, seen(a_snapshot("base"), in_flight=frozenset({image_key("base")})))
    assert (made.actions, reason(made, image_key("child"), "Reconciling")) == ((), "WaitingForBase")


def test_an_empty_image_needs_no_identity() -> None:
    image = an_image(source=EmptySource())
    assert builds_due(asked(image), seen(), NOW) == frozenset()
    assert only_build(planned(asked(image), seen(inputs={}))).input_id == "empty"


def test_sources_are_identified_only_while_a_build_may_be_due() -> None:
    documents = asked(an_image(), an_image("store", suspend=True), an_image("base"))
    assert builds_due(documents, seen(a_snapshot(), a_snapshot("base")), NOW) == frozenset()
    busy = seen(in_flight=frozenset({image_key("base")}))
    assert builds_due(documents, busy, NOW) == {"shop"}
    failed = seen(a_snapshot(), a_snapshot("base"), failures={SHOP: (a_failure("x"),)})
    assert builds_due(documents, failed, NOW) == {"shop"}


FINGERPRINT = build_fingerprint(an_image(), input_id=INPUT, key=None, base=None)


def test_a_permanent_failure_stalls_until_the_source_changes() -> None:
    same = planned(asked(an_image()), seen(failures={SHOP: (a_failure(FINGERPRINT),)}))
    other = planned(
        asked(an_image()), seen(failures={SHOP: (a_failure(FINGERPRINT),)}, inputs={ImageName("shop"): Input("new")})
    )
    assert (same.actions, reason(same, SHOP, "Stalled")) == ((), "ScriptFailed")
    assert steps(other) == ["build shop"]


@pytest.mark.parametrize("changed", [{"spec_digest": OTHER_DIGEST}, {"parameters": {"a": "b"}}])
def test_a_permanent_failure_stalls_until_the_spec_changes(changed: dict[str, Any]) -> None:
    assert steps(planned(asked(an_image(**changed)), seen(failures={SHOP: (a_failure(FINGERPRINT),)}))) == [
        "build shop"
    ]


def test_a_transient_failure_backs_off() -> None:
    wait = planned(asked(an_image()), seen(failures={SHOP: (a_failure(FINGERPRINT, permanent=False, retry_in=HOUR),)}))
    again = planned(
        asked(an_image()), seen(failures={SHOP: (a_failure(FINGERPRINT, permanent=False, retry_in=-HOUR),)})
    )
    assert (wait.actions, reason(wait, SHOP, "Reconciling")) == ((), "ScriptFailed")
    assert steps(again) == ["build shop"]


def test_a_request_tries_a_permanent_failure_again() -> None:
    failed = seen(a_snapshot(input_id="older"), failures={SHOP: (replace(a_failure(FINGERPRINT), at=NOW),)})
    asked_again = replace(failed, requests=(a_request("refresh", "shop"),))
    assert planned(asked(an_image()), failed).actions == ()
    assert steps(planned(asked(an_image()), asked_again)) == ["build shop"]


@pytest.mark.parametrize(
    ("documents", "changes", "kind", "why"),
    [
        (asked(an_image(suspend=True)), {}, "Suspended", "Suspended"),
        (asked(an_image(), problems={SHOP: ("SourceMissing", "no")}), {}, "Stalled", "SourceMissing"),
        (asked(an_image()), {"in_flight": frozenset({SHOP})}, "Reconciling", "InProgress"),
        (asked(an_image()), {"unknown_runtimes": {"process": "gone"}}, "Reconciling", "RuntimeUnavailable"),
        (asked(an_image(pool=PoolName("typo"))), {}, "Stalled", "PoolUnknown"),
    ],
)
def test_suspended_broken_busy_and_misplaced_images_are_not_built(
    documents: Desired,
    changes: dict[str, Any],
    kind: str,
    why: str,
) -> None:
    made = planned(documents, seen(a_build(), **changes))
    assert [step for step in steps(made) if step.startswith("build")] == []
    assert reason(made, SHOP, kind) == why


def test_an_unfinished_build_is_dropped_and_made_anew() -> None:
    made = planned(asked(an_image()), seen(a_build(age=timedelta(0))))
    assert steps(made) == ["drop shop", "build shop"]
    assert made.actions[0].volumes != made.actions[1].volumes


def test_the_unfinished_build_of_a_removed_image_is_dropped() -> None:
    assert steps(planned(asked(), seen(a_build()))) == ["drop shop"]


@pytest.mark.parametrize(
    ("image", "more"),
    [
        (an_image(), ()),
        (an_image(pool=OTHER_POOL), ()),
        (an_image(pool=OTHER_POOL, spec_digest=OTHER_DIGEST), (a_snapshot(),)),
    ],
)
def test_while_a_pool_is_away_what_may_be_there_is_not_built_elsewhere(
    image: DesiredImage, more: tuple[Volume, ...]
) -> None:
    made = planned(asked(image), seen(a_pool(), AWAY, *more))
    assert (made.actions, reason(made, SHOP, "Ready")) == ((), "PoolUnavailable")


def test_while_a_pool_is_away_an_image_whose_pool_is_seen_is_still_refreshed() -> None:
    observed = seen(a_pool(), AWAY, a_snapshot(age=20 * HOUR, input_id="older"))
    assert steps(planned(asked(an_image(refresh=DAILY)), observed)) == ["build shop"]


def created(made: Plan) -> CreateClone:
    (create,) = (action for action in made.actions if isinstance(action, CreateClone))
    return create


def test_a_new_clone_waits_for_the_first_snapshot_and_for_a_changed_spec() -> None:
    for observed in (seen(), seen(a_snapshot(spec_digest=OTHER_DIGEST))):
        create = created(planned(asked(an_image(), a_clone()), observed))
        assert (create.snapshot, create.after) == ("shop-20261122t120000z-d1d1d1d1", (SHOP,))


def test_a_new_clone_does_not_wait_for_a_refresh() -> None:
    observed = seen(a_snapshot(input_id="older"), a_request("refresh", "shop"))
    made = planned(asked(an_image(), a_clone()), observed)
    assert steps(made) == ["build shop", "create dev"]
    assert (created(made).snapshot, created(made).after) == (snapshot_id(), ())


def test_a_new_clone_waits_while_the_snapshot_of_a_changed_spec_is_being_built() -> None:
    observed = seen(a_snapshot(spec_digest=OTHER_DIGEST), in_flight=frozenset({SHOP}))
    made = planned(asked(an_image(), a_clone()), observed)
    assert (made.actions, reason(made, clone_key("dev"), "Reconciling")) == ((), "WaitingForSnapshot")


def test_a_live_clone_is_not_held_up_by_a_build_that_it_will_follow() -> None:
    moved = a_clone(image="store", owner="x")
    made = planned(asked(an_image(), an_image("store"), moved), seen(a_snapshot(), *served(a_generation(a_clone()))))
    assert steps(made) == ["build store", "update dev"]
    assert made.actions[1].after == ()


def test_a_server_on_a_sealed_snapshot_is_stopped() -> None:
    assert steps(planned(asked(an_image()), seen(*served(a_snapshot())))) == ["stop shop"]


def test_the_server_of_a_build_in_flight_is_left_alone() -> None:
    observed = seen(a_server("shop-20261122t115959z-d1d1d1d1"), in_flight=frozenset({SHOP}))
    assert planned(asked(an_image()), observed).actions == ()


def test_a_renamed_image_keeps_its_snapshots_and_is_not_rebuilt() -> None:
    made = planned(asked(an_image("store", formerly=ImageName("shop"))), seen(a_snapshot(), a_snapshot(age=2 * HOUR)))
    assert steps(made) == ["rename store"]
    assert made.actions[0].volumes == (VolumeId(snapshot_id(age=2 * HOUR)), VolumeId(snapshot_id()))


def test_a_rename_that_failed_a_moment_ago_is_not_tried_in_every_pass() -> None:
    documents = asked(an_image("store", formerly=ImageName("shop")))
    failed = {image_key("store"): (a_failure("", permanent=False, retry_in=HOUR),)}
    assert planned(documents, seen(a_snapshot(), failures=failed)).actions == ()


def test_clones_of_an_image_are_left_alone_while_it_is_being_renamed() -> None:
    volume = a_generation(a_clone(image="shop"))
    documents = asked(an_image("store", formerly=ImageName("shop")), a_clone(image="store", owner="payments"))
    busy = {"in_flight": frozenset({image_key("store")}), "in_use": frozenset({volume.id})}
    made = planned(documents, seen(a_snapshot(), *served(volume), **busy))
    assert (made.actions, reason(made, clone_key("dev"), "Reconciling")) == ((), "InProgress")
    made = planned(documents, seen(a_snapshot(), *served(volume)))
    assert [(step, action.after) for step, action in zip(steps(made), made.actions, strict=True)] == [
        ("rename store", ()),
        ("update dev", (image_key("store"),)),
    ]


def test_a_snapshot_keeps_its_former_name_while_a_clone_is_being_made_of_it() -> None:
    documents = asked(an_image("store", formerly=ImageName("shop")), a_clone(image="store"))
    older, newer = a_snapshot(age=2 * HOUR), a_snapshot()
    busy = {"in_flight": frozenset({clone_key("dev")}), "in_use": frozenset({newer.id})}
    (rename,) = planned(documents, seen(older, newer, **busy)).actions
    assert rename.volumes == (older.id,)


def test_a_suspended_rename_neither_renames_nor_prunes() -> None:
    documents = asked(an_image("store", formerly=ImageName("shop"), suspend=True))
    assert planned(documents, seen(a_snapshot(), a_snapshot(age=2 * HOUR))).actions == ()


def test_a_former_name_that_is_taken_again_renames_nothing() -> None:
    documents = asked(an_image("store", formerly=ImageName("shop")), an_image())
    assert steps(planned(documents, seen(a_snapshot()))) == ["build store"]


def test_a_former_name_of_a_clone_is_no_reason_to_touch_the_image() -> None:
    documents = asked(an_image(), a_clone("new", formerly=CloneName("gone")))
    assert steps(planned(documents, seen(a_snapshot()))) == ["create new"]


def test_an_interrupted_deletion_of_a_snapshot_is_finished() -> None:
    doomed = replace(a_snapshot(age=9 * HOUR), state=VolumeState.DELETING)
    assert steps(planned(asked(an_image()), seen(a_snapshot(), doomed))) == ["drop shop"]


def test_an_unfinished_build_that_is_being_dropped_under_another_name_is_left_alone() -> None:
    build = a_build()
    busy = seen(build, in_flight=frozenset({image_key("store")}), in_use=frozenset({build.id}))
    assert steps(planned(asked(), busy)) == []


PRIMARY = an_image(source=PrimarySource(SecretName("shop-dsn"), "logical"), refresh=DAILY)
REACHED = {"shop-dsn": "f1"}


def failed_on_primary(image: DesiredImage, **changes: Any) -> Observed:  # noqa: ANN401 - as of Observed
    """A build from a primary failed for good; then it is looked at again."""
    before = seen(secrets=REACHED, inputs={ImageName("shop"): Input("primary:1")})
    failure = a_failure(only_build(planned(asked(image), before)).fingerprint)
    later = {"secrets": REACHED, "inputs": {ImageName("shop"): Input("primary:2")}, **changes}
    return seen(failures={SHOP: (failure,)}, **later)


def test_a_primary_whose_secret_is_not_on_this_host_stalls_alone() -> None:
    made = planned(asked(PRIMARY, an_image("store")), seen(secrets={}))
    assert (steps(made), reason(made, SHOP, "Stalled")) == (["build store"], "SecretUnavailable")


def test_a_failure_on_a_primary_stands_although_the_primary_goes_on() -> None:
    made = planned(asked(PRIMARY), failed_on_primary(PRIMARY))
    assert (made.actions, reason(made, SHOP, "Stalled")) == ((), "ScriptFailed")


def test_a_failure_on_a_primary_is_tried_again_at_the_next_time_of_the_schedule() -> None:
    failed = failed_on_primary(PRIMARY)
    after = plan(asked(PRIMARY), failed, NOW + 14.1 * HOUR, settings=SETTINGS)
    before = plan(asked(PRIMARY), failed, NOW + 13 * HOUR, settings=SETTINGS)
    assert (before.actions, steps(after)) == ((), ["build shop"])


def test_a_failure_on_a_primary_is_tried_again_with_another_url() -> None:
    assert steps(planned(asked(PRIMARY), failed_on_primary(PRIMARY, secrets={"shop-dsn": "f2"}))) == ["build shop"]


def test_a_primary_that_does_not_answer_is_waited_for_and_one_that_refuses_stalls() -> None:
    def said(kind: str, *, passing: bool) -> str | None:
        inputs = {ImageName("shop"): Input(None, "it says so", "PrimaryUnavailable", passing=passing)}
        return reason(planned(asked(PRIMARY), seen(secrets=REACHED, inputs=inputs)), SHOP, kind)

    assert said("Reconciling", passing=True) == said("Stalled", passing=False) == "PrimaryUnavailable"


def test_what_a_source_had_to_be_passed_over_for_is_told_until_the_next_snapshot() -> None:
    made = planned(asked(an_image()), seen(a_snapshot(source_notes=("b2 has no backup_manifest", "a gap"))))
    (condition,) = [one for one in made.conditions[SHOP] if one.type == "SourceIncomplete"]
    assert (condition.reason, condition.message) == ("PassedOver", "b2 has no backup_manifest; a gap")
    without = planned(asked(an_image()), seen(a_snapshot()))
    assert [one for one in without.conditions[SHOP] if one.type == "SourceIncomplete"] == []
