"""What waits for a maintenance window of the host, and until when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reconciler.plan.actions import BuildSnapshot, CopyPrimary
from reconciler.plan.markdown import plan_markdown
from reconciler.plan.policy import judge
from reconciler.plan.render import plan_json, plan_text
from reconciler.plan.settings import MaintenanceWindow, PolicySettings
from reconciler.plan.windows import hold, opening
from tests.plan.generated import commits, worlds
from tests.plan.test_properties import MANY
from tests.plan.test_properties import planned as planned_here
from tests.plan.world import (
    HOUR,
    NOW,
    a_clone,
    a_generation,
    a_request,
    a_snapshot,
    an_image,
    asked,
    clone_key,
    condition,
    image_key,
    planned,
    seen,
    served,
    steps,
)

if TYPE_CHECKING:
    from reconciler.plan.actions import Plan
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Observed

PARIS = "Europe/Paris"
ZONES = ("UTC", PARIS, "America/St_Johns", "Australia/Lord_Howe", "Asia/Kolkata")


def allow(schedule: str = "0 22 * * *", hours: float = 6, **more: Any) -> MaintenanceWindow:  # noqa: ANN401
    return MaintenanceWindow(kind="allow", schedule=schedule, duration=timedelta(hours=hours), **more)


def deny(schedule: str = "0 8 * * *", hours: float = 10, **more: Any) -> MaintenanceWindow:  # noqa: ANN401
    return MaintenanceWindow(kind="deny", schedule=schedule, duration=timedelta(hours=hours), **more)


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def judged(desired: Desired, observed: Observed, *windows: MaintenanceWindow) -> Plan:
    return judge(planned(desired, observed), desired, observed, NOW, settings=PolicySettings(windows=windows))


def waits(made: Plan) -> list[str]:
    return [f"{action.verb} {action.key.name}" for held in made.held for action in held.actions]


def losing() -> tuple[Desired, Observed]:
    """A commit without the document of a clone that is served."""
    return asked(an_image()), seen(a_snapshot(), *served(a_generation(a_clone())))


def test_without_windows_everything_goes_ahead() -> None:
    made = judged(*losing())
    assert (steps(made), made.held) == (["delete dev"], ())


def test_what_destroys_data_waits_for_the_next_opening() -> None:
    made = judged(*losing(), allow("0 22 * * *"))
    opens = NOW.replace(hour=22, minute=0, second=0, microsecond=0)
    assert (steps(made), waits(made), [held.until for held in made.held]) == ([], ["delete dev"], [opens])
    found = condition(made, clone_key("dev"), "Waiting")
    assert found is not None
    assert found.reason == "MaintenanceWindow"
    assert f"opens at {opens.isoformat()}" in found.message
    assert condition(made, clone_key("dev"), "Reconciling") is None


def test_within_an_allow_window_it_goes_ahead_unless_a_deny_window_is_open_as_well() -> None:
    here = f"{NOW.minute} {NOW.hour} * * *"
    assert steps(judged(*losing(), allow(here))) == ["delete dev"]
    assert waits(judged(*losing(), allow(here), deny(here, 1))) == ["delete dev"]


def test_windows_are_about_kinds_of_work_and_about_objects() -> None:
    far = "0 0 1 1 *"
    assert steps(judged(*losing(), allow(far, actions=frozenset({"heavy"})))) == ["delete dev"]
    assert steps(judged(*losing(), allow(far, only=("Clone/qa*", "Image/*")))) == ["delete dev"]
    assert waits(judged(*losing(), allow(far, only=("Clone/d*",)))) == ["delete dev"]


def test_builds_are_heavy_and_what_starts_from_them_waits_as_well() -> None:
    made = judged(asked(an_image(), a_clone()), seen(), deny("* * * * *", 1, actions=frozenset({"heavy"})))
    assert (steps(made), waits(made)) == ([], ["build shop", "create dev"])
    assert [held.until for held in made.held] == [None, None]
    assert "none that opens was found" in made.held[0].message


def test_work_that_is_neither_goes_on_while_an_older_generation_waits_to_be_dropped() -> None:
    clone = a_clone()
    old = a_generation(clone, generation=1, age=9 * HOUR)
    current = a_generation(clone, generation=2, age=8 * HOUR)
    made = judged(asked(an_image(), clone), seen(a_snapshot(), old, current), allow("0 0 1 1 *"))
    assert steps(made) == ["start dev"]
    assert waits(made) == ["drop dev"]


def test_what_a_person_asked_for_does_not_wait() -> None:
    desired = asked(an_image(), a_clone())
    there = (a_snapshot(), *served(a_generation(a_clone())))
    made = judged(desired, seen(*there, a_request("reset", "dev")), allow("0 0 1 1 *"))
    assert (steps(made), made.held) == (["replace dev"], ())


def test_a_refresh_that_was_asked_for_waits_unless_it_was_asked_for_at_once() -> None:
    closed = deny("* * * * *", 1)
    later, now = a_request("refresh", "shop"), a_request("refresh", "shop", at_once=True)
    assert steps(judged(asked(an_image()), seen(now), closed)) == ["build shop"]
    made = judged(asked(an_image()), seen(later), closed)
    assert (waits(made), list(made.waiting)) == (["build shop"], [later.id])


def test_apply_now_opens_every_window() -> None:
    desired, observed = asked(an_image()), seen(*losing()[1].volumes, a_request("apply", at_once=True))
    assert "delete dev" in steps(judged(desired, observed, allow("0 0 1 1 *")))


def test_an_approval_of_what_waits_is_declined_and_says_what_to_do() -> None:
    approval = a_request("approve")
    desired, observed = asked(), seen(a_snapshot(), *served(a_generation(a_clone())), approval)
    made = judged(desired, observed, allow("0 0 1 1 *"))
    assert "apply --now --approve" in made.declined[approval.id]
    free = judged(desired, observed)
    assert made.hash == free.hash


def test_a_plan_shows_what_waits() -> None:
    made = judged(*losing(), allow("0 22 * * *", timezone=PARIS))
    text = plan_text(made)
    assert "Waiting\n  destructive actions wait for a maintenance window; the next one opens at" in text
    assert "T22:00:00+01:00" in text
    assert "-!delete dev" in text
    (row,) = plan_json(made)["waiting"]
    assert (row["until"], [a["name"] for a in row["actions"]]) == (made.held[0].until.isoformat(), ["dev"])  # type: ignore[union-attr]
    assert "#### Waiting: destructive actions" in plan_markdown(made)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-03-28T23:30", "2026-03-29T01:00"),  # an hour of the night is missing: 01:00 UTC is 03:00 in Paris
        ("2026-10-24T22:30", "2026-10-25T00:00"),  # 02:00 comes twice: the first one counts
        ("2026-10-25T01:30", "2026-10-25T01:30"),  # three hours that pass are over at 04:00 on the wall: still open
        ("2026-10-25T03:00", "2026-10-26T01:00"),
    ],
)
def test_openings_on_the_days_that_clocks_change(now: str, expected: str) -> None:
    window = allow("0 2 * * *", 3, timezone=PARIS)
    assert opening((window,), at(now)) == at(expected)


def test_windows_that_leave_no_room_have_no_opening() -> None:
    assert opening((deny("* * * * *", 2),), NOW) is None
    assert opening((allow("0 2 * * *", 1), deny("0 0 * * *", 24)), NOW) is None


def test_a_time_zone_that_the_host_does_not_know_keeps_closed() -> None:
    made = judged(*losing(), deny(timezone="Nowhere/Else"))
    assert waits(made) == ["delete dev"]
    assert "time zone 'Nowhere/Else' is not known" in made.held[0].message


SCHEDULES = st.sampled_from(
    [
        "0 22 * * *",
        "30 1 * * *",
        "0 2 * * *",
        "15 */6 * * *",
        "0 0 * * 0",
        "*/30 3 * * *",
        "0 2 25 10 *",
        "59 23 * * 1-5",
    ]
)
MAINTENANCE = st.builds(
    lambda kind, schedule, minutes, zone: MaintenanceWindow(
        kind=kind, schedule=schedule, duration=timedelta(minutes=minutes), timezone=zone
    ),
    st.sampled_from(["allow", "deny"]),
    SCHEDULES,
    st.sampled_from([1, 59, 60, 150, 600, 1500]),
    st.sampled_from(ZONES),
)
MOMENTS = st.one_of(
    st.integers(0, 48 * 60).map(lambda n: at("2026-10-24T00:00") + timedelta(minutes=n)),
    st.integers(0, 48 * 60).map(lambda n: at("2026-03-28T00:00") + timedelta(minutes=n)),
)


SINCE, UNTIL = at("2026-03-20T00:00"), at("2026-11-10T00:00")


@lru_cache
def ticks(schedule: str, timezone: str) -> tuple[datetime, ...]:
    """Return every time that a schedule names, counted in one go, in order."""
    found = takewhile(lambda tick: tick < UNTIL, CronSim(schedule, SINCE.astimezone(ZoneInfo(timezone))))
    return tuple(sorted(tick.astimezone(UTC) for tick in found))


def is_open(windows: tuple[MaintenanceWindow, ...], now: datetime) -> bool:
    """Whether work may begin, by the definition and nothing clever."""

    def active(window: MaintenanceWindow) -> bool:
        before = [tick for tick in ticks(window.schedule, window.timezone) if now - window.duration < tick <= now]
        return bool(before)

    allowing = [active(window) for window in windows if window.kind == "allow"]
    return not any(active(window) for window in windows if window.kind == "deny") and (not allowing or any(allowing))


@settings(MANY, max_examples=60)
@given(st.lists(MAINTENANCE, min_size=1, max_size=3).map(tuple), MOMENTS)
def test_an_opening_is_open_and_nothing_before_it_is(windows: tuple[MaintenanceWindow, ...], now: datetime) -> None:
    found = opening(windows, now)
    assert (found == now) == is_open(windows, now)
    if found is not None and found != now:
        assert found > now
        assume(found < UNTIL)
        assert is_open(windows, found)
        between = (found - timedelta(minutes=minute) for minute in (1, 2, 29, 61, 119, 361))
        assert [moment for moment in between if moment > now and is_open(windows, moment)] == []


@settings(MANY, max_examples=80)
@given(commits(), worlds(), st.booleans())
def test_what_waits_and_what_goes_ahead_is_the_whole_plan(desired: Desired, observed: Observed, heavy: bool) -> None:  # noqa: FBT001
    made = planned_here(desired, observed)
    effect = "heavy" if heavy else "destructive"
    closed = (deny("* * * * *", 1, actions=frozenset({effect})),)
    parted = hold(made, observed, NOW, windows=closed)
    waiting = [action for held in parted.held for action in held.actions]
    assert sorted(map(str, (*parted.actions, *waiting))) == sorted(map(str, made.actions))
    assert [action for action in made.actions if action in parted.actions] == list(parted.actions)
    asked_for = {request.id for request in observed.requests}
    for action in parted.actions:
        does = isinstance(action, BuildSnapshot | CopyPrimary) if heavy else action.destructive
        assert (
            not does
            or getattr(action, "request", None) in asked_for
            or action.key.name in {request.object.name for request in observed.requests}
        )
    assert hold(made, observed, NOW, windows=(allow("* * * * *", 1),)) == made


def test_an_object_says_once_what_it_waits_for() -> None:
    made = judged(*losing(), allow("0 0 1 1 *"))
    assert [c.type for c in made.conditions[clone_key("dev")]].count("Waiting") == 1
    assert condition(made, image_key("shop"), "Waiting") is None
