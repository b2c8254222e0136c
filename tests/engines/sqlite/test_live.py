"""Records are built as files have them, so that neighbours are told from what is left."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.sqlite.databases import connect
from reconciler.engines.sqlite.masking.live import record
from reconciler.errors import CancelledError, MaskingError
from reconciler.proc import CancelToken

if TYPE_CHECKING:
    from pathlib import Path

ROW = (None, 0, 1, -1, 200, 70_000, 5_000_000_000, -(1 << 62), 1.5, "grün", b"\0bytes", "x" * 200)


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
def test_a_record_is_what_the_file_has(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "one.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute(f"PRAGMA encoding = '{encoding}'")
        conn.execute(f"CREATE TABLE t ({', '.join(f'c{number}' for number in range(len(ROW)))})")
        conn.execute(f"INSERT INTO t VALUES ({', '.join('?' for _ in ROW)})", ROW)
    assert record(ROW, encoding) in path.read_bytes()


def test_work_that_is_cancelled_fails_as_cancelled_whatever_its_failure_was_called(tmp_path: Path) -> None:
    path, token = tmp_path / "one.db", CancelToken()
    path.touch()

    def interrupted() -> None:
        with connect(path, cancel=token):
            token.cancel()
            raise MaskingError("interrupted")

    with pytest.raises(CancelledError):
        interrupted()
