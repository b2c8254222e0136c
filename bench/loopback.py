"""What a pool costs that has a file of its own: pgbench on it, against btrfs on the device that the file lies on.

The same device in turns: btrfs itself, or ext4 with a pool on it that the product made and
mounted. Without ``--device`` it is a new one in memory (zram), which answers at once, so
that every cost of the loop shows that a disk would hide.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.figures import Figure, Options, SkippedError, in_turns
from bench.installation import size_of, unmount
from bench.traffic import Production
from reconciler.ids import InstallationId, PoolName
from reconciler.storage.select import PoolSettings, open_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

SCALES = {"quick": 1, "default": 20, "full": 100}
"""Of pgbench; 100 is 1.5 GB."""
_SECONDS = {"quick": 2.0, "default": 30.0, "full": 120.0}
_POOL_GIB = {"quick": 1, "default": 3, "full": 8}
_SPARE_GIB = 1
"""What ext4 needs besides the pool's file."""
_SHARE = 0.85
"""Of the transactions that the device itself does."""
_PORT = 25_590
_PATIENCE = 60.0
_CONTROL = Path("/sys/class/zram-control")


def run(options: Options) -> list[Figure]:
    """Measure both a few times, each on a file system that is made anew."""
    size = size_of(options)
    if os.geteuid() != 0:
        raise SkippedError("needs root: file systems are made and mounted")
    for program in ("mkfs.btrfs", "mkfs.ext4", "losetup"):
        if shutil.which(program) is None:
            raise SkippedError(f"needs the program {program} (packages btrfs-progs, e2fsprogs, mount)")
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reconciler-bench-")))
        place.chmod(0o711)
        gibibytes = _POOL_GIB[size]
        device = options.device or stack.enter_context(_in_memory((gibibytes + _SPARE_GIB) << 30))
        ours, floor = in_turns(
            1 if options.quick else options.repetitions,
            lambda: _on_a_file(device, place / "ext4", gibibytes << 30, size),
            lambda: _on_the_device(device, place / "btrfs", size),
        )
    note = f"{1 / ours:.0f} and {1 / floor:.0f} transactions a second, on {device}"
    name = "a transaction of pgbench on a loop-backed pool on ext4, against btrfs on the device"
    return [Figure(name, ours, floor, 1 / _SHARE, note=note)]


@contextmanager
def _in_memory(size: int) -> Iterator[Path]:
    """Make a block device of ``size`` bytes in memory, for the block."""
    if not _CONTROL.exists():
        raise SkippedError("needs a block device that may be overwritten (--device), or zram in this kernel")
    number = (_CONTROL / "hot_add").read_text().strip()
    try:
        Path(f"/sys/block/zram{number}/disksize").write_text(str(size))
        yield Path(f"/dev/zram{number}")
    finally:
        _await_free(Path(f"/dev/zram{number}"))
        (_CONTROL / "hot_remove").write_text(number)


def _await_free(device: Path) -> None:
    """Wait until nothing is mounted of a device any more, in no namespace: containers that start take copies along."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            os.close(os.open(device, os.O_RDWR | os.O_EXCL))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _on_the_device(device: Path, mountpoint: Path, size: str) -> float:
    _await_free(device)
    _run("mkfs.btrfs", "--quiet", "--force", "--metadata", "single", device)
    with _mounted("btrfs", device, mountpoint):
        return _seconds_of_a_transaction(mountpoint / "server", size)


def _on_a_file(device: Path, mountpoint: Path, room: int, size: str) -> float:
    _await_free(device)
    _run("mkfs.ext4", "-q", "-F", "-m", "0", device)
    with _mounted("ext4", device, mountpoint):
        settings = PoolSettings(path=mountpoint / "pool", driver="btrfs", size=room)
        open_pool(PoolName("bench"), settings, installation=InstallationId("bench"), known_pool_id=None).prepare()
        try:
            return _seconds_of_a_transaction(settings.path / "server", size)
        finally:
            unmount(settings.path)


def _seconds_of_a_transaction(root: Path, size: str) -> float:
    production = Production(root, SCALES[size], _PORT)
    with production.running():
        return 1 / production.capacity(_SECONDS[size])


@contextmanager
def _mounted(kind: str, device: Path, mountpoint: Path) -> Iterator[None]:
    mountpoint.mkdir(exist_ok=True)
    _run("mount", "-t", kind, "-o", "noatime", device, mountpoint)
    mountpoint.chmod(0o711)
    try:
        yield
    finally:
        unmount(mountpoint)


def _run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, capture_output=True)
