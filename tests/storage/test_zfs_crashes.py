"""Every operation on ZFS is killed before every command and before every change of a file, then repeated."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from reconciler import proc
from reconciler.ids import PoolName
from reconciler.state.observed import ClonePhase, VolumeState
from reconciler.storage.zfs import ZfsStorage
from reconciler.testing.storage import CLONE, INSTALLATION, OTHER_CLONE, SNAPSHOT, clone_manifest
from tests.storage.test_crashes import (
    OPERATIONS,
    Operation,
    check_what_is_left,
    clone,
    create,
    drop_clone,
    drop_snapshot,
    fill,
    killed_by,
    make_ready,
    seal,
)
from tests.zfs import below, dataset_at

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    from _typeshed import ProfileFunction

    from reconciler.storage.directory import DirectoryStorage

pytestmark = [pytest.mark.root, pytest.mark.long]

_CHANGES = {"chmod", "fchmod", "fsync", "ftruncate", "link", "mkdir", "pwrite", "rename", "rmdir", "unlink"}
_GATEWAY = proc.__file__
_ENOUGH = 200


def copy(storage: DirectoryStorage) -> None:
    storage.clone(CLONE, OTHER_CLONE, clone_manifest(2, phase=ClonePhase.READY))


def drop_copy(storage: DirectoryStorage) -> None:
    storage.delete(OTHER_CLONE)


def drop_all(storage: DirectoryStorage) -> None:
    for volume in (OTHER_CLONE, CLONE, SNAPSHOT):
        storage.delete(volume)


_MADE = (create, fill, seal, clone, make_ready)
_OPERATIONS = {
    **OPERATIONS,
    "copy of what is in use": Operation(copy, _MADE, (drop_copy,)),
    "delete what one clone depends on": Operation(drop_snapshot, _MADE, (drop_all, *_MADE)),
    "delete what is in between": Operation(drop_clone, (*_MADE, copy), (drop_all, *_MADE, copy)),
}


@pytest.mark.parametrize("name", list(_OPERATIONS))
def test_killed_before_any_command_and_repeated_it_ends_the_same(zfs_path: Path, name: str) -> None:
    operation, pool = _OPERATIONS[name], zfs_path / "pool"
    storage = reopened(pool)
    for step in operation.before:
        step(storage)
    operation.run(storage)
    expected, left = storage.volumes(), shape(pool)
    for call in range(1, _ENOUGH):
        for step in operation.back:
            step(storage)
        survived = killed_by(killer(call), operation.run, storage)
        storage = reopened(pool)
        check_what_is_left(storage, pool, states=frozenset(VolumeState))
        operation.run(storage)
        assert (storage.volumes(), shape(pool)) == (expected, left)
        check_what_is_left(storage, pool)
        if survived:
            assert call > 1, "nothing was killed"
            break
    else:
        pytest.fail("the operation never came to its end")


def reopened(path: Path) -> ZfsStorage:
    storage = ZfsStorage(PoolName("default"), path, installation=INSTALLATION, reserve=0)
    storage.prepare()
    return storage


def shape(pool: Path) -> list[str]:
    """Return every dataset and snapshot of a pool; heirs, which have names of their own each time, by their place."""
    root = dataset_at(pool)
    names = [name.removeprefix(f"{root}/") for name in below(root)]
    return sorted(f"heir{name[24:]}" if name.startswith("deleted/") else name for name in names)


def killer(number: int) -> ProfileFunction:
    """Return a profiler that ends the process before the given change, be it of a file or by a command."""
    left = number

    def profile(frame: FrameType, event: str, function: object) -> None:
        nonlocal left
        called = getattr(function, "__name__", "")
        if event != "c_call" or called not in {*_CHANGES, "fork_exec"}:
            return
        if called == "fork_exec" or not within_gateway(frame):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return profile


def within_gateway(frame: FrameType | None) -> bool:
    """Return whether a call is one of those by which a command is run: they leave nothing."""
    while frame is not None:
        if frame.f_code.co_filename == _GATEWAY:
            return True
        frame = frame.f_back
    return False
