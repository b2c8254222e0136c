from __future__ import annotations

import os
import subprocess
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import pytest

from reconciler.errors import BusyError, RefusedError, UnsupportedError
from reconciler.ids import InstallationId, PoolName, VolumeId
from reconciler.state.observed import Volume, VolumeState
from reconciler.storage import subvolumes
from reconciler.storage.btrfs import BtrfsStorage
from reconciler.testing.storage import (
    CLONE,
    INSTALLATION,
    OTHER_CLONE,
    SNAPSHOT,
    DirectoryStorageConformance,
    build_manifest,
    clone_manifest,
    snapshot_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reconciler.storage.base import Storage


class Mounts(Protocol):
    """What the full-disk test needs of the session's loop mounts."""

    def make(self, name: str, megabytes: int, *mkfs: str) -> Path: ...


pytestmark = pytest.mark.root


def open_btrfs(path: Path, *, reserve: str | int = 0) -> BtrfsStorage:
    storage = BtrfsStorage(PoolName("default"), path, installation=INSTALLATION, reserve=reserve)
    storage.prepare()
    return storage


class TestBtrfsStorage(DirectoryStorageConformance):
    write_protects = True

    def open(self, path: Path, *, installation: InstallationId, pool_id: str | None = None) -> Storage:
        return BtrfsStorage(PoolName("default"), path, installation=installation, pool_id=pool_id, reserve=0)

    @pytest.fixture
    def pool_path(self, btrfs_path: Path) -> Path:
        return btrfs_path / "pool"

    def test_nested_subvolumes_are_removed_with_their_volume(self, storage: Storage) -> None:
        path = storage.create(SNAPSHOT, build_manifest())
        subvolumes.create(path / "inner")
        (path / "inner" / "directory").mkdir()
        subvolumes.create(path / "inner" / "directory" / "innermost")
        (path / "inner" / "directory" / "innermost" / "file").write_bytes(b"x")
        subvolumes.set_read_only(path / "inner" / "directory" / "innermost", read_only=True)
        storage.delete(SNAPSHOT)
        assert not path.exists()

    def test_a_volume_with_nested_subvolumes_is_not_sealed(self, storage: Storage) -> None:
        path = storage.create(SNAPSHOT, build_manifest())
        subvolumes.create(path / "inner")
        with pytest.raises(BusyError, match="subvolumes inside"):
            storage.seal(SNAPSHOT, snapshot_manifest())
        assert [volume.manifest for volume in storage.volumes()] == [build_manifest()]

    def test_an_interrupted_snapshot_is_made_again(self, storage: Storage) -> None:
        self.sealed(storage)
        storage = self.leave(storage, Volume(CLONE, storage.name, VolumeState.CREATING, clone_manifest()))
        (storage.path(CLONE) / "partial").unlink()
        storage.path(CLONE).rmdir()
        subvolumes.snapshot(storage.path(SNAPSHOT), storage.path(CLONE))
        (storage.path(CLONE) / "partial").write_bytes(b"partial")
        storage.clone(SNAPSHOT, CLONE, clone_manifest())
        assert self.read(storage, CLONE, "partial") is None

    def test_a_seal_that_was_cut_off_before_the_manifest_is_repeated(self, storage: Storage) -> None:
        path = storage.create(SNAPSHOT, build_manifest())
        subvolumes.set_read_only(path, read_only=True)
        storage.seal(SNAPSHOT, snapshot_manifest())
        assert [volume.manifest for volume in storage.volumes()] == [snapshot_manifest()]

    def test_usage_agrees_with_the_btrfs_program(self, storage: Storage) -> None:
        root = storage.create(SNAPSHOT, build_manifest())
        for number in range(20):
            (root / f"file-{number}").write_bytes(os.urandom(300_000 + number * 4096))
        storage.seal(SNAPSHOT, snapshot_manifest())
        clone = storage.clone(SNAPSHOT, CLONE, clone_manifest())
        for number in range(5):
            with (clone / f"file-{number}").open("r+b") as file:
                file.seek(8192 * number)
                file.write(os.urandom(8192 * 3))
        (clone / "new").write_bytes(os.urandom(100_000))
        (clone / "small").write_bytes(b"inline")
        measured = storage.usage([SNAPSHOT, CLONE])
        for volume in (SNAPSHOT, CLONE):
            assert measured[volume].exclusive_bytes == exclusive_by_program(storage.path(volume))


def exclusive_by_program(path: Path) -> int:
    output = subprocess.run(
        ["btrfs", "filesystem", "du", "--raw", "--summarize", path], capture_output=True, check=True, text=True
    ).stdout
    return int(output.splitlines()[-1].split()[1])


def test_a_path_on_another_file_system_is_refused(tmp_path: Path) -> None:
    storage = BtrfsStorage(PoolName("default"), tmp_path / "pool", installation=INSTALLATION)
    assert not storage.probe().available
    with pytest.raises(UnsupportedError, match="not on btrfs"):
        storage.prepare()
    assert not (tmp_path / "pool").exists()


def test_work_that_would_eat_the_reserve_is_refused_with_figures(btrfs_path: Path) -> None:
    storage = open_btrfs(btrfs_path / "pool", reserve="99.9%")
    with pytest.raises(RefusedError, match=r"free .+ of .+ reserved"):
        storage.create(SNAPSHOT, build_manifest())
    assert storage.volumes() == ()
    pool = storage.probe()
    assert pool.available
    assert pool.reserve_bytes > pool.free_bytes


def test_a_full_disk_refuses_new_work_and_is_freed_by_deleting(loop_mounts: Mounts) -> None:
    mountpoint = loop_mounts.make("btrfs-small", 128, "mkfs.btrfs", "--quiet", "--mixed")
    storage = open_btrfs(mountpoint / "pool")
    root = storage.create(SNAPSHOT, build_manifest())
    (root / "rows").write_bytes(os.urandom(1 << 20))
    storage.seal(SNAPSHOT, snapshot_manifest())
    clone = storage.clone(SNAPSHOT, CLONE, clone_manifest())
    with pytest.raises(OSError, match="No space left"):
        write_forever(clone / "fill")
    with pytest.raises(RefusedError, match="free"):
        clone_often(storage, 200)
    assert {volume.state for volume in storage.volumes()} == {VolumeState.COMPLETE}
    storage.delete(CLONE)
    assert CLONE not in {volume.id for volume in storage.volumes()}
    subprocess.run(["btrfs", "subvolume", "sync", mountpoint], check=True, capture_output=True)
    storage.clone(SNAPSHOT, OTHER_CLONE, clone_manifest(2))
    assert (storage.path(OTHER_CLONE) / "rows").stat().st_size == 1 << 20


def write_forever(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(os.urandom(1 << 20))


def clone_often(storage: Storage, times: int) -> None:
    for number in range(times):
        storage.clone(SNAPSHOT, VolumeId(f"more.{number}"), clone_manifest())


def test_free_room_counts_what_metadata_can_index(btrfs_path: Path) -> None:
    storage = open_btrfs(btrfs_path / "pool")
    room = subvolumes.metadata_room(btrfs_path)
    pool = storage.probe()
    assert 0 < pool.free_bytes <= 32 * (room.within + room.unallocated)


def test_an_ordinary_user_can_seal_clone_and_delete(btrfs_path: Path) -> None:
    """Destroying subvolumes needs rights that an ordinary user lacks; emptying them does not."""
    for parent in (btrfs_path, btrfs_path.parent):
        parent.chmod(0o777)

    def story() -> None:
        storage = open_btrfs(btrfs_path / "pool")
        root = storage.create(SNAPSHOT, build_manifest())
        (root / "rows").write_bytes(b"production")
        storage.seal(SNAPSHOT, snapshot_manifest())
        clone = storage.clone(SNAPSHOT, CLONE, clone_manifest())
        (clone / "rows").write_bytes(b"changed")
        subvolumes.create(clone / "inner")
        assert (root / "rows").read_bytes() == b"production"
        storage.delete(CLONE)
        storage.delete(SNAPSHOT)
        assert list(root.parent.iterdir()) == []

    assert run_as_nobody(story) == 0
    assert open_volumes_of(btrfs_path / "pool") == ()


def run_as_nobody(story: Callable[[], None]) -> int:
    """Run ``story`` in a child process under another account and return its exit code."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            story()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a child of pytest must not return into it
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def open_volumes_of(path: Path) -> tuple[Volume, ...]:
    return BtrfsStorage(PoolName("default"), path, installation=INSTALLATION).volumes()


def test_clones_are_made_in_parallel(btrfs_path: Path) -> None:
    storage = open_btrfs(btrfs_path / "pool")
    root = storage.create(SNAPSHOT, build_manifest())
    (root / "rows").write_bytes(b"production")
    storage.seal(SNAPSHOT, snapshot_manifest())
    names = [VolumeId(f"dev.{number}") for number in range(15)]
    with ThreadPoolExecutor(15) as pool:
        paths = list(pool.map(lambda name: storage.clone(SNAPSHOT, name, clone_manifest()), names))
    assert {(path / "rows").read_bytes() for path in paths} == {b"production"}
