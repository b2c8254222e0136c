"""A source with a marker in every place that can hold what a table once held: after masking, no file has one."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.containers import contained, container_daemon, host_major
from tests.crash.production import production
from tests.masked.scanner import markers
from tests.support import clone, document, image, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World

pytestmark = pytest.mark.postgres

SOURCE = Path(__file__).with_name("canaries.sql")
FOUND_IN_SOURCE = {
    *("heap", "name", "common", "street", "toast", "json", "array", "citext", "matview", "partition", "parent"),
    *("child", "deleted", "updated", "rolledback", "dropped", "scripted", "largeobject", "prepared", "keyfile"),
    "orphan",
}
"""Places whose markers the scanner sees in the source; compressed values hide from every scan of bytes."""
KEY = "correct horse battery staple, and more"
POLICY: dict[str, Any] = {
    "key": {"secret": "masking-key"},
    "unlisted": "fail",
    "largeObjects": "remove",
    "rules": [
        {
            "table": "public.person",
            "columns": {
                "id": "keep",
                "email": "email",
                "name": {"fake": "full_name"},
                "city": {"fake": "city"},
                "street": {"fake": "street"},
                "notes": "hash",
                "bio": "hash",
                "profile": {"json": {"$.contact.email": "email"}},
                "tags": "hash",
                "nick": "hash",
            },
        },
        {"table": "public.visit", "columns": {"id": "keep", "at": "keep", "who": "hash"}},
        {"table": "public.animal", "columns": {"id": "keep", "owner": "hash"}},
        {"table": "public.dog", "columns": {"breed": "keep"}},
        {"table": "public.session", "columns": {"*": "keep"}},
        {"table": "public.diary", "columns": {"*": "keep"}},
        {"table": "public.product", "columns": {"*": "keep"}},
    ],
}


PACKED = """
SELECT format('SELECT encode(substr(chunk_data, 9, 100), ''hex'') FROM %s WHERE chunk_seq = 0', reltoastrelid::regclass)
FROM pg_class WHERE relname = 'diary'
"""
packed: list[bytes] = []
"""Parts of compressed values of rows that the source deleted, as they lie in its files."""


BESIDE = {
    "base/pgsql_tmp/pgsql_tmp815.0": "sorted",
    "log/postgresql-2026-01-01.log": "logged",
    "pg_logical/mappings/map-4000-4eb-0_60DE6E0-2d9-2d8": "mapped",
    "pg_replslot/gone/xid-731-lsn-0-1000000.spill": "spilled",
    "pg_stat/pg_stat_statements.stat": "stated",
    "pg_stat_tmp/pgss_query_texts.stat": "queried",
    "pg_wal/0000000100000000000000F0": "recycled",
    "person.csv": "copied",
}
"""Files of a data directory that are no relations, by what is planted in them; backups leave most of them out."""


@pytest.fixture
def lived_in(tmp_path: Path) -> Iterator[tuple[World, Path]]:
    """An installation, and the data directory of a server that was stopped after a life with many side products."""
    world, data = new_world(), tmp_path / "files" / "shop"
    try:
        with production() as source:
            source.psql("CREATE TABLE person (id integer, email text); INSERT INTO person VALUES (1, 'zq7heap1@corp');")
            source.files(data)
        segment = b"zq7recycled1 " * ((16 << 20) // 13 + 1)
        for name, marker in BESIDE.items():
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_bytes(segment[: 16 << 20] if marker == "recycled" else f"zq7{marker}1".encode())
        subprocess.run(["chmod", "-R", "a+rX", tmp_path.parent, tmp_path], check=True)
        world.configure(sources={"roots": [str(data.parent)]})
        (world.root / "secrets" / "masking-key").write_text(KEY)
        yield world, data
    finally:
        world.close()


def test_no_side_product_of_a_server_reaches_a_snapshot_or_a_clone(lived_in: tuple[World, Path]) -> None:
    world, data = lived_in
    assert markers(data).keys() == {"heap", *BESIDE.values()}
    rules = [
        {"table": "public.person", "columns": {"id": "keep", "email": "email"}},
        {"table": "public.product", "columns": {"*": "keep"}},
    ]
    world.write("pii.yaml", document("MaskingPolicy", "pii", {"key": {"secret": "masking-key"}, "rules": rules}))
    files = {"files": {"path": str(data)}}
    world.write("shop.yaml", image("shop", source=files, scripts=[], masking=["pii"]), clone("dev"))
    world.converge()
    assert markers(world.pool_path) == {}
    assert world.sql("dev", "SELECT count(*), count(*) FILTER (WHERE email LIKE '%@example.com') FROM person") == [
        (1, 1)
    ]


@pytest.fixture(scope="module", params=["process", pytest.param("docker", marks=[pytest.mark.root, pytest.mark.long])])
def masked(request: pytest.FixtureRequest) -> Iterator[tuple[World, Path]]:
    """An installation with a masked image of the source and a clone, and the backup that it was built from."""
    with ExitStack() as stack:
        major = None
        world = new_world()
        if request.param == "docker":
            daemon = stack.enter_context(container_daemon())
            world.ends.append(daemon.remove_all)
            world.configure(runtimes=contained(world, daemon))
            major = host_major()
        stack.callback(world.close)
        backup = world.root / "backups" / "shop"
        with production("max_prepared_transactions=4", major=major) as source:
            source.psql(SOURCE.read_text())
            packed[:] = [bytes.fromhex(row) for row in source.ask(source.ask(PACKED)[0])]
            source.psql("DELETE FROM diary WHERE id > 1; VACUUM diary; CHECKPOINT;")
            (source.data / "server.key.bak").write_text("zq7keyfile1")
            relations = next(path for path in (source.data / "base").iterdir() if (path / "PG_VERSION").exists())
            (relations / "987654").write_text("zq7orphan1")
            subprocess.run(["chmod", "-R", "a+rX", source.data], check=True)
            source.backup(backup)
        world.configure(sources={"roots": [str(world.root / "backups")]})
        (world.root / "secrets" / "masking-key").write_text(KEY)
        trim = {"inline": "DELETE FROM session;", "database": "shop"}
        world.write("pii.yaml", document("MaskingPolicy", "pii", POLICY))
        world.write(
            "shop.yaml",
            image(
                "shop",
                source={"backup": {"path": str(backup)}},
                scripts=[trim],
                masking=["pii"],
                runtime=request.param,
            ),
            clone("dev", runtime=request.param),
        )
        world.converge()
        yield world, backup


def test_the_scanner_sees_every_marker_in_the_source(masked: tuple[World, Path]) -> None:
    _world, backup = masked
    assert FOUND_IN_SOURCE - markers(backup).keys() == set()


def test_no_file_of_the_snapshot_or_a_clone_has_a_marker(masked: tuple[World, Path]) -> None:
    world, _backup = masked
    assert markers(world.pool_path) == {}


def test_no_file_has_a_compressed_value_of_a_row_that_production_deleted_from_a_table_without_rules(
    masked: tuple[World, Path],
) -> None:
    world, backup = masked
    assert len(packed) == 40
    assert [value for value in packed if not any(value in data for data in contents(backup))] == []
    for volume in world.volumes():
        here = list(contents(world.pool_path / "volumes" / volume.id))
        assert [value for value in packed if any(value in data for data in here)] == packed[:1], volume.id
    assert world.sql("dev", "SELECT id, right(said, 9) FROM diary") == [(1, "zq7buried")]


def contents(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.rglob("*") if path.is_file()]


def test_nothing_that_the_reconciler_wrote_has_a_marker_or_the_key(masked: tuple[World, Path]) -> None:
    world, _backup = masked
    assert markers(world.state) == {}
    for path in [*world.state.rglob("*"), *world.pool_path.rglob("*")]:
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_no_value_that_a_user_of_the_clone_sees_is_an_original(masked: tuple[World, Path]) -> None:
    world, _backup = masked
    tables = ("person", "visit", "animal", "dog", "session", "contact", "reachable")
    rows = {table: world.sql("dev", f"SELECT t::text FROM {table} AS t") for table in tables}
    assert {table: len(found) for table, found in rows.items()} == {
        "person": 600, "visit": 500, "animal": 40, "dog": 20, "session": 0, "contact": 600, "reachable": 600,
    }  # fmt: skip
    assert [row for found in rows.values() for (row,) in found if "zq7" in row.lower()] == []
    assert world.sql("dev", "SELECT count(*) FROM pg_largeobject_metadata") == [(0,)]


def test_keys_views_and_statistics_are_as_in_the_source(masked: tuple[World, Path]) -> None:
    world, _backup = masked
    assert world.sql("dev", "SELECT count(DISTINCT email) FROM person") == [(600,)]
    assert world.sql("dev", "SELECT count(*) FROM person JOIN reachable USING (id, email)") == [(600,)]
    assert world.sql("dev", "SELECT stxname FROM pg_statistic_ext") == [("person_places",)]
    assert world.sql("dev", "SELECT profile->'level' FROM person WHERE id = 8") == [(1,)]
