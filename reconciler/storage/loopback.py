"""A btrfs of its own for a pool on an ordinary file system: one file, mounted over a loop device.

Used by the btrfs driver when the host's configuration gives the pool a size. Root
only. The file lies beside the pool's directory (``<path>.btrfs``), is allocated up
front, grows with the configured size while the pool is in use, and is never made
smaller, and never made again for a pool that is known: a missing file is a pool that is
away.

Every step can be cut off and done again: a device that was attached for the file is
taken up instead of a second one, and growing compares what there is with what is asked
for, at each place: the file, its device, the file system.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.errors import CommandError, RefusedError, UnavailableError, UnsupportedError
from reconciler.state.observed import ObservedPool
from reconciler.status import words
from reconciler.storage import linux
from reconciler.storage.mounts import mounted_at
from reconciler.storage.room import filesystem_room

if TYPE_CHECKING:
    from reconciler.ids import PoolName

SMALLEST = 256 << 20
"""Bytes below which btrfs has no useful room left after its own structures."""
_MOUNT_OPTIONS = "noatime,nodiscard"
"""Reading must not write times into clones, and deleting must not punch holes into the file."""
_SECTOR = 4096
"""Bytes of a sector of the device: btrfs uses no smaller ones, and disks with larger ones than 512 take no direct I/O
of those (loop_set_dio in drivers/block/loop.c)."""
_GRAIN = 64 << 10
"""Bytes by which a file system may be smaller than its file: whole sectors of btrfs, the largest that there are."""
_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class LoopFile:
    """Where the file system is mounted, and the size in bytes that the configuration gives it."""

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
            self._let_go()
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
        device = self._attach()
        self._run("mount", "-t", "btrfs", "-o", _MOUNT_OPTIONS, device, self.mountpoint)
        self._detach(device)

    def grow(self) -> None:
        """Make the file system as large as configured, while it is in use; nothing where it is not mounted.

        Raises:
            RefusedError: there is no room for that (with figures).
            UnavailableError: another file system is mounted, or a step failed.

        """
        if not (self.mounted() and self._is_short()):
            return
        device = self._device()
        self._extend()
        self._run("losetup", "--set-capacity", device)
        self._run("btrfs", "filesystem", "resize", "max", self.mountpoint)

    def refusal(self) -> str:
        """Return why the mounted file system cannot have the configured size; empty when it has that, or will.

        Raises:
            UnavailableError: another file system is mounted.

        """
        size, free = self.file.stat().st_size, filesystem_room(self.file.parent).free
        if size - self.size >= _GRAIN:
            return (
                f"{self.file} has {words.size(size)} and is not made smaller: "
                f"give size that instead of {words.size(self.size)}, or move to another pool"
            )
        if not self._is_short():
            return ""
        self._device()
        return self._does_not_fit(self.size - size, free).message if self.size - size >= free else ""

    def pending(self) -> str:
        """Return when the mounted file system will have the configured size; empty when it has that.

        Who holds the pool grows it before looking at it, so this is told by others: they read
        the configuration of now, and a loop that of its start.
        """
        if not self._is_short():
            return ""
        return f"{self.file} grows to {words.size(self.size)} when the loop is restarted"

    def unmake(self) -> None:
        """Unmount the file system and remove its file, with everything in it.

        Raises:
            UnavailableError: it is in use.

        """
        if self.mounted():
            self._run("umount", self.mountpoint)
        if self.made():
            self._release()
        self.file.unlink(missing_ok=True)

    def _is_short(self) -> bool:
        return self.size - filesystem_room(self.mountpoint).total >= _GRAIN

    def _extend(self) -> None:
        """Allocate what the file lacks; where that fails, it is as long as before."""
        fd = os.open(self.file, os.O_RDWR)
        try:
            before = os.fstat(fd).st_size
            if before < self.size:
                self._allocate(fd, before)
        finally:
            os.close(fd)

    def _attach(self) -> str:
        """Return a device for the file: the one that there is, if a process died after making it."""
        options = ("--find", "--show", "--nooverlap", "--sector-size", str(_SECTOR))
        device = self._run("losetup", *options, self.file).strip()
        with suppress(CommandError):  # the kernel, or the file system below, does not offer it
            proc.run(["losetup", "--direct-io=on", device], timeout=_TIMEOUT)
        return device

    def _device(self) -> str:
        """Return the loop device of the file, which is mounted.

        Raises:
            UnavailableError: something else is.

        """
        mount = mounted_at(self.mountpoint.resolve())
        source = mount.source if mount is not None else "nothing"
        if source not in self._devices():
            raise UnavailableError(
                f"{self.mountpoint} is mounted from {source}, not from {self.file}", reason="PoolUnavailable"
            )
        return source

    def _devices(self) -> list[str]:
        """Return the loop devices that are attached to the file."""
        return self._run("losetup", "--associated", self.file, "--noheadings", "--output", "NAME").split()

    def _let_go(self) -> None:
        """Detach the mounted device where a process died between mounting and that."""
        mount = mounted_at(self.mountpoint.resolve())
        if mount is not None and _outlives_its_mount(mount.source) and mount.source in self._devices():
            self._detach(mount.source)

    def _release(self) -> None:
        """Detach devices that a process which died left attached to the file: they would hold its blocks."""
        for device in self._devices():
            self._detach(device)

    def _detach(self, device: str) -> None:
        """Have a device go as soon as nothing uses it: when it is unmounted."""
        with suppress(CommandError):  # it is going already
            proc.run(["losetup", "--detach", device], timeout=_TIMEOUT)

    def _make(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if self.size < SMALLEST:
            raise RefusedError(f"a btrfs pool needs at least {words.size(SMALLEST)}, not {words.size(self.size)}")
        temporary = self.file.with_name(f"{self.file.name}.new")
        temporary.unlink(missing_ok=True)
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                self._allocate(fd, 0)
            finally:
                os.close(fd)
            self._run("mkfs.btrfs", "--quiet", "--nodiscard", "--metadata", "single", "--data", "single", temporary)
            temporary.rename(self.file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _allocate(self, fd: int, before: int) -> None:
        """Allocate what a file of ``before`` bytes lacks; where that fails, it is as long as before."""
        missing, free = self.size - before, filesystem_room(self.file.parent).free
        if missing >= free:
            raise self._does_not_fit(missing, free)
        try:
            os.posix_fallocate(fd, before, missing)
        except OSError as error:
            os.ftruncate(fd, before)
            if error.errno == errno.ENOSPC:
                raise self._does_not_fit(missing, filesystem_room(self.file.parent).free) from error
            raise
        os.fsync(fd)

    def _does_not_fit(self, missing: int, free: int) -> RefusedError:
        return RefusedError(
            f"no room for {words.size(self.size)} in {self.file}: needs {words.size(missing)}, free {words.size(free)}",
            reason="PoolFull",
            hint="make the pool's size smaller, or put it on another disk",
        )

    def _run(self, *argv: str | Path) -> str:
        try:
            return proc.run(argv, timeout=_TIMEOUT).text
        except CommandError as error:
            raise UnavailableError(
                f"cannot set up the pool at {self.mountpoint}: {error.message}", reason="PoolUnavailable"
            ) from error


def _outlives_its_mount(device: str) -> bool:
    """Whether a device is a loop device that stays when it is unmounted."""
    try:
        return Path("/sys/class/block", Path(device).name, "loop", "autoclear").read_text().strip() == "0"
    except OSError:
        return False
