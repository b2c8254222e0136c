"""What belongs to no plan: remains of dead work beside the volumes, sizes of volumes, logs of servers.

Called by the loop after a pass. Removes only directories and files of this
installation's state directory; what may belong to a volume, only while every pool can
be seen: what seems to belong to nothing may belong to a volume that is away.
"""

from __future__ import annotations

import shutil
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from reconciler.errors import ReconcilerError
from reconciler.ids import PoolName, ServerName, VolumeId
from reconciler.state.observed import BuildManifest, CloneManifest, VolumeState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reconciler.clock import Clock
    from reconciler.host import Host
    from reconciler.state.observed import Observed, Volume
    from reconciler.status.values import VolumeUsage

log = structlog.get_logger(__name__)

_MEASURE_AGAIN = timedelta(minutes=10)
_BATCH = 10
"""Volumes that are measured before it is looked whether that is enough for now."""
_SHARE = 0.003
"""Of a processor, for measuring again: an empty cluster has a thousand files, a host may have a thousand clones."""
_NEVER = datetime.min.replace(tzinfo=UTC)
_measuring = threading.Lock()


def sweep(host: Host, observed: Observed) -> None:
    """Remove what was asked long ago, and directories and credentials that belong to nothing any more.

    Only while nothing is in flight since ``observed`` was seen.
    """
    host.state.requests.collect(host.clock.now())
    if host.lost_pools or observed.unknown_runtimes:
        return
    if any(pool.unknown or not pool.available for pool in observed.pools.values()):
        return
    volumes = {volume.id for volume in observed.volumes}
    clones = {volume.manifest.clone for volume in observed.volumes if isinstance(volume.manifest, CloneManifest)}
    used = {ServerName(volume) for volume in volumes} | observed.servers.keys()
    for directory in host.state.stale_run_directories(used):
        shutil.rmtree(directory, ignore_errors=True)
    for volume in host.state.work_directories():
        shutil.rmtree(host.state.work_directory(volume), ignore_errors=True)
    for clone in host.state.credentials.clones():
        if clone not in clones:
            host.state.credentials.forget(clone)


class Pace:
    """Keeps work that is never finished to a share of a processor; what is not used is saved up for some minutes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._paid_until = clock.monotonic()

    def lets_go_on(self) -> bool:
        """Return whether the work of before has been waited for."""
        return self._clock.monotonic() >= self._paid_until

    def charge(self, seconds: float) -> None:
        """Count processor time that was spent."""
        saved = self._clock.monotonic() - _MEASURE_AGAIN.total_seconds()
        self._paid_until = max(self._paid_until, saved) + seconds / _SHARE


def tend(host: Host, observed: Observed | None, pace: Pace) -> None:
    """Rotate logs and measure volumes that were not measured lately, in the background; one round at a time."""
    if observed is None or not _measuring.acquire(blocking=False):
        return
    thread = threading.Thread(target=_tend_and_release, args=(host, observed, pace), name="housekeeping", daemon=True)
    thread.start()


def measure(host: Host, observed: Observed, pace: Pace | None = None) -> None:
    """Measure volumes that were not measured lately, now; those that were at all, oldest first, as ``pace`` lets."""
    now = host.clock.now()
    known = host.store.usage()
    host.store.retain_usage({volume.id for volume in observed.volumes})
    for pool, first, volumes in _batches(observed, known, now - _MEASURE_AGAIN):
        if not first and pace is not None and not pace.lets_go_on():
            continue
        before = time.thread_time()
        try:
            host.store.write_usage(host.pools[pool].usage(volumes), now)
        except (ReconcilerError, OSError) as error:
            log.warning("volumes could not be measured", pool=pool, error=str(error))
        if pace is not None:
            pace.charge(time.thread_time() - before)


def _batches(
    observed: Observed, known: Mapping[VolumeId, VolumeUsage], before: datetime
) -> Iterator[tuple[PoolName, bool, list[VolumeId]]]:
    """Yield (pool, whether they never were, volumes) of what is to be measured."""
    due: dict[tuple[bool, PoolName], list[VolumeId]] = {}
    for volume in sorted(observed.volumes, key=lambda volume: _measured_at(volume, known)):
        measured_at = _measured_at(volume, known)
        if _due(volume, measured_at, before):
            due.setdefault((measured_at == _NEVER, volume.pool), []).append(volume.id)
    for (first, pool), volumes in due.items():
        for start in range(0, len(volumes), _BATCH):
            yield pool, first, volumes[start : start + _BATCH]


def _measured_at(volume: Volume, known: Mapping[VolumeId, VolumeUsage]) -> datetime:
    usage = known.get(volume.id)
    return _NEVER if usage is None else usage.measured_at


def _due(volume: Volume, measured_at: datetime, before: datetime) -> bool:
    """Tell whether a size is unknown or may have changed; a build's is not its snapshot's, which has the same id."""
    if volume.state is not VolumeState.COMPLETE or isinstance(volume.manifest, BuildManifest):
        return False
    return measured_at == _NEVER or (isinstance(volume.manifest, CloneManifest) and measured_at < before)


def _tend_and_release(host: Host, observed: Observed, pace: Pace) -> None:
    try:
        for runtime in host.runtimes.values():
            runtime.rotate_logs()
        measure(host, observed, pace)
    except (ReconcilerError, OSError) as error:
        log.warning("housekeeping failed; the next pass tries again", error=str(error))
    finally:
        _measuring.release()
