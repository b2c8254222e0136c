"""A refresh from a new base backup searches what may have changed, says so, and finds what came in meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from reconciler.clock import SystemClock
from reconciler.engines.postgres import server
from reconciler.ids import VolumeId
from reconciler.loop import Reconciler
from tests.crash.production import production
from tests.support import document, image, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.state.observed import SnapshotManifest
    from tests.crash.production import Production
    from tests.support import World

pytestmark = [pytest.mark.postgres, pytest.mark.long]

SOURCE = """
CREATE TABLE person (id integer PRIMARY KEY, email text);
INSERT INTO person SELECT n, 'secretive' || n || '@corp.invalid' FROM generate_series(1, 300) AS n;
CREATE TABLE archive AS SELECT n AS id, md5(n::text) AS what FROM generate_series(1, 20000) AS n;
CREATE TABLE news (id integer, what text);
VACUUM (FREEZE, ANALYZE);
"""
ARCHIVE_BYTES = 1_000_000
RULES = {"id": "keep", "email": "email"}
COPIED = "INSERT INTO news SELECT 77, email FROM person WHERE id = 77"
"""In a table that no rule names: nothing but a search of its file sees that."""


class _Later(SystemClock):
    """The clock of the host, after a week."""

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=7)


@dataclass
class Refreshed:
    """A production server, and an installation with a masked image of its backups."""

    world: World
    source: Production

    def policy(self, columns: dict[str, Any]) -> None:
        spec = {"key": {"secret": "masking-key"}, "rules": [{"table": "public.person", "columns": columns}]}
        self.world.write("pii.yaml", document("MaskingPolicy", "pii", spec))

    def changed(self, statements: str) -> None:
        """Let production go on, and take a new backup of it."""
        backup = self.world.root / "backups" / "shop"
        self.source.psql(statements + "; CHECKPOINT;")
        subprocess.run(["chmod", "-R", "a+rX", self.source.data], check=True)
        shutil.rmtree(backup, ignore_errors=True)
        shutil.rmtree(self.source.data.parent / "backup", ignore_errors=True)
        self.source.backup(backup)

    def built(self, *, later: bool = False) -> tuple[str, dict[str, Any]]:
        """Refresh the image; return the new snapshot, and what its attestation says of the scan."""
        self.world.request("refresh", "shop")
        known = set(self.world.snapshots())
        with self.world.host(writes=True) as host:
            if later:
                host.clock = _Later()
            reconciler = Reconciler(host, host.commits())
            try:
                view = reconciler.one_pass()
                tasks = reconciler.in_flight
                reconciler.settle(view)
            finally:
                reconciler.close(abandon=False)
        if errors := [str(task.error) for task in tasks if task.error is not None]:
            raise AssertionError(*errors)
        (snapshot,) = set(self.world.snapshots()) - known
        done = self.world.run("attest", snapshot, "--files", "-o", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        return snapshot, json.loads(done.stdout)["statement"]["predicate"]["scan"]


@contextmanager
def refreshed(masking: str | dict[str, str] = "pii") -> Iterator[Refreshed]:
    world = new_world()
    try:
        with production() as source:
            made = Refreshed(world, source)
            made.changed(SOURCE)
            world.configure(sources={"roots": [str(world.root / "backups")]})
            (world.root / "secrets" / "masking-key").write_text("a key for tests")
            made.policy(RULES)
            backup = {"backup": {"path": str(world.root / "backups" / "shop")}}
            world.write("shop.yaml", image("shop", source=backup, scripts=[], masking=[masking], retention={"keep": 9}))
            yield made
    finally:
        world.close()


def test_a_refresh_leaves_out_what_is_as_it_was_and_finds_what_came_in() -> None:
    with refreshed() as made:
        first, scan = made.built()
        assert (scan["full"], scan["lastFull"]["snapshot"]) == (True, first)
        made.changed("INSERT INTO person VALUES (1000, 'secretive1000@corp.invalid'); INSERT INTO news VALUES (1, 'a')")
        second, scan = made.built()
        assert (scan["full"], scan["lastFull"]["snapshot"], scan["comparedWith"]["snapshot"]) == (False, first, first)
        assert scan["skipped"]["bytes"] > ARCHIVE_BYTES
        assert scan["skipped"]["files"] > 0
        known = {volume.id: volume.manifest for volume in made.world.volumes()}
        attestations = [cast("SnapshotManifest", known[VolumeId(one)]).attestation for one in (first, second)]
        assert [one and one.full_scan for one in attestations] == [None, first]
        shown = made.world.run("attest", second).stdout
        assert f"were as in {first}" in shown
        made.changed(COPIED)
        with pytest.raises(AssertionError, match=r"public\.news\.what.* has 1 of"):
            made.built()
        assert set(made.world.snapshots()) == {first, second}


def test_a_refresh_searches_everything_when_a_rule_has_changed_or_a_week_has_passed() -> None:
    with refreshed() as made:
        made.built()
        made.policy({**RULES, "email": {"hash": {"length": 20}}})
        made.changed("INSERT INTO news VALUES (1, 'new')")
        second, scan = made.built()
        assert (scan["full"], scan["lastFull"]["snapshot"]) == (True, second)
        made.changed("INSERT INTO news VALUES (2, 'new')")
        third, scan = made.built(later=True)
        assert (scan["full"], scan["lastFull"]["snapshot"]) == (True, third)


def test_everything_is_searched_where_a_program_of_the_host_masks() -> None:
    with refreshed({"masker": "own"}) as made:
        script = made.world.root / "mask.sh"
        psql = server.program(server.choose(), "psql")
        script.write_text(f"#!/bin/sh\n{psql} -X -q -d shop -c \"UPDATE person SET email = 'm' || id\"\n")
        script.chmod(0o755)
        made.world.configure(masking={"maskers": {"own": {"argv": [str(script)]}}})
        made.built()
        made.changed("INSERT INTO news VALUES (1, 'new')")
        second, scan = made.built()
        assert (scan["full"], scan["lastFull"]["snapshot"]) == (True, second)
