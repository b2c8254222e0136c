"""A pool with a file system of its own: made to grow, mounted with direct I/O, and whole whenever it was killed."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import BusyError, UnavailableError
from reconciler.host import open_host
from reconciler.ids import PoolName
from reconciler.loop import Reconciler
from reconciler.spec.config import Config
from reconciler.storage.mounts import mounted_at
from reconciler.storage.select import PoolSettings, open_pool, remove_pool
from reconciler.testing.storage import (
    CLONE,
    INSTALLATION,
    SNAPSHOT,
    build_manifest,
    clone_manifest,
    snapshot_manifest,
)
from tests.conftest import require_root
from tests.storage.test_crashes import killed_by, killer
from tests.support import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reconciler.host import Host
    from reconciler.state.observed import ObservedPool
    from reconciler.storage.base import Storage
    from reconciler.view import View
    from tests.conftest import LoopMounts

pytestmark = pytest.mark.root

SIZE = 256 << 20
STEP = 4 << 20
ENOUGH = 500


class Pool:
    """A pool with a snapshot in a directory of its own, opened as often as hosts are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.with_name(f"{path.name}.btrfs")
        self.identity: str | None = None
        self.identity = self.opened(SIZE).prepare()
        storage = self.opened(SIZE)
        (storage.create(SNAPSHOT, build_manifest()) / "rows").write_bytes(b"production")
        storage.seal(SNAPSHOT, snapshot_manifest())

    def opened(self, size: int) -> Storage:
        settings = PoolSettings(path=self.path, driver="btrfs", size=size, reserve=0)
        return open_pool(PoolName("default"), settings, installation=INSTALLATION, known_pool_id=self.identity)

    def prepared(self, size: int) -> Storage:
        storage = self.opened(size)
        storage.prepare()
        return storage

    def room(self, size: int) -> tuple[int, str]:
        """Return how large a pool is, and what of its size is refused."""
        probed = self.probed(size)
        return probed.total_bytes, probed.refusal

    def probed(self, size: int) -> ObservedPool:
        """Return what somebody sees who has this size in the configuration and only looks."""
        probed = self.opened(size).probe()
        assert probed.available, probed.message
        return probed

    def devices(self) -> list[str]:
        """Return the loop devices that are attached to the file."""
        return losetup("--associated", self.file, "--noheadings", "--output", "NAME").split()

    def is_whole(self) -> bool:
        volume = self.opened(SIZE).path(SNAPSHOT)
        return (volume / "rows").read_bytes() == b"production"


@pytest.fixture
def pool(loop_directory: Path) -> Pool:
    return Pool(loop_directory / "pool")


def losetup(*words: str | Path) -> str:
    return subprocess.run(["losetup", *words], check=True, capture_output=True, text=True).stdout


@contextmanager
def opened_host(directory: Path, pool: Path, size: int) -> Iterator[Host]:
    """Open a host that has one pool and is asked for nothing."""
    (directory / "specs").mkdir(exist_ok=True)
    settings = {"driver": "btrfs", "path": str(pool), "size": str(size), "reserve": "1Mi"}
    config = {
        "repository": {"path": str(directory / "specs")},
        "state": str(directory / "state"),
        "pools": {"default": settings},
    }
    with open_host(Config.model_validate(config), writes=True) as host:
        yield host


def pool_of(view: View) -> ObservedPool:
    assert view.observed is not None
    return view.observed.pools[PoolName("default")]


def prepare(storage: Storage) -> None:
    storage.prepare()


def test_a_larger_size_grows_the_pool_while_files_are_open_in_it(pool: Pool) -> None:
    clone = pool.opened(SIZE).clone(SNAPSHOT, CLONE, clone_manifest())
    larger = 2 * SIZE
    with (clone / "log").open("wb") as log:
        log.write(b"before")
        before = pool.probed(larger)
        assert (before.total_bytes, before.refusal) == (SIZE, "")
        assert before.pending == f"{pool.file} grows to 512 MiB when the loop is restarted"

        pool.prepared(larger)

        after = pool.probed(larger)
        assert (after.total_bytes, after.refusal, after.pending) == (larger, "", "")
        log.write(b", after")
    assert (clone / "log").read_bytes() == b"before, after"
    assert pool.is_whole()


def test_what_it_grows_by_is_allocated_and_can_be_written(pool: Pool) -> None:
    storage = pool.prepared(2 * SIZE)
    assert pool.file.stat().st_blocks * 512 >= pool.file.stat().st_size == 2 * SIZE
    clone = storage.clone(SNAPSHOT, CLONE, clone_manifest())
    with (clone / "ballast").open("wb") as ballast:
        for _ in range(SIZE >> 20):
            ballast.write(os.urandom(1 << 20))
        os.fsync(ballast.fileno())
    assert pool.is_whole()


def test_a_size_that_is_no_number_of_sectors_is_served_as_well(pool: Pool) -> None:
    odd = SIZE + STEP + 1234
    pool.prepared(odd)
    total, refusal = pool.room(odd)
    assert (odd - total < 64 << 10, refusal) == (True, "")


def test_a_smaller_size_is_refused_and_the_pool_is_used_as_it_is(pool: Pool) -> None:
    pool.prepared(2 * SIZE)

    pool.prepared(SIZE).clone(SNAPSHOT, CLONE, clone_manifest())

    total, refusal = pool.room(SIZE)
    assert total == pool.file.stat().st_size == 2 * SIZE
    assert refusal == (
        f"{pool.file} has 512 MiB and is not made smaller: give size that instead of 256 MiB, or move to another pool"
    )


def test_what_does_not_fit_is_refused_with_figures_and_takes_nothing(pool: Pool) -> None:
    much = 2 * shutil.disk_usage(pool.path.parent).total

    pool.prepared(much).clone(SNAPSHOT, CLONE, clone_manifest())

    total, refusal = pool.room(much)
    assert total == pool.file.stat().st_size == SIZE
    assert "needs" in refusal
    assert "free" in refusal


def test_it_grows_as_soon_as_there_is_room_for_it(loop_mounts: LoopMounts) -> None:
    require_root("mkfs.ext4")
    disk = loop_mounts.make("small-disk", 512, "mkfs.ext4", "-q", "-m", "0")
    pool = Pool(disk / "pool")
    try:
        (disk / "ballast").write_bytes(bytes(128 << 20))
        storage = pool.prepared(SIZE + 32 * STEP)
        assert pool.room(SIZE + 32 * STEP)[0] == SIZE
        (disk / "ballast").unlink()

        storage.clone(SNAPSHOT, CLONE, clone_manifest())

        assert pool.room(SIZE + 32 * STEP) == (SIZE + 32 * STEP, "")
        assert pool.is_whole()
    finally:
        loop_mounts.unmount(pool.path)


def test_what_did_not_fit_grows_at_the_first_pass_that_finds_room_though_nothing_is_made(
    loop_mounts: LoopMounts, tmp_path: Path
) -> None:
    require_root("mkfs.ext4")
    disk = loop_mounts.make("full-disk", 512, "mkfs.ext4", "-q", "-m", "0")
    try:
        with opened_host(tmp_path, disk / "pool", SIZE):
            (disk / "ballast").write_bytes(bytes(128 << 20))
        with opened_host(tmp_path, disk / "pool", SIZE + 32 * STEP) as host:
            reconciler = Reconciler(host, host.commits())
            first = pool_of(reconciler.one_pass())
            (disk / "ballast").write_bytes(bytes(140 << 20))
            second = pool_of(reconciler.one_pass())
            (disk / "ballast").unlink()
            third = pool_of(reconciler.one_pass())
            reconciler.close(abandon=True)
    finally:
        loop_mounts.unmount(disk / "pool")

    assert (first.total_bytes, second.total_bytes) == (SIZE, SIZE)
    assert "no room" in first.refusal
    assert first.refusal != second.refusal, "the figures are of the first attempt"
    assert (third.total_bytes, third.refusal) == (SIZE + 32 * STEP, "")


def test_a_file_that_is_not_the_mounted_one_does_not_grow(pool: Pool, unmounted: Callable[[Path], None]) -> None:
    unmounted(pool.path)
    until(lambda: pool.devices() == [], what="the end of the device")
    other = pool.file.rename(pool.path.with_name("other"))
    with pool.file.open("wb") as stale:
        stale.truncate(SIZE)
    subprocess.run(["mount", "-o", "loop", other, pool.path], check=True)
    mount = mounted_at(pool.path)
    assert mount is not None

    pool.prepared(SIZE).clone(SNAPSHOT, CLONE, clone_manifest())
    grown = pool.prepared(2 * SIZE).probe()

    for probed in (grown, pool.probed(2 * SIZE)):
        assert probed.refusal == f"{pool.path} is mounted from {mount.source}, not from {pool.file}"
        assert probed.pending == ""
    assert (pool.file.stat().st_size, pool.file.stat().st_blocks) == (SIZE, 0)
    assert pool.is_whole()


def test_it_is_never_unmounted_while_something_is_in_it_or_uses_it(pool: Pool) -> None:
    settings = PoolSettings(path=pool.path, driver="btrfs", size=SIZE)
    with pytest.raises(BusyError):
        remove_pool(settings, installation=INSTALLATION)
    assert pool.is_whole()
    pool.opened(SIZE).delete(SNAPSHOT)
    with (pool.path / "open").open("w") as server:
        (pool.path / "open").unlink()
        with pytest.raises(UnavailableError, match="busy"):
            remove_pool(settings, installation=INSTALLATION)
        assert os.path.ismount(pool.path)
        server.write("goes on")
    remove_pool(settings, installation=INSTALLATION)
    assert not pool.file.exists()


def test_its_device_reads_and_writes_past_the_page_cache_where_that_is_offered(
    pool: Pool, loop_directory: Path
) -> None:
    by_hand = loop_directory / "by-hand"
    by_hand.write_bytes(bytes(1 << 20))
    device = losetup("--find", "--show", "--sector-size", "4096", by_hand).strip()
    try:
        asked = subprocess.run(["losetup", "--direct-io=on", device], check=False, capture_output=True)
    finally:
        losetup("--detach", device)

    mount = mounted_at(pool.path)

    assert mount is not None
    direct = Path("/sys/class/block", Path(mount.source).name, "loop", "dio").read_text().strip()
    assert direct == ("1" if asked.returncode == 0 else "0")


def test_killed_at_any_moment_of_growing_the_next_pass_finishes_it(pool: Pool) -> None:
    size = SIZE
    for call in range(1, ENOUGH):
        size += STEP
        survived = killed_by(killer(call), prepare, pool.opened(size))
        assert pool.is_whole()
        pool.prepared(size)
        assert pool.room(size) == (size, "")
        assert pool.is_whole()
        assert len(pool.devices()) == 1
        if survived:
            assert call > 10, "nothing was killed"
            return
    pytest.fail("it never grew to its end")


def test_killed_at_any_moment_of_mounting_the_next_pass_mounts_it_over_one_device(
    pool: Pool, unmounted: Callable[[Path], None]
) -> None:
    for call in range(1, ENOUGH):
        unmounted(pool.path)
        until(lambda: pool.devices() == [], what="the end of the device")
        survived = killed_by(killer(call), prepare, pool.opened(SIZE))
        pool.prepared(SIZE)
        assert pool.is_whole()
        assert len(pool.devices()) == 1
        if survived:
            assert call > 10, "nothing was killed"
            return
    pytest.fail("it was never mounted")
