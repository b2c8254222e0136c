"""Which snapshots the rules of retention keep, by days, weeks and months."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from reconciler.ids import SnapshotId
from reconciler.plan.index import Snapshot
from reconciler.plan.keep import kept
from reconciler.plan.retention import why_kept
from reconciler.state.desired import Refresh, Retention, SnapshotAt
from reconciler.state.observed import SnapshotManifest, Volume
from tests.plan.test_retention import gone
from tests.plan.world import (
    HOUR,
    NOW,
    OTHER_POOL,
    SETTINGS,
    a_clone,
    a_generation,
    a_pool,
    a_snapshot,
    an_image,
    asked,
    planned,
    seen,
    served,
)

PARIS = ZoneInfo("Europe/Paris")


def at(text: str, zone: ZoneInfo | None = None, **changes: Any) -> Volume:  # noqa: ANN401 - fields of the manifest
    """A snapshot of a moment on the clock of a zone (default: UTC), named after it."""
    moment = datetime.fromisoformat(text).replace(tzinfo=zone or UTC)
    return a_snapshot(age=NOW - moment, **{"snapshot": SnapshotId(text), **changes})


def left(retention: Retention, *volumes: Volume, zone: str = "UTC") -> list[str]:
    """What is left of snapshots after a plan, oldest first."""
    image = an_image(retention=retention, refresh=Refresh("0 2 * * *", timezone=zone, suspend=True))
    going = gone(planned(asked(image), seen(*volumes)))
    return [volume.id for volume in volumes if volume.id not in going]


def test_the_newest_of_each_of_the_last_days_that_have_one_is_kept() -> None:
    volumes = [
        at("2026-11-10T01:00"),
        at("2026-11-15T01:00"),
        at("2026-11-15T23:59"),
        at("2026-11-20T00:00"),
        at("2026-11-22T03:00"),
        at("2026-11-22T09:00"),
    ]
    assert left(Retention(keep=1, daily=3), *volumes) == ["2026-11-15T23:59", "2026-11-20T00:00", "2026-11-22T09:00"]


def test_weeks_are_those_of_iso_also_around_new_year() -> None:
    volumes = [
        at("2025-12-28T12:00"),  # Sunday of week 52 of 2025
        at("2025-12-29T12:00"),  # Monday of week 1 of 2026
        at("2026-01-04T23:00"),  # Sunday of the same week
        at("2026-01-05T01:00"),  # Monday of week 2
    ]
    assert left(Retention(keep=1, weekly=9), *volumes) == ["2025-12-28T12:00", "2026-01-04T23:00", "2026-01-05T01:00"]


def test_months_end_where_they_end() -> None:
    volumes = [
        at("2026-01-31T23:59"),
        at("2026-02-01T00:00"),
        at("2026-02-28T23:59"),
        at("2026-03-01T00:00"),
        at("2026-11-22T01:00"),
    ]
    assert left(Retention(keep=1, monthly=3), *volumes) == ["2026-02-28T23:59", "2026-03-01T00:00", "2026-11-22T01:00"]


def test_rules_keep_what_any_of_them_keeps_and_each_looks_at_all() -> None:
    days = [at(f"2026-11-{day:02}T02:00") for day in range(1, 23)]
    months = [at("2026-08-30T02:00"), at("2026-09-30T02:00"), at("2026-10-31T02:00")]
    expected = ["2026-09-30T02:00", "2026-10-31T02:00"]  # monthly, with the 22nd
    expected += ["2026-11-08T02:00", "2026-11-15T02:00"]  # weekly: Sundays, with the 22nd
    expected += ["2026-11-19T02:00", "2026-11-20T02:00", "2026-11-21T02:00", "2026-11-22T02:00"]
    assert left(Retention(keep=2, daily=4, weekly=3, monthly=3), *months, *days) == expected


def test_a_snapshot_is_of_the_day_of_its_data_on_the_clock_of_the_time_zone() -> None:
    late = at("2026-11-20T23:30", data_as_of=datetime(2026, 11, 20, 22, 0, tzinfo=UTC))  # 23:00 in Paris
    night = at("2026-11-21T00:30", data_as_of=datetime(2026, 11, 20, 23, 30, tzinfo=UTC))  # 00:30 in Paris
    noon = at("2026-11-22T11:00")
    assert left(Retention(keep=1, daily=9), late, night, noon, zone="UTC") == [night.id, noon.id]
    assert left(Retention(keep=1, daily=9), late, night, noon, zone="Europe/Paris") == [late.id, night.id, noon.id]


def test_of_the_same_data_the_last_build_is_kept() -> None:
    data = datetime(2026, 11, 20, 1, tzinfo=UTC)
    twice = [at("2026-11-20T02:00", data_as_of=data), at("2026-11-21T02:00", data_as_of=data), at("2026-11-22T02:00")]
    assert left(Retention(keep=1, daily=5), *twice) == ["2026-11-21T02:00", "2026-11-22T02:00"]


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)])
def test_the_days_on_which_clocks_change_are_one_day_each(day: str, hours: int) -> None:
    begin = datetime.fromisoformat(day).replace(tzinfo=PARIS).astimezone(UTC)
    moments = [begin + n * HOUR for n in range(-1, hours + 1)]  # the last hour before, all of it, the first after
    volumes = [a_snapshot(age=NOW - moment) for moment in moments]
    kept_ones = left(Retention(keep=1, daily=3), *volumes, zone="Europe/Paris")
    assert kept_ones == [volumes[0].id, volumes[-2].id, volumes[-1].id]


def test_what_is_too_old_goes_whatever_keeps_it_but_never_the_newest() -> None:
    volumes = [at("2026-09-30T02:00"), at("2026-10-31T02:00"), at("2026-11-20T02:00")]
    rules = Retention(keep=1, monthly=6, max_age=timedelta(days=30))
    assert left(rules, *volumes) == ["2026-10-31T02:00", "2026-11-20T02:00"]
    assert left(Retention(keep=1, monthly=6, max_age=HOUR), *volumes) == ["2026-11-20T02:00"]


def test_quarantined_snapshots_stay_and_are_the_newest_of_nothing() -> None:
    volumes = [at("2026-11-20T02:00"), at("2026-11-20T09:00"), at("2026-11-22T02:00")]
    image = an_image(retention=Retention(keep=1, daily=5), quarantine=(SnapshotId("2026-11-20T09:00"),))
    assert gone(planned(asked(image), seen(*volumes))) == []


def test_what_a_build_of_this_plan_takes_the_day_of_goes_once_it_is_there() -> None:
    volumes = [at("2026-11-20T02:00"), at("2026-11-22T02:00")]
    image = an_image(retention=Retention(keep=1, daily=1), spec_digest="d2" * 32)
    assert gone(planned(asked(image), seen(*volumes))) == ["2026-11-20T02:00"]


def test_nothing_goes_on_a_host_that_does_not_know_the_time_zone() -> None:
    volumes = [at("2026-11-20T02:00"), at("2026-11-20T03:00"), at("2026-11-22T02:00")]
    assert left(Retention(keep=1, daily=1), *volumes, zone="Mars/Olympus") == [volume.id for volume in volumes]


def test_every_rule_that_keeps_a_snapshot_is_named() -> None:
    volumes = [at("2026-10-31T02:00"), at("2026-11-21T02:00"), at("2026-11-22T02:00")]
    image = an_image(retention=Retention(keep=1, daily=2, monthly=2))
    known = [Snapshot(v, v.manifest) for v in volumes if isinstance(v.manifest, SnapshotManifest)]
    assert kept(image, known, NOW) == {
        "2026-10-31T02:00": ("monthly",),
        "2026-11-21T02:00": ("daily",),
        "2026-11-22T02:00": ("keep", "daily", "monthly"),
    }


def test_people_are_told_why_a_snapshot_is_still_there() -> None:
    volumes = [at(f"2026-11-{day}T02:00") for day in (16, 17, 18, 19, 20, 21, 22)]
    image = an_image(retention=Retention(keep=1, daily=2), quarantine=(SnapshotId("2026-11-17T02:00"),))
    documents = asked(
        image,
        a_clone(snapshot="2026-11-18T02:00"),
        a_clone("later", snapshot=SnapshotAt(datetime(2026, 11, 19, 12, tzinfo=UTC)), suspend=True),
    )
    observed = seen(*volumes, *served(a_generation(a_clone(), "2026-11-18T02:00")))
    assert why_kept(documents, observed, NOW, settings=SETTINGS) == {
        "2026-11-16T02:00": (),
        "2026-11-17T02:00": ("quarantined",),
        "2026-11-18T02:00": ("used by dev",),
        "2026-11-19T02:00": ("needed",),
        "2026-11-20T02:00": (),
        "2026-11-21T02:00": ("daily",),
        "2026-11-22T02:00": ("keep", "daily"),
    }
    away = seen(a_pool(), a_pool(OTHER_POOL, available=False), *volumes[:1])
    assert why_kept(asked(image), away, NOW, settings=SETTINGS) == {"2026-11-16T02:00": ("keep", "daily", "unknown")}
