from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import UnsupportedError
from reconciler.ids import InstallationId, PoolName
from reconciler.storage.copy import CopyStorage
from reconciler.testing import storage as conformance

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.storage.base import Storage


class TestCopyStorage(conformance.DirectoryStorageConformance):
    def open(self, path: Path, *, installation: InstallationId, pool_id: str | None = None) -> Storage:
        return CopyStorage(PoolName("default"), path, installation=installation, pool_id=pool_id, reserve=0)

    def test_sockets_are_left_out_and_pipes_refused(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        root = storage.create(conformance.SNAPSHOT, conformance.build_manifest())
        monkeypatch.chdir(root)  # the whole path may be too long for a socket
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s")
        storage.seal(conformance.SNAPSHOT, conformance.snapshot_manifest())
        clone = storage.clone(conformance.SNAPSHOT, conformance.CLONE, conformance.clone_manifest())
        assert list(clone.iterdir()) == []
        os.mkfifo(root / "pipe")
        with pytest.raises(UnsupportedError, match="pipe"):
            storage.clone(conformance.SNAPSHOT, conformance.OTHER_CLONE, conformance.clone_manifest(2))
        assert not storage.path(conformance.OTHER_CLONE).exists()
