"""A refresh of a masked image from its mirror reads what changed, and finds in it what it would find in everything."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.ids import VolumeId
from tests.followed.primary import primary
from tests.followed.world import caught_up, follow
from tests.masked.scanner import markers
from tests.support import document, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.followed.primary import Primary
    from tests.support import World

pytestmark = [pytest.mark.postgres, pytest.mark.root, pytest.mark.long]

SOURCE = """
CREATE TABLE person (id integer PRIMARY KEY, email text);
INSERT INTO person SELECT n, 'secretive' || n || '@corp.invalid' FROM generate_series(1, 300) AS n;
CREATE TABLE archive AS SELECT n AS id, repeat(md5(n::text), 10) AS what FROM generate_series(1, 60000) AS n;
CREATE TABLE diary AS SELECT n AS id, repeat('a long story ' || n, 300) AS said FROM generate_series(1, 20000) AS n;
VACUUM (FREEZE, ANALYZE);
CHECKPOINT;
"""
UNCHANGED = 30_000_000
"""Bytes, at least, most of them of two tables that each have a page that was changed."""
REMOVED = """
UPDATE archive SET what = 'zq7archive' || id WHERE id = 30000;
UPDATE diary SET said = repeat('zq7diary' || id, 3) WHERE id = 10000;
VACUUM (FREEZE) archive, diary;
DELETE FROM archive WHERE id = 30000;
DELETE FROM diary WHERE id = 10000;
"""
COPIED = """
UPDATE archive SET what = (SELECT email FROM person WHERE person.id = 77) WHERE id = 200;
UPDATE diary SET said = repeat((SELECT email FROM person WHERE person.id = 78), 200) WHERE id = 7000;
"""
"""In tables that no rule names: the first is seen in a file, the second is compressed."""


class Refreshed:
    """A production server, and an installation on btrfs with a masked image of its mirror."""

    def __init__(self, world: World, source: Primary) -> None:
        self.world = world
        self.source = source

    def changed(self, statements: str) -> None:
        for statement in filter(str.strip, statements.split(";")):
            self.source.sql(statement)
        caught_up(self.world, self.source)

    def built(self) -> tuple[Path, dict[str, Any]]:
        """Refresh the image; return the files of the snapshot and what its attestation says, which agrees with them."""
        known = set(self.world.snapshots())
        self.world.apply(("refresh", "shop")).require()
        (snapshot,) = set(self.world.snapshots()) - known
        done = self.world.run("attest", snapshot, "--files", "-o", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        with self.world.host() as host:
            (pool,) = host.pools.values()
            return pool.path(VolumeId(snapshot)), json.loads(done.stdout)["statement"]["predicate"]


@contextmanager
def refreshed() -> Iterator[Refreshed]:
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs the program mkfs.btrfs (package btrfs-progs)")
    world = new_world(driver="btrfs", pool={"size": "700Mi"})
    try:
        with primary() as source:
            for statement in filter(str.strip, SOURCE.split(";")):
                source.sql(statement)
            (world.root / "secrets" / "key").write_text("a key for tests")
            rules = [{"table": "public.person", "columns": {"id": "keep", "email": "email"}}]
            world.write("pii.yaml", document("MaskingPolicy", "pii", {"key": {"secret": "key"}, "rules": rules}))
            follow(world, source, masking=["pii"], retention={"keep": 9})
            world.apply().require()
            yield Refreshed(world, source)
            world.write("shop.yaml", "")
            world.apply()
    finally:
        world.close()


def test_a_refresh_reads_what_changed_and_leaves_nothing_in_it() -> None:
    with refreshed() as made:
        (first,) = made.world.snapshots()
        made.changed(REMOVED)
        files, said = made.built()
        assert (said["wipe"]["full"], said["wipe"]["lastFull"]["snapshot"]) == (False, first)
        assert said["wipe"]["comparedWith"]["snapshot"] == first
        assert said["wipe"]["skipped"]["bytes"] > UNCHANGED > 2 * said["wipe"]["bytes"]
        assert said["scan"]["skipped"]["bytes"] > UNCHANGED
        assert said["wipe"]["pages"] > 0
        assert markers(files) == {}
        made.changed("INSERT INTO person VALUES (1000, 'secretive1000@corp.invalid')")
        second = said["snapshot"]
        _, said = made.built()
        assert (said["wipe"]["full"], said["wipe"]["lastFull"]["snapshot"]) == (False, first)
        assert said["wipe"]["comparedWith"]["snapshot"] == second
        assert said["wipe"]["skipped"]["bytes"] > UNCHANGED
        made.changed(COPIED)
        failed = made.world.apply(("refresh", "shop")).errors["Image/shop"]
        assert "public.archive.what" in failed
        assert "public.diary.said" in failed
