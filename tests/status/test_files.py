"""Durable small files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.errors import ConfigError, UnavailableError
from reconciler.status import files

if TYPE_CHECKING:
    from pathlib import Path


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inside").touch()
    with pytest.raises(UnavailableError, match="cannot write"):
        files.write_atomic(tmp_path / "file", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_a_torn_record_is_a_clear_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"record\.json cannot be used") as caught:
        files.read_record(path)
    assert caught.value.reason == "StateUnreadable"


def test_an_absent_file_is_none_and_an_absent_directory_is_empty(tmp_path: Path) -> None:
    assert files.read_record(tmp_path / "absent") is None
    assert files.names(tmp_path / "absent") == []
    files.remove(tmp_path / "absent")


def test_names_leaves_out_unfinished_writes(tmp_path: Path) -> None:
    for name in ("b", "a", ".tmp-0123"):
        (tmp_path / name).touch()
    assert files.names(tmp_path) == ["a", "b"]


def test_a_file_too_large_to_be_ours_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="larger"):
        files.read(tmp_path / "large")
