"""Images that follow a directory of backups and an archive of WAL, through the whole program."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from reconciler.state.observed import SnapshotManifest
from tests.support import clone, image

from .production import Production, copied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.support import World

    from .conftest import Cluster

    Maker = Callable[..., AbstractContextManager[Cluster]]

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def production(make_cluster: Maker) -> Iterator[Production]:
    with make_cluster("18") as made:
        made.query("postgres", "SELECT 1")
        made.tool("psql", "-X", "-q", "-c", "CREATE DATABASE shop")
        yield Production(made)


def newest(world: World) -> SnapshotManifest:
    manifests = [volume.manifest for volume in world.volumes() if isinstance(volume.manifest, SnapshotManifest)]
    return max(manifests, key=lambda one: one.created_at)


def following(world: World, root: Path) -> None:
    world.configure(sources={"roots": [str(root)]}, grants=[{"images": "shop", "roots": [str(root)]}])
    source = {"backup": {"path": f"{root}/full/*", "wal": f"{root}/wal"}}
    document = image("shop", source=source, databases=["postgres"], scripts=[], unmasked={"reason": "a test"})
    world.write("shop.yaml", document, clone("shop-dev"))


def test_an_image_follows_new_backups_and_new_wal_and_nothing_else(
    production: Production, world: World, tmp_path: Path
) -> None:
    root = tmp_path / "backups"  # only root, or whoever runs this, can read it
    production.add(2)
    first = production.backup("first")
    production.add(1)
    production.switch()
    copied(first, root / "full" / "first")
    shutil.copytree(production.archive, root / "wal")
    following(world, root)

    world.apply().require()

    before = newest(world)
    assert before.data_as_of == production.committed_at(3)
    assert world.sql("shop-dev", "SELECT count(*) FROM ledger", database="postgres") == [(3,)]

    unchanged = world.apply(("refresh", "shop"))
    assert unchanged.actions == []
    assert world.snapshots() == [before.snapshot]

    production.add(1)
    last = production.switch()
    shutil.copy(production.archive / last, root / "wal")
    world.apply(("refresh", "shop")).require()
    assert newest(world).data_as_of == production.committed_at(4)

    production.add(1)
    second = production.backup("second", f"--incremental={first}/backup_manifest")
    unfinished = copied(second, root / "full" / "unfinished")
    (unfinished / "backup_manifest").unlink()
    production.add(1)
    production.switch()
    shutil.copytree(production.archive, root / "wal", dirs_exist_ok=True)
    copied(second, root / "full" / "second")
    done = world.apply(("refresh", "shop")).require()

    assert newest(world).input_id.startswith("chain:")
    assert newest(world).data_as_of == production.committed_at(6)
    assert done.condition("Image/shop", "SourceIncomplete") is None  # it is not newer than what was taken
    assert world.sql("shop-dev", "SELECT count(*) FROM ledger", database="postgres") == [(3,)]


def test_what_was_passed_over_shows_in_the_status(production: Production, world: World, tmp_path: Path) -> None:
    root = tmp_path / "backups"
    production.add(1)
    first = production.backup("older")
    copied(first, root / "full" / "first")
    unfinished = copied(first, root / "full" / "unfinished")
    (unfinished / "backup_manifest").unlink()
    label = unfinished / "backup_label"
    label.write_text(label.read_text().replace("START TIME: 2", "START TIME: 3"))
    (root / "wal").mkdir()
    following(world, root)

    done = world.apply().require()

    told = f"{unfinished} has no backup_manifest: it is being written, or was interrupted"
    assert done.condition("Image/shop", "SourceIncomplete") == ("True", "PassedOver", told)


def test_a_link_among_the_backups_does_not_lead_out_of_what_is_granted(
    production: Production, world: World, tmp_path: Path
) -> None:
    root = tmp_path / "backups"
    outside = copied(production.backup("outside"), tmp_path / "elsewhere" / "outside")
    (root / "full").mkdir(parents=True)
    (root / "wal").mkdir()
    (root / "full" / "link").symlink_to(outside)
    following(world, root)

    done = world.apply()

    condition = done.condition("Image/shop", "Stalled")
    assert condition is not None
    assert f"{root}/full/link leads outside of the directories that this host grants to the image" in condition[2]
    assert world.snapshots() == []
