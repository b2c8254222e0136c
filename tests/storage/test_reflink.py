from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import RefusedError, UnsupportedError
from reconciler.ids import InstallationId, PoolName, VolumeId
from reconciler.state.observed import VolumeState
from reconciler.storage import linux
from reconciler.storage.copy import CopyStorage
from reconciler.storage.reflink import ReflinkStorage
from reconciler.testing.storage import (
    CLONE,
    INSTALLATION,
    SNAPSHOT,
    DirectoryStorageConformance,
    build_manifest,
    clone_manifest,
    snapshot_manifest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.storage.base import Storage


@pytest.mark.root
class TestReflinkStorage(DirectoryStorageConformance):
    def open(self, path: Path, *, installation: InstallationId, pool_id: str | None = None) -> Storage:
        return ReflinkStorage(PoolName("default"), path, installation=installation, pool_id=pool_id, reserve=0)

    @pytest.fixture
    def pool_path(self, xfs_path: Path) -> Path:
        return xfs_path / "pool"

    def test_a_full_disk_refuses_and_leaves_nothing_half_made(self, storage: Storage) -> None:
        self.sealed(storage, os.urandom(1 << 20))
        ballast = storage.path(SNAPSHOT).parent.parent / "ballast"
        try:
            fill(ballast)
            with pytest.raises(RefusedError, match="free"):
                clone_often(storage, 100_000)
            volumes = storage.volumes()
            assert {volume.state for volume in volumes} == {VolumeState.COMPLETE}
            assert {volume.id for volume in volumes} == {path.name for path in storage.path(SNAPSHOT).parent.iterdir()}
            for volume in volumes:
                storage.delete(volume.id)
        finally:
            ballast.unlink(missing_ok=True)
        assert storage.volumes() == ()


def clone_often(storage: Storage, times: int) -> None:
    for number in range(times):
        storage.clone(SNAPSHOT, VolumeId(f"dev.{number}"), clone_manifest())


def fill(path: Path) -> None:
    """Take all room that is left, down to single blocks."""
    with path.open("wb") as file:
        size = 64 << 20
        while size >= 4096:
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
            except OSError:
                size //= 2


def test_a_file_system_without_shared_blocks_is_refused(tmp_path: Path) -> None:
    if linux.can_share_blocks(tmp_path):
        pytest.skip("the temporary directory is on a file system that shares blocks")
    storage = ReflinkStorage(PoolName("default"), tmp_path / "pool", installation=INSTALLATION)
    assert not storage.probe().available
    with pytest.raises(UnsupportedError, match="cannot share blocks"):
        storage.prepare()
    assert not (tmp_path / "pool").exists()


def test_a_clone_never_becomes_a_copy_in_silence(tmp_path: Path) -> None:
    if linux.can_share_blocks(tmp_path):
        pytest.skip("the temporary directory is on a file system that shares blocks")
    copies = CopyStorage(PoolName("default"), tmp_path / "pool", installation=INSTALLATION, reserve=0)
    (copies.create(SNAPSHOT, build_manifest()) / "rows").write_bytes(b"production")
    copies.seal(SNAPSHOT, snapshot_manifest())
    storage = ReflinkStorage(PoolName("default"), tmp_path / "pool", installation=INSTALLATION, reserve=0)
    with pytest.raises(UnsupportedError):
        storage.clone(SNAPSHOT, CLONE, clone_manifest())
    assert [volume.id for volume in storage.volumes()] == [SNAPSHOT]
    assert not storage.path(CLONE).exists()
