"""When the world needs another look although nobody changed anything.

Called by the loop, which sleeps until then. Pure.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from reconciler.plan.idle import idle_at
from reconciler.plan.images import last_looked
from reconciler.plan.index import build_index
from reconciler.plan.leftovers import retired_until
from reconciler.plan.schedule import NEVER, ScheduleError, expires_at, next_refresh
from reconciler.state.conditions import Kind, ObjectKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from reconciler.plan.index import Index
    from reconciler.plan.settings import PlanSettings
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Observed


def next_due(desired: Desired, observed: Observed, now: datetime, *, settings: PlanSettings) -> datetime | None:
    """Return the next moment after ``now`` at which a timer makes a plan differ; None without timers.

    Timers are refreshes, expiries, the age that retention allows, the grace of undo, the
    time that nobody used a clone and the next attempt after a failure. What is due already
    was in the plan of ``now``.
    """
    index = build_index(desired, observed, now, settings=settings)
    times = (*_refreshes(index), *_ages(index), *_expiries(index), *_graces(index), *_retries(index), *_idles(index))
    return min((at for at in times if now < at < NEVER), default=None)


def _refreshes(index: Index) -> Iterator[datetime]:
    for name, image in index.desired.images.items():
        newest = index.newest(name)
        refresh = image.refresh
        if newest is None or refresh is None or refresh.suspend or index.left_alone(ObjectKey(Kind.IMAGE, name)):
            continue
        try:
            yield next_refresh(name, refresh, last_looked(index, name, newest))
        except ScheduleError:
            continue


def _ages(index: Index) -> Iterator[datetime]:
    for name, image in index.desired.images.items():
        age = image.retention.max_age
        if age is not None and not image.suspend:
            yield from (snapshot.manifest.created_at + age for snapshot in index.images.get(name, [])[:-1])


def _expiries(index: Index) -> Iterator[datetime]:
    for name, clone in index.desired.clones.items():
        if clone.ttl is None and clone.expires is None:
            continue
        volumes = index.clones.get(name)
        if volumes is not None and volumes.ready:
            end = expires_at(clone, volumes.current.manifest.created_at)
            if end is not None:
                yield end


def _graces(index: Index) -> Iterator[datetime]:
    for volumes in index.clones.values():
        if len(volumes.ready) > 1:
            yield from (retired_until(index, volumes, generation) for generation in volumes.retired)


def _idles(index: Index) -> Iterator[datetime]:
    for name, clone in index.desired.clones.items() if index.observed.last_used else ():
        volumes = index.clones.get(name)
        at = idle_at(index, clone, volumes.current) if volumes is not None and volumes.ready else None
        if at is not None:
            yield at


def _retries(index: Index) -> Iterator[datetime]:
    failures = chain.from_iterable(index.observed.failures.values())
    yield from (failure.retry_at for failure in failures if failure.retry_at is not None)
