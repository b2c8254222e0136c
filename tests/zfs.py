"""ZFS for the tests: a pool on a file, served by the kernel or by a zfs-fuse of the tests' own.

    with zfs_pool(directory) as mountpoint:
        zfs("snapshot", f"{dataset_at(mountpoint)}@one")

The socket of zfs-fuse has a fixed place, so there is one daemon on a host. Workers share
it: each holds a shared lock on a file while it uses it, and who could lock it alone ends
the daemon, by its pid. What a killed session left running is ended by the next one.
zfs-fuse ends itself when a pool is full, has no ``.zfs``, and of two file systems that
are mounted at once it may lose one: so tests take turns. The kernel's ZFS has all right.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCK = Path("/run/lock/reconciler-tests-zfs.lock")
_TURN = Path("/run/lock/reconciler-tests-zfs.turn")
_SOCKET = Path("/run/zfs/zfs_socket")
_KERNEL = Path("/dev/zfs")
_MEGABYTES = 768
_PATIENCE_SECONDS = 30.0
_STUCK_SECONDS = 240.0
_children: dict[int, subprocess.Popen[bytes]] = {}
"""Daemons that this process started, by pid: to be reaped by it."""


@contextmanager
def zfs_pool(directory: Path) -> Iterator[Path]:
    """Make a pool of this process's own and return where it is mounted; skips the test where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("needs root: datasets are mounted")
    if shutil.which("zpool") is None:
        pytest.skip("needs ZFS (package zfs-fuse)")
    name, file, mountpoint = f"rectest{os.getpid()}", directory / "zfs.img", directory / "zfs"
    with _service():
        with file.open("wb") as sparse:
            sparse.truncate(_MEGABYTES << 20)
        with turn():
            made = _run("zpool", "create", "-f", "-o", "cachefile=none", "-m", str(mountpoint), name, str(file))
        if made.returncode != 0:
            pytest.skip(f"cannot make a pool of ZFS here: {made.stderr}")
        try:
            mountpoint.chmod(0o755)
            yield mountpoint
        finally:
            with turn():
                _run("zpool", "destroy", "-f", name)
            file.unlink()


@contextmanager
def turn() -> Iterator[None]:
    """Be the only one of all workers that has something mounted or unmounted."""
    with _TURN.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def ended_when_stuck() -> Iterator[None]:
    """Kill a zfs-fuse that a test waits for in vain: its mounts then fail, and so does the test."""

    def kill() -> None:
        with _LOCK.open("r") as lock:
            process = _recorded(lock.fileno())
        if process is not None:
            process.kill()

    watch = threading.Timer(_STUCK_SECONDS, kill)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def zfs(*words: str) -> str:
    """Run ``zfs`` and return what it prints."""
    done = _run("zfs", *words)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def dataset_at(path: Path) -> str:
    """Return the dataset that is mounted at a path."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    point = str(path).replace(" ", "\\040")
    return next(words[words.index("-") + 2] for words in reversed(mounts) if words[4] == point)


def destroy_all(path: Path) -> None:
    """Destroy what was made for a directory of the pool's root, and for all below it."""
    prefix = f"{dataset_at(path.parent)}/{path.name}"
    listed = zfs("list", "-H", "-o", "name").splitlines()
    for name in listed:
        if name.startswith(prefix) and name.count("/") == 1:
            _run("zfs", "destroy", "-R", "-f", name)


def below(dataset: str) -> list[str]:
    """Return the names of all datasets and snapshots below one."""
    return zfs("list", "-H", "-t", "filesystem,snapshot", "-o", "name", "-r", dataset).splitlines()[1:]


def shown_states(mountpoint: Path) -> Iterator[Path]:
    """Yield the directory of every snapshot that a dataset shows; zfs-fuse shows them as clones only."""
    shown = mountpoint / ".zfs" / "snapshot"
    if shown.is_dir():
        yield from sorted(shown.iterdir())
        return
    dataset = dataset_at(mountpoint)
    pool, _, _ = dataset.partition("/")
    for snapshot in [name for name in below(dataset) if name.startswith(f"{dataset}@")]:
        look = f"{pool}/look-{time.monotonic_ns()}"
        zfs("clone", snapshot, look)
        try:
            yield Path(zfs("get", "-H", "-o", "value", "mountpoint", look).strip())
        finally:
            zfs("unmount", look)
            _patiently("zfs", "destroy", look)


def _patiently(*argv: str) -> None:
    """Run a command until it is taken: a dataset is busy for a moment after it was unmounted."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while _run(*argv).returncode != 0:
        assert time.monotonic() < deadline, argv
        time.sleep(0.02)


@contextmanager
def _service() -> Iterator[None]:
    """Have somebody answer ``zfs``: the kernel, or one zfs-fuse for all workers."""
    _LOCK.parent.mkdir(exist_ok=True)
    if _KERNEL.exists():
        yield
        return
    with _LOCK.open("a+") as lock:
        if _locked_alone(lock.fileno()):
            _start(lock.fileno())
        fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            yield
        finally:
            if _locked_alone(lock.fileno()):
                _end(_recorded(lock.fileno()))
                os.ftruncate(lock.fileno(), 0)


def _locked_alone(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(descriptor: int) -> None:
    """Start a daemon, unless one that is not ours runs already; records its pid in the lock's file."""
    _end(_recorded(descriptor))
    os.ftruncate(descriptor, 0)
    if _answers():
        return
    if shutil.which("zfs-fuse") is None:
        pytest.skip("needs the kernel's ZFS, or zfs-fuse (package zfs-fuse)")
    argv = ["zfs-fuse", "--no-daemon"]
    null = subprocess.DEVNULL
    process = subprocess.Popen(argv, stdin=null, stdout=null, stderr=null, start_new_session=True, cwd="/")
    _children[process.pid] = process
    started = psutil.Process(process.pid).create_time()
    os.pwrite(descriptor, f"{process.pid} {started}".encode(), 0)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not _answers():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.skip("needs zfs-fuse, which does not start here")
        time.sleep(0.05)


def _answers() -> bool:
    return _run("zfs", "list").returncode == 0


def _recorded(descriptor: int) -> psutil.Process | None:
    """Return the daemon that the lock's file names, if that very process is alive."""
    words = os.pread(descriptor, 100, 0).split()
    with contextlib.suppress(psutil.NoSuchProcess, ValueError):
        if words and (process := psutil.Process(int(words[0]))).create_time() == float(words[1]):
            return process
    return None


def _end(process: psutil.Process | None) -> None:
    if process is None:
        return
    process.send_signal(signal.SIGTERM)
    child = _children.pop(process.pid, None)
    if child is not None:
        child.wait(_PATIENCE_SECONDS)
    else:
        psutil.wait_procs([process], timeout=_PATIENCE_SECONDS)
    _SOCKET.unlink(missing_ok=True)


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
