"""Datasets and clones of ZFS: clones in constant time, whatever the size.

Registered as ``zfs``. A pool is a dataset that is mounted at the pool's path::

    tank/reconciler                      marker, lock and manifests: files, as in every pool
    tank/reconciler/volumes/<volume>     a volume, mounted at <path>/volumes/<volume>
    tank/reconciler/deleted/<number>     what is left of deleted ones that others depend on; never mounted

Manifests are the truth here as well; the properties ``reconciler:…`` say which datasets
are ours, so that none of anybody else is ever destroyed. What depends on what, and what
may go, is decided in :mod:`reconciler.storage.lineage`.

**Snapshots.** A dataset shows its own under ``.zfs/snapshot``, also where ``snapdir`` is
hidden. So sealing removes every snapshot that was taken before, by whomever, and then
takes the one that clones are made of: nobody can look behind masking. Mounting needs
root on Linux, whatever ``zfs allow`` delegates.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from typing import TYPE_CHECKING, assert_never

from reconciler.errors import BusyError, ConfigError, ReconcilerError, RefusedError, UnavailableError, UnsupportedError
from reconciler.ids import VolumeId
from reconciler.state.observed import CloneManifest, SnapshotManifest, VolumeState
from reconciler.status import words
from reconciler.storage import datasets, linux
from reconciler.storage.base import StorageTraits, Usage
from reconciler.storage.datasets import DependentsError, MissingDatasetError, NoSpaceError
from reconciler.storage.directory import DirectoryStorage
from reconciler.storage.extents import logical_size
from reconciler.storage.lineage import INSTALLATION, MADE_FOR, MADE_OF, VOLUME, Step, copied_for, next_step, sealed_as
from reconciler.storage.manifests import UnreadableError
from reconciler.storage.mounts import Mount, mounted_at
from reconciler.storage.room import Room, existing, filesystem_room
from reconciler.storage.tree import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from reconciler.ids import InstallationId, PoolName
    from reconciler.state.observed import Manifest
    from reconciler.storage.lineage import Dataset, Lineage
    from reconciler.storage.manifests import Record

_POOL_OPTIONS = (
    "atime=off",  # reading must not write into clones
    "recordsize=16K",  # a page of 8 or 16 KiB that a clone writes must not cost 128 KiB
    "devices=off",
    "setuid=off",
    "com.sun:auto-snapshot=false",  # of zfs-auto-snapshot and its like
)


class ZfsStorage(DirectoryStorage):
    """Volumes are datasets, clones are clones of their snapshots, sealed volumes are ``readonly``.

    ``dataset`` is the pool's; None: the one that is mounted at ``path``, or one that is
    made for it below the dataset that ``path`` lies on.
    """

    driver = "zfs"
    traits = StorageTraits(instant_clones=True, atomic_snapshots=True, exclusive_sizes=True)
    atomic_removal = True

    def __init__(
        self,
        name: PoolName,
        path: Path,
        *,
        installation: InstallationId,
        pool_id: str | None = None,
        reserve: str | int = "10%",
        note: str = "",
        dataset: str | None = None,
    ) -> None:
        super().__init__(name, path, installation=installation, pool_id=pool_id, reserve=reserve, note=note)
        self._named = dataset
        self._found: str | None = None
        """The dataset at the pool's path, where none is named and it was seen there."""
        self._changing = threading.RLock()
        """Held while dependencies change: a snapshot without a clone yet must not be taken for one that is left."""
        self._mounting: AbstractContextManager[object] = contextlib.nullcontext()
        """Held while something is mounted, where that is done by zfs-fuse: of two mounts at once it may lose one."""
        self._ready: int | None = None
        """The mount of the pool for which all below it was found in order."""

    def prepare(self) -> str:
        with self._translated("prepare the pool"):
            self._mount_pool()
        pool_id = super().prepare()
        with self._translated("prepare the pool"):
            self._make_ready()
        return pool_id

    def usage(self, volumes: Iterable[VolumeId]) -> Mapping[VolumeId, Usage]:
        asked = list(volumes)
        with self._translated("measure volumes"):
            self._require_pool()
            root = self._dataset()
            known = datasets.lineage(root)
            sizes = datasets.sizes(f"{root}/volumes", *self._size_properties(root), deep=True)
            measured = {}
            for volume in asked:
                name = self._name(volume)
                if name in sizes:
                    own = sizes[name].get("written", 0) if known.needed(name) else sizes[name]["used"]
                    measured[volume] = Usage(logical_size(self.path(volume)), own)
        return measured

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            with super()._translated(what):
                yield
        except NoSpaceError as error:
            room = filesystem_room(self._path)
            raise RefusedError(
                f"{error.message} (free {words.size(room.free)} of {words.size(room.total)})",
                reason=error.reason,
                hint=error.hint,
            ) from error

    def _check_filesystem(self) -> None:
        root = self._dataset()
        if os.geteuid() != 0:
            raise UnsupportedError(
                f"the pool {self.name}: mounting datasets of ZFS needs root on Linux, whatever zfs allow delegates",
                hint="run as root (a container can be given a dataset of its own: zfs zone), or use another driver",
            )
        if self._mounted() is not None:
            return
        if datasets.exists(root):
            raise UnavailableError(
                f"the pool {self.name} at {self._path} is not mounted; it is the dataset {root}",
                reason="PoolUnavailable",
                hint="the next pass mounts it",
            )
        self._check_new(root)

    def _room(self) -> Room:
        root = self._dataset()
        while True:
            try:
                found = datasets.sizes(root, "used", "available")[root]
            except MissingDatasetError:
                if "/" not in root or self._pool.known:
                    raise
                root = root.rpartition("/")[0]  # not made yet
            else:
                return Room(found["used"] + found["available"], found["available"])

    def _create_data(self, path: Path) -> None:
        volume = VolumeId(path.name)
        with self._mounting:
            datasets.run("create", "-o", f"{VOLUME}={volume}", self._name(volume))
        self._check_mounted(path)
        path.chmod(0o700)

    def _copy_data(self, source: Path, target: Path) -> None:
        origin, volume = self._name(VolumeId(source.name)), VolumeId(target.name)
        if self._is(source.name, SnapshotManifest):
            self._clone(f"{origin}@{sealed_as(source.name)}", volume)
        else:
            linux.sync_filesystem(source)
            snapshot = f"{origin}@{copied_for(volume)}"
            with self._changing:
                datasets.run("snapshot", snapshot)
                self._clone(snapshot, volume)
        self._check_mounted(target)

    def _clone(self, snapshot: str, volume: VolumeId) -> None:
        properties = (f"{VOLUME}={volume}", f"{MADE_OF}={snapshot.partition('@')[2]}")
        with self._mounting:
            datasets.run("clone", *_options(*properties), snapshot, self._name(volume))

    def _freeze(self, path: Path) -> None:
        name = self._name(VolumeId(path.name))
        linux.sync_filesystem(path)
        datasets.run("set", "readonly=on", name)
        known = datasets.lineage(name)
        if len(known.datasets) > 1:
            raise BusyError(
                f"the volume {path.name} has datasets inside, which a clone would not contain; destroy them first"
            )
        for snapshot in known.snapshots:  # of a state before sealing, which may be one before masking
            datasets.destroy(snapshot)
        datasets.run("snapshot", f"{name}@{sealed_as(path.name)}")

    def _remove_data(self, path: Path) -> None:
        volume = VolumeId(path.name)
        with self._changing:
            known = datasets.lineage(self._dataset())
            found = known.datasets.get(self._name(volume))
            if found is not None:
                self._require_ours(found)
            self._work_off(known, None if found is None else found.name)
        if os.path.ismount(path):
            raise BusyError(f"{path} is mounted, and not by the pool {self.name}")
        remove_tree(path)

    def _usage(self, path: Path) -> Usage:
        volume = VolumeId(path.name)
        measured = self.usage([volume])
        if volume not in measured:
            raise FileNotFoundError(path)
        return measured[volume]

    def _complete(self, volume: VolumeId) -> Record:
        record, path = super()._complete(volume), self.path(volume)
        if not os.path.ismount(path):  # after a start of the host, or by hand
            with contextlib.suppress(MissingDatasetError):
                self._mount(self._name(volume))
        return record

    def _made_before(self, volume: VolumeId, manifest: Manifest) -> bool:
        made = super()._made_before(volume, manifest)
        if not made and datasets.exists(self._name(volume)):
            raise BusyError(f"{self._name(volume)} exists and has no manifest: it is not ours and is left alone")
        return made

    def _dataset(self) -> str:
        """Return the pool's dataset.

        Raises:
            UnsupportedError: none is named, and the path is not on ZFS.

        """
        if self._named is not None or self._found is not None:
            return self._named or self._found or ""
        place = datasets.holding(existing(self._place))
        if place is None:
            raise UnsupportedError(
                f"the pool {self.name} at {self._path} is not on ZFS", hint="name a dataset for it, or use driver: auto"
            )
        below = self._place.relative_to(place.point).parts
        return "/".join((place.source, "-".join(below))) if below else place.source

    @property
    def _place(self) -> Path:
        """The pool's path as the kernel names it: without symlinks."""
        return self._path.resolve()

    def _name(self, volume: VolumeId) -> str:
        return f"{self._dataset()}/volumes/{self._pool.volume(volume).name}"

    def _mounted(self) -> Mount | None:
        """Return the mount of the pool, None when there is none.

        Raises:
            ConfigError: something else is mounted at its path.

        """
        mount = mounted_at(self._place)
        if mount is not None and (mount.kind not in datasets.FILE_SYSTEMS or mount.source != self._dataset()):
            if self._named is not None:
                raise ConfigError(
                    f"the pool {self.name}: at {self._path} is {mount.source}, not the dataset {self._named}"
                )
            return None
        return mount

    def _check_new(self, root: str) -> None:
        """Check that the dataset can be made and mounted, without hiding anything; nobody used the pool before."""
        if self._pool.known:
            raise UnavailableError(
                f"the dataset {root} of the pool {self.name} does not exist, or its ZFS pool is not imported",
                reason="PoolUnavailable",
                hint="zpool import; nothing of it is deleted or rebuilt meanwhile",
            )
        above = root.rpartition("/")[0] or root
        if not datasets.exists(above):
            raise UnavailableError(
                f"the pool {self.name}: there is no dataset {above}, or its ZFS pool is not imported",
                reason="PoolUnavailable",
                hint="zpool import, zfs create, or correct dataset in the configuration",
            )
        self._check_empty(root)

    def _check_empty(self, root: str) -> None:
        if self._path.is_dir() and any(self._path.iterdir()):
            raise UnavailableError(
                f"{self._path} is not empty; mounting the dataset {root} would hide what lies there",
                reason="PoolUnavailable",
                hint="move it away",
            )

    def _mount_pool(self) -> None:
        """Have the pool's dataset mounted at its path; make it where nobody used the pool before."""
        if self._mounted() is not None:
            return
        root = self._dataset()
        if datasets.exists(root):
            self._check_empty(root)
            datasets.run("mount", root)
        else:
            self._check_filesystem()
            options = (*_POOL_OPTIONS, f"{MADE_FOR}={self._installation}", f"mountpoint={self._place}")
            datasets.run("create", *_options(*options), root)
        if self._mounted() is None:
            raise ConfigError(
                f"the pool {self.name}: the dataset {root} is not mounted at {self._path}",
                hint=f"zfs set mountpoint={self._path} {root}, or correct path",
            )

    def _make_ready(self) -> None:
        """Make the dataset that holds the volumes, or mount what is in it; once for each mount of the pool."""
        mount = self._mounted()
        if mount is None or mount.id == self._ready:
            return
        if mount.kind != "zfs":
            self._mounting = self._changing
        volumes = f"{self._dataset()}/volumes"
        if datasets.exists(volumes):
            for name in datasets.unmounted(volumes):
                with contextlib.suppress(ReconcilerError):  # it says so itself when it is asked for
                    self._mount(name)
        else:
            owner = f"{INSTALLATION}={self._installation}"
            datasets.run("create", "-o", "canmount=off", "-o", owner, volumes)
        self._ready, self._found = mount.id, mount.source

    def _mount(self, name: str) -> None:
        with self._mounting:
            datasets.run("mount", name)

    def _check_mounted(self, path: Path) -> None:
        if not os.path.ismount(path):
            raise UnsupportedError(
                f"the dataset {self._name(VolumeId(path.name))} was made, but is not mounted at {path}",
                hint=f"zfs inherit mountpoint {self._dataset()}/volumes; zfs set mountpoint={self._path} on its parent",
            )

    def _is(self, volume: str, kind: type[Manifest]) -> bool:
        """Return whether a volume is complete and of a kind; not, when that cannot be read."""
        try:
            record = self._pool.manifests.read(VolumeId(volume))
        except UnreadableError:
            return False
        return record is not None and record.state is VolumeState.COMPLETE and isinstance(record.manifest, kind)

    def _require_ours(self, dataset: Dataset) -> None:
        expected = dataset.name.rpartition("/")[2]
        if dataset.volume != expected or dataset.installation != self._installation:
            raise BusyError(
                f"the dataset {dataset.name} is not one of this installation ({VOLUME}, {INSTALLATION}); "
                "it is left alone",
                reason="ForeignVolume",
            )

    def _work_off(self, known: Lineage, doomed: str | None) -> None:
        """Have a dataset gone, and whatever nothing needs any more; of the latter, what is in use stays for later."""
        failed: frozenset[Step] = frozenset()
        while step := next_step(known, doomed, lambda volume: self._is(volume, CloneManifest), failed):
            try:
                known = self._take(step, known)
            except BusyError as error:
                if step.name == doomed and not (isinstance(error, DependentsError) and known.of(doomed)):
                    raise
                failed |= {step}
            else:
                failed = frozenset()

    def _take(self, step: Step, known: Lineage) -> Lineage:
        """Take a step and return what there is then."""
        match step.command:
            case "destroy":
                with contextlib.suppress(MissingDatasetError):
                    datasets.destroy(step.name)
                return known.without(step.name)
            case "hand on":
                heirs = f"{known.root}/deleted"
                if heirs not in known.datasets:
                    owner = f"{INSTALLATION}={self._installation}"
                    datasets.run("create", *_options("canmount=off", "mountpoint=none", owner), heirs)
                heir = f"{heirs}/{secrets.token_hex(8)}"
                datasets.run("clone", "-o", f"{INSTALLATION}={self._installation}", step.name, heir)
                datasets.run("promote", heir)
            case "promote":
                datasets.run("promote", step.name)
            case _:
                assert_never(step.command)
        return datasets.lineage(known.root)

    def _size_properties(self, root: str) -> tuple[str, ...]:
        """Return what this version can tell: zfs-fuse does not know how much was written since a snapshot."""
        try:
            datasets.sizes(root, "written")
        except UnavailableError:
            return ("used",)
        return ("used", "written")


def remove_datasets(path: Path, *, installation: InstallationId) -> tuple[str, ...]:
    """Destroy what this installation made for an empty pool at ``path``; return what is there and not ours, in words.

    Raises:
        UnsupportedError, UnavailableError: as of ZFS.

    """
    mount = mounted_at(path.resolve())
    if mount is None or mount.kind not in datasets.FILE_SYSTEMS:
        return ()
    root = mount.source
    if not datasets.installed():
        return (f"the dataset {root}",)
    for name, key in ((f"{root}/volumes", INSTALLATION), (f"{root}/deleted", INSTALLATION), (root, MADE_FOR)):
        if datasets.own_property(name, key) == installation:
            if name == root and any(path.iterdir()):
                return (f"what is in the dataset {root}",)
            try:
                datasets.destroy_empty(name)
            except BusyError:
                return (f"what is below the dataset {name}",)
        elif name == root:
            return (f"the dataset {root}",)
    return ()


def _options(*settings: str) -> list[str]:
    return [word for one in settings for word in ("-o", one)]
