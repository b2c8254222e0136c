"""Every operation is killed with SIGKILL before every system call that changes something, then repeated."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pytest

from reconciler.ids import PoolName
from reconciler.runtimes.leftovers import end_leftover_tools
from reconciler.state.observed import ClonePhase, SnapshotManifest, VolumeState
from reconciler.storage.btrfs import BtrfsStorage
from reconciler.storage.copy import CopyStorage
from reconciler.storage.reflink import ReflinkStorage
from reconciler.testing.storage import (
    CLONE,
    INSTALLATION,
    SNAPSHOT,
    build_manifest,
    clone_manifest,
    snapshot_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

    from _typeshed import ProfileFunction

    from reconciler.storage.base import Storage
    from reconciler.storage.directory import DirectoryStorage

    Step = Callable[[DirectoryStorage], object]

AnyStorage = TypeVar("AnyStorage", bound="Storage")
_SYSTEM_MODULES = {"posix", "fcntl", "_ctypes"}
"""Of ``_ctypes`` the preparation of an argument counts, which comes right before a call through it."""
_WITHOUT_EFFECT = {
    "close",
    "fsencode",
    "fspath",
    "fstat",
    "get_errno",
    "getpid",
    "listdir",
    "lseek",
    "lstat",
    "pread",
    "read",
    "readlink",
    "scandir",
    "sizeof",
    "stat",
    "statvfs",
}
_ENOUGH = 5000


@dataclass(frozen=True)
class Operation:
    """What is killed, what must be there before, and how to get back to that."""

    run: Step
    before: tuple[Step, ...]
    back: tuple[Step, ...]


def create(storage: DirectoryStorage) -> None:
    storage.create(SNAPSHOT, build_manifest())


def fill(storage: DirectoryStorage) -> None:
    directory = storage.path(SNAPSHOT) / "data"
    directory.mkdir()
    (directory / "rows").write_bytes(b"production")


def seal(storage: DirectoryStorage) -> None:
    storage.seal(SNAPSHOT, snapshot_manifest())


def clone(storage: DirectoryStorage) -> None:
    storage.clone(SNAPSHOT, CLONE, clone_manifest())


def make_ready(storage: DirectoryStorage) -> None:
    storage.update(CLONE, clone_manifest(phase=ClonePhase.READY))


def drop_clone(storage: DirectoryStorage) -> None:
    storage.delete(CLONE)


def drop_snapshot(storage: DirectoryStorage) -> None:
    storage.delete(SNAPSHOT)


OPERATIONS = {
    "create": Operation(create, (), (drop_snapshot,)),
    "seal": Operation(seal, (create, fill), (drop_snapshot, create, fill)),
    "clone": Operation(clone, (create, fill, seal), (drop_clone,)),
    "update": Operation(make_ready, (create, fill, seal, clone), (drop_clone, clone)),
    "delete": Operation(drop_clone, (create, fill, seal, clone), (clone,)),
}
DRIVERS: dict[str, type[DirectoryStorage]] = {"copy": CopyStorage, "reflink": ReflinkStorage, "btrfs": BtrfsStorage}


@pytest.fixture(
    params=[
        "copy",
        pytest.param("btrfs", marks=pytest.mark.root),
        pytest.param("reflink", marks=pytest.mark.root),
    ]
)
def storage(request: pytest.FixtureRequest) -> DirectoryStorage:
    places = {"copy": "tmp_path", "reflink": "xfs_path", "btrfs": "btrfs_path"}
    path: Path = request.getfixturevalue(places[request.param])
    return reopened(request.param, path / "pool")


def reopened(driver: str, path: Path) -> DirectoryStorage:
    storage = DRIVERS[driver](PoolName("default"), path, installation=INSTALLATION, reserve=0)
    storage.prepare()
    return storage


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_killed_before_any_system_call_and_repeated_it_ends_the_same(storage: DirectoryStorage, name: str) -> None:
    operation = OPERATIONS[name]
    pool = storage.path(SNAPSHOT).parent.parent
    for step in operation.before:
        step(storage)
    operation.run(storage)
    expected = storage.volumes()
    for call in range(1, _ENOUGH):
        for step in operation.back:
            step(storage)
        survived = killed_by(killer(call), operation.run, storage)
        storage = reopened(storage.driver, pool)
        check_what_is_left(storage, pool)
        operation.run(storage)
        assert storage.volumes() == expected
        check_what_is_left(storage, pool)
        if survived:
            assert call > len(operation.before), "nothing was killed"
            break
    else:
        pytest.fail("the operation never came to its end")
    with storage.lock():
        assert [path.name for path in (pool / "manifests").iterdir() if path.suffix != ".json"] == []


def check_what_is_left(
    storage: DirectoryStorage, pool: Path, *, states: frozenset[VolumeState] = frozenset({VolumeState.COMPLETE})
) -> None:
    """Nothing is orphaned, nothing is torn, what is called complete is, and a clone's snapshot is in ``states``."""
    assert storage.probe().unknown == ()
    volumes = {volume.id: volume for volume in storage.volumes()}
    assert {path.name for path in (pool / "volumes").iterdir()} <= set(volumes)
    for volume in volumes.values():
        if volume.state is VolumeState.COMPLETE and volume.manifest.kind != "build":
            assert (storage.path(volume.id) / "data" / "rows").read_bytes() == b"production"
        source = volumes.get(SNAPSHOT)
        if volume.id == CLONE and source is not None and isinstance(source.manifest, SnapshotManifest):
            assert source.state in states


def killed_by(killing: ProfileFunction, run: Callable[[AnyStorage], object], storage: AnyStorage) -> bool:
    """Run a step in a child that a profiler kills; return whether it ended before that.

    Its tools are ended as by whoever opens the host next.
    """
    child = os.fork()
    if child == 0:
        try:
            sys.setprofile(killing)
            run(storage)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in {0, -signal.SIGKILL}
    end_leftover_tools()
    return status == 0


def killer(number: int) -> ProfileFunction:
    """Return a profiler that ends the process before the given call into the operating system."""
    left = number

    def profile(_: FrameType, event: str, function: object) -> None:
        nonlocal left
        if event != "c_call" or getattr(function, "__module__", None) not in _SYSTEM_MODULES:
            return
        if getattr(function, "__name__", "") not in _WITHOUT_EFFECT:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return profile
