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
    from reconciler.ids import ImageName, SnapshotId
    from reconciler.state.desired import DesiredClone, Refresh
    from reconciler.state.observed import SnapshotManifest

NEVER = datetime.max.replace(tzinfo=UTC)
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
    tick = _tick(refresh, since)
    if tick is None:
        return NEVER
    return tick.astimezone(UTC) + jitter(name, refresh.jitter)


def last_refresh(name: ImageName, refresh: Refresh, until: datetime) -> datetime | None:
    """Return when the last refresh before ``until`` was due, in UTC; None if there was none.

    Raises:
        ScheduleError: as :func:`next_refresh`.

    """
    delay = jitter(name, refresh.jitter)
    tick = _tick(refresh, until - delay, reverse=True)
    return None if tick is None else tick.astimezone(UTC) + delay


def _tick(refresh: Refresh, since: datetime, *, reverse: bool = False) -> datetime | None:
    try:
        return next(CronSim(refresh.schedule, since.astimezone(ZoneInfo(refresh.timezone)), reverse=reverse), None)
    except (ZoneInfoNotFoundError, OSError, ValueError) as error:
        message = f"the time zone {refresh.timezone!r} is not known on this host"
        raise ScheduleError(message) from error
    except CronSimError as error:
        message = f"the schedule {refresh.schedule!r} is not valid: {error}"
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


def expiry_text(clone: DesiredClone) -> str:
    """Return a clone's expiry as a tombstone records it; empty without one."""
    parts = [] if clone.ttl is None else [f"ttl={int(clone.ttl.total_seconds())}s"]
    if clone.expires is not None:
        parts.append(f"expires={clone.expires.isoformat()}")
    return " ".join(parts)
