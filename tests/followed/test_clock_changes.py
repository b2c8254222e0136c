"""Moments on the days on which clocks change: a primary that lived through them, asked by the clock on its wall."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.state.observed import SnapshotManifest
from tests.followed.primary import CHAIN, FAKE_CLOCK, primary
from tests.followed.world import caught_up, follow
from tests.support import clone, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.followed.primary import Primary
    from tests.support import World

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.long,
    pytest.mark.skipif(FAKE_CLOCK is None, reason="needs the package faketime"),
]


def last_sunday(year: int, month: int) -> str:
    """Return the day on which clocks change in Europe, in March or October: the last Sunday."""
    last = datetime(year, month, 31, tzinfo=UTC)
    return (last - timedelta(days=(last.weekday() + 1) % 7)).strftime("%Y-%m-%d")


def a_year_that_is_over() -> int:
    return datetime.now(UTC).year - 1


SPRING, AUTUMN = last_sunday(a_year_that_is_over(), 3), last_sunday(a_year_that_is_over(), 10)
COMMITS = [
    f"{SPRING}T01:59:30+01:00",
    f"{SPRING}T03:00:30+02:00",
    f"{AUTUMN}T02:30:00+02:00",
    f"{AUTUMN}T02:30:00+01:00",
]
"""By the clock of Paris; the last two show the same on the wall, an hour apart."""
MOMENTS = {
    "right-before-spring": (f"{SPRING}T01:59:59.999999+01:00", 1),
    "right-after-spring": (f"{SPRING}T03:00:00+02:00", 1),
    "the-same-by-another-offset": (f"{SPRING}T02:00:00+01:00", 1),
    "later-in-spring": (f"{SPRING}T03:15:00+02:00", 2),
    "first-round-before": (f"{AUTUMN}T02:15:00+02:00", 2),
    "first-round-after": (f"{AUTUMN}T02:45:00+02:00", 3),
    "second-round-before": (f"{AUTUMN}T02:15:00+01:00", 3),
    "second-round-after": (f"{AUTUMN}T02:45:00+01:00", 4),
}


@pytest.fixture
def world() -> Iterator[World]:
    made = new_world()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.timeout(1200)
def test_each_round_of_the_hour_that_comes_twice_is_a_moment_of_its_own(world: World) -> None:
    with primary(clock=datetime.fromisoformat(COMMITS[0]) - timedelta(minutes=5)) as production:
        production.configure(timezone="Europe/Paris", log_timezone="Europe/Paris")
        for number, at in enumerate(COMMITS):
            _restart(production, datetime.fromisoformat(at))
            production.enter(1)
            if number == 0:
                follow(world, production, pointInTime={"window": "900d", "every": "900d"})
                world.converge()
        caught_up(world, production)
        _restart(production, datetime.fromisoformat(COMMITS[-1]) + timedelta(hours=1))
        caught_up(world, production)
        world.write("clones.yaml", *(clone(name, snapshot={"at": at}) for name, (at, _number) in MOMENTS.items()))
        world.apply().require()
        found = {name: world.sql(name, CHAIN)[0][1] for name in MOMENTS}
        assert found == {name: number for name, (_at, number) in MOMENTS.items()}
        built = [v.manifest for v in world.volumes() if isinstance(v.manifest, SnapshotManifest) and v.manifest.at]
        assert len(built) == len(MOMENTS) - 1, "one moment was written in two ways"


def test_what_a_primary_whose_clock_is_behind_has_not_come_to_is_waited_for(world: World) -> None:
    with primary(clock=datetime.now(UTC) - timedelta(minutes=10)) as production:
        production.enter(5)
        follow(world, production, pointInTime={"window": "2h"})
        world.converge()
        caught_up(world, production)
        at = datetime.now(UTC) - timedelta(minutes=5)
        world.write("clones.yaml", clone("then", snapshot={"at": at.isoformat()}))
        told = world.apply().require().condition("Clone/then", "Reconciling")
        assert told is not None
        assert told[1] == "WaitingForMirror"
        production.enter(3)
        _restart(production, at + timedelta(minutes=1))
        caught_up(world, production)
        world.apply_until(
            lambda _: world.generations("then"),
            what="the clock of the primary",
            waits={"Clone/then": ["WaitingForMirror", "Creating"]},
        )
        assert world.sql("then", CHAIN)[0] == production.ledger_at(at)
        assert world.sql("then", CHAIN)[0][1] == 8


def _restart(production: Primary, now: datetime) -> None:
    """Start a primary again, by whose clock it is ``now``."""
    production.stop()
    production.set_clock(now)
    production.start()
