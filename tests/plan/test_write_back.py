"""Documents of clones that expired go from the repository, if nothing of them lives, and the host writes back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.plan.actions import RemoveDocuments
from reconciler.plan.render import plan_json, plan_text
from reconciler.plan.schedule import expiry_text
from reconciler.state.conditions import REPOSITORY
from reconciler.state.observed import Tombstone
from tests.plan.world import (
    HOUR,
    NOW,
    SETTINGS,
    World,
    a_clone,
    a_failure,
    a_generation,
    a_pool,
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

WRITING = replace(SETTINGS, write_back=True)
OVER = a_clone(ttl=HOUR)


def buried(clone: DesiredClone) -> Tombstone:
    return Tombstone(clone.name, expiry_text(clone), NOW - HOUR)


def numbered(number: int, **changes: Any) -> DesiredClone:  # noqa: ANN401 - fields of the clone
    return a_clone(f"dev-{number}", number=number, **changes)


def made(*things: Any, clones: tuple[DesiredClone, ...] = (OVER,), **changes: Any) -> Plan:  # noqa: ANN401 - what is seen
    return planned(asked(an_image(), *clones), seen(a_snapshot(), *things, **changes), settings=WRITING)


def removed(plan: Plan) -> tuple[str, ...]:
    return next((action.documents for action in plan.actions if isinstance(action, RemoveDocuments)), ())


def test_the_document_goes_after_the_clone_and_its_tombstone_after_that() -> None:
    clone = a_clone(ttl=HOUR / 2)
    world = World(asked(an_image(), clone), seen(a_snapshot(), *served(a_generation(clone))))

    first = planned(world.desired, world.observed, settings=WRITING)
    assert steps(first) == ["expire dev", "remove repository"]
    assert first.actions[1].after == (clone_key("dev"),)
    world.run(first)
    second = planned(world.desired, world.observed, settings=WRITING)
    assert steps(second) == ["clear dev"]
    world.run(second)
    assert planned(world.desired, world.observed, settings=WRITING).actions == ()


def test_nothing_is_removed_where_the_host_does_not_write_back() -> None:
    assert planned(asked(an_image(), OVER), seen(a_snapshot(), buried(OVER))).actions == ()


def test_one_commit_removes_all_that_are_over() -> None:
    other = a_clone("qa", expires=NOW - HOUR)
    alive = a_clone("live")
    generation = a_generation(alive)

    plan = made(buried(OVER), buried(other), *served(generation), clones=(other, OVER, alive))

    assert removed(plan) == ("dev", "qa")
    assert "remove repository: Clone/dev, Clone/qa" in plan_text(plan)
    (row,) = plan_json(plan)["actions"]
    assert (row["documents"], row["destructive"]) == (["dev", "qa"], False)


@pytest.mark.parametrize("change", [{"ttl": 2 * HOUR}, {"ttl": None, "expires": NOW + HOUR}, {"ttl": None}])
def test_a_document_that_asks_for_more_time_stays(change: dict[str, Any]) -> None:
    assert removed(made(buried(OVER), clones=(replace(OVER, **change),))) == ()


@pytest.mark.parametrize("change", [{"suspend": True}, {"protected": True}])
def test_a_suspended_or_protected_document_stays(change: dict[str, Any]) -> None:
    assert made(buried(OVER), clones=(replace(OVER, **change),)).actions == ()


def test_a_clone_that_was_never_made_here_keeps_its_document() -> None:
    """Its date may be a slip of the pen; nothing expired."""
    assert made(clones=(a_clone(expires=NOW - HOUR),)).actions == ()


def test_a_counted_document_goes_with_its_last_clone() -> None:
    over = tuple(numbered(n, ttl=3 * HOUR) for n in (1, 2))
    young, old = (a_generation(over[1], age=age) for age in (HOUR, 4 * HOUR))

    assert removed(made(buried(over[0]), *served(young), clones=over)) == ()
    last = made(buried(over[0]), *served(old), clones=over)
    assert steps(last) == ["expire dev-2", "remove repository"]
    assert removed(last) == ("dev",)
    assert removed(made(*map(buried, over), clones=over)) == ("dev",)


def test_a_count_that_grew_after_the_others_expired_is_served_first() -> None:
    by_ttl = tuple(numbered(n, ttl=3 * HOUR) for n in (1, 2))
    by_date = tuple(numbered(n, expires=NOW - HOUR) for n in (1, 2))

    assert steps(made(buried(by_ttl[0]), clones=by_ttl)) == ["create dev-2"]
    assert removed(made(buried(by_date[0]), clones=by_date)) == ("dev",)


def test_the_document_stays_while_something_cannot_be_seen_or_is_left() -> None:
    gone_away = made(buried(OVER), a_pool(available=False))
    hidden = made(buried(OVER), a_pool(unknown=("dev.1",)))
    anybodys = made(buried(OVER), a_pool(unknown=("x.1",)))
    in_work = made(buried(OVER), in_flight=frozenset({clone_key("dev")}))
    writing = made(buried(OVER), in_flight=frozenset({REPOSITORY}))

    assert [removed(plan) for plan in (gone_away, hidden, anybodys, in_work, writing)] == [()] * 5


def test_after_a_failure_it_waits_for_its_next_try_and_says_so() -> None:
    failure = a_failure("", permanent=False, retry_in=timedelta(minutes=5))

    waiting = made(buried(OVER), failures={REPOSITORY: (failure,)})
    again = made(buried(OVER), failures={REPOSITORY: (replace(failure, retry_at=NOW),)})

    assert waiting.actions == ()
    told = condition(waiting, REPOSITORY, "NotWrittenBack")
    assert told is not None
    assert (told.status, told.reason) == ("True", failure.reason)
    assert told.message == (
        "the documents of expired clones are still there (dev):"
        " attempt 1 failed, next at 2026-11-22T12:05:00+00:00: line 3: no such table"
    )
    assert removed(again) == ("dev",)
