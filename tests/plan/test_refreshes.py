"""When refreshes start: inside windows, once for each value of the annotation, and not for what was suspended."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.ids import ImageName
from reconciler.plan.diff import builds_due
from reconciler.plan.timers import next_refreshes
from reconciler.state.desired import Refresh, Window
from tests.plan.world import (
    HOUR,
    NOW,
    SETTINGS,
    World,
    a_failure,
    a_request,
    a_snapshot,
    an_image,
    asked,
    condition,
    derived,
    image_key,
    only_build,
    planned,
    reason,
    seen,
    snapshot_id,
    steps,
)

if TYPE_CHECKING:
    from reconciler.plan.actions import Plan
    from reconciler.state.desired import DesiredImage
    from reconciler.state.observed import Observed

SHOP = image_key("shop")
NAME = ImageName("shop")
EVENING = Window("0 18 * * *", 6 * HOUR)  # closed at noon, which is NOW
NOON = Window("0 11 * * *", 2 * HOUR)
DAILY = Refresh("0 2 * * *")
OLD = a_snapshot(age=40 * HOUR, input_id="older")


def windowed(*windows: Window, **changes: str) -> DesiredImage:
    return an_image(refresh=replace(DAILY, windows=windows), **changes)


def told(made: Plan) -> str:
    found = condition(made, SHOP, "Waiting")
    assert found is not None
    assert found.reason == "RefreshWindow"
    return found.message


# Windows


def test_a_due_refresh_waits_for_its_window_and_says_until_when() -> None:
    made = planned(asked(windowed(EVENING)), seen(OLD))
    assert made.actions == ()
    assert told(made).endswith("which opens at 2026-11-22T18:00:00+00:00")
    assert reason(made, SHOP, "Ready") == "UpToDate"
    assert builds_due(asked(windowed(EVENING)), seen(OLD), NOW) == frozenset()


def test_a_due_refresh_starts_in_any_of_its_windows() -> None:
    assert steps(planned(asked(windowed(EVENING, NOON)), seen(OLD))) == ["build shop"]
    assert steps(planned(asked(windowed(EVENING)), seen(OLD), now=NOW + 6 * HOUR)) == ["build shop"]


def test_a_requested_refresh_waits_as_well_and_is_not_answered() -> None:
    made = planned(asked(windowed(EVENING)), seen(a_snapshot(input_id="older"), a_request("refresh", "shop")))
    assert (made.actions, sorted(made.waiting)) == ((), ["refresh-shop"])
    assert not made.served
    assert not made.declined
    assert "a refresh was requested" in told(made)


def test_a_refresh_that_is_asked_for_at_once_does_not_wait() -> None:
    request = a_request("refresh", "shop", at_once=True)
    assert only_build(planned(asked(windowed(EVENING)), seen(OLD, request))).request == "refresh-shop"


def test_who_asks_at_once_is_not_slowed_down_by_who_asks_later() -> None:
    urgent = a_request("refresh", "shop", id="1", ago=timedelta(minutes=2), at_once=True)
    later = a_request("refresh", "shop", id="2", ago=timedelta(minutes=1))
    assert steps(planned(asked(windowed(EVENING)), seen(OLD, urgent, later))) == ["build shop"]


def test_an_answered_request_at_once_opens_no_window_for_others() -> None:
    urgent = a_request("refresh", "shop", ago=2 * HOUR, at_once=True)
    made = planned(asked(windowed(EVENING)), seen(a_snapshot(), urgent, a_request("refresh", "shop", id="2")))
    assert (made.actions, sorted(made.waiting), list(made.served)) == ((), ["2"], ["refresh-shop"])


def test_first_builds_and_builds_because_git_changed_do_not_wait() -> None:
    assert steps(planned(asked(windowed(EVENING)), seen())) == ["build shop"]
    changed = windowed(EVENING, spec_digest="d2" * 32)
    assert steps(planned(asked(changed), seen(OLD))) == ["build shop"]


def test_a_new_snapshot_of_its_base_waits_for_the_window() -> None:
    base = [a_snapshot("base", age=age) for age in (3 * HOUR, HOUR)]
    child = derived("child", "base", refresh=Refresh(windows=(EVENING,)))
    built = a_snapshot("child", age=2 * HOUR, base=snapshot_id("base", age=3 * HOUR))
    documents = asked(an_image("base"), child)
    assert planned(documents, seen(*base, built)).actions == ()
    assert steps(planned(documents, seen(*base, built), now=NOW + 6 * HOUR)) == ["build child"]


@pytest.mark.parametrize(("spec", "waits"), [("d1" * 32, True), ("d0" * 32, False), (None, False)])
def test_what_was_built_on_a_base_that_is_gone_waits_for_the_window_unless_the_base_changed_in_git(
    spec: str | None, *, waits: bool
) -> None:
    child = derived("child", "base", refresh=Refresh(windows=(EVENING,)))
    built = a_snapshot("child", age=2 * HOUR, base=snapshot_id("base", age=3 * HOUR), base_spec=spec)
    there = planned(asked(an_image("base"), child), seen(a_snapshot("base"), built))
    assert steps(there) == ([] if waits else ["build child"])
    first = planned(asked(an_image("base"), child), seen(built))
    assert steps(first) == (["build base"] if waits else ["build base", "build child"])


def test_what_failed_for_good_is_still_told_while_its_refresh_waits() -> None:
    failures = {SHOP: (a_failure("build:x"),)}
    made = planned(asked(windowed(EVENING)), seen(OLD, failures=failures))
    assert (made.actions, reason(made, SHOP, "Stalled")) == ((), "ScriptFailed")


# The annotation


def test_each_new_value_of_the_annotation_asks_for_one_refresh() -> None:
    world = World(asked(an_image(asked="one")), seen(a_snapshot(input_id="older")))
    made = planned(world.desired, world.observed)
    assert steps(made) == ["build shop"]
    world.run(made)
    assert planned(world.desired, world.observed).actions == ()
    world.desired = asked(an_image(asked="two"))
    made = planned(world.desired, world.observed)
    assert (made.actions, made.checked) == ((), ("shop",))  # the source has not changed since
    world.run(made)
    assert planned(world.desired, world.observed).checked == ()


def test_a_value_that_stood_there_when_a_snapshot_was_built_is_answered_by_it() -> None:
    made = planned(asked(an_image(asked="one")), seen(a_snapshot(input_id="older", asked="one")))
    assert (made.actions, made.checked) == ((), ())


def test_a_value_that_goes_asks_for_nothing() -> None:
    made = planned(asked(an_image()), seen(a_snapshot(input_id="older", asked="one")))
    assert (made.actions, made.checked) == ((), ())


def test_an_older_value_that_comes_back_is_a_new_one() -> None:
    answered = {"refreshed": {NAME: NOW - timedelta(minutes=5)}, "answered": {NAME: "two"}}
    observed = seen(a_snapshot(input_id="older", asked="one"), **answered)
    assert steps(planned(asked(an_image(asked="one")), observed)) == ["build shop"]
    assert planned(asked(an_image(asked="two")), observed).actions == ()


def test_without_the_status_store_there_is_one_more_look() -> None:
    world = World(asked(an_image(asked="two")), seen(a_snapshot(asked="one")))
    made = planned(world.desired, world.observed)
    assert (made.actions, made.checked) == ((), ("shop",))
    world.run(made)
    world.observed = replace(world.observed, refreshed={}, answered={})
    assert planned(world.desired, world.observed).checked == ("shop",)


def test_a_build_that_fails_for_good_is_tried_once_for_each_value() -> None:
    def attempt(value: str | None, observed: Observed) -> str | None:
        made = planned(asked(an_image(asked=value, refresh=DAILY)), observed)
        return only_build(made).fingerprint if made.actions else None

    by_schedule = attempt(None, seen(OLD))
    assert by_schedule is not None
    failed = seen(OLD, failures={SHOP: (a_failure(by_schedule),)})
    assert attempt(None, failed) is None
    first = attempt("one", failed)
    assert first is not None
    failed = seen(OLD, failures={SHOP: (a_failure(first),)})
    assert attempt("one", failed) is None
    assert attempt("two", failed) is not None


def test_the_annotation_waits_for_the_window_and_is_served_also_while_the_schedule_is_suspended() -> None:
    image = an_image(asked="one", refresh=replace(DAILY, suspend=True, windows=(EVENING,)))
    observed = seen(a_snapshot(input_id="older"))
    assert "its annotation asks for a refresh" in told(planned(asked(image), observed))
    assert steps(planned(asked(image), observed, now=NOW + 7 * HOUR)) == ["build shop"]


# Missed and suspended


def test_however_many_runs_were_missed_one_makes_up_for_them() -> None:
    world = World(asked(an_image(refresh=DAILY)), seen(a_snapshot(age=240 * HOUR, input_id="older")))
    made = planned(world.desired, world.observed)
    assert steps(made) == ["build shop"]
    world.run(made)
    assert planned(world.desired, world.observed).actions == ()


def test_an_image_that_is_being_built_is_not_refreshed_a_second_time() -> None:
    busy = seen(OLD, a_request("refresh", "shop", at_once=True), in_flight=frozenset({SHOP}))
    assert planned(asked(an_image(refresh=DAILY, asked="one")), busy).actions == ()


def test_what_was_due_while_suspended_is_not_made_up_for() -> None:
    suspended = an_image(refresh=replace(DAILY, suspend=True))
    world = World(asked(suspended), seen(OLD))
    made = planned(world.desired, world.observed)
    assert (made.actions, made.skipped) == ((), ("shop",))
    world.run(made)
    assert planned(world.desired, world.observed).skipped == ()
    resumed = asked(an_image(refresh=DAILY))
    assert planned(resumed, world.observed).actions == ()
    assert steps(planned(resumed, world.observed, now=NOW + 15 * HOUR)) == ["build shop"]


def test_a_document_that_was_suspended_makes_up_for_what_it_missed() -> None:
    made = planned(asked(an_image(refresh=DAILY, suspend=True)), seen(OLD))
    assert (made.actions, made.skipped) == ((), ())
    assert steps(planned(asked(an_image(refresh=DAILY)), seen(OLD))) == ["build shop"]


# What people are told


def test_the_next_refresh_is_told_with_its_window() -> None:
    documents = asked(
        an_image("shop", refresh=DAILY),
        an_image("store", refresh=replace(DAILY, windows=(EVENING,))),
        an_image("base", refresh=replace(DAILY, suspend=True)),
        an_image("child"),
    )
    observed = seen(*(a_snapshot(name) for name in ("shop", "store", "base", "child")))
    assert next_refreshes(documents, observed, NOW, settings=SETTINGS) == {
        "shop": NOW + 14 * HOUR,
        "store": NOW + 30 * HOUR,
    }
    due = next_refreshes(documents, seen(OLD), NOW, settings=SETTINGS)
    assert due[NAME] == NOW
