"""A hundred days in memory, through the loop as it runs: what was built, kept, expired and announced is exact.

What is expected is worked out minute by minute, by code that shares nothing with what it judges.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from reconciler.ids import CloneName
from reconciler.loop import Reconciler
from reconciler.plan.actions import BuildSnapshot, ExpireClone
from reconciler.plan.schedule import jitter
from reconciler.state.observed import CloneManifest, SnapshotManifest

from .conftest import HandClock, World

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from reconciler.status.events import Event
    from reconciler.view import View

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
PARIS, NEW_YORK, LORD_HOWE = (ZoneInfo(n) for n in ("Europe/Paris", "America/New_York", "Australia/Lord_Howe"))
DAYS = 100
DOWN, UP = 30 * DAY + 5 * HOUR, 33 * DAY + 7 * HOUR
SUSPENDED, RESUMED = 50 * DAY + 12 * HOUR, 55 * DAY + 12 * HOUR
ASKED = (40 * DAY + 12 * HOUR, 41 * DAY + 12 * HOUR)
"""When the annotation of image ``paris`` gets a new value: nothing changed since its refresh, then something."""
EXTRA = 41 * DAY + 11 * HOUR
JITTER = timedelta(minutes=45)

IMAGE = """\
apiVersion: reconciler/v1
kind: Image
metadata: {{name: {name}, annotations: {{{asked}}}}}
spec:
  engine: postgres
  source: {source}
  unmasked: {{reason: test}}
  refresh: {refresh}
  retention: {retention}
"""
CLONE = """\
apiVersion: reconciler/v1
kind: Clone
metadata: {{name: {name}}}
spec: {{image: paris, {end}}}
"""
DOCUMENTS = {
    "paris": (
        "{schedule: 30 2 * * *, timezone: Europe/Paris}",
        "{keep: 2, daily: 7, weekly: 4, monthly: 6}",
    ),
    "newyork": (
        "{schedule: 30 2 * * *, timezone: America/New_York, jitter: 45m, window: {schedule: 0 3 * * *, duration: 2h}}",
        "{keep: 1, daily: 30, maxAge: 20d}",
    ),
    "lordhowe": ('{schedule: "15 2 * * 1,4", timezone: Australia/Lord_Howe}', "{keep: 3}"),
    "busy": (
        (
            "{schedule: 0 * * * *, timezone: Europe/Paris, window:"
            " [{schedule: 0 22 * * 1-5, duration: 4h}, {schedule: 0 12 * * 0, duration: 30m}]}"
        ),
        "{keep: 4, weekly: 3}",
    ),
}
TTL = [(2 * DAY + n * 97 * HOUR, timedelta(hours=5 + 13 * (n % 6))) for n in range(22)]
"""Clones with a ttl: when their document comes, and how long they live."""
EXTENDED = frozenset({3, 9})
"""Those that a commit extends by a day while their end is announced."""


def name_of(number: int) -> CloneName:
    return CloneName(f"dev{number}")


class Calendar(HandClock):
    """Time that passes only while the loop has nothing to do; what people and production do happens in it."""

    def __init__(self, start: datetime) -> None:
        super().__init__(start)
        self.happenings: list[tuple[datetime, Callable[[], bool]]] = []
        self.loop: Observed | None = None

    def now(self) -> datetime:
        return self._now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        assert self.loop is not None
        if event.is_set():
            return True
        if self.loop.busy:
            assert event.wait(30), "work has no end"
            return True
        until = self._now + timedelta(seconds=seconds)
        while self.happenings and self.happenings[0][0] <= until:
            self._now, happen = self.happenings.pop(0)
            if happen():
                event.set()
                return True
        self._now = until
        return False


class Observed(Reconciler):
    """The loop, with a diary of what its passes planned."""

    view: View | None = None
    diary: list[View]

    @property
    def busy(self) -> bool:
        """Whether the last pass began work or found some under way."""
        view = self.view
        return view is not None and bool(
            (view.plan and view.plan.actions) or (view.observed and view.observed.in_flight)
        )

    def one_pass(self, revision: str | None = None) -> View:
        self.view = super().one_pass(revision)
        self.diary.append(self.view)
        return self.view


@dataclass
class Story:
    """What people, production and the host do in a hundred days, and a diary of the loop."""

    world: World
    start: datetime
    sources: Path
    clones: dict[str, str] = field(default_factory=dict)
    suspended: bool = False
    asked: int = 0
    writes: dict[str, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    diary: list[View] = field(default_factory=list)

    def tell(self) -> None:
        """Let everything happen, from the first pass to the last."""
        calendar = self.world.clock
        assert isinstance(calendar, Calendar)
        self._production()
        at: list[tuple[datetime, Callable[[], bool]]] = [
            (when, lambda name=name, number=number: self.produce(name, number))  # type: ignore[misc] # of a loop
            for name, times in self.writes.items()
            for number, when in enumerate(times)
        ]
        for number, (when, ttl) in enumerate(TTL):
            at.append((self.start + when, self._committing(name_of(number), f"ttl: {hours(ttl)}h")))
            if number in EXTENDED:
                later = self.start + when + ttl - min(HOUR, ttl / 10) / 2
                at.append((later, self._committing(name_of(number), f"ttl: {hours(ttl + DAY)}h")))
        end = (self.start + 60 * DAY).isoformat()
        at.append((self.start + 20 * DAY, self._committing("pinned", f"expires: {end}")))
        for when, change in ((SUSPENDED, {"suspended": True}), (RESUMED, {"suspended": False})):
            at.append((self.start + when, lambda change=change: self._commit(**change)))  # type: ignore[misc] # as above
        for number, when in enumerate(ASKED, start=1):
            at.append((self.start + when, lambda number=number: self._commit(asked=number)))  # type: ignore[misc] # as above
        at.append((self.start + DOWN, self._stop))
        at.append((self.start + DAYS * DAY, self._stop))
        before = [item for item in at if item[0] <= self.start]
        calendar.happenings = sorted((item for item in at if item[0] > self.start), key=lambda item: item[0])
        for _when, happen in before:
            happen()
        self._commit()
        self._run(calendar)
        while calendar.happenings[0][0] < self.start + UP:  # what happens while the host is down
            calendar.happenings.pop(0)[1]()
        calendar.advance(seconds=(self.start + UP - calendar.now()).total_seconds())
        self._run(calendar)

    def produce(self, name: str, number: int) -> bool:
        """Let production write a dump; nobody tells the loop."""
        path = self.sources / name
        path.touch()
        stamp = self.writes[name][number].timestamp()
        os.utime(path, (stamp, stamp))
        self.world.engine.put_source(path, (f"{name}{number}",))
        return False

    def _production(self) -> None:
        """Write dumps daily ten minutes after midnight UTC, those of ``busy`` every six hours."""
        for name in DOCUMENTS:
            step = 6 * HOUR if name == "busy" else DAY
            first = self.start - DAY + 10 * MINUTE
            self.writes[name] = [first + n * step for n in range(int((DAYS + 2) * DAY / step))]
        self.writes["paris"] = sorted([*self.writes["paris"], self.start + EXTRA])

    def _committing(self, name: str, end: str) -> Callable[[], bool]:
        def commit() -> bool:
            self.clones[name] = end
            return self._commit()

        return commit

    def _commit(self, *, suspended: bool | None = None, asked: int | None = None) -> bool:
        self.suspended = self.suspended if suspended is None else suspended
        self.asked = self.asked if asked is None else asked
        documents = [self._image(name) for name in DOCUMENTS]
        documents.append(
            IMAGE.format(
                name="derived", asked="", source="{image: paris}", refresh="{}", retention="{keep: 2}"
            ).replace("  unmasked: {reason: test}\n", "")
        )
        documents += [CLONE.format(name=name, end=end) for name, end in self.clones.items()]
        self.world.write(*documents)
        return True

    def _image(self, name: str) -> str:
        refresh, retention = DOCUMENTS[name]
        if name == "newyork" and self.suspended:
            refresh = refresh.replace("{", "{suspend: true, ", 1)
        asked = f'reconciler/refresh: "{self.asked}"' if name == "paris" and self.asked else ""
        source = f"{{dump: {{path: {self.sources / name}}}}}"
        return IMAGE.format(name=name, asked=asked, source=source, refresh=refresh, retention=retention)

    def _stop(self) -> bool:
        self.world.reconciler.stop()
        return True

    def _run(self, calendar: Calendar) -> None:
        loop = Observed(self.world.host, self.world.host.commits())
        loop.diary = self.diary
        calendar.loop = self.world.reconciler = loop
        loop.run()


def hours(length: timedelta) -> int:
    return int(length / HOUR)


@pytest.fixture(
    params=[pytest.param("2026-02-01", id="spring", marks=pytest.mark.long), pytest.param("2026-08-15", id="autumn")]
)
def story(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Story]:
    """A hundred days in which the clocks of all three places change."""
    start = datetime.fromisoformat(request.param).replace(tzinfo=UTC)
    sources = tmp_path / "sources"
    sources.mkdir()
    with ExitStack() as stack:
        settings = {"sources": {"roots": [str(sources)]}}
        made = World(tmp_path, stack, clock=Calendar(start), settings=settings)
        made.host.config.repository.__dict__["interval"] = 12 * HOUR
        yield Story(made, start, sources)
        made.reconciler.close(abandon=True)


# What is expected


def on_the_wall(day: date, hour: int, minute: int, zone: ZoneInfo) -> datetime:
    """The moment at which a clock shows a time for the first time, or jumps over it."""
    wall = datetime(day.year, day.month, day.day, hour, minute)  # noqa: DTZ001 - a time on a wall
    while True:
        moment = wall.replace(tzinfo=zone).astimezone(UTC)
        if moment.astimezone(zone).replace(tzinfo=None) == wall:
            return moment
        wall += MINUTE


def days(start: datetime) -> list[date]:
    return [(start + n * DAY).date() for n in range(-2, DAYS + 3)]


def daily(
    start: datetime, hour: int, minute: int, zone: ZoneInfo, weekdays: Sequence[int] = range(7)
) -> list[datetime]:
    return [on_the_wall(day, hour, minute, zone) for day in days(start) if day.weekday() in weekdays]


def minutes(openings: list[datetime], length: int) -> set[datetime]:
    return {opening + n * MINUTE for opening in openings for n in range(length)}


@dataclass
class Expected:
    """One image: when a refresh comes due, and when it may start."""

    ticks: list[datetime]
    open: Callable[[datetime], bool] = lambda _at: True
    idle: Callable[[datetime], bool] = lambda _at: False
    wishes: tuple[datetime, ...] = ()
    delay: timedelta = timedelta(0)

    def looks(self, start: datetime) -> list[datetime]:
        """Go through all minutes in which the host is up; one look makes up for all that was missed."""
        found, waiting = [start], False
        coming = [(tick + self.delay, tick) for tick in self.ticks] + [(wish, wish) for wish in self.wishes]
        coming.sort(reverse=True)
        for minute in range(1, DAYS * 24 * 60):
            now = start + minute * MINUTE
            while coming and coming[-1][0] <= now:
                _due, tick = coming.pop()
                waiting = waiting or tick > found[-1]
            if not waiting or DOWN < now - start < UP:
                continue
            if self.idle(now):
                waiting = False
            elif self.open(now):
                waiting = False
                found.append(now)
        return found


def expectations(start: datetime) -> dict[str, Expected]:
    nights = minutes(daily(start, 3, 0, NEW_YORK), 120)
    busy = minutes(daily(start, 22, 0, PARIS, range(5)), 240) | minutes(daily(start, 12, 0, PARIS, [6]), 30)
    return {
        "paris": Expected(daily(start, 2, 30, PARIS), wishes=tuple(start + at for at in ASKED)),
        "newyork": Expected(
            daily(start, 2, 30, NEW_YORK),
            open=nights.__contains__,
            idle=lambda at: SUSPENDED <= at - start < RESUMED,
            delay=jitter("newyork", JITTER),
        ),
        "lordhowe": Expected(daily(start, 2, 15, LORD_HOWE, [0, 3])),
        "busy": Expected([start + n * HOUR for n in range(-24, DAYS * 24)], open=busy.__contains__),
    }


def built_at(looks: list[datetime], writes: list[datetime]) -> list[tuple[datetime, datetime]]:
    """Return the looks that find another dump than the last one, each with the time of its data."""
    found: list[tuple[datetime, datetime]] = []
    for look in looks:
        data = max(write for write in writes if write <= look)
        if not found or found[-1][1] != data:
            found.append((look, data))
    return found


def survivors(built: list[tuple[datetime, datetime]], zone: ZoneInfo, end: datetime, **rules: int) -> list[datetime]:
    """Return when the snapshots were built that the rules leave, by looking for each of them at what came later."""
    left = []
    for number, (build, data) in enumerate(built):
        later = [other.astimezone(zone) for _, other in built[number + 1 :]]
        here = data.astimezone(zone)
        stays = len(later) < rules["keep"]
        for rule, shape in (("daily", "%Y-%j"), ("weekly", "%G-%V"), ("monthly", "%Y-%m")):
            periods = {other.strftime(shape) for other in later}
            newest = here.strftime(shape) not in periods
            stays = stays or (newest and len(periods) < rules.get(rule, 0))
        young = not later or "max_days" not in rules or build + rules["max_days"] * DAY > end
        if stays and young:
            left.append(build)
    return left


# What happened


def planned(story: Story, name: str) -> list[datetime]:
    return [
        view.at
        for view in story.diary
        for action in (view.plan.actions if view.plan is not None else ())
        if isinstance(action, BuildSnapshot) and action.image == name
    ]


def looked(story: Story, name: str) -> list[datetime]:
    checks = [view.at for view in story.diary if view.plan is not None and name in view.plan.checked]
    return sorted([*planned(story, name), *checks])


def there(story: Story, name: str) -> list[datetime]:
    manifests = (volume.manifest for volume in story.world.storage.volumes())
    return sorted(m.created_at for m in manifests if isinstance(m, SnapshotManifest) and m.image == name)


def close(found: list[datetime], expected: list[datetime]) -> None:
    """Check that every moment is the expected one, by less than a minute: jitter is in seconds."""
    assert len(found) == len(expected), [(a, b) for a, b in zip(found, expected, strict=False) if abs(a - b) > MINUTE][
        :3
    ]
    late = [(a, b) for a, b in zip(found, expected, strict=True) if abs(a - b) >= MINUTE]
    assert late == []


def warned(story: Story) -> list[Event]:
    return [event for event in story.world.store.events(limit=10_000) if event.reason == "ExpiresSoon"]


@pytest.mark.timeout(300)
def test_after_a_hundred_days_everything_is_as_the_calendar_says(story: Story) -> None:
    story.tell()
    start, end = story.start, story.start + DAYS * DAY
    looks = {name: image.looks(start) for name, image in expectations(start).items()}
    built = {name: built_at(found, story.writes[name]) for name, found in looks.items()}
    for name, found in looks.items():
        close(looked(story, name), found)
        close(planned(story, name), [at for at, _data in built[name]])
    close(planned(story, "derived"), [at for at, _data in built["paris"]])

    close(there(story, "paris"), survivors(built["paris"], PARIS, end, keep=2, daily=7, weekly=4, monthly=6))
    close(there(story, "newyork"), survivors(built["newyork"], NEW_YORK, end, keep=1, daily=30, max_days=20))
    close(there(story, "lordhowe"), survivors(built["lordhowe"], LORD_HOWE, end, keep=3))
    close(there(story, "busy"), survivors(built["busy"], PARIS, end, keep=4, weekly=3))
    close(there(story, "derived"), [at for at, _data in built["paris"]][-2:])

    check_clones(story)


def check_clones(story: Story) -> None:
    """Every clone lived as long as it should, its end was announced once, and it has not come back."""
    ends: dict[CloneName, timedelta] = {}
    announced = 0
    for number, (when, ttl) in enumerate(TTL):
        begin = when if not DOWN <= when < UP else UP
        first = begin + ttl
        ends[name_of(number)] = last = first + (DAY if number in EXTENDED else timedelta(0))
        for length, at in {ttl: first, last - begin: last}.items():
            warning = at - min(HOUR, length / 10)
            announced += warning < DAYS * DAY and not (warning > DOWN and at <= UP)
    ends[CloneName("pinned")] = 60 * DAY
    announced += 1
    over = {name: at if not DOWN < at < UP else UP for name, at in ends.items() if at < DAYS * DAY}
    expired = {
        action.clone: view.at - story.start
        for view in story.diary
        for action in (view.plan.actions if view.plan is not None else ())
        if isinstance(action, ExpireClone)
    }
    assert expired.keys() == over.keys()
    assert all(abs(expired[name] - at) < MINUTE for name, at in over.items())
    volumes = [volume.manifest for volume in story.world.storage.volumes()]
    alive = {manifest.clone for manifest in volumes if isinstance(manifest, CloneManifest)}
    assert alive == ends.keys() - over.keys()
    events = warned(story)
    assert len(events) == announced == len({(event.object, event.message) for event in events})
    assert all(before.at <= after.at for before, after in pairwise(events))
