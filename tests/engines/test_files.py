"""Files in directories of another account are handled without following its links."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from reconciler.engines import files

if TYPE_CHECKING:
    from pathlib import Path


def test_a_written_file_is_private_and_replaces_a_link_instead_of_following_it(tmp_path: Path) -> None:
    outside, directory = tmp_path / "outside", tmp_path / "data"
    outside.write_text("precious")
    directory.mkdir()
    (directory / "postgresql.conf").symlink_to(outside)
    files.write_file(directory, "postgresql.conf", "port = 1\n", None)
    assert outside.read_text() == "precious"
    assert (directory / "postgresql.conf").read_text() == "port = 1\n"
    assert (directory / "postgresql.conf").lstat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in directory.iterdir()] == ["postgresql.conf"]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "postgresql.conf").mkdir()  # cannot be replaced by a file
    for _ in range(2):
        with pytest.raises(IsADirectoryError):
            files.write_file(tmp_path, "postgresql.conf", "port = 1\n", None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["postgresql.conf"]


def test_what_a_killed_reconciler_left_of_a_file_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / ".postgresql.conf.new").write_text("half a li")
    files.write_file(tmp_path, "postgresql.conf", "port = 1\n", None)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("postgresql.conf", "port = 1\n")]


def test_a_directory_that_is_a_link_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="data"):
        files.write_file(tmp_path / "data", "x", "y", None)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    names = ("file", "link", "pipe", "absent")
    assert [files.read_small(tmp_path / name) for name in names] == ["text", None, None, None]


def test_clearing_keeps_the_directory_and_what_links_point_to(tmp_path: Path) -> None:
    outside, directory = tmp_path / "outside", tmp_path / "slots"
    outside.mkdir()
    (outside / "precious").touch()
    (directory / "slot").mkdir(parents=True)
    (directory / "slot" / "state").touch()
    (directory / "link").symlink_to(outside)
    files.clear(tmp_path, "slots")
    files.clear(tmp_path, "absent")
    assert list(directory.iterdir()) == []
    assert (outside / "precious").exists()


def test_nothing_is_removed_by_way_of_a_link(tmp_path: Path) -> None:
    outside, data = tmp_path / "outside", tmp_path / "data"
    (outside / "archive_status").mkdir(parents=True)
    (outside / "archive_status" / "precious").touch()
    data.mkdir()
    (data / "pg_replslot").symlink_to(outside / "archive_status")
    (data / "pg_wal").symlink_to(outside)
    for inside in ("pg_replslot", "pg_wal/archive_status"):
        with pytest.raises(NotADirectoryError):
            files.clear(data, inside)
    with pytest.raises(NotADirectoryError):
        files.remove(data, "pg_wal/archive_status/precious")
    files.remove(data, "pg_wal")
    files.remove(data, "absent/file")
    assert (outside / "archive_status" / "precious").exists()
    assert [entry.name for entry in data.iterdir()] == ["pg_replslot"]


def test_links_are_found_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").symlink_to("/etc/passwd")
    (tmp_path / "directory").symlink_to("/tmp")
    assert sorted(files.links_in(tmp_path)) == ["a/b/file", "directory"]
