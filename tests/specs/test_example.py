"""The example repository is complete and works: everything in it is built, cloned and answers."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.validation import validate_paths
from tests.support import new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World

SPECS = Path(__file__).parents[2] / "specs"


@pytest.fixture
def world() -> Iterator[World]:
    """The example on a host of its own; its fixed port becomes one that is free here."""
    made = new_world()
    shutil.copytree(SPECS, made.root / "specs", dirs_exist_ok=True)
    (made.root / "secrets" / "masking-key").write_text("a key for tests")
    for path in (made.root / "specs").rglob("*.yaml"):
        path.write_text(re.sub(r"port: 5601\b", f"port: {made.ports[35]}", path.read_text()))
    try:
        yield made
    finally:
        made.close()


def _snapshots_are_locked_away(world: World) -> None:
    """As root, no account of a server gets into a snapshot."""
    for manifest in (world.pool_path / "manifests").glob("*.json"):
        if json.loads(manifest.read_text())["manifest"]["kind"] == "snapshot":
            status = (world.pool_path / "volumes" / manifest.stem).stat()
            assert (status.st_uid, status.st_mode & 0o077) == (os.geteuid(), 0)


def test_example_is_valid() -> None:
    assert validate_paths([SPECS]).diagnostics == ()


@pytest.mark.postgres
def test_everything_in_the_example_is_built_cloned_and_as_its_document_says(world: World) -> None:
    applied = world.run("apply")
    assert applied.returncode == 0, applied.stderr
    status = json.loads(world.run("status", "-o", "json").stdout)
    conditions = {
        one["name"]: {(c["type"], c["status"]) for c in one["conditions"]}
        for one in status["images"] + status["clones"]
    }
    assert conditions == {key: {("Ready", "True")} for key in conditions}
    assert {image["name"]: len(image["snapshots"]) for image in status["images"]} == {
        "inventory": 1,
        "shop": 1,
        "shop-reporting": 1,
    }
    assert {clone["name"]: clone["state"] for clone in status["clones"]} == dict.fromkeys(
        ("inventory-dev", "reporting-tests", "shop-dev", "shop-nightly"), "running"
    )
    assert world.run("plan", "--detailed-exitcode").returncode == 0
    _snapshots_are_locked_away(world)
    _hold_what_their_documents_say(world)


def _hold_what_their_documents_say(world: World) -> None:
    assert world.sql("shop-dev", "SHOW statement_timeout") == [("30s",)]
    assert world.sql("shop-dev", "SHOW work_mem") == [("16MB",)]
    assert world.sql("shop-dev", "SELECT DISTINCT region FROM customer") == [("eu",)]
    assert world.sql("shop-nightly", "SELECT name FROM customer WHERE customer_id = 1000") == [("test customer",)]
    assert world.sql("shop-dev", "SELECT name FROM customer WHERE customer_id = 1000") == []
    assert world.sql("shop-dev", "SELECT count(*) FROM customer WHERE name ~ 'Door|Partners|Garden'") == [(0,)]
    assert world.sql("inventory-dev", "SELECT count(*) FROM item", database="inventory") == [(100,)]
    assert world.current("shop-dev").port == world.ports[35]
    assert world.current("inventory-dev").protected
    assert "ERROR" in world.run("connect", "shop-dev", "--user", "report", stdin="DELETE FROM customer").stderr
