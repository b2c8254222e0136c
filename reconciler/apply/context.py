"""What the actions of one pass work on, and the looks at the world that they share.

Used by every module of ``apply``. A look here is fresh: preconditions are checked
again right before an action, against what exists now and not what was planned with.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reconciler.errors import BusyError, PermanentError, ReconcilerError, UnavailableError
from reconciler.handover import give
from reconciler.ids import ServerName, VolumeId
from reconciler.proc import CancelToken
from reconciler.state.observed import CloneManifest, SnapshotManifest, Volume, VolumeState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reconciler.host import Host
    from reconciler.ids import PoolName, RuntimeName, SnapshotId
    from reconciler.proc import Account
    from reconciler.repository import SourceTree
    from reconciler.runtimes.base import Runtime
    from reconciler.state.desired import Desired
    from reconciler.storage.base import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One object's share of a pass: the world, the commit, and how to tell and be told."""

    host: Host
    desired: Desired
    tree: SourceTree
    cancel: CancelToken = field(default_factory=CancelToken)
    progress: Callable[[str], None] = lambda _text: None
    release: Callable[[VolumeId], None] = lambda _volume: None
    """Tells that the action under way does not need a volume any more that it started from."""

    def storage(self, pool: PoolName) -> Storage:
        """Return a pool's driver.

        Raises:
            UnavailableError: the configuration has no such pool, or it is away.

        """
        storage = self.host.pools.get(pool)
        if storage is None:
            raise UnavailableError(
                f"pool {pool} is not in this host's configuration",
                reason="PoolUnavailable",
                hint="add it under `pools:`",
            )
        probe = storage.probe()
        if not probe.available:
            raise UnavailableError(f"pool {pool} is not available: {probe.message}", reason="PoolUnavailable")
        return storage

    def runtime(self, name: RuntimeName) -> Runtime:
        """Return a runtime of this host.

        Raises:
            UnsupportedError: this host has no such runtime.

        """
        return self.host.runtime(name)

    def volumes(self) -> tuple[Volume, ...]:
        """Return every volume of every pool, now; a pool that is away fails the action."""
        return tuple(volume for storage in self.host.pools.values() for volume in storage.volumes())

    def volume(self, wanted: VolumeId) -> Volume | None:
        """Return one volume, now.

        Raises:
            UnavailableError: it is in no pool that can be asked, and may be in one that is away.

        """
        away: UnavailableError | None = None
        for storage in self.host.pools.values():
            try:
                found = next((volume for volume in storage.volumes() if volume.id == wanted), None)
            except UnavailableError as error:
                away = error
                continue
            if found is not None:
                return found
        if away is not None:
            raise away
        return None

    def require_absent(self, wanted: VolumeId) -> None:
        """Insist that a volume about to be made does not exist.

        Raises:
            BusyError: it does; the next pass plans anew.

        """
        if self.volume(wanted) is not None:
            raise BusyError(f"volume {wanted} is there already", reason="VolumeExists")

    def snapshot(self, wanted: SnapshotId) -> tuple[Storage, SnapshotManifest]:
        """Return a sealed snapshot and its pool.

        Raises:
            BusyError: it does not exist (any more); the next pass plans anew.

        """
        volume = self.volume(VolumeId(wanted))
        if volume is not None and isinstance(volume.manifest, SnapshotManifest):
            return self.storage(volume.pool), volume.manifest
        raise BusyError(f"snapshot {wanted} is not there any more", reason="SnapshotGone")

    def clone(self, wanted: VolumeId) -> tuple[Storage, CloneManifest]:
        """Return a clone's volume as it is now, and its pool.

        Raises:
            BusyError: it does not exist (any more); the next pass plans anew.

        """
        volume = self.volume(wanted)
        if volume is None or not isinstance(volume.manifest, CloneManifest) or volume.state is not VolumeState.COMPLETE:
            raise BusyError(f"volume {wanted} is not there any more", reason="VolumeGone")
        return self.storage(volume.pool), volume.manifest

    def forget_server(self, volume: VolumeId) -> None:
        """Remove what is kept of a stopped server: logs and the directory of its sockets."""
        for runtime in self.host.runtimes.values():
            runtime.forget(ServerName(volume))
        self.host.state.forget_start(ServerName(volume))
        shutil.rmtree(self.host.state.run_directory(ServerName(volume)), ignore_errors=True)

    def run_directory(self, volume: VolumeId, account: Account | None) -> Path:
        """Make the private directory for a server's sockets; it belongs to the server's account."""
        directory = self.host.state.run_directory(ServerName(volume))
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        give(directory, account)
        return directory


def best_effort(*steps: Callable[[], object]) -> None:
    """Clean up after a failure, step by step; what fails is left to the next pass, with what comes after it.

    So a volume goes last: without it nobody would know that its server has to end.
    """
    with contextlib.suppress(ReconcilerError, OSError):
        for step in steps:
            step()


def permanent(error: BaseException) -> bool:
    """Whether an error stays until an input changes."""
    return isinstance(error, PermanentError)
