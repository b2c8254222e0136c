"""When the loop has to look again by itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.ids import ImageName
from reconciler.plan.schedule import ScheduleError, expiry_text, jitter, next_opening, next_refresh
from reconciler.plan.timers import next_due
from reconciler.state.desired import Refresh, Retention, Window
from tests.plan.world import (
    HOUR,
    NOW,
    SETTINGS,
    a_clone,
    a_failure,
    a_generation,
    a_request,
    a_snapshot,
    an_image,
    asked,
    clone_key,
    seen,
    served,
)

if TYPE_CHECKING:
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Observed

SHOP = ImageName("shop")


def due(desired: Desired, observed: Observed) -> datetime | None:
    return next_due(desired, observed, NOW, settings=SETTINGS)


def test_nothing_is_due_without_timers() -> None:
    assert due(asked(an_image(), a_clone()), seen(a_snapshot(), *served(a_generation(a_clone())))) is None


def test_a_refresh_is_due_at_its_next_tick() -> None:
    assert due(asked(an_image(refresh=Refresh("0 2 * * *"))), seen(a_snapshot())) == datetime(
        2026, 11, 23, 2, tzinfo=UTC
    )


def test_a_clone_is_due_when_its_end_is_announced_and_when_its_time_is_over() -> None:
    clone = a_clone(ttl=3 * HOUR, expires=NOW + 9 * HOUR)
    observed = seen(a_snapshot(), *served(a_generation(clone)))
    tenth = timedelta(minutes=18)
    assert due(asked(an_image(), clone), observed) == NOW + 2 * HOUR - tenth
    later = NOW + 2 * HOUR - tenth
    assert next_due(asked(an_image(), clone), observed, later, settings=SETTINGS) == NOW + 2 * HOUR


def test_a_refresh_that_waits_is_due_when_its_window_opens() -> None:
    night = Window("0 22 * * *", 6 * HOUR)
    observed = seen(a_snapshot(age=48 * HOUR))
    opening = datetime(2026, 11, 22, 22, tzinfo=UTC)
    assert due(asked(an_image(refresh=Refresh("0 8 * * *", windows=(night,)))), observed) == opening
    assert due(asked(an_image(refresh=Refresh("30 23 * * *", windows=(night,)))), seen(a_snapshot())) == datetime(
        2026, 11, 22, 23, 30, tzinfo=UTC
    )
    requested = seen(a_snapshot(), a_request("refresh", "shop"))
    assert due(asked(an_image(refresh=Refresh(windows=(night,)))), requested) == opening
    assert due(asked(an_image(refresh=Refresh(windows=(night,)))), seen(a_snapshot())) is None


def test_a_retired_generation_is_due_when_its_grace_ends() -> None:
    first = a_generation(a_clone())
    second = a_generation(a_clone(), generation=2, ready_at=NOW - timedelta(minutes=10))
    observed = seen(a_snapshot(), first, *served(second))
    assert due(asked(an_image(), a_clone()), observed) == NOW + timedelta(minutes=50)


def test_a_snapshot_is_due_when_it_gets_too_old() -> None:
    image = an_image(retention=Retention(keep=9, max_age=10 * HOUR))
    assert due(asked(image), seen(a_snapshot(), a_snapshot(age=4 * HOUR))) == NOW + 6 * HOUR


def test_a_failure_is_due_at_its_next_attempt() -> None:
    failures = {clone_key("dev"): (a_failure("x", permanent=False, retry_in=HOUR),)}
    assert due(asked(an_image(), a_clone()), seen(a_snapshot(), failures=failures)) == NOW + HOUR


def test_the_earliest_timer_counts() -> None:
    clone = a_clone(ttl=30 * HOUR)
    failures = {clone_key("dev"): (a_failure("x", permanent=False, retry_in=HOUR),)}
    observed = replace(seen(a_snapshot(), *served(a_generation(clone))), failures=failures)
    assert due(asked(an_image(), clone), observed) == NOW + HOUR


def test_jitter_is_the_same_every_time_within_its_bound_and_differs_by_name() -> None:
    found = {jitter(f"image{number}", HOUR) for number in range(50)}
    assert all(timedelta(0) <= delay < HOUR for delay in found)
    assert len(found) > 40
    assert jitter("shop", HOUR) == jitter("shop", HOUR)


def test_jitter_delays_a_refresh() -> None:
    plain, delayed = Refresh("0 2 * * *"), Refresh("0 2 * * *", jitter=HOUR)
    assert next_refresh(SHOP, delayed, NOW) - next_refresh(SHOP, plain, NOW) == jitter("shop", HOUR)


def test_a_schedule_skips_the_hour_that_does_not_exist_and_runs_once_in_the_one_that_comes_twice() -> None:
    paris = Refresh("30 2 * * *", timezone="Europe/Paris")
    spring = next_refresh(SHOP, paris, datetime(2026, 3, 28, 12, tzinfo=UTC))
    autumn = next_refresh(SHOP, paris, datetime(2026, 10, 24, 12, tzinfo=UTC))
    after = next_refresh(SHOP, paris, autumn)
    assert spring.date() == datetime(2026, 3, 29, tzinfo=UTC).date()
    assert autumn == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert after == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(("minute", "tick"), [(70, 26), (89, 26), (30, 26), (29, 25)])
def test_in_the_hour_that_comes_twice_no_tick_before_now_is_named(minute: int, tick: int) -> None:
    paris = Refresh("30 2 * * *", timezone="Europe/Paris")
    since = datetime(2026, 10, 25, tzinfo=UTC) + timedelta(minutes=minute)
    assert next_refresh(SHOP, paris, since).day == tick
    assert next_refresh(SHOP, paris, since) > since


def openings(zone: str, at: list[datetime], schedule: str = "0 1 * * *") -> list[datetime]:
    return [next_opening(Refresh(timezone=zone, windows=(Window(schedule, 3 * HOUR),)), moment) for moment in at]


def test_a_window_is_open_from_its_tick_for_so_long_and_not_a_moment_longer() -> None:
    opened = datetime(2026, 11, 22, 1, tzinfo=UTC)
    inside = [opened, opened + HOUR, opened + 3 * HOUR - timedelta(microseconds=1)]
    assert openings("UTC", inside) == inside
    assert openings("UTC", [opened - timedelta(microseconds=1)]) == [opened]
    assert openings("UTC", [opened + 3 * HOUR]) == [opened + timedelta(days=1)]


def test_of_several_windows_the_first_that_is_open_counts() -> None:
    both = Refresh(windows=(Window("0 1 * * *", HOUR), Window("0 20 * * 6,0", 10 * HOUR)))
    saturday = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert next_opening(both, saturday) == datetime(2026, 11, 21, 20, tzinfo=UTC)
    assert next_opening(both, saturday + 20 * HOUR) == datetime(2026, 11, 22, 20, tzinfo=UTC)
    assert next_opening(both, saturday + 46 * HOUR) == datetime(2026, 11, 24, 1, tzinfo=UTC)


def test_a_window_is_as_long_as_ever_on_the_days_on_which_clocks_change() -> None:
    spring, autumn = datetime(2026, 3, 29, 0, tzinfo=UTC), datetime(2026, 10, 24, 23, tzinfo=UTC)  # 01:00 in Paris
    for opened in (spring, autumn):
        last = opened + 3 * HOUR - timedelta(seconds=1)
        assert openings("Europe/Paris", [opened, last]) == [opened, last]
        assert openings("Europe/Paris", [opened + 3 * HOUR])[0] > opened + 20 * HOUR


@pytest.mark.parametrize("refresh", [Refresh("0 2 * *"), Refresh("0 2 * * *", timezone="Mars/Olympus")])
def test_what_this_host_cannot_tell_is_an_error_of_its_own(refresh: Refresh) -> None:
    with pytest.raises(ScheduleError):
        next_refresh(SHOP, refresh, NOW)


def test_expiry_texts_differ_when_expiries_do() -> None:
    texts = [expiry_text(a_clone(**e)) for e in ({}, {"ttl": HOUR}, {"ttl": 2 * HOUR}, {"expires": NOW})]
    assert texts[0] == ""
    assert len(set(texts)) == 4
