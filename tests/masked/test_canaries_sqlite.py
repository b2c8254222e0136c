"""A SQLite file with a marker in every place that can hold what a table once held: after masking, no file has one."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.masking.attestation import read
from tests.masked.scanner import markers
from tests.support import clone, document, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import World

KEY = "correct horse battery staple, and more"
SOURCE = """
PRAGMA secure_delete = OFF;
CREATE TABLE person (id INTEGER PRIMARY KEY, email TEXT UNIQUE, name TEXT COLLATE NOCASE, bio TEXT, profile JSON,
    photo BLOB, shout TEXT AS (upper(name)) STORED);
CREATE TABLE badge (code TEXT, level INTEGER, note TEXT, PRIMARY KEY (code, level)) WITHOUT ROWID;
CREATE TABLE session (token TEXT);
CREATE TABLE gone (what TEXT);
CREATE TABLE audit (was TEXT);
CREATE VIRTUAL TABLE story USING fts5(body, tokenize = 'unicode61');
CREATE VIRTUAL TABLE finder USING fts5(name, content = 'person', content_rowid = 'id');
CREATE INDEX by_name ON person (name, bio);
CREATE TRIGGER changed AFTER UPDATE ON person BEGIN INSERT INTO audit VALUES (old.email); END;
WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < 400)
INSERT INTO person (id, email, name, bio, profile, photo) SELECT n, 'zq7heap' || n || '@corp.invalid', 'zq7name' || n,
    'zq7overflow' || n || hex(zeroblob(6000)), json_object('contact', json_object('email', 'zq7json' || n)),
    CAST('zq7blob' || n AS BLOB) FROM c;
INSERT INTO badge SELECT 'zq7keyed' || id, id, 'zq7without' || id FROM person;
INSERT INTO session SELECT 'zq7scripted' || id FROM person;
INSERT INTO story SELECT 'zq7story' || id || ' came home' FROM person;
INSERT INTO finder(rowid, name) SELECT id, name FROM person;
ANALYZE;
INSERT INTO gone SELECT 'zq7dropped' || id FROM person;
DROP TABLE gone;
INSERT INTO story SELECT 'zq7forgotten' || id FROM person;
DELETE FROM story WHERE body LIKE 'zq7forgotten%';
INSERT INTO person (id, email) SELECT 10000 + id, 'zq7deleted' || id FROM person;
DELETE FROM person WHERE id > 10000;
DROP TRIGGER changed;
UPDATE person SET name = 'zq7updated' || id;
UPDATE person SET name = 'zq7name' || id;
CREATE TRIGGER changed AFTER UPDATE ON person BEGIN INSERT INTO audit VALUES (old.email); END;
"""
IN_SOURCE = {
    *("heap", "name", "overflow", "json", "blob", "keyed", "without", "scripted", "story", "dropped", "forgotten"),
    *("deleted", "updated", "wal"),
}
POLICY: dict[str, Any] = {
    "key": {"secret": "masking-key"},
    "unlisted": "fail",
    "rules": [
        {
            "table": "main.person",
            "columns": {
                "id": "keep",
                "email": "email",
                "name": {"fake": "full_name"},
                "bio": "hash",
                "profile": {"json": {"$.contact.email": "email"}},
                "photo": "hash",
            },
        },
        {"table": "main.badge", "columns": {"code": "hash", "level": "keep", "note": "hash"}},
        {"table": "main.session", "columns": {"*": "keep"}},
        {"table": "main.audit", "columns": {"*": "keep"}},
        {"table": "main.story", "columns": {"body": "hash"}},
    ],
}


@pytest.fixture(scope="module")
def masked() -> Iterator[tuple[World, Path]]:
    """An installation with a masked image of the source and a clone, and the files that it was built from."""
    world = new_world()
    try:
        source = world.root / "production"
        source.mkdir()
        with closing(sqlite3.connect(source / "shop.db", isolation_level=None)) as conn:
            conn.executescript(f"BEGIN; {SOURCE} COMMIT;")
            conn.execute("PRAGMA journal_mode = WAL")
            conn.execute("PRAGMA wal_autocheckpoint = 0")
            conn.execute("UPDATE badge SET note = 'zq7wal' || level WHERE level < 5")
            kept = world.root / "kept"
            shutil.copytree(source, kept)
            world.configure(sources={"roots": [str(source)]})
            (world.root / "secrets" / "masking-key").write_text(KEY)
            world.write("pii.yaml", document("MaskingPolicy", "pii", POLICY))
            spec = {
                "engine": "sqlite",
                "source": {"files": {"path": str(source / "shop.db")}},
                "scripts": [{"inline": "DELETE FROM session;"}],
                "masking": ["pii"],
                "checks": [{"sql": "SELECT count(*) = 400 FROM person"}],
            }
            world.write("shop.yaml", document("Image", "shop", spec), clone("dev", users=[]))
            world.converge()
        yield world, kept
    finally:
        world.close()


def test_the_scanner_sees_every_marker_in_the_source(masked: tuple[World, Path]) -> None:
    _world, source = masked
    assert IN_SOURCE - markers(source).keys() == set()


def test_no_file_of_the_snapshot_or_a_clone_has_a_marker(masked: tuple[World, Path]) -> None:
    world, _source = masked
    assert markers(world.pool_path) == {}
    assert markers(world.state) == {}


def test_the_clone_works_as_production_does(masked: tuple[World, Path]) -> None:
    world, _source = masked
    path = world.pool_path / "volumes" / "dev.1" / "data" / "shop.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        assert conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert conn.execute("SELECT count(*) FROM audit").fetchone() == (0,)
        name, shout = conn.execute("SELECT name, shout FROM person WHERE id = 7").fetchone()
        assert shout == name.upper()
        found = conn.execute("SELECT count(*) FROM finder WHERE finder MATCH ?", (f'"{name}"',)).fetchone()
        assert found[0] > 0
        conn.execute("UPDATE person SET email = 'new@example.com' WHERE id = 7")
        assert conn.execute("SELECT count(*) FROM audit").fetchone() == (1,)


def test_the_attestation_says_what_was_done_and_searched(masked: tuple[World, Path]) -> None:
    world, _source = masked
    (snapshot,) = world.snapshots()
    data = read(world.pool_path / "volumes" / snapshot)
    assert data is not None
    assert KEY not in json.dumps(data, default=str)
    found = world.run("attest", snapshot, "-o", "json")
    assert found.returncode == 0, found.stderr
    assert "zq7" not in found.stdout
