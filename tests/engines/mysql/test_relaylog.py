from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.engines.mysql.following import behind
from reconciler.engines.mysql.relaylog import complete, last_commit

if TYPE_CHECKING:
    from pathlib import Path

_STATEMENT, _ROTATE, _DESCRIPTION, _COMMIT, _ROWS, _GTID = 2, 4, 15, 16, 23, 162


def _log(path: Path, *events: tuple[int, int]) -> list[int]:
    """Write a log of (type, time) events of 30 bytes each; return where each of them ends."""
    content, ends = b"\xfebin", []
    for kind, time in events:
        content += struct.pack("<IBIIIH", time, kind, 7, 30, 0, 0) + b"\0" * 11
        ends.append(len(content))
    path.write_bytes(content)
    return ends


def test_it_is_the_time_of_the_last_transaction_that_ended_before_the_place(tmp_path: Path) -> None:
    path = tmp_path / "relay.000002"
    ends = _log(path, (_DESCRIPTION, 9), (_COMMIT, 100), (_ROWS, 200), (_COMMIT, 201), (_STATEMENT, 300))
    assert last_commit(path, ends[0]) is None
    assert last_commit(path, ends[2]) == datetime.fromtimestamp(100, UTC)
    assert last_commit(path, ends[3]) == datetime.fromtimestamp(201, UTC)
    assert last_commit(path, ends[4] - 1) == datetime.fromtimestamp(201, UTC)
    assert last_commit(path, 10**9) == datetime.fromtimestamp(300, UTC)


def test_a_log_that_is_gone_or_cut_off_says_what_it_can(tmp_path: Path) -> None:
    path = tmp_path / "relay.000002"
    assert last_commit(path, 1000) is None
    _log(path, (_COMMIT, 100), (_COMMIT, 200))
    path.write_bytes(path.read_bytes()[:-20])
    assert last_commit(path, 1000) == datetime.fromtimestamp(100, UTC)
    path.write_bytes(b"something else")
    assert last_commit(path, 1000) is None


def test_a_transaction_that_is_being_written_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "bin.000003"
    head = [(_DESCRIPTION, 9), (_GTID, 100), (_ROWS, 100), (_COMMIT, 100), (_GTID, 200), (_STATEMENT, 200)]
    ends = _log(path, *head)
    assert complete(path) == ends[3]
    assert _log(path, *head, (_GTID, 300))[5] == complete(path)
    assert _log(path, *head, (_ROTATE, 300))[6] == complete(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert complete(path) == ends[3]


def test_a_mirror_is_behind_by_what_it_lacks_of_each_domain() -> None:
    assert behind("0-7-10,1-8-5", "0-7-12,1-8-5") == 2
    assert behind("", "0-7-3") == 3
    assert behind("0-7-10", "0-9-10") == 0
