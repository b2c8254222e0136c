"""Instances of several kinds: older ones, on file systems that share blocks or not, with fewer rights, not empty."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.hosted.world import ON_SHARED, hosted_mariadb, hosted_world
from tests.support import OLDER_MAJOR, clone, image

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import LoopMounts

MUCH = """
CREATE EXTENSION hstore;
CREATE TABLE product (id integer PRIMARY KEY, name text NOT NULL, more hstore DEFAULT 'a=>1');
INSERT INTO product SELECT number, 'Product ' || number FROM generate_series(1, 3) AS number;
ALTER TABLE product ENABLE ROW LEVEL SECURITY;
CREATE POLICY first ON product TO reconciler_owner USING (id = 1);
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM product;
CREATE FUNCTION counts() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM product';
CREATE SEQUENCE numbers;
SELECT lo_from_bytea(4711, 'a large object');
"""
COPY_BYTES = 60_000_000
"""What one full copy of a clone takes at least."""
TWO = [{"inline": MUCH, "database": "shop"}, {"inline": "CREATE TABLE other AS SELECT 1 AS a", "database": "more"}]


@pytest.mark.parametrize("user", ["boss", "keeper"])
def test_all_databases_of_a_snapshot_are_loaded_with_all_that_is_in_them_by_whoever_may_make_databases(
    user: str,
) -> None:
    with hosted_world(OLDER_MAJOR, user=user) as hosted:
        spec = {"version": OLDER_MAJOR, "databases": ["shop", "more"], "scripts": TWO}
        users = [{"name": "app"}, {"name": "eye", "role": "readonly"}]
        script = {"inline": "\\connect more\nINSERT INTO other VALUES (2)", "database": "shop"}
        hosted.world.write("shop.yaml", image("shop", **spec), clone("dev", **ON_SHARED, users=users, scripts=[script]))
        assert hosted.world.apply().require().condition("Clone/dev", "FullCopy") is not None
        with hosted.connect("dev", database="dev_shop") as conn:
            row = conn.execute("SELECT counts(), (SELECT count FROM counted), lo_get(4711), (more->'a') FROM product")
            assert row.fetchone() == (3, 3, b"a large object", "1")
        with hosted.connect("dev", "eye", database="dev_more") as conn:
            assert conn.execute("SELECT a FROM other ORDER BY a").fetchall() == [(1,), (2,)]


def test_an_instance_that_is_older_than_the_snapshot_says_so() -> None:
    with hosted_world(OLDER_MAJOR) as hosted:
        hosted.world.write("shop.yaml", image("shop", version="18"), clone("dev", **ON_SHARED))
        told = hosted.world.apply().condition("Clone/dev", "Stalled")
        assert told is not None
        assert (told[1], hosted.databases()) == ("InstanceTooOld", set())


@pytest.mark.long
def test_clones_of_mariadb_are_copied_as_files_where_the_configuration_says_where_these_are() -> None:
    with hosted_mariadb(files=True) as hosted:
        right = hosted.world.settings["runtimes"]["instance"]["shared"]
        wrong = {**right, "dataDirectory": str(hosted.server.root)}
        hosted.world.configure(runtimes={"instance": {"shared": wrong}})
        hosted.world.write("shop.yaml", hosted.image(), clone("dev", **ON_SHARED))
        hosted.world.apply()
        told = hosted.world.apply().condition("Clone/dev", "Stalled")
        assert told is not None
        assert told[1] == "DataDirectoryDiffers"
        hosted.world.configure(runtimes={"instance": {"shared": right}})
        ((_name, before),) = hosted.own("SHOW GLOBAL STATUS LIKE 'Com_alter_table'")
        hosted.world.write("dev.yaml", clone("other", **ON_SHARED))
        assert hosted.world.apply().condition("Clone/other", "FullCopy") is not None
        ((_name, after),) = hosted.own("SHOW GLOBAL STATUS LIKE 'Com_alter_table'")
        assert int(after) > int(before)
        assert hosted.rows("other", "SELECT count(*) FROM product") == [(3,)]


@pytest.mark.long
@pytest.mark.root
@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_clones_share_blocks_where_server_and_file_system_can(loop_mounts: LoopMounts, kind: str) -> None:
    mkfs = {"btrfs": ("mkfs.btrfs", "-q"), "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1")}[kind]
    place = loop_mounts.make(f"instance-{kind}", 1500, *mkfs)
    with hosted_world("18", "fsync=on", "max_wal_size=64MB", "min_wal_size=32MB", parent=place) as hosted:
        rows = "CREATE TABLE product AS SELECT repeat('x', 1000) || n AS name FROM generate_series(1, 60000) n"
        hosted.world.write("shop.yaml", image("shop", scripts=[{"inline": rows, "database": "shop"}]))
        hosted.clone("dev")
        before = used(place)
        hosted.world.write("more.yaml", clone("more", **ON_SHARED, count=5))
        done = hosted.world.apply().require()
        assert done.condition("Clone/more-1", "FullCopy") is None
        assert hosted.rows("more-5", "SELECT count(*) FROM product") == [(60_000,)]
        assert used(place) - before < COPY_BYTES


def used(place: Path) -> int:
    """Return the bytes that are taken of a file system, once everything is written."""
    os.sync()
    return shutil.disk_usage(place).used
