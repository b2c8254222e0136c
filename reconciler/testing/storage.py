"""The conformance suite of storage drivers: every promise of ``reconciler.storage.base``.

For authors of drivers. A driver with volumes in a directory needs one method::

    class TestMyDriver(DirectoryStorageConformance):
        def open(self, path, *, installation, pool_id=None):
            return MyStorage(PoolName("default"), path, installation=installation, pool_id=pool_id, reserve=0)

and, where its pools must lie somewhere special, the fixture ``pool_path``. A driver
without directories subclasses :class:`StorageConformance` and says how content is
written, read and interrupted. Needs pytest.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from reconciler import durable
from reconciler.errors import BusyError, ReconcilerError, TransientError, UnavailableError
from reconciler.ids import CloneName, ImageName, InstallationId, Revision, RuntimeName, SnapshotId, VolumeId
from reconciler.state.observed import (
    BuildManifest,
    CloneManifest,
    ClonePhase,
    SnapshotManifest,
    Volume,
    VolumeState,
)
from reconciler.storage.manifests import ManifestStore, Record, encode

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.state.observed import Manifest
    from reconciler.storage.base import Storage

INSTALLATION = InstallationId("0123456789abcdef")
OTHER_INSTALLATION = InstallationId("fedcba9876543210")
MOMENT = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
SNAPSHOT = VolumeId("shop-20261122t020000z-1a2b3c4d")
CLONE = VolumeId("shop-dev.1")
OTHER_CLONE = VolumeId("shop-dev.2")
_REVISION = Revision(f"main@sha1:{'0' * 40}")
_MANY = 1000


def build_manifest(volume: VolumeId = SNAPSHOT, *, installation: InstallationId = INSTALLATION) -> BuildManifest:
    """Return the manifest of a build that becomes the snapshot ``volume``."""
    return BuildManifest(
        installation=installation,
        image=ImageName("shop"),
        snapshot=SnapshotId(volume),
        engine="postgres",
        spec_digest="1a2b3c4d",
        revision=_REVISION,
        started_at=MOMENT,
    )


def snapshot_manifest(volume: VolumeId = SNAPSHOT, *, installation: InstallationId = INSTALLATION) -> SnapshotManifest:
    """Return the manifest of the sealed snapshot ``volume``."""
    return SnapshotManifest(
        installation=installation,
        image=ImageName("shop"),
        snapshot=SnapshotId(volume),
        engine="postgres",
        version="18.1",
        major="18",
        spec_digest="1a2b3c4d",
        input_id="blob:1",
        revision=_REVISION,
        created_at=MOMENT,
        databases=("shop", "Käse"),
        parameters={"work_mem": "64MB"},
    )


def clone_manifest(
    generation: int = 1, *, installation: InstallationId = INSTALLATION, phase: ClonePhase = ClonePhase.CREATING
) -> CloneManifest:
    """Return the manifest of a generation of the clone ``shop-dev``."""
    return CloneManifest(
        installation=installation,
        clone=CloneName("shop-dev"),
        generation=generation,
        phase=phase,
        image=ImageName("shop"),
        snapshot=SnapshotId(SNAPSHOT),
        engine="postgres",
        major="18",
        runtime=RuntimeName("process"),
        port=5601,
        revision=_REVISION,
        created_at=MOMENT,
    )


class StorageConformance(ABC):
    """What every driver keeps."""

    @pytest.fixture
    @abstractmethod
    def storage(self) -> Storage:
        """An empty, prepared pool of ``INSTALLATION``."""

    @abstractmethod
    def write(self, storage: Storage, volume: VolumeId, name: str, data: bytes) -> None:
        """Write a file of a volume."""

    @abstractmethod
    def read(self, storage: Storage, volume: VolumeId, name: str) -> bytes | None:
        """Return a file of a volume, None when there is none."""

    @abstractmethod
    def leave(self, storage: Storage, volume: Volume) -> Storage:
        """Return the storage with ``volume`` in it as a crash would leave it, with data in part."""

    def sealed(self, storage: Storage, data: bytes = b"production") -> None:
        """Make the snapshot ``SNAPSHOT`` with the file ``rows``."""
        storage.create(SNAPSHOT, build_manifest())
        self.write(storage, SNAPSHOT, "rows", data)
        storage.seal(SNAPSHOT, snapshot_manifest())

    def test_new_pool_is_available_and_empty(self, storage: Storage) -> None:
        pool = storage.probe()
        assert (pool.name, pool.available, pool.unknown) == (storage.name, True, ())
        assert 0 < pool.free_bytes <= pool.total_bytes
        assert pool.instant_clones == storage.traits.instant_clones
        assert storage.volumes() == ()

    def test_prepare_gives_the_same_id_again(self, storage: Storage) -> None:
        assert storage.prepare() == storage.prepare() != ""

    def test_created_volume_is_listed_with_its_manifest(self, storage: Storage) -> None:
        assert storage.create(SNAPSHOT, build_manifest()) == storage.path(SNAPSHOT)
        assert storage.volumes() == (Volume(SNAPSHOT, storage.name, VolumeState.COMPLETE, build_manifest()),)

    def test_volumes_are_ordered_by_id(self, storage: Storage) -> None:
        for name in ("zeta.1", "alpha.10", "alpha.2"):
            storage.create(VolumeId(name), clone_manifest())
        assert [volume.id for volume in storage.volumes()] == ["alpha.10", "alpha.2", "zeta.1"]

    def test_sealing_turns_the_build_into_the_snapshot(self, storage: Storage) -> None:
        self.sealed(storage)
        assert storage.volumes() == (Volume(SNAPSHOT, storage.name, VolumeState.COMPLETE, snapshot_manifest()),)

    def test_sealing_again_changes_nothing(self, storage: Storage) -> None:
        self.sealed(storage)
        storage.seal(SNAPSHOT, snapshot_manifest())
        assert [volume.manifest for volume in storage.volumes()] == [snapshot_manifest()]
        assert self.read(storage, SNAPSHOT, "rows") == b"production"

    def test_clone_holds_the_data_of_its_snapshot(self, storage: Storage) -> None:
        self.sealed(storage)
        assert storage.clone(SNAPSHOT, CLONE, clone_manifest()) == storage.path(CLONE)
        assert self.read(storage, CLONE, "rows") == b"production"

    def test_a_write_in_a_clone_is_seen_nowhere_else(self, storage: Storage) -> None:
        self.sealed(storage)
        storage.clone(SNAPSHOT, CLONE, clone_manifest(1))
        storage.clone(SNAPSHOT, OTHER_CLONE, clone_manifest(2))
        self.write(storage, CLONE, "rows", b"changed")
        self.write(storage, CLONE, "more", b"new")
        found = [self.read(storage, volume, "rows") for volume in (SNAPSHOT, CLONE, OTHER_CLONE)]
        assert found == [b"production", b"changed", b"production"]
        assert self.read(storage, OTHER_CLONE, "more") is None

    def test_clones_outlive_their_snapshot(self, storage: Storage) -> None:
        self.sealed(storage)
        storage.clone(SNAPSHOT, CLONE, clone_manifest())
        storage.delete(SNAPSHOT)
        assert self.read(storage, CLONE, "rows") == b"production"
        assert [volume.id for volume in storage.volumes()] == [CLONE]

    def test_only_sealed_volumes_are_cloned(self, storage: Storage) -> None:
        storage.create(SNAPSHOT, build_manifest())
        with pytest.raises(TransientError, match="not sealed"):
            storage.clone(SNAPSHOT, CLONE, clone_manifest())
        assert [volume.id for volume in storage.volumes()] == [SNAPSHOT]

    def test_a_clone_that_is_ready_can_be_cloned_and_one_in_the_making_cannot(self, storage: Storage) -> None:
        self.sealed(storage)
        storage.clone(SNAPSHOT, CLONE, clone_manifest())
        with pytest.raises(TransientError, match="not sealed"):
            storage.clone(CLONE, OTHER_CLONE, clone_manifest(2))
        storage.update(CLONE, clone_manifest(phase=ClonePhase.READY))
        self.write(storage, CLONE, "rows", b"changed")
        storage.clone(CLONE, OTHER_CLONE, clone_manifest(2))
        self.write(storage, CLONE, "rows", b"changed again")
        assert self.read(storage, OTHER_CLONE, "rows") == b"changed"

    def test_absent_volumes_cannot_be_cloned_sealed_or_updated(self, storage: Storage) -> None:
        for attempt in (
            lambda: storage.clone(SNAPSHOT, CLONE, clone_manifest()),
            lambda: storage.seal(SNAPSHOT, snapshot_manifest()),
            lambda: storage.update(CLONE, clone_manifest()),
        ):
            with pytest.raises(TransientError, match="does not exist"):
                attempt()
        assert storage.volumes() == ()

    def test_update_replaces_the_manifest_and_keeps_the_data(self, storage: Storage) -> None:
        self.sealed(storage)
        storage.clone(SNAPSHOT, CLONE, clone_manifest())
        ready = clone_manifest(phase=ClonePhase.READY)
        storage.update(CLONE, ready)
        assert {volume.id: volume.manifest for volume in storage.volumes()}[CLONE] == ready
        assert self.read(storage, CLONE, "rows") == b"production"

    def test_making_a_complete_volume_again_keeps_its_data(self, storage: Storage) -> None:
        self.sealed(storage)
        storage.clone(SNAPSHOT, CLONE, clone_manifest())
        self.write(storage, CLONE, "rows", b"changed")
        storage.clone(SNAPSHOT, CLONE, clone_manifest())
        storage.create(CLONE, clone_manifest())
        assert self.read(storage, CLONE, "rows") == b"changed"

    def test_making_a_complete_volume_with_another_manifest_is_refused(self, storage: Storage) -> None:
        self.sealed(storage)
        storage.clone(SNAPSHOT, CLONE, clone_manifest())
        with pytest.raises(BusyError, match="exists"):
            storage.clone(SNAPSHOT, CLONE, clone_manifest(2))
        with pytest.raises(BusyError, match="exists"):
            storage.create(SNAPSHOT, build_manifest())
        assert self.read(storage, SNAPSHOT, "rows") == b"production"

    @pytest.mark.parametrize("state", [VolumeState.CREATING, VolumeState.DELETING])
    def test_an_interrupted_volume_is_listed_so(self, storage: Storage, state: VolumeState) -> None:
        left = Volume(CLONE, storage.name, state, clone_manifest())
        assert self.leave(storage, left).volumes() == (left,)

    @pytest.mark.parametrize("state", [VolumeState.CREATING, VolumeState.DELETING])
    def test_an_interrupted_volume_is_made_from_the_start_when_repeated(
        self, storage: Storage, state: VolumeState
    ) -> None:
        storage = self.leave(storage, Volume(SNAPSHOT, storage.name, state, build_manifest()))
        storage.create(SNAPSHOT, build_manifest())
        assert self.read(storage, SNAPSHOT, "partial") is None
        self.write(storage, SNAPSHOT, "rows", b"production")
        storage.seal(SNAPSHOT, snapshot_manifest())
        storage = self.leave(storage, Volume(CLONE, storage.name, state, clone_manifest()))
        storage.clone(SNAPSHOT, CLONE, clone_manifest())
        assert (self.read(storage, CLONE, "partial"), self.read(storage, CLONE, "rows")) == (None, b"production")
        assert {volume.state for volume in storage.volumes()} == {VolumeState.COMPLETE}

    @pytest.mark.parametrize("state", [VolumeState.CREATING, VolumeState.DELETING])
    def test_an_interrupted_volume_cannot_be_sealed_cloned_or_updated(
        self, storage: Storage, state: VolumeState
    ) -> None:
        storage = self.leave(storage, Volume(SNAPSHOT, storage.name, state, snapshot_manifest()))
        for attempt in (
            lambda: storage.clone(SNAPSHOT, CLONE, clone_manifest()),
            lambda: storage.seal(SNAPSHOT, snapshot_manifest()),
            lambda: storage.update(SNAPSHOT, snapshot_manifest()),
        ):
            with pytest.raises(TransientError, match=str(state)):
                attempt()

    @pytest.mark.parametrize("state", list(VolumeState))
    def test_a_volume_in_any_state_is_deleted(self, storage: Storage, state: VolumeState) -> None:
        storage = self.leave(storage, Volume(CLONE, storage.name, state, clone_manifest()))
        storage.delete(CLONE)
        assert storage.volumes() == ()

    def test_deleting_what_is_absent_does_nothing(self, storage: Storage) -> None:
        self.sealed(storage)
        storage.delete(CLONE)
        storage.delete(CLONE)
        assert [volume.id for volume in storage.volumes()] == [SNAPSHOT]

    def test_a_deleted_snapshot_is_gone_and_its_name_is_free(self, storage: Storage) -> None:
        self.sealed(storage)
        storage.delete(SNAPSHOT)
        assert storage.volumes() == ()
        self.sealed(storage, b"again")
        assert self.read(storage, SNAPSHOT, "rows") == b"again"

    def test_volumes_of_another_installation_are_left_alone(self, storage: Storage) -> None:
        foreign = clone_manifest(installation=OTHER_INSTALLATION)
        storage = self.leave(storage, Volume(CLONE, storage.name, VolumeState.COMPLETE, foreign))
        self.sealed(storage)
        assert [volume.id for volume in storage.volumes()] == [SNAPSHOT]
        for attempt in (
            lambda: storage.delete(CLONE),
            lambda: storage.create(CLONE, clone_manifest()),
            lambda: storage.clone(SNAPSHOT, CLONE, clone_manifest()),
            lambda: storage.update(CLONE, clone_manifest()),
        ):
            with pytest.raises(BusyError, match="installation"):
                attempt()
        assert self.read(storage, CLONE, "partial") == b"partial"

    def test_usage_of_present_volumes_only(self, storage: Storage) -> None:
        self.sealed(storage, os.urandom(1 << 20))
        storage.clone(SNAPSHOT, CLONE, clone_manifest())
        usage = storage.usage([SNAPSHOT, CLONE, OTHER_CLONE])
        assert set(usage) == {SNAPSHOT, CLONE}
        assert {size.logical_bytes for size in usage.values()} == {1 << 20}
        assert all((size.exclusive_bytes is not None) == storage.traits.exclusive_sizes for size in usage.values())

    def test_the_lock_admits_one_writer(self, storage: Storage) -> None:
        with storage.lock(), pytest.raises(BusyError, match="held by"), storage.lock():
            pass
        with storage.lock():
            assert storage.volumes() == ()

    def test_different_volumes_are_made_in_parallel(self, storage: Storage) -> None:
        self.sealed(storage)
        names = [VolumeId(f"shop-dev.{number}") for number in range(1, 9)]
        start = threading.Barrier(4)

        def work(index: int) -> None:
            start.wait()
            for name in names[index::4]:
                storage.clone(SNAPSHOT, name, clone_manifest())
                self.write(storage, name, "rows", name.encode())

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert [self.read(storage, name, "rows") for name in names] == [name.encode() for name in names]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(storage.delete, names))
        assert [volume.id for volume in storage.volumes()] == [SNAPSHOT]


class DirectoryStorageConformance(StorageConformance):
    """What drivers with volumes in a directory keep besides: the pool's marker, foreign data, files as they were."""

    write_protects = False
    """Whether the file system itself refuses writes to a sealed volume."""
    metadata_bytes = 0
    """By how much ``exclusive_bytes`` may be more than what was written, where metadata is counted."""

    @abstractmethod
    def open(self, path: Path, *, installation: InstallationId, pool_id: str | None = None) -> Storage:
        """Return the driver on the pool at ``path``, without a reserve."""

    @pytest.fixture
    def pool_path(self, tmp_path: Path) -> Path:
        """Where the pool of a test lies; override it for special file systems."""
        return tmp_path / "pool"

    @pytest.fixture
    def storage(self, pool_path: Path) -> Storage:
        storage = self.open(pool_path, installation=INSTALLATION)
        storage.prepare()
        return storage

    def write(self, storage: Storage, volume: VolumeId, name: str, data: bytes) -> None:
        (storage.path(volume) / name).write_bytes(data)

    def read(self, storage: Storage, volume: VolumeId, name: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return (storage.path(volume) / name).read_bytes()
        return None

    def leave(self, storage: Storage, volume: Volume) -> Storage:
        path = storage.path(volume.id)
        _manifest_file(path.parent.parent, volume.id, volume.state, volume.manifest)
        path.mkdir()
        (path / "partial").write_bytes(b"partial")
        return storage

    def count(self, storage: Storage) -> None:
        """Have everything counted that was written, where a file system tells sizes with a delay."""

    def test_looking_at_a_new_pool_writes_nothing(self, pool_path: Path) -> None:
        storage = self.open(pool_path, installation=INSTALLATION)
        assert storage.probe().available
        assert storage.volumes() == ()
        assert not pool_path.exists()

    def test_the_pool_is_found_again_with_everything_in_it(self, storage: Storage, pool_path: Path) -> None:
        self.sealed(storage)
        again = self.open(pool_path, installation=INSTALLATION, pool_id=storage.prepare())
        assert again.volumes() == storage.volumes()
        assert again.prepare() == storage.prepare()

    def test_a_known_pool_without_its_marker_is_unavailable(self, storage: Storage, pool_path: Path) -> None:
        pool_id = storage.prepare()
        empty = pool_path.parent / "not-mounted"
        empty.mkdir()
        away = self.open(empty, installation=INSTALLATION, pool_id=pool_id)
        assert not away.probe().available
        for attempt in (
            away.volumes,
            away.prepare,
            lambda: away.create(SNAPSHOT, build_manifest()),
            lambda: away.delete(SNAPSHOT),
            lambda: away.usage([SNAPSHOT]),
        ):
            with pytest.raises(UnavailableError) as raised:
                attempt()
            assert raised.value.reason == "PoolUnavailable"
        assert list(empty.iterdir()) == []

    def test_another_pool_at_the_path_is_unavailable(self, storage: Storage, pool_path: Path) -> None:
        self.sealed(storage)
        other = self.open(pool_path, installation=INSTALLATION, pool_id="another")
        assert not other.probe().available
        with pytest.raises(UnavailableError, match="another"):
            other.volumes()

    def test_volumes_without_a_marker_are_not_taken_for_a_new_pool(self, storage: Storage, pool_path: Path) -> None:
        self.sealed(storage)
        (pool_path / ".reconciler-pool.json").unlink()
        fresh = self.open(pool_path, installation=INSTALLATION)
        with pytest.raises(UnavailableError, match="no pool marker"):
            fresh.prepare()
        assert not fresh.probe().available

    def test_a_torn_marker_makes_the_pool_unavailable(self, storage: Storage, pool_path: Path) -> None:
        self.sealed(storage)
        (pool_path / ".reconciler-pool.json").write_text('{"pool": "12')
        assert not storage.probe().available
        with pytest.raises(UnavailableError, match="marker"):
            storage.volumes()

    def test_a_second_installation_is_refused(self, storage: Storage, pool_path: Path) -> None:
        self.sealed(storage)
        other = self.open(pool_path, installation=OTHER_INSTALLATION)
        assert not other.probe().available
        for attempt in (other.prepare, other.volumes, lambda: other.delete(SNAPSHOT)):
            with pytest.raises(BusyError, match="two installations on one pool"):
                attempt()
        assert self.read(storage, SNAPSHOT, "rows") == b"production"

    def test_the_lock_names_its_owner(self, storage: Storage, pool_path: Path) -> None:
        other = self.open(pool_path, installation=INSTALLATION)
        with storage.lock(), pytest.raises(BusyError, match=f"process {os.getpid()} on .+ since 2"), other.lock():
            pass

    def test_a_pool_that_is_not_there_cannot_be_locked(self, pool_path: Path) -> None:
        storage = self.open(pool_path, installation=INSTALLATION)
        with pytest.raises(UnavailableError), storage.lock():
            pass

    def test_errors_of_the_work_under_the_lock_pass_through(self, storage: Storage) -> None:
        with pytest.raises(FileExistsError), storage.lock():
            raise FileExistsError
        with storage.lock():
            assert storage.volumes() == ()

    def test_data_without_a_manifest_is_left_alone(self, storage: Storage, pool_path: Path) -> None:
        precious = storage.path(CLONE) / "precious"
        precious.parent.mkdir()
        precious.write_bytes(b"x")
        (pool_path / "notes.txt").write_text("mine")
        storage.delete(CLONE)
        with pytest.raises(BusyError, match="not ours"):
            storage.create(CLONE, clone_manifest())
        assert storage.volumes() == ()
        assert precious.read_bytes() == b"x"
        assert (pool_path / "notes.txt").read_text() == "mine"

    @pytest.mark.parametrize(
        "content", [b"", b'{"state":"complete","mani', b"\0" * 600, b'{"state":"complete"}', b"[]"]
    )
    def test_a_torn_manifest_hides_only_its_own_volume_and_is_kept(
        self, storage: Storage, pool_path: Path, content: bytes
    ) -> None:
        self.sealed(storage)
        storage.clone(SNAPSHOT, CLONE, clone_manifest())
        torn = pool_path / "manifests" / f"{CLONE}.json"
        torn.write_bytes(content)
        pool = storage.probe()
        assert (pool.available, pool.unknown) == (True, (CLONE,))
        assert CLONE in pool.message
        assert [volume.id for volume in storage.volumes()] == [SNAPSHOT]
        for attempt in (
            lambda: storage.delete(CLONE),
            lambda: storage.clone(SNAPSHOT, CLONE, clone_manifest()),
            lambda: storage.update(CLONE, clone_manifest()),
        ):
            with pytest.raises(UnavailableError, match="cannot be read"):
                attempt()
        assert torn.read_bytes() == content
        assert self.read(storage, CLONE, "rows") == b"production"

    def test_many_volumes_are_listed(self, storage: Storage, pool_path: Path) -> None:
        names = [VolumeId(f"shop-{number:05}.1") for number in range(_MANY)]
        for name in names:
            _manifest_file(pool_path, name, VolumeState.COMPLETE, clone_manifest())
        assert [volume.id for volume in storage.volumes()] == names
        storage.update(names[3], clone_manifest(phase=ClonePhase.READY))
        _manifest_file(pool_path, names[4], VolumeState.DELETING, clone_manifest())
        listed = {volume.id: volume for volume in storage.volumes()}
        assert listed[names[3]].manifest == clone_manifest(phase=ClonePhase.READY)
        assert listed[names[4]].state is VolumeState.DELETING

    def test_a_deleted_volume_leaves_no_file(self, storage: Storage, pool_path: Path) -> None:
        self.sealed(storage)
        storage.clone(SNAPSHOT, CLONE, clone_manifest())
        storage.delete(SNAPSHOT)
        storage.delete(CLONE)
        assert list((pool_path / "manifests").iterdir()) == []
        assert list((pool_path / "volumes").iterdir()) == []

    def test_a_volume_that_cannot_be_made_leaves_nothing(self, storage: Storage, pool_path: Path) -> None:
        _manifest_file(pool_path, SNAPSHOT, VolumeState.COMPLETE, snapshot_manifest())
        with pytest.raises(ReconcilerError):
            storage.clone(SNAPSHOT, CLONE, clone_manifest())
        assert [volume.id for volume in storage.volumes()] == [SNAPSHOT]
        assert not storage.path(CLONE).exists()

    def test_others_may_pass_through_but_not_look(self, storage: Storage, pool_path: Path) -> None:
        path = storage.create(SNAPSHOT, build_manifest())
        modes = [
            stat.S_IMODE(place.stat().st_mode) for place in (pool_path, path.parent, pool_path / "manifests", path)
        ]
        assert modes == [0o711, 0o711, 0o700, 0o700]

    def test_ids_cannot_leave_the_pool(self, storage: Storage) -> None:
        for name in ("", ".", "..", "../x", "a/b", ".hidden", "A", "x" * 300):
            with pytest.raises(ValueError, match="not a volume id"):
                storage.path(VolumeId(name))

    def test_a_sealed_volume_is_write_protected_where_the_driver_says_so(self, storage: Storage) -> None:
        self.sealed(storage)
        if not self.write_protects:
            return
        with pytest.raises(OSError, match="Read-only"):
            self.write(storage, SNAPSHOT, "rows", b"changed")

    def test_clones_keep_names_modes_and_times(self, storage: Storage) -> None:
        root = storage.create(SNAPSHOT, build_manifest())
        deep = root.joinpath(*(f"ebene-{number}" for number in range(60)))
        deep.mkdir(parents=True)
        names = ("Straße 東京 🐘", "with\nnewline", "-rf", "x" * 200)
        for number, name in enumerate(names):
            (deep / name).write_bytes(name.encode())
            (deep / name).chmod(0o600 + number)
            os.utime(deep / name, ns=(10**18, 10**18 + number))
        (deep / names[0]).chmod(0o4750)
        (root / "empty").mkdir(mode=0o750)
        storage.seal(SNAPSHOT, snapshot_manifest())
        clone = storage.clone(SNAPSHOT, CLONE, clone_manifest())
        assert _tree(clone) == _tree(root)
        assert len(_tree(clone)) == 1 + 60 + len(names) + 1

    def test_clones_keep_symlinks_and_never_follow_them(self, storage: Storage, pool_path: Path) -> None:
        outside = pool_path / "outside"
        outside.mkdir()
        (outside / "secret").write_bytes(b"secret")
        root = storage.create(SNAPSHOT, build_manifest())
        (root / "directory").symlink_to(outside)
        (root / "file").symlink_to(outside / "secret")
        (root / "dangling").symlink_to("nowhere")
        storage.seal(SNAPSHOT, snapshot_manifest())
        clone = storage.clone(SNAPSHOT, CLONE, clone_manifest())
        links = {entry.name: str(entry.readlink()) for entry in clone.iterdir()}
        assert links == {"directory": str(outside), "file": str(outside / "secret"), "dangling": "nowhere"}
        assert storage.usage([CLONE])[CLONE].logical_bytes == 0
        storage.delete(CLONE)
        storage.delete(SNAPSHOT)
        assert (outside / "secret").read_bytes() == b"secret"

    def test_clones_keep_hard_links(self, storage: Storage) -> None:
        root = storage.create(SNAPSHOT, build_manifest())
        (root / "a").mkdir()
        (root / "a" / "first").write_bytes(b"12345")
        (root / "second").hardlink_to(root / "a" / "first")
        storage.seal(SNAPSHOT, snapshot_manifest())
        clone = storage.clone(SNAPSHOT, CLONE, clone_manifest())
        assert (clone / "a" / "first").samefile(clone / "second")
        (clone / "second").write_bytes(b"changed")
        assert (root / "second").read_bytes() == b"12345"
        assert storage.usage([SNAPSHOT])[SNAPSHOT].logical_bytes == len(b"12345")

    def test_clones_keep_holes(self, storage: Storage) -> None:
        root = storage.create(SNAPSHOT, build_manifest())
        with (root / "sparse").open("wb") as file:
            file.seek(20 << 20)
            file.write(b"middle")
            file.truncate(40 << 20)
        storage.seal(SNAPSHOT, snapshot_manifest())
        clone = storage.clone(SNAPSHOT, CLONE, clone_manifest())
        assert (clone / "sparse").read_bytes() == (root / "sparse").read_bytes()
        assert (clone / "sparse").stat().st_blocks * 512 < 1 << 20

    def test_exclusive_bytes_are_what_a_clone_wrote(self, storage: Storage) -> None:
        size, written = 4 << 20, 1 << 20
        self.sealed(storage, os.urandom(size))
        path = storage.clone(SNAPSHOT, CLONE, clone_manifest())
        shared = 0 if storage.traits.instant_clones else size
        assert shared <= self._exclusive(storage) <= shared + self.metadata_bytes
        with (path / "rows").open("r+b") as file:
            file.write(os.urandom(written))
        expected = max(shared, written)
        assert expected <= self._exclusive(storage) <= expected + self.metadata_bytes

    def _exclusive(self, storage: Storage) -> int:
        self.count(storage)
        return storage.usage([CLONE])[CLONE].exclusive_bytes or 0


def _manifest_file(pool: Path, volume: VolumeId, state: VolumeState, manifest: Manifest) -> None:
    # as drivers do: a file of its own, since times of files may be as coarse as the kernel's clock
    durable.write(ManifestStore(pool / "manifests").file(volume), encode(Record(state, manifest)), settle=False)


def _tree(root: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    """Return everything below ``root`` with mode, owner, time and content."""
    found = {}
    for path in (root, *root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        key = str(path.relative_to(root))
        found[key] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content)
    return found
