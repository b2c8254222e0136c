"""Fixtures that several test directories share, and what was not tested, said at the end.

A session (or a worker of it) has a temporary directory of its own, so that nothing
stays behind. Loop-backed file systems are made there once per session and are unmounted
when it ends; what a killed session left is unmounted and removed by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import fresh
from tests.support import DAY, MEMORY, WORLDS, end_installations, new_world
from tests.zfs import destroy_all, ended_when_stuck, turn, zfs_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _pytest.terminal import TerminalReporter

    from tests.support import World

pytest.register_assert_rewrite("reconciler.testing.storage")

_SESSIONS = "rec-"
_MOUNTS = "mounts"


def pytest_configure() -> None:
    """Fix the day for the whole session, its workers included."""
    os.environ.setdefault(DAY, str(date.today().toordinal()))  # noqa: DTZ011 - the same one everywhere is enough


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``root`` when this is somebody else."""
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root") is not None:
                item.add_marker(pytest.mark.skip(reason="needs root: loop devices, other accounts"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name a test that failed at once: of a run that is cut off, nothing else would be known."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        crash = getattr(report.longrepr, "reprcrash", None)
        print(f"\nFAILED {report.nodeid}: {crash.message.splitlines()[0] if crash else report.when}", flush=True)  # noqa: T201 - that is its purpose


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: TerminalReporter) -> Iterator[None]:
    """Say last of all, one line each, what was missing and how many tests that cost."""
    yield
    missing = Counter(_missing(report) for report in terminalreporter.stats.get("skipped", ()))
    if missing:
        terminalreporter.section("NOT TESTED ON THIS HOST", yellow=True)
    for reason, tests in missing.most_common():
        terminalreporter.line(f"{tests} skipped: {reason}", yellow=True)


def _missing(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why something was skipped, without the details after the colon."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ").partition(": ")[0]


def require_root(*programs: str) -> None:
    """Skip the test, with the reason, unless this is root and the programs are installed."""
    if os.geteuid() != 0:
        pytest.skip("needs root: loop devices are mounted")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program} (packages btrfs-progs, xfsprogs, mount)")


class LoopMounts:
    """Makes file systems in files and mounts them; ``close`` takes all of it back."""

    def __init__(self) -> None:
        self._root = Path(tempfile.gettempdir(), _MOUNTS)
        self._root.mkdir()
        self._root.chmod(0o755)
        self._mounted: list[Path] = []

    def make(self, name: str, megabytes: int, *mkfs: str, options: str = "loop") -> Path:
        image, mountpoint = self._root / f"{name}.img", self._root / name
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        mountpoint.mkdir()
        _run(*mkfs, str(image))
        result = subprocess.run(["mount", "-o", options, image, mountpoint], capture_output=True, check=False)
        if result.returncode != 0:
            pytest.skip(f"cannot mount loop devices here: {result.stderr.decode().strip()}")
        self._mounted.append(mountpoint)
        return mountpoint

    @property
    def root(self) -> Path:
        """The directory that holds everything, on the host's own file system."""
        return self._root

    def unmount(self, mountpoint: Path) -> None:
        """Unmount at once what a test or the tested code mounted below ``root``."""
        unmount(mountpoint)

    def close(self) -> None:
        for mountpoint in reversed(self._mounted):
            unmount(mountpoint)
        shutil.rmtree(self._root, ignore_errors=True)


def unmount(mountpoint: Path) -> None:
    """Unmount, also while something still has files open there."""
    while os.path.ismount(mountpoint):
        if subprocess.run(["umount", mountpoint], capture_output=True, check=False).returncode != 0:
            _run("umount", "--lazy", str(mountpoint))


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_directory() -> Iterator[None]:
    """Have everything temporary, also of programs that tests start, in one directory that goes with the session."""
    before = os.environ.get("TMPDIR")
    remove_leftovers()
    own = Path(tempfile.mkdtemp(prefix=f"{_SESSIONS}{os.getpid()}-"))  # short: sockets lie below it
    own.chmod(0o1777)  # as /tmp is: tests run programs under other accounts
    os.environ["TMPDIR"], tempfile.tempdir = str(own), str(own)
    (own / "fresh").mkdir(mode=0o755)
    fresh.install(own / "fresh")
    try:
        yield
    finally:
        tempfile.tempdir = None
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
        shutil.rmtree(own, ignore_errors=True)


@pytest.fixture(scope="session")
def loop_mounts() -> Iterator[LoopMounts]:
    """A maker of loop-backed file systems (root only)."""
    require_root("mount", "umount", "losetup")
    mounts = LoopMounts()
    try:
        yield mounts
    finally:
        mounts.close()


@pytest.fixture(scope="session")
def btrfs_root(loop_mounts: LoopMounts) -> Path:
    """A btrfs of 768 MiB, shared by the session's tests."""
    require_root("mkfs.btrfs")
    return loop_mounts.make("btrfs", 768, "mkfs.btrfs", "--quiet", options="loop,noatime")


@pytest.fixture(scope="session")
def xfs_root(loop_mounts: LoopMounts) -> Path:
    """An XFS with reflinks of 512 MiB, shared by the session's tests."""
    require_root("mkfs.xfs")
    return loop_mounts.make("xfs", 512, "mkfs.xfs", "-q", "-m", "reflink=1", options="loop,noatime")


@pytest.fixture
def btrfs_path(btrfs_root: Path) -> Path:
    """A directory of the test's own on btrfs."""
    return Path(tempfile.mkdtemp(dir=btrfs_root))


@pytest.fixture
def xfs_path(xfs_root: Path) -> Path:
    """A directory of the test's own on XFS with reflinks."""
    return Path(tempfile.mkdtemp(dir=xfs_root))


@pytest.fixture(scope="session")
def zfs_root() -> Iterator[Path]:
    """Where a ZFS pool of 768 MiB is mounted, shared by the session's tests."""
    with zfs_pool(Path(tempfile.gettempdir())) as mountpoint:
        yield mountpoint


@pytest.fixture
def zfs_path(zfs_root: Path) -> Iterator[Path]:
    """A directory of the test's own on ZFS; datasets that are made for what is below it go with the test."""
    with turn(), ended_when_stuck():
        path = Path(tempfile.mkdtemp(dir=zfs_root, prefix="t"))
        yield path
        destroy_all(path)


@pytest.fixture
def world() -> Iterator[World]:
    """A whole installation of a test's own, gone with all its processes when the test ends."""
    made = new_world()
    try:
        yield made
    finally:
        made.close()


def remove_leftovers() -> None:
    """End and take back what sessions that were killed left running, mounted and lying about."""
    for place in {Path(tempfile.gettempdir()), MEMORY}:
        if not place.is_dir():
            continue
        with _held(place):
            for leftover in filter(_is_left, place.iterdir()):
                end_installations(leftover)
                for mountpoint in _mounted_below(leftover):
                    unmount(mountpoint)
                shutil.rmtree(leftover, ignore_errors=True)


def _is_left(path: Path) -> bool:
    """Return whether a directory is of a process of tests that is gone, and ours to remove."""
    named = re.match(rf"(?:{_SESSIONS}|{WORLDS})(\d+)-", path.name)
    if named is None or Path("/proc", named[1]).exists():
        return False
    try:
        return path.is_dir() and path.stat().st_uid == os.geteuid()
    except FileNotFoundError:  # it goes while we look
        return False


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Lock a directory: workers start at once, and two that unmount the same thing fail each other."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _mounted_below(directory: Path) -> list[Path]:
    """Return the mount points below a directory, the latest mount first."""
    mounted = [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [mountpoint for mountpoint in reversed(mounted) if mountpoint.is_relative_to(directory)]


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)
