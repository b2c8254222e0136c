from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.ids import InstallationId, PoolName
from reconciler.storage.lineage import INSTALLATION as OWNER
from reconciler.storage.lineage import VOLUME
from reconciler.storage.manifests import ManifestStore, Record
from reconciler.storage.zfs import ZfsStorage
from reconciler.testing.storage import CLONE, INSTALLATION, DirectoryStorageConformance
from tests.zfs import dataset_at, zfs

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.state.observed import Volume
    from reconciler.storage.base import Storage

pytestmark = pytest.mark.root


def opened(path: Path, *, reserve: str | int = 0, dataset: str | None = None, known: str | None = None) -> ZfsStorage:
    return ZfsStorage(
        PoolName("default"), path, installation=INSTALLATION, pool_id=known, reserve=reserve, dataset=dataset
    )


class TestZfsStorage(DirectoryStorageConformance):
    write_protects = True
    metadata_bytes = 128 << 10

    def open(self, path: Path, *, installation: InstallationId, pool_id: str | None = None) -> Storage:
        return ZfsStorage(PoolName("default"), path, installation=installation, pool_id=pool_id, reserve=0)

    @pytest.fixture
    def pool_path(self, zfs_path: Path) -> Path:
        return zfs_path / "pool"

    def leave(self, storage: Storage, volume: Volume) -> Storage:
        """Make the dataset as well, with the properties that the driver gives it."""
        pool = storage.path(volume.id).parent.parent
        ManifestStore(pool / "manifests").write(volume.id, Record(volume.state, volume.manifest))
        owner = f"{OWNER}={volume.manifest.installation}"
        zfs("create", "-o", f"{VOLUME}={volume.id}", "-o", owner, f"{dataset_at(pool)}/volumes/{volume.id}")
        self.write(storage, volume.id, "partial", b"partial")
        return storage

    def count(self, storage: Storage) -> None:
        """End the transaction group: each change of a property waits for one."""
        zfs("set", "tests:counted=yes", dataset_at(storage.path(CLONE)))
