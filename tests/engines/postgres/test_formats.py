"""Recognising dumps, and other products' dumps, by their first bytes."""

from __future__ import annotations

import gzip
import tarfile
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres.formats import Format, detect
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

HEAD = (
    b"--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 15.18\n-- Dumped by pg_dump version 17.2\n"
)


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "a.dump"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEAD, Format("plain", None, 15)),
        (gzip.compress(HEAD, mtime=0), Format("plain", "gzip", 15)),
        (b"PGDMP\x01\x0e\x00", Format("custom")),
        (b"CREATE TABLE t (a int);", Format("plain")),
        (b"INSERT INTO t VALUES ('-- MySQL dump', 'USE `x`');", Format("plain")),
    ],
)
def test_a_dump_of_postgresql_is_recognised(tmp_path: Path, content: bytes, expected: Format) -> None:
    assert detect(written(tmp_path, content)) == expected


@pytest.mark.parametrize(
    ("content", "product"),
    [
        (b"-- MySQL dump 10.13  Distrib 8.0.36\n", "MySQL or MariaDB"),
        (b"/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19\n", "MySQL or MariaDB"),
        (b"CREATE TABLE `a` (\n `b` int\n) ENGINE=InnoDB;", "MySQL or MariaDB"),
        (b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n", "SQLite"),
        (b"SQLite format 3\x00" + bytes(84), "SQLite"),
        (b"USE [shop]\r\nGO\r\nCREATE TABLE [dbo].[a] (b int)\r\nGO\r\n", "SQL Server"),
        (b"TAPE\x00\x00\x03\x00" + bytes(100), "SQL Server"),
        (b"CREATE TABLE a (b VARCHAR2(10), c NUMBER(10,0) NOT NULL);\n", "Oracle"),
        (b"\x03\x03iEXPORT:V12.01.00\n", "Oracle"),
        (bytes(500), "no SQL text"),
    ],
)
def test_another_products_dump_is_named(tmp_path: Path, content: bytes, product: str) -> None:
    with pytest.raises(SourceError, match=product):
        detect(written(tmp_path, content))


def test_what_is_no_dump_is_refused_with_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is empty"):
        detect(written(tmp_path, b""))
    with pytest.raises(SourceError, match=r"cannot read the dump .*: No such file"):
        detect(tmp_path / "missing.sql")
    with pytest.raises(SourceError, match=r"no toc\.dat"):
        detect(tmp_path)
    (tmp_path / "PG_VERSION").write_text("18\n")
    with pytest.raises(SourceError, match=r"source\.backup or source\.files"):
        detect(tmp_path)
    with pytest.raises(SourceError, match=r"is a compressed archive.*gzip -d"):
        detect(written(tmp_path, gzip.compress(b"PGDMP" + bytes(100))))


def test_a_tar_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(written(tmp_path, HEAD), "shop.sql")

    with pytest.raises(SourceError, match="no dump of pg_dump --format=tar"):
        detect(path)
