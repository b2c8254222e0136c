"""When the world needs another look although nobody changed anything.

Called by the loop, which sleeps until then. Pure.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from reconciler.plan.draft import Draft
from reconciler.plan.idle import idle_at
from reconciler.plan.images import base_of, find_due
from reconciler.plan.index import build_index
from reconciler.plan.leftovers import retired_until
from reconciler.plan.refreshes import opening_for, scheduled_since
from reconciler.plan.schedule import NEVER, ScheduleError, expires_at, next_opening, next_refresh, warned_at
from reconciler.state.conditions import Kind, ObjectKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from reconciler.ids import ImageName
    from reconciler.plan.index import Index
    from reconciler.plan.settings import PlanSettings
    from reconciler.state.desired import Desired, DesiredImage
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


def next_refreshes(
    desired: Desired, observed: Observed, now: datetime, *, settings: PlanSettings
) -> Mapping[ImageName, datetime]:
    """Return when the next refresh of each image may start, for people; ``now`` for one that is due and may.

    Images without a schedule, or with a suspended one, have one only while one is asked for.
    """
    index = build_index(desired, observed, now, settings=settings)
    found = {name: _refresh_at(index, image) for name, image in desired.images.items()}
    return {name: at for name, at in found.items() if at is not None and at < NEVER}


def _refreshes(index: Index) -> Iterator[datetime]:
    found = (_refresh_at(index, image) for image in index.desired.images.values())
    yield from (at for at in found if at is not None)


def _refresh_at(index: Index, image: DesiredImage) -> datetime | None:
    newest, refresh = index.newest(image.name), image.refresh
    if newest is None or index.left_alone(ObjectKey(Kind.IMAGE, image.name)):
        return None
    try:
        due = find_due(index, image, newest, base=base_of(index, Draft(), image, newest))
        if due is not None:
            return opening_for(index, image, newest, due) or index.now
        if refresh is None or refresh.suspend:
            return None
        tick = next_refresh(image.name, refresh, scheduled_since(index, image.name, newest))
        return tick if tick == NEVER else next_opening(refresh, tick)
    except ScheduleError:
        return None


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
            created_at = volumes.current.manifest.created_at
            end = expires_at(clone, created_at)
            if end is not None:
                yield from (warned_at(created_at, end), end)


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
