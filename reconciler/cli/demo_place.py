"""Where the demo plays: a temporary directory with a pool, gone at the end whatever happens.

As root, the pool is a small btrfs in a file, so that the bytes show copy-on-write also
on an ordinary file system. Called by the demo only.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.cli.interruption import interrupt
from reconciler.errors import ReconcilerError
from reconciler.proc import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.host import Host

_POOL_BYTES = 1 << 30
_SPARE_BYTES = 1 << 30
"""What the demo leaves free on the file system of the temporary directory."""
_ATTEMPTS = 5


@contextmanager
def place(*, keep: bool) -> Iterator[Path]:
    """Give a directory that other accounts can pass through; unmount and remove it at the end unless ``keep``."""
    directory = Path(tempfile.mkdtemp(prefix="reconciler-demo-"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        if not keep:
            with _undisturbed():
                _unmount(directory / "pool")
                shutil.rmtree(directory, ignore_errors=True)


def pool_settings(directory: Path) -> dict[str, str]:
    """Return the configuration of the best pool that can be made there without asking for anything."""
    path = str(directory / "pool")
    if os.geteuid() == 0 and _btrfs_can_be_made(directory):
        return {"driver": "btrfs", "path": path, "size": str(_POOL_BYTES)}
    return {"driver": "auto", "path": path}


@contextmanager
def interruptible() -> Iterator[None]:
    """End the demo in an orderly way also at SIGTERM and SIGHUP, as at Ctrl-C."""
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_servers(host: Host) -> None:
    """Stop every server that is left of this host."""
    with _undisturbed():
        for runtime in host.runtimes.values():
            for server in runtime.servers():
                runtime.stop(server)


def _btrfs_can_be_made(directory: Path) -> bool:
    """Whether a loop-backed btrfs works here: the programs, the kernel, loop devices and the room."""
    programs = all(shutil.which(name) for name in ("mkfs.btrfs", "btrfs", "mount", "umount"))
    room = shutil.disk_usage(directory).free > _POOL_BYTES + _SPARE_BYTES
    return programs and room and Path("/dev/loop-control").exists() and _mounts(directory / "trial")


def _mounts(trial: Path) -> bool:
    """Try it with a small file: containers have the programs and yet may not mount."""
    image = trial.with_suffix(".img")
    trial.mkdir()
    try:
        with image.open("wb") as file:
            file.truncate(128 << 20)
        run(["mkfs.btrfs", "--quiet", image])
        run(["mount", "-t", "btrfs", "-o", "loop", image, trial])
        run(["umount", trial])
    except ReconcilerError:
        return False
    finally:
        image.unlink(missing_ok=True)
        if not os.path.ismount(trial):
            trial.rmdir()
    return True


def _unmount(pool: Path) -> None:
    """Unmount the pool; what still holds it open gets a few moments, then it is detached."""
    for attempt in range(_ATTEMPTS):
        if not os.path.ismount(pool):
            return
        try:
            run(["umount", *(["--lazy"] if attempt == _ATTEMPTS - 1 else []), pool], timeout=30)
        except ReconcilerError:
            continue


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let an impatient second Ctrl-C not break the clean-up."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
