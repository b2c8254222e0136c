"""The state directory is damaged or lost, file by file: a pass does less, never deletes, never rebuilds."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import ConfigError, ReconcilerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support import World

pytestmark = pytest.mark.postgres

NAMES = "SELECT count(*) FROM product"


def all_as_before(world: World, volumes: object) -> None:
    assert world.volumes() == volumes
    assert world.servers() == {"dev.1", "test.1"}
    for name in ("dev", "test"):
        assert world.sql(name, NAMES) == [(4,)]
    assert world.leftovers() == []


def torn(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def garbage(path: Path) -> None:
    path.write_bytes(b"\x00not a database" * 500)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def absent(path: Path) -> None:
    path.unlink()


DAMAGES = {damage.__name__: damage for damage in (torn, garbage, empty, absent)}


@pytest.mark.parametrize("damage", list(DAMAGES.values()), ids=list(DAMAGES))
def test_without_its_status_store_nothing_is_rebuilt_or_deleted(shop: World, damage: Callable[[Path], None]) -> None:
    volumes = shop.volumes()
    damage(shop.state / "status.sqlite3")
    result = shop.apply().require()
    assert result.actions == []
    assert result.condition("Clone/dev", "Ready") == ("True", "UpToDate", "")
    all_as_before(shop, volumes)


@pytest.mark.parametrize("damage", list(DAMAGES.values()), ids=list(DAMAGES))
def test_without_its_identity_it_refuses_to_work(shop: World, damage: Callable[[Path], None]) -> None:
    identity = shop.state / "installation.json"
    before, volumes = identity.read_bytes(), shop.volumes()
    damage(identity)
    with pytest.raises(ConfigError, match=r"installation\.json"):
        shop.apply()
    identity.write_bytes(before)
    assert shop.apply().require().actions == []
    all_as_before(shop, volumes)


@pytest.mark.parametrize("damage", list(DAMAGES.values()), ids=list(DAMAGES))
def test_a_damaged_list_of_pools_deletes_and_rebuilds_nothing(shop: World, damage: Callable[[Path], None]) -> None:
    known = shop.state / "pools.json"
    before, volumes = known.read_bytes(), shop.volumes()
    damage(known)
    try:
        assert shop.apply().require().actions == []
    except ReconcilerError as error:
        assert "pools.json" in str(error)  # noqa: PT017 - both answers are right, a deletion is not
        known.write_bytes(before)
    all_as_before(shop, volumes)


def test_a_lost_fingerprint_key_costs_no_rebuild(shop: World) -> None:
    volumes = {volume.id for volume in shop.volumes()}
    (shop.state / "fingerprint.key").unlink(missing_ok=True)
    shop.converge()
    assert {volume.id for volume in shop.volumes()} == volumes
    assert shop.sql("dev", NAMES) == [(4,)]


def test_the_lost_mirror_is_made_again(shop: World) -> None:
    volumes = shop.volumes()
    for mirror in shop.state.glob("repository*.git"):
        shutil.rmtree(mirror)
    assert shop.apply().require().actions == []
    all_as_before(shop, volumes)


def test_damaged_requests_are_answered_and_deletion_records_count_as_deletions(shop: World) -> None:
    volumes = shop.volumes()
    (shop.state / "requests" / "20260101t000000000000z-00000000.json").write_bytes(b"{torn")
    (shop.state / "prunes.jsonl").write_bytes(b"\xff\xfe garbage\n" * 50)
    assert shop.apply().require().actions == []
    all_as_before(shop, volumes)
    shop.remove("dev.yaml")
    result = shop.apply()
    assert [refusal.rule for refusal in result.view.plan.refused] == ["prune-limit"]  # type: ignore[union-attr]  # a plan was made
    assert shop.volumes() == volumes


def test_a_lost_state_directory_makes_no_new_owner_of_the_pool(shop: World) -> None:
    manifests = {path.name: path.read_bytes() for path in (shop.pool_path / "manifests").iterdir()}
    shop.stop_servers()
    shutil.rmtree(shop.state)
    with pytest.raises(ReconcilerError, match="belongs to the installation"):
        shop.apply()
    assert {path.name: path.read_bytes() for path in (shop.pool_path / "manifests").iterdir()} == manifests
