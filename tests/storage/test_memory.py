from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from reconciler.errors import RefusedError
from reconciler.ids import PoolName, VolumeId
from reconciler.state.observed import Volume, VolumeState
from reconciler.storage.memory import MemoryStorage
from reconciler.testing.storage import (
    CLONE,
    INSTALLATION,
    SNAPSHOT,
    StorageConformance,
    build_manifest,
    clone_manifest,
)

if TYPE_CHECKING:
    from reconciler.storage.base import Storage


class TestMemoryStorage(StorageConformance):
    @pytest.fixture
    def storage(self) -> Storage:
        return MemoryStorage(PoolName("default"), installation=INSTALLATION)

    def write(self, storage: Storage, volume: VolumeId, name: str, data: bytes) -> None:
        cast("MemoryStorage", storage).write(volume, name, data)

    def read(self, storage: Storage, volume: VolumeId, name: str) -> bytes | None:
        try:
            return cast("MemoryStorage", storage).read(volume, name)
        except KeyError:
            return None

    def leave(self, storage: Storage, volume: Volume) -> Storage:
        cast("MemoryStorage", storage).put(volume, {"partial": b"partial"})
        return storage

    def test_sealed_volumes_are_not_written(self, storage: Storage) -> None:
        self.sealed(storage)
        with pytest.raises(PermissionError):
            self.write(storage, SNAPSHOT, "rows", b"changed")


def test_a_full_pool_refuses_writes() -> None:
    storage = MemoryStorage(PoolName("default"), installation=INSTALLATION, total_bytes=10)
    storage.create(SNAPSHOT, build_manifest())
    with pytest.raises(RefusedError, match="needs 11 of 10"):
        storage.write(SNAPSHOT, "rows", b"x" * 11)


def test_ten_thousand_volumes_to_begin_with() -> None:
    volumes = [
        Volume(VolumeId(f"dev-{number:05}.1"), PoolName("default"), VolumeState.COMPLETE, clone_manifest())
        for number in range(10_000)
    ]
    storage = MemoryStorage(PoolName("default"), installation=INSTALLATION, volumes=reversed(volumes))
    assert storage.volumes() == tuple(volumes)
    assert CLONE not in {volume.id for volume in storage.volumes()}
