"""When timers of specs are due: refreshes by cron, expiries by ttl or date.

Called by planning and by the loop, which sleeps until the next one. Time comes in as
values. Time zones are read from the system's database by :mod:`zoneinfo`, which keeps
them in memory.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.ids import ImageName, SnapshotId
    from reconciler.state.desired import DesiredClone, Refresh
    from reconciler.state.observed import SnapshotManifest

NEVER = datetime.max.replace(tzinfo=UTC)
EARLIEST_WARNING = timedelta(hours=1)
_STAMP = "%Y%m%dt%H%M%Sz"


class ScheduleError(ValueError):
    """This host cannot tell when a schedule is due; the message says why."""


@lru_cache(maxsize=32_768)
def next_refresh(name: ImageName, refresh: Refresh, since: datetime) -> datetime:
    """Return when the first refresh after ``since`` is due, in UTC; ``NEVER`` if the schedule has none.

    The delay that spreads the load (jitter) is a function of the image's name, so it is
    the same in every pass and on every host.

    Raises:
        ScheduleError: the time zone is not known on this host, or the schedule is not one.

    """
    if refresh.schedule is None:
        return NEVER
    tick = tick_after(refresh.schedule, refresh.timezone, since)
    return tick if tick == NEVER else tick + jitter(name, refresh.jitter)


def last_refresh(name: ImageName, refresh: Refresh, until: datetime) -> datetime | None:
    """Return when the last refresh before ``until`` was due, in UTC; None if there was none.

    Raises:
        ScheduleError: as :func:`next_refresh`.

    """
    if refresh.schedule is None:
        return None
    delay = jitter(name, refresh.jitter)
    try:
        tick = next(CronSim(refresh.schedule, (until - delay).astimezone(zone(refresh.timezone)), reverse=True), None)
    except CronSimError as error:
        message = f"the schedule {refresh.schedule!r} is not valid: {error}"
        raise ScheduleError(message) from error
    return None if tick is None else tick.astimezone(UTC) + delay


def next_opening(refresh: Refresh, at: datetime) -> datetime:
    """Return the first moment, not before ``at``, at which one of a refresh's windows is open.

    A window that opened at ``o`` is open at ``t`` if o ≤ t < o + duration, in time that
    passes: on the day that clocks change it is as long as on any other. Without windows
    it is always open.

    Raises:
        ScheduleError: as :func:`next_refresh`.

    """
    if not refresh.windows:
        return at
    openings = (tick_after(w.schedule, refresh.timezone, at - w.duration) for w in refresh.windows)
    return max(at, min(openings))


def tick_after(schedule: str, timezone: str, since: datetime) -> datetime:
    """Return the first time after ``since`` that a cron schedule names, in UTC; ``NEVER`` if there is none.

    Raises:
        ScheduleError: as :func:`next_refresh`.

    """
    return next(ticks_after(schedule, timezone, since), NEVER)


def ticks_after(schedule: str, timezone: str, since: datetime) -> Iterator[datetime]:
    """Yield the times after ``since`` that a cron schedule names, in UTC and in order.

    CronSim counts by the clock on the wall: in the hour that comes twice it may name a
    time of its first round when ``since`` is in the second.

    Raises:
        ScheduleError: as :func:`next_refresh`.

    """
    since = since.astimezone(UTC)
    try:
        for tick in CronSim(schedule, since.astimezone(zone(timezone))):
            found = tick.astimezone(UTC)
            if found > since:
                yield found
    except CronSimError as error:
        message = f"the schedule {schedule!r} is not valid: {error}"
        raise ScheduleError(message) from error
    except OverflowError:  # in the last days of the calendar
        return


def zone(name: str) -> ZoneInfo:
    """Return a time zone.

    Raises:
        ScheduleError: it is not known on this host.

    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError) as error:
        message = f"the time zone {name!r} is not known on this host"
        raise ScheduleError(message) from error


def jitter(name: str, most: timedelta) -> timedelta:
    """Return the share of ``most`` that belongs to a name, in whole seconds."""
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
    return timedelta(seconds=int(most.total_seconds() * share))


def snapshot_id_stamp(at: datetime) -> str:
    """Return the time part of a snapshot id, for example ``20261122t020000z``."""
    return at.astimezone(UTC).strftime(_STAMP)


def started_at(manifest: SnapshotManifest) -> datetime:
    """Return when the build of a snapshot was planned; what was asked for later is not served by it."""
    return _stamp_of(manifest.snapshot) or manifest.created_at


@lru_cache(maxsize=32_768)
def _stamp_of(snapshot: SnapshotId) -> datetime | None:
    parts = snapshot.rsplit("-", 2)
    try:
        return datetime.strptime(parts[-2], _STAMP).replace(tzinfo=UTC)
    except (ValueError, IndexError):
        return None


def expires_at(clone: DesiredClone, created_at: datetime) -> datetime | None:
    """Return when a clone created at ``created_at`` is over; the earlier of ``ttl`` and ``expires``."""
    end = None if clone.ttl is None else created_at + clone.ttl
    if clone.expires is None or end is None:
        return clone.expires or end
    return min(end, clone.expires)


def warned_at(created_at: datetime, end: datetime) -> datetime:
    """Return from when on the end of a clone is announced: an hour before, or the last tenth of a shorter life."""
    return end - max(timedelta(0), min(EARLIEST_WARNING, (end - created_at) / 10))


def expiry_text(clone: DesiredClone) -> str:
    """Return a clone's expiry as a tombstone records it; empty without one."""
    parts = [] if clone.ttl is None else [f"ttl={int(clone.ttl.total_seconds())}s"]
    if clone.expires is not None:
        parts.append(f"expires={clone.expires.isoformat()}")
    return " ".join(parts)
