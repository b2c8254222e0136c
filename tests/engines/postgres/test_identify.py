"""Identities of dumps: equal for equal content, different after any change."""

from __future__ import annotations

import gzip
import os
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.base import LocalSource
from reconciler.engines.postgres.engine import PostgresEngine
from reconciler.engines.postgres.identify import identify, source_major
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path


def source(path: Path, globals_: Path | None = None) -> LocalSource:
    return LocalSource("dump", path, globals_)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "shop.sql"
    path.write_text("CREATE TABLE t (a int);\n")
    return path


def test_an_unchanged_dump_keeps_its_identity(dump: Path) -> None:
    assert identify(source(dump)) == identify(source(dump))
    assert identify(source(dump)).size_bytes >= 2 * dump.stat().st_size


def test_a_packed_dump_lets_expect_more_than_a_plain_one_of_the_same_size(dump: Path) -> None:
    packed = dump.with_suffix(".gz")
    packed.write_bytes(gzip.compress(b"CREATE TABLE t (a int);\n" + os.urandom(1 << 16).hex().encode()))
    dump.write_text("CREATE TABLE t (a int);".ljust(packed.stat().st_size))
    plain = identify(source(dump)).size_bytes
    assert identify(source(packed)).size_bytes - plain == 12 * dump.stat().st_size


def test_a_dump_in_git_is_taken_for_plain_by_its_name_only(dump: Path) -> None:
    engine, size = PostgresEngine(), dump.stat().st_size
    assert engine.built_size("dumps/shop.sql", size) == identify(source(dump)).size_bytes
    for name in ("dumps/shop.dump", "dumps/shop.sql.gz", "dumps/shop"):
        assert engine.built_size(name, size) > identify(source(dump)).size_bytes


def test_every_change_of_a_dump_changes_its_identity(dump: Path) -> None:
    seen = {identify(source(dump)).input_id}

    os.utime(dump, ns=(1, 1))
    seen.add(identify(source(dump)).input_id)
    dump.write_text("CREATE TABLE longer (a int);\n")
    seen.add(identify(source(dump)).input_id)
    other = dump.with_name("new")
    other.write_bytes(dump.read_bytes())
    os.utime(other, ns=(dump.stat().st_atime_ns, dump.stat().st_mtime_ns))
    other.replace(dump)
    seen.add(identify(source(dump)).input_id)
    roles = dump.with_name("roles.sql")
    roles.write_text("CREATE ROLE app;\n")
    seen.add(identify(source(dump, roles)).input_id)

    assert len(seen) == 5


def test_every_file_of_a_directory_dump_counts(tmp_path: Path) -> None:
    (tmp_path / "toc.dat").write_bytes(b"PGDMP")
    (tmp_path / "1.dat.gz").write_bytes(b"x")
    before = identify(source(tmp_path)).input_id

    (tmp_path / "1.dat.gz").write_bytes(b"xy")

    assert identify(source(tmp_path)).input_id != before


def test_a_missing_dump_is_an_error(tmp_path: Path, dump: Path) -> None:
    with pytest.raises(SourceError, match="cannot read"):
        identify(source(tmp_path / "missing.sql"))
    with pytest.raises(SourceError, match="cannot read"):
        identify(source(dump, tmp_path / "missing.sql"))


def test_a_dump_and_nothing_leave_the_version_open(dump: Path) -> None:
    assert source_major(source(dump)) is None
    assert source_major(LocalSource("empty")) is None
    assert identify(LocalSource("empty")).input_id == "empty"
