from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import BusyError, ConfigError, ReconcilerError, RefusedError, UnavailableError, UnsupportedError
from reconciler.ids import ImageName, InstallationId, PoolName, VolumeId
from reconciler.state.observed import ClonePhase, RawManifest, Volume, VolumeState
from reconciler.storage import datasets
from reconciler.storage.lineage import INSTALLATION as OWNER
from reconciler.storage.lineage import VOLUME
from reconciler.storage.manifests import ManifestStore, Record
from reconciler.storage.select import PoolSettings, open_pool, remove_pool
from reconciler.storage.zfs import ZfsStorage
from reconciler.testing.storage import (
    CLONE,
    INSTALLATION,
    MOMENT,
    OTHER_CLONE,
    SNAPSHOT,
    DirectoryStorageConformance,
    build_manifest,
    clone_manifest,
    snapshot_manifest,
)
from tests.zfs import below, dataset_at, shown_states, zfs

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.storage.base import Storage

MIRROR = VolumeId("shop-mirror")


def opened(path: Path, *, reserve: str | int = 0, dataset: str | None = None, known: str | None = None) -> ZfsStorage:
    return ZfsStorage(
        PoolName("default"), path, installation=INSTALLATION, pool_id=known, reserve=reserve, dataset=dataset
    )


def prepared(path: Path, *, reserve: str | int = 0) -> ZfsStorage:
    storage = opened(path, reserve=reserve)
    storage.prepare()
    return storage


@pytest.mark.root
class TestZfsStorage(DirectoryStorageConformance):
    write_protects = True
    metadata_bytes = 128 << 10

    def open(self, path: Path, *, installation: InstallationId, pool_id: str | None = None) -> Storage:
        return ZfsStorage(PoolName("default"), path, installation=installation, pool_id=pool_id, reserve=0)

    @pytest.fixture
    def pool_path(self, zfs_path: Path) -> Path:
        return zfs_path / "pool"

    def leave(self, storage: Storage, volume: Volume) -> Storage:
        """Make the dataset as well, with the properties that the driver gives it."""
        pool = storage.path(volume.id).parent.parent
        ManifestStore(pool / "manifests").write(volume.id, Record(volume.state, volume.manifest))
        owner = f"{OWNER}={volume.manifest.installation}"
        zfs("create", "-o", f"{VOLUME}={volume.id}", "-o", owner, f"{dataset_at(pool)}/volumes/{volume.id}")
        self.write(storage, volume.id, "partial", b"partial")
        return storage

    def count(self, storage: Storage) -> None:
        """End the transaction group: each change of a property waits for one."""
        zfs("set", "tests:counted=yes", dataset_at(storage.path(CLONE)))


def fill(storage: ZfsStorage, volume: VolumeId, data: str) -> None:
    (storage.path(volume) / "rows").write_text(data)


def shown(path: Path) -> list[str]:
    """Return what was in a volume in every snapshot of it."""
    return [(state / "rows").read_text() for state in shown_states(path)]


def mirror(storage: ZfsStorage, data: str) -> None:
    """Make something unsealed that builds are copied from."""
    manifest = RawManifest(
        installation=INSTALLATION, image=ImageName("shop"), engine="postgres", mirror=MIRROR, taken_at=MOMENT
    )
    storage.create(MIRROR, manifest)
    fill(storage, MIRROR, data)


def masked(storage: ZfsStorage) -> None:
    """Mask and seal the build, while somebody's cron takes snapshots of everything before that."""
    zfs("snapshot", f"{dataset_at(storage.path(SNAPSHOT))}@zfs-auto-snap_hourly-2026-11-22-0200")
    fill(storage, SNAPSHOT, "masked")
    storage.seal(SNAPSHOT, snapshot_manifest())


@pytest.mark.root
def test_no_snapshot_shows_the_state_before_masking(zfs_path: Path) -> None:
    storage = prepared(zfs_path / "pool")
    storage.create(SNAPSHOT, build_manifest())
    fill(storage, SNAPSHOT, "original")
    masked(storage)
    clone = storage.clone(SNAPSHOT, CLONE, clone_manifest())
    assert shown(storage.path(SNAPSHOT)) == ["masked"]
    assert shown(clone) == []
    storage.delete(SNAPSHOT)
    assert shown(clone) == []
    assert (clone / "rows").read_text() == "masked"


@pytest.mark.root
def test_a_masked_copy_of_a_mirror_never_comes_to_show_the_mirror(zfs_path: Path) -> None:
    storage = prepared(zfs_path / "pool")
    mirror(storage, "original")
    storage.clone(MIRROR, SNAPSHOT, build_manifest())
    masked(storage)
    clone = storage.clone(SNAPSHOT, CLONE, clone_manifest())
    assert shown(storage.path(MIRROR)) == ["original"]
    for gone in (MIRROR, SNAPSHOT):
        storage.delete(gone)
        assert shown(clone) == []
    assert [volume.id for volume in storage.volumes()] == [CLONE]
    assert "original" not in (clone / "rows").read_text()
    storage.delete(CLONE)
    assert below(dataset_at(zfs_path / "pool")) == containers(zfs_path / "pool")


def containers(pool: Path) -> list[str]:
    return [f"{dataset_at(pool)}/{name}" for name in ("deleted", "volumes")]


@pytest.mark.root
def test_a_state_before_sealing_that_somebody_holds_keeps_the_volume_unsealed(zfs_path: Path) -> None:
    storage = prepared(zfs_path / "pool")
    storage.create(SNAPSHOT, build_manifest())
    fill(storage, SNAPSHOT, "original")
    held = f"{dataset_at(storage.path(SNAPSHOT))}@mine"
    zfs("snapshot", held)
    zfs("hold", "keep", held)
    with pytest.raises(BusyError, match="zfs hold"):
        storage.seal(SNAPSHOT, snapshot_manifest())
    assert [volume.manifest for volume in storage.volumes()] == [build_manifest()]
    zfs("release", "keep", held)
    storage.seal(SNAPSHOT, snapshot_manifest())
    assert shown(storage.path(SNAPSHOT)) == ["original"]


@pytest.mark.root
def test_whatever_order_volumes_go_in_the_rest_stays_and_in_the_end_nothing(zfs_path: Path) -> None:
    storage = prepared(zfs_path / "pool")
    storage.create(SNAPSHOT, build_manifest())
    fill(storage, SNAPSHOT, "sealed")
    storage.seal(SNAPSHOT, snapshot_manifest())
    storage.clone(SNAPSHOT, CLONE, clone_manifest(phase=ClonePhase.READY))
    fill(storage, CLONE, "changed")
    storage.clone(CLONE, OTHER_CLONE, clone_manifest(2))
    fill(storage, CLONE, "changed again")
    storage.delete(SNAPSHOT)
    storage.delete(CLONE)
    assert (storage.path(OTHER_CLONE) / "rows").read_text() == "changed"
    dataset = dataset_at(zfs_path / "pool")
    assert below(dataset) == [*containers(zfs_path / "pool"), f"{dataset}/volumes/{OTHER_CLONE}"]
    storage.create(CLONE, clone_manifest())
    storage.delete(OTHER_CLONE)
    storage.delete(CLONE)
    assert below(dataset) == containers(zfs_path / "pool")


@pytest.mark.root
def test_what_somebody_cloned_to_elsewhere_outlives_the_volume(zfs_path: Path) -> None:
    storage = prepared(zfs_path / "pool")
    storage.create(SNAPSHOT, build_manifest())
    fill(storage, SNAPSHOT, "production")
    storage.seal(SNAPSHOT, snapshot_manifest())
    theirs = zfs_path / "theirs"
    dataset = f"{dataset_at(zfs_path.parent)}/{zfs_path.name}-theirs"
    zfs("clone", "-o", f"mountpoint={theirs}", below(dataset_at(storage.path(SNAPSHOT)))[0], dataset)
    storage.delete(SNAPSHOT)
    assert storage.volumes() == ()
    assert (theirs / "rows").read_text() == "production"
    storage.create(SNAPSHOT, build_manifest())
    storage.delete(SNAPSHOT)
    assert (theirs / "rows").read_text() == "production"


@pytest.mark.root
def test_datasets_inside_a_volume_keep_it_from_being_sealed_and_go_with_it(zfs_path: Path) -> None:
    storage = prepared(zfs_path / "pool")
    path = storage.create(SNAPSHOT, build_manifest())
    zfs("create", f"{dataset_at(path)}/inner")
    with pytest.raises(BusyError, match="datasets inside"):
        storage.seal(SNAPSHOT, snapshot_manifest())
    storage.delete(SNAPSHOT)
    assert not path.exists()


@pytest.mark.root
def test_datasets_that_are_not_ours_are_left_alone(zfs_path: Path) -> None:
    storage = prepared(zfs_path / "pool")
    theirs = storage.path(CLONE)
    zfs("create", f"{dataset_at(zfs_path / 'pool')}/volumes/{CLONE}")
    fill(storage, CLONE, "precious")
    with pytest.raises(BusyError, match="not ours"):
        storage.create(CLONE, clone_manifest())
    zfs("unmount", dataset_at(theirs))
    with pytest.raises(BusyError, match="not ours"):
        storage.create(CLONE, clone_manifest())
    manifests = ManifestStore(zfs_path / "pool" / "manifests")
    manifests.write(CLONE, Record(VolumeState.COMPLETE, clone_manifest()))
    with pytest.raises(BusyError, match="left alone"):
        storage.delete(CLONE)
    zfs("create", "-o", "mountpoint=none", f"{dataset_at(zfs_path / 'pool')}/deleted")
    zfs("create", f"{dataset_at(zfs_path / 'pool')}/deleted/precious")
    storage.create(OTHER_CLONE, clone_manifest())
    storage.delete(OTHER_CLONE)
    assert f"{dataset_at(zfs_path / 'pool')}/deleted/precious" in below(dataset_at(zfs_path / "pool"))
    zfs("mount", f"{dataset_at(zfs_path / 'pool')}/volumes/{CLONE}")
    assert (theirs / "rows").read_text() == "precious"


@pytest.mark.root
def test_a_pool_that_is_not_mounted_is_unknown_until_the_next_pass_mounts_all_of_it(zfs_path: Path) -> None:
    path = zfs_path / "pool"
    name = f"{dataset_at(zfs_path.parent)}/{zfs_path.name}-named"
    pool_id = opened(path, dataset=name).prepare()
    storage = opened(path, dataset=name, known=pool_id)
    storage.create(SNAPSHOT, build_manifest())
    fill(storage, SNAPSHOT, "production")
    storage.seal(SNAPSHOT, snapshot_manifest())
    zfs("unmount", f"{name}/volumes/{SNAPSHOT}")
    zfs("unmount", name)
    for away in (storage, opened(path, dataset=name, known=pool_id), opened(path, dataset=name)):
        assert not away.probe().available
        with pytest.raises(UnavailableError, match="not mounted"):
            away.volumes()
    again = opened(path, dataset=name, known=pool_id)
    assert again.prepare() == pool_id
    assert (again.path(SNAPSHOT) / "rows").read_text() == "production"


@pytest.mark.root
def test_a_volume_that_is_not_mounted_is_mounted_before_it_is_worked_on(zfs_path: Path) -> None:
    storage = prepared(zfs_path / "pool")
    storage.create(SNAPSHOT, build_manifest())
    fill(storage, SNAPSHOT, "production")
    zfs("unmount", dataset_at(storage.path(SNAPSHOT)))
    storage.seal(SNAPSHOT, snapshot_manifest())
    assert (storage.path(SNAPSHOT) / "rows").read_text() == "production"


@pytest.mark.root
def test_a_known_pool_whose_dataset_is_not_there_is_unavailable_and_never_made_again(zfs_path: Path) -> None:
    name = f"{dataset_at(zfs_path.parent)}/{zfs_path.name}-named"
    for dataset in (name, "no-such-pool/reconciler"):
        storage = opened(zfs_path / "pool", dataset=dataset, known="0123456789abcdef")
        assert not storage.probe().available
        for attempt in (storage.prepare, storage.volumes, lambda: storage.delete(CLONE)):  # noqa: B023 - called at once
            with pytest.raises(UnavailableError) as raised:
                attempt()
            assert raised.value.reason == "PoolUnavailable"
    assert name not in zfs("list", "-H", "-o", "name").splitlines()


@pytest.mark.root
def test_a_new_pool_says_what_is_wrong_with_its_dataset_or_its_path(zfs_path: Path, tmp_path: Path) -> None:
    root = dataset_at(zfs_path.parent)
    away = opened(zfs_path / "pool", dataset="no-such-pool/reconciler")
    with pytest.raises(UnavailableError, match="zpool import"):
        away.prepare()
    assert "not imported" in away.probe().message
    with pytest.raises(UnsupportedError, match="not on ZFS"):
        opened(tmp_path / "pool").prepare()
    (zfs_path / "full").mkdir()
    (zfs_path / "full" / "precious").touch()
    with pytest.raises(UnavailableError, match="not empty"):
        opened(zfs_path / "full", dataset=f"{root}/{zfs_path.name}-full").prepare()
    zfs("create", "-o", f"mountpoint={zfs_path / 'elsewhere'}", f"{root}/{zfs_path.name}-made")
    zfs("unmount", f"{root}/{zfs_path.name}-made")
    with pytest.raises(ConfigError, match="zfs set mountpoint"):
        opened(zfs_path / "pool", dataset=f"{root}/{zfs_path.name}-made").prepare()


@pytest.mark.root
def test_a_dataset_that_exists_is_used_as_it_is_also_at_a_path_with_blanks(zfs_path: Path) -> None:
    path, name = zfs_path / "my pool", f"{dataset_at(zfs_path.parent)}/{zfs_path.name}-made"
    zfs("create", "-o", f"mountpoint={path}", name)
    for storage in (opened(path), opened(path, dataset=name)):
        assert storage.probe().available
        storage.prepare()
    assert storage.create(CLONE, clone_manifest()) == path / "volumes" / CLONE
    assert f"{name}/volumes/{CLONE}" in below(name)


@pytest.mark.root
def test_room_is_what_the_dataset_has_and_its_quota_counts(zfs_path: Path) -> None:
    storage = prepared(zfs_path / "pool", reserve="10%")
    before = storage.probe()
    zfs("set", f"quota={64 << 20}", dataset_at(zfs_path / "pool"))
    pool = storage.probe()
    assert before.total_bytes > pool.total_bytes == 64 << 20
    assert pool.reserve_bytes == pool.total_bytes // 10
    zfs("set", "reservation=60M", f"{dataset_at(zfs_path / 'pool')}/volumes")
    with pytest.raises(RefusedError, match=r"free .+ of .+ reserved"):
        storage.create(SNAPSHOT, build_manifest())
    assert storage.volumes() == ()


@pytest.mark.root
def test_auto_takes_zfs_where_the_path_is_on_it(zfs_path: Path) -> None:
    settings = PoolSettings(path=zfs_path / "deep" / "pool")
    auto = open_pool(PoolName("default"), settings, installation=INSTALLATION, known_pool_id=None)
    assert (auto.probe().driver, auto.probe().available, auto.probe().message) == ("zfs", True, "")
    auto.prepare()
    assert dataset_at(settings.path) == f"{dataset_at(zfs_path.parent)}/{zfs_path.name}-deep-pool"
    again = open_pool(PoolName("default"), settings, installation=INSTALLATION, known_pool_id=None)
    assert again.probe().driver == "zfs"


@pytest.mark.root
def test_an_ordinary_user_is_told_that_mounting_needs_root(zfs_path: Path) -> None:
    zfs_path.chmod(0o777)
    root = os.geteuid()
    os.seteuid(65534)
    try:
        pool = opened(zfs_path / "pool").probe()
        auto = open_pool(
            PoolName("default"), PoolSettings(path=zfs_path / "pool"), installation=INSTALLATION, known_pool_id=None
        ).probe()
    finally:
        os.seteuid(root)
    assert not pool.available
    assert "mounting datasets of ZFS needs root" in pool.message
    assert (auto.driver, auto.available) == ("copy", True)
    assert "mounting datasets needs root" in auto.message


def test_a_dataset_goes_with_zfs_only(tmp_path: Path) -> None:
    settings = PoolSettings(path=tmp_path, driver="copy", dataset="tank/reconciler")
    with pytest.raises(ConfigError, match="driver: zfs"):
        open_pool(PoolName("default"), settings, installation=INSTALLATION, known_pool_id=None)


@pytest.mark.parametrize(
    ("complaint", "error", "says"),
    [
        ("cannot open 'tank/a': dataset does not exist", datasets.MissingDatasetError, "zpool import"),
        ("cannot create 'tank/a': no such pool 'tank'", datasets.MissingDatasetError, "zpool import"),
        ("The ZFS modules are not loaded.\nTry running '/sbin/modprobe zfs' as root.", UnavailableError, "modprobe"),
        ("connect: No such file\nPlease make sure that the zfs-fuse daemon is running.", UnavailableError, "zfs-fuse"),
        ("cannot open 'tank': pool I/O is currently suspended", UnavailableError, "zpool status"),
        ("cannot mount 'tank/a': encryption key not loaded", UnavailableError, "zfs load-key"),
        ("cannot create 'tank/a': out of space", datasets.NoSpaceError, "quota"),
        ("cannot create 'tank/a': permission denied", UnsupportedError, "zfs allow ACCOUNT create"),
        (
            "filesystem successfully created, but it may only be mounted by root",
            UnsupportedError,
            "all but mount on Linux",
        ),
        ("cannot destroy 'tank/a': filesystem has dependent clones\nuse '-R' to …", datasets.DependentsError, "clones"),
        ("cannot destroy 'tank/a': dataset is busy", BusyError, "files open"),
        ("cannot unmount '/tank/a': pool or dataset is busy", BusyError, "files open"),
        ("cannot create 'tank/a': dataset already exists", BusyError, "not ours"),
        ("cannot create 'tank/a': dataset name is too long", ConfigError, "shorter"),
        ("something that nobody has heard of", UnavailableError, "nobody has heard of"),
    ],
)
def test_what_zfs_complains_of_becomes_an_error_that_says_what_to_do(
    complaint: str, error: type[ReconcilerError], says: str
) -> None:
    found = datasets.translated("create", complaint)
    assert type(found) is error
    assert says in str(found)


@pytest.mark.root
def test_without_the_program_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets, "_SYSTEM_PROGRAMS", (str(tmp_path),))
    monkeypatch.setenv("PATH", str(tmp_path))
    pool = opened(tmp_path / "pool", dataset="tank/reconciler").probe()
    assert not pool.available
    assert "zfsutils-linux" in pool.message


def emptied(path: Path) -> str:
    """Make a pool in which something was and of which nothing is left; return its dataset."""
    storage = prepared(path)
    mirror(storage, "original")
    storage.clone(MIRROR, SNAPSHOT, build_manifest())
    for gone in (MIRROR, SNAPSHOT):
        storage.delete(gone)
    return dataset_at(path)


def removed(path: Path) -> tuple[str, ...]:
    return remove_pool(PoolSettings(path=path, driver="zfs"), installation=INSTALLATION)


@pytest.mark.root
def test_a_pool_that_is_removed_takes_the_datasets_that_were_made_for_it_along(zfs_path: Path) -> None:
    path = zfs_path / "pool"
    name = emptied(path)
    assert removed(path) == ()
    assert (datasets.exists(name), path.exists()) == (False, False)
    assert removed(path) == ()


@pytest.mark.root
def test_a_dataset_that_was_there_before_stays_when_its_pool_is_removed(zfs_path: Path) -> None:
    path = zfs_path / "pool"
    name = f"{dataset_at(zfs_path.parent)}/{zfs_path.name}-before"
    zfs("create", "-o", f"mountpoint={path}", name)
    assert emptied(path) == name
    assert removed(path) == (f"the dataset {name}",)
    assert (below(name), list(path.iterdir())) == ([], [])


@pytest.mark.root
def test_what_others_put_below_the_datasets_of_a_pool_stays_with_them(zfs_path: Path) -> None:
    path = zfs_path / "pool"
    name = emptied(path)
    zfs("create", "-o", "mountpoint=none", f"{name}/volumes/mine")
    assert removed(path) == (f"what is below the dataset {name}/volumes",)
    assert below(name) == [f"{name}/deleted", f"{name}/volumes", f"{name}/volumes/mine"]
    zfs("destroy", f"{name}/volumes/mine")
    zfs("snapshot", f"{name}@mine")
    assert removed(path) == (f"what is below the dataset {name}",)
    assert below(name) == [f"{name}@mine"]


@pytest.mark.root
def test_a_dataset_in_which_somebody_put_a_file_stays_with_it(zfs_path: Path) -> None:
    path = zfs_path / "pool"
    name = emptied(path)
    for marker in path.glob(".*"):
        if marker.is_file():
            marker.unlink()
    (path / "mine").write_text("kept")
    assert removed(path) == (f"what is in the dataset {name}",)
    assert (path / "mine").read_text() == "kept"
