"""A btrfs of its own for a pool on an ordinary file system: one file, mounted over a loop device.

Used by the btrfs driver when the host's configuration gives the pool a size. Root
only. The file lies beside the pool's directory (``<path>.btrfs``), is allocated up
front, and is never made again for a pool that is known: a missing file is a pool that
is away.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.errors import CommandError, RefusedError, UnavailableError, UnsupportedError
from reconciler.state.observed import ObservedPool
from reconciler.status import words
from reconciler.storage import linux
from reconciler.storage.room import filesystem_room

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.ids import PoolName

SMALLEST = 256 << 20
"""Bytes below which btrfs has no useful room left after its own structures."""
_MOUNT_OPTIONS = "loop,noatime,nodiscard"
"""Reading must not write times into clones, and deleting must not punch holes into the file."""
_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class LoopFile:
    """Where the file system is mounted, and its size in bytes when it is made."""

    mountpoint: Path
    size: int

    @property
    def file(self) -> Path:
        """The file that holds the file system."""
        return self.mountpoint.with_name(f"{self.mountpoint.name}.btrfs")

    def made(self) -> bool:
        """Return whether the file exists."""
        return self.file.is_file()

    def mounted(self) -> bool:
        """Return whether a btrfs is mounted there."""
        return os.path.ismount(self.mountpoint) and linux.filesystem_type(self.mountpoint) == linux.BTRFS_MAGIC

    def future(self, name: PoolName) -> ObservedPool:
        """Return the pool as it will be once it is made."""
        return ObservedPool(
            name,
            "btrfs",
            available=True,
            message=f"{self.file} is made and mounted at first use",
            total_bytes=self.size,
            free_bytes=self.size,
            instant_clones=True,
        )

    def mount(self, *, make: bool) -> None:
        """Mount the file system unless it is; make it first when ``make`` allows and it is not there.

        Raises:
            UnsupportedError: this process is not root, or a program is missing.
            RefusedError: there is no room for the file (with figures).
            UnavailableError: the file is gone, or mounting failed.

        """
        if self.mounted():
            return
        if os.geteuid() != 0:
            raise UnsupportedError(
                f"mounting the pool {self.mountpoint} from {self.file} needs root",
                hint="run as root, or use driver: auto without a size",
            )
        if not self.made():
            if not make:
                raise UnavailableError(f"the file {self.file} that holds a pool is gone", reason="PoolUnavailable")
            self._make()
        self.mountpoint.mkdir(parents=True, exist_ok=True)
        if any(self.mountpoint.iterdir()):
            raise UnavailableError(
                f"{self.mountpoint} is not empty; mounting {self.file} would hide what lies there",
                reason="PoolUnavailable",
                hint="move it away",
            )
        self._run("mount", "-t", "btrfs", "-o", _MOUNT_OPTIONS, self.file, self.mountpoint)

    def unmake(self) -> None:
        """Unmount the file system and remove its file, with everything in it.

        Raises:
            UnavailableError: it is in use.

        """
        if self.mounted():
            self._run("umount", self.mountpoint)
        self.file.unlink(missing_ok=True)

    def _make(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        room = filesystem_room(self.file.parent)
        if self.size < SMALLEST:
            raise RefusedError(f"a btrfs pool needs at least {words.size(SMALLEST)}, not {words.size(self.size)}")
        temporary = self.file.with_name(f"{self.file.name}.new")
        temporary.unlink(missing_ok=True)
        if room.free <= self.size:
            raise self._no_room(room.free)
        try:
            self._allocate(temporary)
            self._run("mkfs.btrfs", "--quiet", "--nodiscard", "--metadata", "single", "--data", "single", temporary)
            temporary.rename(self.file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _allocate(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(fd, 0, self.size)
            os.fsync(fd)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise self._no_room(filesystem_room(path.parent).free) from error
            raise
        finally:
            os.close(fd)

    def _no_room(self, free: int) -> RefusedError:
        return RefusedError(
            f"no room for the pool file {self.file}: needs {words.size(self.size)}, free {words.size(free)}",
            reason="PoolFull",
            hint="make the pool's size smaller, or put it on another disk",
        )

    def _run(self, *argv: str | Path) -> None:
        try:
            proc.run(argv, timeout=_TIMEOUT)
        except CommandError as error:
            raise UnavailableError(
                f"cannot set up the pool at {self.mountpoint}: {error.message}", reason="PoolUnavailable"
            ) from error
