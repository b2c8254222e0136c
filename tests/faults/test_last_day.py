"""Servers that are halted for work on the disks, and installations that are removed: with real servers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from reconciler.storage.loopback import SMALLEST
from tests.support import new_world

if TYPE_CHECKING:
    from tests.support import World

pytestmark = [pytest.mark.postgres, pytest.mark.long]

COUNT = "SELECT count(*) FROM product"


def test_a_pool_moves_under_halted_clones_and_nothing_is_made_anew(shop: World) -> None:
    volumes = shop.volumes()
    assert "stopped dev.1" in shop.run("halt").stdout
    assert shop.servers() == set()
    shop.pool_path.rename(shop.root / "elsewhere")
    shop.pool["path"] = str(shop.root / "elsewhere")
    shop.configure()

    result = shop.apply().require()

    assert sorted(result.actions) == ["start Clone/dev", "start Clone/test"]
    assert shop.volumes() == volumes
    assert shop.sql("dev", COUNT) == [(4,)]


def test_an_installation_is_not_removed_under_a_loop(shop: World) -> None:
    with shop.loop():
        refused = shop.run("uninstall", "--yes")
        assert refused.returncode == 1
        assert "is used by" in refused.stderr
    assert shop.sql("dev", COUNT) == [(4,)]


def test_an_installation_goes_without_a_trace(shop: World) -> None:
    published = shop.root / "published.json"
    shop.configure(status={"publish": {"file": str(published)}})
    shop.apply().require()
    assert published.exists()
    removed = shop.run("uninstall", "--yes")
    assert (removed.returncode, removed.stderr.splitlines()[-1]) == (0, "everything is removed")
    assert "clone            dev.1" in removed.stdout
    assert f"status           {published}" in removed.stdout
    assert shop.processes() == []
    assert sorted(path.name for path in shop.root.iterdir()) == ["reconciler.yaml", "secrets", "specs"]


@pytest.mark.root
def test_a_loop_backed_pool_goes_with_its_file() -> None:
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    world = new_world()
    world.driver, world.pool = "btrfs", {"size": str(SMALLEST)}
    world.configure()
    try:
        world.apply().require()
        assert world.pool_path.with_name("pool.btrfs").is_file()
        assert os.path.ismount(world.pool_path)

        assert world.run("uninstall", "--yes").returncode == 0

        assert not os.path.ismount(world.pool_path)
        assert sorted(path.name for path in world.root.iterdir()) == ["reconciler.yaml", "secrets", "specs"]
    finally:
        world.close()


@pytest.mark.root
def test_what_could_not_be_removed_because_it_is_in_use_is_removed_by_the_next_call() -> None:
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    world = new_world()
    busy = world.root / "busy"
    pools = {
        "default": {"driver": "copy", "path": "./pool", "reserve": "1Mi"},
        "later": {"driver": "btrfs", "path": str(busy), "size": str(SMALLEST), "reserve": "1Mi"},
    }
    world.configure(pools=pools)
    try:
        world.apply().require()
        with (busy / "somebody is here").open("w") as held:
            held.write("and works")
            held.flush()
            (busy / "somebody is here").unlink()
            refused = world.run("uninstall", "--yes")
            assert refused.returncode == 1
            assert os.path.ismount(busy)
        again = world.run("uninstall", "--yes")
        assert again.returncode == 0, again.stderr
        assert sorted(path.name for path in world.root.iterdir()) == ["reconciler.yaml", "secrets", "specs"]
    finally:
        world.close()
