"""Directories in which tests let the btrfs driver make and mount pools of its own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Mounts(Protocol):
    """What these fixtures need of the session's loop mounts."""

    @property
    def root(self) -> Path: ...

    def unmount(self, mountpoint: Path) -> None: ...


@pytest.fixture
def loop_directory(loop_mounts: Mounts) -> Iterator[Path]:
    """An empty directory; what is mounted in it is unmounted after the test."""
    directory = Path(tempfile.mkdtemp(dir=loop_mounts.root, prefix="pools-"))
    yield directory
    for path in directory.iterdir():
        if os.path.ismount(path):
            loop_mounts.unmount(path)


@pytest.fixture
def unmounted(loop_mounts: Mounts) -> Callable[[Path], None]:
    """A function that unmounts a directory."""
    return loop_mounts.unmount
