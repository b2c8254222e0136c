"""A MariaDB server with a marker in every place that can hold what a table once held: after masking, no file has one."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reconciler import proc
from reconciler.engines.mysql.engine import MariaDbEngine
from tests.engines.mysql.live import Production
from tests.masked.scanner import markers
from tests.support import clone, document, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World

SOURCE = Path(__file__).with_name("canaries_mariadb.sql")
KEY = "correct horse battery staple, and more"
IN_SOURCE = {
    *("heap", "name", "overflow", "latin", "wide", "json", "blob", "partition", "keyed", "label", "history", "present"),
    *("story", "word", "squeezed", "myisam", "aria", "buried", "interred", "scripted", "updated", "deleted"),
    *("rolledback", "undone", "dropped"),
}
"""Places whose markers the scanner sees in the source; those of compressed tables are in its logs."""
POLICY: dict[str, Any] = {
    "key": {"secret": "masking-key"},
    "unlisted": "fail",
    "rules": [
        {
            "table": "canary.person",
            "columns": {
                "id": "keep",
                "email": "email",
                "name": {"fake": "full_name"},
                "bio": "hash",
                "notes": "preserve",
                "wide": "hash",
                "profile": {"json": {"$.contact.email": "email"}},
                "photo": "hash",
                "phone": "null",
            },
        },
        {"table": "canary.visit", "columns": {"id": "keep", "at": "keep", "who": "hash"}},
        {"table": "canary.account", "columns": {"code": "hash", "label": "hash"}},
        {"table": "canary.booking", "columns": {"id": "keep"}},
        {"table": "canary.salary", "columns": {"id": "keep", "who": "hash"}},
        {"table": "canary.story", "columns": {"id": "keep", "body": "hash"}},
        {"table": "canary.packed", "columns": {"id": "keep", "who": "hash"}},
        {"table": "canary.squeezed", "columns": {"id": "keep", "who": "hash"}},
        {"table": "canary.old_style", "columns": {"id": "keep", "who": "hash"}},
        {"table": "canary.crashproof", "columns": {"id": "keep", "who": "hash"}},
        {"table": "canary.product", "columns": {"*": "keep"}},
        {"table": "canary.leaflet", "columns": {"*": "keep"}},
        {"table": "canary.session", "columns": {"*": "keep"}},
        {"table": "canary.audit", "columns": {"*": "keep"}},
    ],
}


@pytest.fixture(scope="module")
def masked() -> Iterator[tuple[World, Path]]:
    """An installation with a masked image of the source and a clone, and the files that it was built from."""
    if not MariaDbEngine().servers():
        pytest.skip("needs MariaDB on this host (packages mariadb-server-core, mariadb-client-core)")
    world, place = new_world(), Path(tempfile.mkdtemp(prefix="rmy-"))
    try:
        data = _production(place)
        world.configure(sources={"roots": [str(data)]})
        (world.root / "secrets" / "masking-key").write_text(KEY)
        world.write("pii.yaml", document("MaskingPolicy", "pii", POLICY))
        spec = {
            "engine": "mariadb",
            "source": {"files": {"path": str(data)}},
            "databases": ["canary"],
            "scripts": [{"inline": "DELETE FROM session;", "database": "canary"}],
            "masking": ["pii"],
            "checks": [{"sql": "SELECT count(*) = 300 FROM person", "database": "canary"}],
        }
        world.write("canary.yaml", document("Image", "canary", spec), clone("dev", image="canary"))
        world.converge()
        yield world, data
    finally:
        world.close()
        shutil.rmtree(place, ignore_errors=True)


def _production(place: Path) -> Path:
    """Run a production server until it holds everything, and end it as a power failure does."""
    account = None
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        account = proc.Account(nobody.pw_uid, nobody.pw_gid)
        os.chown(place, nobody.pw_uid, nobody.pw_gid)
    source = Production(place, account)
    try:
        source.sql(*filter(str.strip, SOURCE.read_text().split(";\n")))
    finally:
        source.stop(kill=True)
    return source.data


def test_the_scanner_sees_every_marker_in_the_source(masked: tuple[World, Path]) -> None:
    _world, source = masked
    assert IN_SOURCE - markers(source).keys() == set()


def test_no_file_of_the_snapshot_or_a_clone_has_a_marker(masked: tuple[World, Path]) -> None:
    world, _source = masked
    assert markers(world.pool_path) == {}
    assert markers(world.state) == {}
