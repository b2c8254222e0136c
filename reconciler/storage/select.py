"""Open a pool: the driver that the host's configuration names, or the best that its path can do.

Called by the host's assembly only. Opening changes nothing on disk; ``prepare`` of the
returned storage does.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.errors import ConfigError, UnavailableError
from reconciler.state.observed import ObservedPool
from reconciler.storage import datasets, linux
from reconciler.storage.btrfs import BtrfsStorage
from reconciler.storage.copy import CopyStorage
from reconciler.storage.loopback import LoopFile
from reconciler.storage.pool import read_marker, remove_layout
from reconciler.storage.reflink import ReflinkStorage
from reconciler.storage.room import existing
from reconciler.storage.zfs import ZfsStorage, remove_datasets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from reconciler.ids import InstallationId, PoolName, VolumeId
    from reconciler.state.observed import Manifest, Volume
    from reconciler.storage.base import Storage, StorageTraits, Usage
    from reconciler.storage.directory import DirectoryStorage

AUTO = "auto"
DRIVERS = ("btrfs", "zfs", "reflink", "copy")
"""Best first: the order in which ``auto`` tries."""

_ZFS_NOTE = "every clone is a full copy, though the path is on ZFS: {}"
_COPY_NOTE = (
    "every clone is a full copy, because the file system cannot share blocks: "
    "put the pool on btrfs, XFS or ZFS, or set driver: btrfs with a size"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How the host's configuration describes a pool.

    ``size`` in bytes makes a btrfs of its own; ``dataset`` is where a pool of ZFS is.
    """

    path: Path
    driver: str = AUTO
    reserve: str | int = "10%"
    size: int | None = None
    dataset: str | None = None


def open_pool(
    name: PoolName, settings: PoolSettings, *, installation: InstallationId, known_pool_id: str | None
) -> Storage:
    """Return the storage of a pool; whether it can be used now, its ``probe`` tells.

    Raises:
        ConfigError: the driver, the reserve or the combination of settings is not valid.

    """
    if settings.driver == AUTO:
        return AutoStorage(name, settings, installation=installation, pool_id=known_pool_id)
    if settings.driver not in DRIVERS:
        raise ConfigError(
            f"pool {name}: unknown storage driver {settings.driver!r}", hint=f"one of: {AUTO}, {', '.join(DRIVERS)}"
        )
    if settings.size is not None and settings.driver != "btrfs":
        raise ConfigError(f"pool {name}: size goes with driver: btrfs only, not with {settings.driver}")
    if settings.dataset is not None and settings.driver != "zfs":
        raise ConfigError(f"pool {name}: dataset goes with driver: zfs only, not with {settings.driver}")
    return _open(settings.driver, name, settings, installation=installation, pool_id=known_pool_id)


def remove_pool(settings: PoolSettings, *, installation: InstallationId) -> tuple[str, ...]:
    """Remove an empty pool of this installation: layout and marker, a loop-backed file, datasets that it made.

    Returns what is left there because it is not ours; a directory that a file system is mounted on stays, empty.

    Raises:
        BusyError: it holds volumes, or is another installation's.
        UnavailableError: the marker cannot be read, or the file system is in use.

    """
    loop = _loop_file(settings)
    marker = read_marker(settings.path)
    if marker is not None:
        strange = remove_layout(settings.path, installation=installation)
        if strange:
            return tuple(map(str, strange))
    if loop is not None and loop.made():
        loop.unmake()
    left = remove_datasets(settings.path, installation=installation)
    with suppress(OSError):  # it is somebody's mount point, or never was
        settings.path.rmdir()
    return left


def choose_driver(path: Path) -> str:
    """Return the best driver for a path: the one that made the pool, else the best that the file system can do.

    Raises:
        UnavailableError: there is a pool, and its marker cannot be read.

    """
    marker = read_marker(path)
    if marker is not None:
        return marker.driver
    place = existing(path)
    if linux.filesystem_type(place) == linux.BTRFS_MAGIC:
        return "btrfs"
    if datasets.holding(place.resolve()) is not None and not _lacks_for_zfs():
        return "zfs"
    return "reflink" if linux.can_share_blocks(place) else "copy"


class AutoStorage:
    """The driver that :func:`choose_driver` finds, looked for again until the pool is in use.

    A pool that is not mounted when the process starts is thereby taken up, with its
    own driver, as soon as it is.
    """

    def __init__(
        self, name: PoolName, settings: PoolSettings, *, installation: InstallationId, pool_id: str | None
    ) -> None:
        self.name = name
        self._settings = settings
        self._installation = installation
        self._pool_id = pool_id
        self._driver = self._find()

    @property
    def traits(self) -> StorageTraits:
        return self._chosen().traits

    def prepare(self) -> str:
        self._pool_id = self._chosen().prepare()
        return self._pool_id

    def grow(self) -> None:
        self._driver.grow()

    def lock(self) -> AbstractContextManager[None]:
        return self._chosen().lock()

    def probe(self) -> ObservedPool:
        try:
            return self._chosen().probe()
        except ConfigError as error:  # mounted since, and made by a driver that is not here
            return ObservedPool(self.name, self._driver.driver, available=False, message=str(error))

    def volumes(self) -> tuple[Volume, ...]:
        return self._chosen().volumes()

    def path(self, volume: VolumeId) -> Path:
        return self._driver.path(volume)

    def create(self, volume: VolumeId, manifest: Manifest) -> Path:
        return self._chosen().create(volume, manifest)

    def clone(self, source: VolumeId, target: VolumeId, manifest: Manifest) -> Path:
        return self._chosen().clone(source, target, manifest)

    def seal(self, volume: VolumeId, manifest: Manifest) -> None:
        self._chosen().seal(volume, manifest)

    def update(self, volume: VolumeId, manifest: Manifest) -> None:
        self._chosen().update(volume, manifest)

    def delete(self, volume: VolumeId) -> None:
        self._chosen().delete(volume)

    def usage(self, volumes: Iterable[VolumeId]) -> Mapping[VolumeId, Usage]:
        return self._chosen().usage(volumes)

    def _chosen(self) -> DirectoryStorage:
        if not self._driver.settled:
            self._driver = self._find()
        return self._driver

    def _find(self) -> DirectoryStorage:
        try:
            driver = choose_driver(self._settings.path)
        except UnavailableError:
            driver = "copy"  # its probe says what is wrong with the marker
        return _open(
            driver,
            self.name,
            self._settings,
            installation=self._installation,
            pool_id=self._pool_id,
            note=_note(driver, self._settings.path),
        )


def _note(driver: str, path: Path) -> str:
    """Return why a lesser driver was taken; empty when it is none."""
    if driver != "copy":
        return ""
    lack = _lacks_for_zfs() if datasets.holding(existing(path).resolve()) is not None else ""
    return _ZFS_NOTE.format(lack) if lack else _COPY_NOTE


def _lacks_for_zfs() -> str:
    """Return what this process lacks to work with ZFS; empty when it lacks nothing."""
    if not datasets.installed():
        return "the program zfs is not installed"
    return "" if os.geteuid() == 0 else "mounting datasets needs root"


def _open(
    driver: str,
    name: PoolName,
    settings: PoolSettings,
    *,
    installation: InstallationId,
    pool_id: str | None,
    note: str = "",
) -> DirectoryStorage:
    path, reserve = settings.path, settings.reserve
    match driver:
        case "btrfs":
            loop = _loop_file(settings)
            return BtrfsStorage(
                name, path, installation=installation, pool_id=pool_id, reserve=reserve, note=note, loop=loop
            )
        case "zfs":
            return ZfsStorage(
                name,
                path,
                installation=installation,
                pool_id=pool_id,
                reserve=reserve,
                note=note,
                dataset=settings.dataset,
            )
        case "reflink":
            return ReflinkStorage(name, path, installation=installation, pool_id=pool_id, reserve=reserve, note=note)
        case "copy":
            return CopyStorage(name, path, installation=installation, pool_id=pool_id, reserve=reserve, note=note)
        case _:
            raise ConfigError(
                f"pool {name}: {path} was made with the driver {driver}, which this version does not have"
            )


def _loop_file(settings: PoolSettings) -> LoopFile | None:
    """Return the file of a pool with a size, unless its path is on btrfs as it is."""
    if settings.size is None:
        return None
    loop = LoopFile(settings.path, settings.size)
    native = not loop.made() and linux.filesystem_type(existing(settings.path)) == linux.BTRFS_MAGIC
    return None if native else loop
