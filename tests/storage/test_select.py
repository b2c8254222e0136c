from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import BusyError, ConfigError, RefusedError, UnavailableError
from reconciler.ids import PoolName
from reconciler.storage import linux
from reconciler.storage.select import PoolSettings, choose_driver, open_pool
from reconciler.testing.storage import (
    CLONE,
    INSTALLATION,
    OTHER_INSTALLATION,
    SNAPSHOT,
    build_manifest,
    clone_manifest,
    snapshot_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reconciler.storage.base import Storage

POOL = PoolName("default")
SIZE = 256 << 20


def opened(settings: PoolSettings, known: str | None = None) -> Storage:
    return open_pool(POOL, settings, installation=INSTALLATION, known_pool_id=known)


def test_auto_takes_copy_with_a_warning_where_blocks_cannot_be_shared(tmp_path: Path) -> None:
    if linux.can_share_blocks(tmp_path):
        pytest.skip("the temporary directory is on a file system that shares blocks")
    pool = opened(PoolSettings(path=tmp_path / "pool")).probe()
    assert (pool.driver, pool.available) == ("copy", True)
    assert "full copy" in pool.message


@pytest.mark.root
def test_auto_takes_btrfs_and_reflink_where_they_work(btrfs_path: Path, xfs_path: Path) -> None:
    pools = [opened(PoolSettings(path=path / "deep" / "pool")).probe() for path in (btrfs_path, xfs_path)]
    assert [(pool.driver, pool.available, pool.message) for pool in pools] == [
        ("btrfs", True, ""),
        ("reflink", True, ""),
    ]


@pytest.mark.root
def test_auto_keeps_the_driver_that_made_the_pool(btrfs_path: Path) -> None:
    opened(PoolSettings(path=btrfs_path / "pool", driver="copy")).prepare()
    assert choose_driver(btrfs_path / "pool") == "copy"
    assert opened(PoolSettings(path=btrfs_path / "pool")).probe().driver == "copy"


@pytest.mark.root
def test_auto_takes_up_a_pool_that_is_mounted_later(btrfs_path: Path) -> None:
    made = opened(PoolSettings(path=btrfs_path / "elsewhere"))
    pool_id = made.prepare()
    late = opened(PoolSettings(path=btrfs_path / "pool"), known=pool_id)
    assert not late.probe().available
    with pytest.raises(UnavailableError):
        late.volumes()
    (btrfs_path / "elsewhere").rename(btrfs_path / "pool")
    assert late.probe().available
    assert late.prepare() == pool_id


def test_auto_reports_a_torn_marker(tmp_path: Path) -> None:
    opened(PoolSettings(path=tmp_path)).prepare()
    (tmp_path / ".reconciler-pool.json").write_text("{")
    pool = opened(PoolSettings(path=tmp_path)).probe()
    assert not pool.available
    assert "marker" in pool.message


def test_auto_reports_a_driver_that_is_not_here(tmp_path: Path) -> None:
    storage = opened(PoolSettings(path=tmp_path / "pool"), known="1234")
    opened(PoolSettings(path=tmp_path / "pool")).prepare()
    marker = tmp_path / "pool" / ".reconciler-pool.json"
    marker.write_text(re.sub("copy|reflink|btrfs|zfs", "lvmthin", marker.read_text()))
    pool = storage.probe()
    assert not pool.available
    assert "lvmthin" in pool.message


def test_auto_serves_the_whole_life_of_volumes(tmp_path: Path) -> None:
    storage = opened(PoolSettings(path=tmp_path / "pool", reserve=0))
    storage.prepare()
    with storage.lock():
        (storage.create(SNAPSHOT, build_manifest()) / "rows").write_bytes(b"production")
        storage.seal(SNAPSHOT, snapshot_manifest())
        path = storage.clone(SNAPSHOT, CLONE, clone_manifest())
        storage.update(CLONE, clone_manifest(2))
        assert path == storage.path(CLONE)
        assert (path / "rows").read_bytes() == b"production"
        assert storage.usage([CLONE])[CLONE].logical_bytes == len(b"production")
        storage.delete(CLONE)
    assert [volume.id for volume in storage.volumes()] == [SNAPSHOT]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"driver": "zfs2"}, "unknown storage driver"),
        ({"driver": "copy", "size": SIZE}, "size goes with driver: btrfs only"),
        ({"reserve": "many"}, "neither a percentage"),
        ({"reserve": "100%"}, "leaves nothing"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, settings: dict[str, str | int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(PoolSettings(path=tmp_path, **settings))  # type: ignore[arg-type]  # a table of single settings


@pytest.mark.root
def test_a_pool_of_another_driver_is_refused(btrfs_path: Path) -> None:
    opened(PoolSettings(path=btrfs_path / "pool", driver="copy")).prepare()
    other = opened(PoolSettings(path=btrfs_path / "pool", driver="btrfs"))
    assert "made with the driver copy" in other.probe().message
    with pytest.raises(ConfigError, match="made with the driver copy"):
        other.prepare()


@pytest.mark.root
def test_a_size_makes_a_btrfs_of_its_own_that_is_mounted_again(
    loop_directory: Path, unmounted: Callable[[Path], None]
) -> None:
    settings = PoolSettings(path=loop_directory / "pool", driver="btrfs", size=SIZE, reserve=0)
    storage = opened(settings)
    assert storage.probe().total_bytes == SIZE
    assert storage.volumes() == ()
    assert list(loop_directory.iterdir()) == []
    pool_id = storage.prepare()
    (storage.create(SNAPSHOT, build_manifest()) / "rows").write_bytes(b"production")
    storage.seal(SNAPSHOT, snapshot_manifest())
    file = loop_directory / "pool.btrfs"
    assert file.stat().st_blocks * 512 >= file.stat().st_size == SIZE
    unmounted(settings.path)
    again = opened(settings, known=pool_id)
    assert not again.probe().available
    with pytest.raises(UnavailableError):
        again.volumes()
    assert again.prepare() == pool_id
    assert (again.clone(SNAPSHOT, CLONE, clone_manifest()) / "rows").read_bytes() == b"production"


@pytest.mark.root
def test_a_known_pool_is_never_made_again(loop_directory: Path, unmounted: Callable[[Path], None]) -> None:
    settings = PoolSettings(path=loop_directory / "pool", driver="btrfs", size=SIZE)
    pool_id = opened(settings).prepare()
    unmounted(settings.path)
    (loop_directory / "pool.btrfs").rename(loop_directory / "moved")
    known = opened(settings, known=pool_id)
    assert not known.probe().available
    with pytest.raises(UnavailableError, match="is gone"):
        known.prepare()
    assert [path.name for path in loop_directory.iterdir()] in (["moved", "pool"], ["pool", "moved"])


@pytest.mark.root
def test_a_pool_file_that_does_not_fit_is_refused_with_figures(loop_directory: Path) -> None:
    size = shutil.disk_usage(loop_directory).total * 2
    storage = opened(PoolSettings(path=loop_directory / "pool", driver="btrfs", size=size))
    with pytest.raises(RefusedError, match=r"needs .+, free .+"):
        storage.prepare()
    assert list(loop_directory.iterdir()) == []


@pytest.mark.root
def test_a_mount_never_hides_what_lies_there(loop_directory: Path) -> None:
    (loop_directory / "pool").mkdir()
    (loop_directory / "pool" / "precious").write_text("mine")
    with pytest.raises(UnavailableError, match="not empty"):
        opened(PoolSettings(path=loop_directory / "pool", driver="btrfs", size=SIZE)).prepare()
    assert (loop_directory / "pool" / "precious").read_text() == "mine"


@pytest.mark.root
def test_two_installations_cannot_share_a_pool_file(loop_directory: Path) -> None:
    settings = PoolSettings(path=loop_directory / "pool", driver="btrfs", size=SIZE)
    opened(settings).prepare()
    other = open_pool(POOL, settings, installation=OTHER_INSTALLATION, known_pool_id=None)
    with pytest.raises(BusyError, match="two installations"):
        other.prepare()
