"""Pools that are away, empty or full: a pass does less, and nothing is made in the wrong place."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.conftest import LoopMounts, unmount
from tests.support import World, clone, document, image, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.postgres

COUNT = "SELECT count(*) FROM product"


def test_while_a_pool_is_replaced_by_an_empty_directory_nothing_happens_to_its_objects(shop: World) -> None:
    volumes, away = shop.volumes(), shop.root / "away"
    shop.pool_path.rename(away)
    shop.pool_path.mkdir()
    result = shop.apply()
    assert result.actions == []
    for name in ("Clone/dev", "Clone/test", "Image/shop"):
        ready = result.condition(name, "Ready")
        assert ready is not None, name
        assert ready[0] == "Unknown", ready
    assert list(shop.pool_path.iterdir()) == []
    shop.remove("dev.yaml")
    assert shop.apply().actions == []
    shop.pool_path.rmdir()
    away.rename(shop.pool_path)
    shop.write("dev.yaml", clone("dev"))
    assert shop.apply().require().actions == []
    assert shop.volumes() == volumes
    assert shop.sql("dev", COUNT) == [(4,)]
    assert shop.leftovers() == []


def test_a_clone_is_reached_while_another_pool_is_away(shop: World) -> None:
    default, second = {"driver": "copy", "path": "./pool", "reserve": "1Mi"}, shop.root / "second"
    shop.configure(pools={"default": default, "second": {"driver": "copy", "path": str(second)}})
    shop.apply().require()
    second.rename(shop.root / "elsewhere")
    assert shop.run("url", "dev").stdout.startswith("postgresql://app:")
    missing = shop.run("url", "nobody")
    assert (missing.returncode, "among those that can be seen" in missing.stderr) == (1, True)


@pytest.fixture
def small_mount(loop_mounts: LoopMounts) -> Iterator[World]:
    """A world whose pool is a mounted file system of its own, of 200 MiB."""
    mountpoint = loop_mounts.root / "small"
    if not mountpoint.exists():
        loop_mounts.make("small", 200, "mkfs.ext4", "-q", "-m", "0", options="loop,noatime")
    world = new_world(pool={"path": str(mountpoint), "reserve": "10Mi"})
    try:
        yield world
    finally:
        world.close()
        for entry in mountpoint.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@pytest.mark.root
def test_while_a_pool_is_not_mounted_nothing_is_made_below_its_bare_mount_point(
    small_mount: World, loop_mounts: LoopMounts
) -> None:
    world, mountpoint = small_mount, small_mount.pool_path
    world.write("shop.yaml", image("shop"), clone("dev"))
    world.converge()
    volumes = world.volumes()
    world.stop_servers()
    unmount(mountpoint)
    try:
        world.write("more.yaml", clone("more"))
        result = world.apply()
        assert result.actions == []
        assert result.condition("Clone/dev", "Ready") is not None
        world.remove("shop.yaml")
        world.remove("more.yaml")
        assert world.apply().actions == []
        assert list(mountpoint.iterdir()) == []
    finally:
        subprocess.run(["mount", "-o", "loop,noatime", loop_mounts.root / "small.img", mountpoint], check=True)
    world.write("shop.yaml", image("shop"), clone("dev"))
    assert world.apply().require().actions == ["start Clone/dev"]
    assert world.volumes() == volumes
    assert world.sql("dev", COUNT) == [(3,)]
    assert world.leftovers() == []


@pytest.mark.root
def test_a_full_pool_refuses_with_figures_and_shows_nothing_half_made(small_mount: World) -> None:
    world = small_mount
    world.write("shop.yaml", image("shop"), clone("dev"))
    world.converge()
    volumes = {volume.id for volume in world.volumes()}
    world.write("more.yaml", *(clone(f"more-{number}") for number in range(4)))
    world.apply()
    made = {volume.manifest.clone for volume in world.volumes() if volume.manifest.kind == "clone"}
    missing = sorted({f"more-{number}" for number in range(4)} - made)
    assert missing, "the pool is larger than this test believes"
    assert volumes <= {volume.id for volume in world.volumes()}
    assert world.leftovers() == []
    result = world.apply()
    told = [result.condition(f"Clone/{name}", kind) for name in missing for kind in ("Ready", "Stalled")]
    messages = [condition[2] for condition in told if condition is not None]
    assert any("MiB" in message and "free" in message for message in messages), told
    assert world.sql("dev", COUNT) == [(3,)]


DATA = "CREATE TABLE ballast AS SELECT repeat(md5(n::text), 30) FROM generate_series(1, 300000) AS n;"
WAL = """
CREATE TABLE counter AS SELECT 1 AS value;
DO $$ BEGIN FOR number IN 1..10000000 LOOP UPDATE counter SET value = number; COMMIT; END LOOP; END $$;
"""


@pytest.mark.root
@pytest.mark.parametrize("place", ["git", "host"])
def test_a_first_build_that_does_not_fit_is_refused_with_figures_before_it_starts(
    small_mount: World, place: str
) -> None:
    world = small_mount
    dump = world.root / ("specs" if place == "git" else "backups") / "shop.sql"
    dump.parent.mkdir(exist_ok=True)
    dump.write_text("-- PostgreSQL database dump\n" + f"-- {'x' * 1020}\n" * 100_000)
    world.configure(sources={"roots": [str(world.root / "backups")]})
    source = {"dump": {"path": "shop.sql" if place == "git" else str(dump)}}
    world.write("shop.yaml", image("shop", source=source, unmasked={"reason": "made-up data"}), clone("dev"))
    result = world.apply()
    assert result.actions == []
    stalled = result.condition("Image/shop", "Stalled")
    assert stalled is not None
    assert stalled[1] == "InsufficientDisk"
    assert "needs about " in stalled[2]
    assert "MiB above its reserve" in stalled[2]
    assert world.volumes() == ()


@pytest.mark.root
@pytest.mark.parametrize("large", [DATA, WAL], ids=["with data", "with WAL, so that the server crashes"])
def test_a_build_that_fills_the_pool_leaves_nothing_and_disturbs_no_clone(small_mount: World, large: str) -> None:
    world = small_mount
    world.write("shop.yaml", image("shop"), clone("dev"))
    world.converge()
    volumes = world.volumes()
    scripts = [*image("shop")["spec"]["scripts"], {"inline": large, "database": "shop"}]
    world.write("large.yaml", image("large", scripts=scripts))
    result = world.apply()
    assert "Image/large" in result.errors
    assert world.volumes() == volumes
    assert world.leftovers() == []
    assert world.sql("dev", COUNT) == [(3,)]
    world.remove("large.yaml")
    assert world.apply().require().actions == []


HALF = """
CREATE TABLE ballast AS
SELECT 'somebody ' || n AS name, repeat(md5(n::text), 30) AS rest FROM generate_series(1, 36000) AS n;
"""


@pytest.mark.root
def test_masking_that_fills_the_pool_leaves_nothing_and_disturbs_no_clone(small_mount: World) -> None:
    world = small_mount
    (world.root / "secrets" / "masking-key").write_text("a key for tests")
    world.write("shop.yaml", image("shop"), clone("dev"))
    world.converge()
    volumes = world.volumes()
    rules = [{"table": "public.ballast", "columns": {"name": "hash", "rest": "keep"}}]
    world.write("pii.yaml", document("MaskingPolicy", "pii", {"key": {"secret": "masking-key"}, "rules": rules}))
    scripts = [{"inline": HALF, "database": "shop"}]
    world.write("large.yaml", image("large", scripts=scripts, masking=["pii"]))
    result = world.apply()
    assert re.search("space|disk", result.errors["Image/large"], re.IGNORECASE)
    assert "somebody" not in result.errors["Image/large"]
    assert world.volumes() == volumes
    assert world.leftovers() == []
    assert world.sql("dev", COUNT) == [(3,)]
