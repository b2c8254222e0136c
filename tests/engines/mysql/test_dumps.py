from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.base import LocalSource
from reconciler.engines.mysql.dumps import Format, detect
from reconciler.engines.mysql.identify import identify
from reconciler.engines.mysql.product import MARIADB
from reconciler.errors import SourceError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"PGDMP\x01\x0e", "pg_dump"),
        (b"--\n-- PostgreSQL database dump\n--\n", "PostgreSQL"),
        (b"SET client_encoding = 'UTF8';\nCREATE TABLE a (b text);\nCOPY a FROM stdin;\n", "PostgreSQL"),
        (b"SQLite format 3\x00", "SQLite"),
        (b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n", "SQLite"),
        (b"USE [shop]\nGO\nCREATE TABLE [dbo].[a] (b int)\nGO\n", "SQL Server"),
        (b"CREATE TABLE a (b VARCHAR2(10));\n", "Oracle"),
        (b"XBSTCK01\x00", "physical backup"),
        (b"\x00\x01\x02nothing", "no SQL text"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_dump_of_this_product_is_refused_with_what_it_is(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "x.sql"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=named):
        detect(path)


def test_a_data_directory_is_no_dump(tmp_path: Path) -> None:
    (tmp_path / "ibdata1").touch()
    with pytest.raises(SourceError, match=r"source\.backup or source\.files"):
        detect(tmp_path)


def test_a_compressed_dump_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "shop.sql"
    path.write_bytes(gzip.compress(b"-- MariaDB dump 10.19  Distrib 10.11.6-MariaDB\n--\n"))
    assert detect(path) == Format("gzip", says_its_end=True)


def test_words_of_other_products_within_data_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "shop.sql"
    path.write_bytes(b"CREATE TABLE `a` (`b` text);\nINSERT INTO `a` VALUES ('\nGO\nUSE [x]');\n")
    assert detect(path) == Format()


def test_a_dump_is_the_same_until_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "shop.sql"
    path.write_bytes(b"CREATE TABLE `a` (`b` text);\n")
    before = identify(LocalSource("dump", path=path), MARIADB)
    assert identify(LocalSource("dump", path=path), MARIADB) == before
    path.write_bytes(b"CREATE TABLE `a` (`b` int);\n -- longer")
    assert identify(LocalSource("dump", path=path), MARIADB).input_id != before.input_id


def test_a_live_primary_is_refused_with_what_can_be_done(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="use a dump"):
        identify(LocalSource("primary", path=tmp_path), MARIADB)
