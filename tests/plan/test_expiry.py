"""A clone's end is announced once before it comes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.state.observed import Tombstone
from tests.plan.world import (
    HOUR,
    NOW,
    a_clone,
    a_generation,
    a_snapshot,
    an_image,
    asked,
    clone_key,
    condition,
    planned,
    seen,
    served,
    steps,
)

if TYPE_CHECKING:
    from reconciler.plan.actions import Plan
    from reconciler.state.desired import DesiredClone

DEV = clone_key("dev")
MINUTE = timedelta(minutes=1)


def made(clone: DesiredClone, *, age: timedelta, **changes: Any) -> Plan:  # noqa: ANN401 - fields of Observed
    return planned(asked(an_image(), clone), seen(a_snapshot(), *served(a_generation(clone, age=age)), **changes))


@pytest.mark.parametrize(
    ("ttl", "before"), [(30 * MINUTE, 3 * MINUTE), (8 * HOUR, 48 * MINUTE), (10 * HOUR, HOUR), (14 * 24 * HOUR, HOUR)]
)
def test_the_last_hour_is_announced_or_the_last_tenth_of_a_shorter_life(ttl: timedelta, before: timedelta) -> None:
    clone = a_clone(ttl=ttl)
    second = timedelta(seconds=1)
    assert condition(made(clone, age=ttl - before - second), DEV, "Expiring") is None
    found = condition(made(clone, age=ttl - before), DEV, "Expiring")
    assert found is not None
    assert (found.status, found.reason) == ("True", "ExpiresSoon")
    assert (NOW + before).isoformat(timespec="seconds") in found.message


def test_the_end_of_expires_is_announced_by_how_long_the_clone_has_lived() -> None:
    clone = a_clone(expires=NOW + 5 * MINUTE)
    assert made(clone, age=40 * MINUTE).warnings == ()
    assert [key for key, _ in made(clone, age=HOUR).warnings] == [DEV]


def test_a_commit_that_moves_the_end_moves_the_warning() -> None:
    clone, longer = a_clone(ttl=10 * HOUR), a_clone(ttl=20 * HOUR)
    first = made(clone, age=9 * HOUR).warnings
    assert made(longer, age=9 * HOUR).warnings == ()
    second = made(longer, age=19 * HOUR).warnings
    assert len(first) == len(second) == 1
    sooner = made(a_clone(ttl=10 * HOUR + MINUTE), age=9 * HOUR + 2 * MINUTE).warnings
    assert first[0][1].message != sooner[0][1].message


def test_a_clone_is_as_ready_as_before_while_its_end_is_announced() -> None:
    plan = made(a_clone(ttl=2 * HOUR), age=2 * HOUR - MINUTE)
    assert (plan.actions, [c.type for c in plan.conditions[DEV]]) == ((), ["Ready", "Expiring"])
    drifted = made(a_clone(ttl=2 * HOUR, owner="x"), age=2 * HOUR - MINUTE)
    assert condition(drifted, DEV, "Expiring") is not None


@pytest.mark.parametrize("changes", [{"protected": True}, {"suspend": True}])
def test_what_will_not_be_removed_is_not_announced(changes: dict[str, Any]) -> None:
    clone = a_clone(ttl=2 * HOUR, **changes)
    assert made(clone, age=2 * HOUR - MINUTE).warnings == ()


def test_what_is_over_is_removed_and_not_announced() -> None:
    clone = a_clone(ttl=2 * HOUR)
    plan = made(clone, age=2 * HOUR)
    assert (steps(plan), plan.warnings) == (["expire dev"], ())
    stone = Tombstone(clone.name, "ttl=7200s", NOW - HOUR)
    assert made(replace(clone), age=2 * HOUR - MINUTE, tombstones={clone.name: stone}).warnings == ()
