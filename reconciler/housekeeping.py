"""What belongs to no plan: remains of dead work beside the volumes, sizes of volumes, logs of servers.

Called by the loop after a pass. Removes only directories and files of this
installation's state directory; what may belong to a volume, only while every pool can
be seen: what seems to belong to nothing may belong to a volume that is away.
"""

from __future__ import annotations

import shutil
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from reconciler.errors import ReconcilerError
from reconciler.ids import PoolName, ServerName, VolumeId
from reconciler.state.observed import BuildManifest, CloneManifest, VolumeState

if TYPE_CHECKING:
    from reconciler.host import Host
    from reconciler.state.observed import Observed, Volume

log = structlog.get_logger(__name__)

_MEASURE_AGAIN = timedelta(minutes=10)
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


def tend(host: Host, observed: Observed | None) -> None:
    """Rotate logs and measure volumes that were not measured lately, in the background; one round at a time."""
    if observed is None or not _measuring.acquire(blocking=False):
        return
    thread = threading.Thread(target=_tend_and_release, args=(host, observed), name="housekeeping", daemon=True)
    thread.start()


def measure(host: Host, observed: Observed) -> None:
    """Measure volumes that were not measured lately, now."""
    now = host.clock.now()
    known = host.store.usage()
    stale: dict[str, list[VolumeId]] = {}
    for volume in observed.volumes:
        if _due(volume, known.get(volume.id), now - _MEASURE_AGAIN):
            stale.setdefault(volume.pool, []).append(volume.id)
    host.store.retain_usage({volume.id for volume in observed.volumes})
    for name, volumes in stale.items():
        try:
            host.store.write_usage(host.pools[PoolName(name)].usage(volumes), now)
        except (ReconcilerError, OSError) as error:
            log.warning("volumes could not be measured", pool=name, error=str(error))


def _due(volume: Volume, known: object, before: object) -> bool:
    """Tell whether a size is unknown or may have changed; a build's is not its snapshot's, which has the same id."""
    if volume.state is not VolumeState.COMPLETE or isinstance(volume.manifest, BuildManifest):
        return False
    measured_at = getattr(known, "measured_at", None)
    if measured_at is None:
        return True
    return isinstance(volume.manifest, CloneManifest) and measured_at < before


def _tend_and_release(host: Host, observed: Observed) -> None:
    try:
        for runtime in host.runtimes.values():
            runtime.rotate_logs()
        measure(host, observed)
    except (ReconcilerError, OSError) as error:
        log.warning("housekeeping failed; the next pass tries again", error=str(error))
    finally:
        _measuring.release()
