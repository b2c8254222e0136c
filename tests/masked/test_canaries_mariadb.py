"""A MariaDB server with a marker in every place that can hold what was in a table: after masking, no file has one."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pymysql
import pytest

from reconciler import proc
from reconciler.engines.mysql.engine import MariaDbEngine
from reconciler.masking.attestation import read
from tests.containers import contained, container_daemon, import_mariadb
from tests.engines.mysql.live import Production
from tests.masked.scanner import markers
from tests.support import clone, document, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World

pytestmark = pytest.mark.long

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


@pytest.fixture(scope="module", params=["process", pytest.param("docker", marks=pytest.mark.root)])
def masked(request: pytest.FixtureRequest) -> Iterator[tuple[World, Path]]:
    """An installation with a masked image of the source and a clone, and the files that it was built from."""
    if not MariaDbEngine().servers():
        pytest.skip("needs MariaDB on this host (packages mariadb-server-core, mariadb-client-core)")
    with ExitStack() as stack:
        place = Path(tempfile.mkdtemp(prefix="rmy-"))
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        world = new_world()
        if request.param == "docker":
            daemon = stack.enter_context(container_daemon())
            import_mariadb(daemon)
            world.ends.append(daemon.remove_all)
            world.configure(runtimes=contained(world, daemon))
        stack.callback(world.close)
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
            "runtime": request.param,
            "checks": [{"sql": "SELECT count(*) = 300 FROM person", "database": "canary"}],
        }
        world.write(
            "canary.yaml", document("Image", "canary", spec), clone("dev", image="canary", runtime=request.param)
        )
        world.converge()
        yield world, data


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


def test_the_clone_works_as_production_does(masked: tuple[World, Path]) -> None:
    world, _source = masked
    sql = _User(world)
    assert sql("SELECT count(*), count(DISTINCT email), sum(email LIKE '%@example.com') FROM person") == [
        (300, 300, 300)
    ]
    assert sql("SELECT count(*) FROM person WHERE shout <> upper(name) OR short <> left(name, 9)") == [(0,)]
    assert sql("SELECT count(*) FROM booking JOIN account USING (code)") == [(100,)]
    assert sql("SELECT count(*), count(DISTINCT who) FROM salary FOR SYSTEM_TIME ALL") == [(200, 200)]
    assert sql("SELECT count(*) FROM salary") == [(100,)]
    ((body,),) = sql("SELECT body FROM story WHERE id = 7")
    assert sql(f"SELECT id FROM story WHERE MATCH (body) AGAINST ('\"{body}\"' IN BOOLEAN MODE)") == [(7,)]
    assert sql("SELECT count(*) FROM visit PARTITION (old)") == [(213,)]
    assert sql("SELECT count(*) FROM reachable") == [(300,)]
    assert sql("SELECT greet('you'), nextval(tickets) > 700") == [("Hello you", 1)]
    assert sql("SELECT count(*) FROM audit") == [(0,)]
    sql("UPDATE person SET email = 'new@example.com' WHERE id = 7")
    assert sql("SELECT count(*) FROM audit") == [(1,)]
    with pytest.raises(pymysql.Error, match="of_account"):
        sql("INSERT INTO booking VALUES (1000, 'nobody')")
    sql("INSERT INTO person (email) VALUES ('another@example.com')")


def test_the_attestation_says_what_was_done_and_searched(masked: tuple[World, Path]) -> None:
    world, _source = masked
    (snapshot,) = world.snapshots()
    data = read(world.pool_path / "volumes" / snapshot)
    assert data is not None
    assert KEY not in json.dumps(data, default=str)
    found = world.run("attest", snapshot, "-o", "json")
    assert found.returncode == 0, found.stderr
    assert "zq7" not in found.stdout


class _User:
    """A user of the clone."""

    def __init__(self, world: World) -> None:
        url = urlsplit(world.run("url", "dev").stdout.strip())
        self._options: dict[str, Any] = {
            "host": url.hostname,
            "port": url.port,
            "user": url.username,
            "password": unquote(url.password or ""),
        }

    def __call__(self, statement: str) -> list[tuple[Any, ...]]:
        connection: Any = pymysql.connect(database="canary", autocommit=True, **self._options)
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())
