"""Sources become databases whole, or are refused with what is wrong."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.sqlite.databases import file_of
from reconciler.errors import BusyError, SourceError
from tests.engines.sqlite.harness import ITEMS, SqliteHarness, dump_of, files_of, made, tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.engines.base import LocalSource


def as_the_shell_dumps(path: Path) -> Iterator[str]:
    """Yield a dump as the program sqlite3 writes it: virtual tables as rows of the schema, and what is below them."""
    with closing(sqlite3.connect(path)) as conn:
        yield "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nPRAGMA writable_schema=ON;\n"
        for kind, name, sql in conn.execute("SELECT type, name, sql FROM sqlite_schema").fetchall():
            if sql.startswith("CREATE VIRTUAL"):
                text = sql.replace("'", "''")
                yield "INSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql)"
                yield f"VALUES('table','{name}','{name}',0,'{text}');\n"
                continue
            yield f"{sql.replace('CREATE TABLE', 'CREATE TABLE IF NOT EXISTS', 1)};\n"
            columns = [row[1] for row in conn.execute(f'PRAGMA table_info("{name}")')] if kind == "table" else []
            values = "||','||".join(f'quote("{column}")' for column in columns)
            for (row,) in conn.execute(f'SELECT {values} FROM "{name}"') if columns else ():
                yield f"INSERT INTO {name} VALUES({row});\n"
        yield "PRAGMA writable_schema=OFF;\nCOMMIT;\n"


def built(sqlite: SqliteHarness, source: LocalSource, *databases: str) -> dict[str, list[tuple[object, ...]]]:
    work = sqlite.build_work(source=source, databases=databases)
    manifest = sqlite.build(work)
    return tables(file_of(work.directory, manifest.databases[0]))


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_file_that_is_being_written_is_copied_as_of_one_moment(
    sqlite: SqliteHarness, tmp_path: Path, mode: str
) -> None:
    path = made(tmp_path / "shop.db", "CREATE TABLE a (n); CREATE TABLE b (n);", mode=mode)
    ended = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as conn:
            conn.execute("PRAGMA synchronous = OFF")
            while not ended.is_set():
                conn.execute("BEGIN IMMEDIATE")
                conn.execute("INSERT INTO a VALUES (randomblob(2000))")
                conn.execute("INSERT INTO b VALUES (randomblob(2000))")
                conn.execute("COMMIT")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            found = built(sqlite, files_of(path))
            assert len(found["a"]) == len(found["b"])
    finally:
        ended.set()
        writer.join()


def test_what_only_the_write_ahead_log_holds_is_copied_and_the_mode_stays(
    sqlite: SqliteHarness, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as conn:
        conn.execute("PRAGMA journal_mode = WAL")
        conn.executescript(ITEMS)
        work = sqlite.build_work(source=files_of(tmp_path / "shop.db"))
        sqlite.build(work)
    path = file_of(work.directory, "shop")
    assert sorted(one.name for one in path.parent.iterdir()) == ["shop.db"]
    assert tables(path) == {"item": [(1, "one"), (2, "two;2")]}
    assert path.read_bytes()[18:20] == b"\x02\x02"


def test_a_transaction_that_a_crash_cut_off_is_rolled_back_in_the_copy_alone(
    sqlite: SqliteHarness, tmp_path: Path
) -> None:
    live = made(tmp_path / "live.db")
    with closing(sqlite3.connect(live, isolation_level=None)) as conn:
        conn.execute("PRAGMA cache_size = 1")
        conn.execute("BEGIN")
        conn.execute("DELETE FROM item")
        conn.execute("CREATE TABLE big (n)")
        conn.executemany("INSERT INTO big VALUES (randomblob(4000))", [()] * 100)
        for suffix in ("", "-journal"):
            shutil.copy(f"{live}{suffix}", tmp_path / f"shop.db{suffix}")
        conn.execute("ROLLBACK")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("shop.db*")}
    assert set(before) == {"shop.db", "shop.db-journal"}
    assert built(sqlite, files_of(tmp_path / "shop.db")) == {"item": [(1, "one"), (2, "two;2")]}
    assert {path.name: path.read_bytes() for path in tmp_path.glob("shop.db*")} == before


def test_a_directory_gives_every_database_in_it_and_nothing_else(sqlite: SqliteHarness, tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    made(source / "shop.sqlite3")
    made(source / "depot.db")
    (source / "notes.txt").write_text("not a database")
    work = sqlite.build_work(source=files_of(source))
    assert sqlite.build(work).databases == ("depot", "shop")
    work = sqlite.build_work(source=files_of(source), databases=("shop",))
    assert sqlite.build(work).databases == ("shop",)


def test_a_single_file_is_called_as_the_image_says(sqlite: SqliteHarness, tmp_path: Path) -> None:
    path = made(tmp_path / "Shop_v2.sqlite")
    assert sqlite.build(sqlite.build_work(source=files_of(path))).databases == ("Shop_v2",)
    assert sqlite.build(sqlite.build_work(source=files_of(path), databases=("shop",))).databases == ("shop",)


def test_pages_that_were_freed_are_not_in_what_is_built(sqlite: SqliteHarness, tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA secure_delete = OFF")
        conn.execute("CREATE TABLE item (name text)")
        conn.execute("BEGIN")
        conn.executemany("INSERT INTO item VALUES (?)", [("Adelheid Mustermann",)] * 500)
        conn.execute("COMMIT")
        conn.execute("DELETE FROM item")
    assert b"Mustermann" in path.read_bytes()
    work = sqlite.build_work(source=files_of(path))
    sqlite.build(work)
    assert b"Mustermann" not in file_of(work.directory, "shop").read_bytes()


def test_an_identity_is_that_of_file_and_log_and_changes_with_them(sqlite: SqliteHarness, tmp_path: Path) -> None:
    path = made(tmp_path / "shop.db", mode="WAL")
    first = sqlite.engine.identify(files_of(path))
    assert sqlite.engine.identify(files_of(path)) == first
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("INSERT INTO item VALUES (3, 'three')")
        assert sqlite.engine.identify(files_of(path)).input_id != first.input_id


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_a_dump_is_loaded_however_it_is_compressed(
    sqlite: SqliteHarness, tmp_path: Path, suffix: str, pack: object
) -> None:
    with closing(sqlite3.connect(made(tmp_path / "made.db"))) as conn:
        text = "\n".join(conn.iterdump())
    path = tmp_path / f"shop.sql{suffix}"
    path.write_bytes(pack(text.encode()))  # type: ignore[operator] # a function of bytes
    assert built(sqlite, dump_of(path)) == {"item": [(1, "one"), (2, "two;2")]}


def test_full_text_indexes_and_triggers_come_back_from_a_dump(sqlite: SqliteHarness, tmp_path: Path) -> None:
    schema = """
        CREATE VIRTUAL TABLE docs USING fts5(body); INSERT INTO docs VALUES ('hello; world');
        CREATE TABLE log (n);
        CREATE TRIGGER added AFTER INSERT ON log BEGIN
            SELECT CASE WHEN new.n < 0 THEN RAISE(ABORT, 'no; never') END; DELETE FROM log WHERE n = 0;
        END;
    """
    path = made(tmp_path / "made.db", schema)
    dump = tmp_path / "shop.sql"
    dump.write_text("".join(as_the_shell_dumps(path)))
    work = sqlite.build_work(source=dump_of(dump))
    sqlite.build(work)
    with closing(sqlite3.connect(file_of(work.directory, "shop"))) as conn:
        assert conn.execute("SELECT count(*) FROM docs WHERE docs MATCH 'hello'").fetchone() == (1,)
        assert conn.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'").fetchone() == (1,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CREATE TABLE t (a);\nINSERT INTO t VALUES ('x", r"shop\.sql:2: the file ends inside this statement"),
        ("BEGIN;\nCREATE TABLE t (a);", "ends inside a transaction"),
        ("BEGIN;\nCREATE TABLE t (a);\nROLLBACK; -- due to errors", "made of a damaged database"),
        ("CREATE TABLE t (a);\nINSERT INTO u VALUES ('secret');", r"shop\.sql:2: no such table: u, in: INSERT INTO u"),
        (".read /etc/passwd\n;", r"shop\.sql:1: the shell command \.read"),
        ("ATTACH '/tmp/other.db' AS other;", r"reaching another file \(ATTACH"),
        ("SELECT load_extension('evil');", "load_extension"),
        ("-- MySQL dump 10.13\nCREATE TABLE `t` (a int);", "MySQL or MariaDB"),
        ("COPY public.t (a) FROM stdin;\n1\n\\.\n", "PostgreSQL"),
        ("CREATE TABLE t (a int) ENGINE=InnoDB;", "MySQL or MariaDB"),
        ("  \n", "is empty"),
    ],
)
def test_a_dump_that_cannot_be_loaded_is_refused_with_line_and_cause(
    sqlite: SqliteHarness, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "shop.sql"
    path.write_text(text)
    with pytest.raises(SourceError, match=message) as found:
        built(sqlite, dump_of(path))
    assert "secret" not in str(found.value)


def test_a_truncated_archive_is_refused(sqlite: SqliteHarness, tmp_path: Path) -> None:
    path = tmp_path / "shop.sql.gz"
    path.write_bytes(gzip.compress(ITEMS.encode() * 1000)[:-20])
    with pytest.raises(SourceError, match="truncated"):
        built(sqlite, dump_of(path))


def test_a_file_that_is_no_database_is_refused_with_what_it_is(sqlite: SqliteHarness, tmp_path: Path) -> None:
    for content, message in (
        (b"", "is empty"),
        (os.urandom(8192), "encrypted"),
        (gzip.compress(b"x" * 9000), "compressed with gzip"),
        (b"PGDMP" + b"\0" * 100, "pg_dump"),
        (b"CREATE TABLE t (a);" * 10, "use source.dump"),
        (b"SQLite format 3\0", "cut off"),
        (b"hello, I am a text file\n" * 300, "does not begin as one does"),
    ):
        path = tmp_path / "shop.db"
        path.write_bytes(content)
        with pytest.raises(SourceError, match=message):
            sqlite.engine.identify(files_of(path))


def test_a_file_that_was_cut_off_or_damaged_is_refused(sqlite: SqliteHarness, tmp_path: Path) -> None:
    rows = (
        "CREATE TABLE item (name text); CREATE INDEX by_name ON item (name);"
        "INSERT INTO item SELECT hex(randomblob(200)) FROM (WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1"
        " FROM c WHERE n < 500) SELECT n FROM c);"
    )
    whole = made(tmp_path / "whole.db", rows).read_bytes()
    path = tmp_path / "shop.db"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="cut off"):
        built(sqlite, files_of(path))
    for number in range(10, 14):
        at = number * 4096
        whole = whole[:at] + b"\xff" * 200 + whole[at + 200 :]
    path.write_bytes(whole)
    with pytest.raises(SourceError, match="damaged"):
        built(sqlite, files_of(path))


def test_a_locked_file_is_busy_and_not_wrong(
    sqlite: SqliteHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.engines.sqlite.databases._BUSY_SECONDS", 0.05)
    path = made(tmp_path / "shop.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BusyError, match="locked"):
            built(sqlite, files_of(path))
