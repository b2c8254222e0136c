"""The SQLite file under the status store: every kind of damage."""

from __future__ import annotations

import os
import sqlite3
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from reconciler.clock import SystemClock
from reconciler.errors import UnavailableError
from reconciler.state.conditions import Kind, ObjectKey, ready
from reconciler.status.store import STORE, StatusStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
CONDITIONS = {ObjectKey(Kind.CLONE, f"c{number}"): (ready("Served", "x" * 200),) for number in range(200)}


def _store(path: Path) -> StatusStore:
    return StatusStore(path, SystemClock())


def _filled(path: Path) -> None:
    with _store(path) as store:
        store.write_conditions(NOW, None, CONDITIONS)


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def _torn(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _scribbled(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 16384)


def _foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE music (title TEXT)")
    connection.close()


def _of_long_ago(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 1")
    connection.close()


DAMAGES = [_garbage, _torn, _scribbled, _foreign, _of_long_ago]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_file_is_moved_aside_and_reported_and_the_store_works(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "status.sqlite3"
    _filled(path)
    damage(path)
    with _store(path) as store:
        assert store.conditions() == {}
        assert [event.reason for event in store.events(key=STORE)] == ["StatusStoreReplaced"]
        assert len(store.write_conditions(NOW, None, CONDITIONS)) == 200
    assert len(list(tmp_path.glob("status.sqlite3.broken-*Z"))) == 1
    with _store(path) as store:
        assert store.conditions().keys() == CONDITIONS.keys()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_looker_sees_a_broken_file_as_empty_and_leaves_it_alone(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "status.sqlite3"
    _filled(path)
    damage(path)
    before = path.read_bytes()
    try:
        with StatusStore(path, SystemClock(), read_only=True) as store:
            assert store.events() == ()
    except UnavailableError:
        pass  # damage that is found only when the rows are read
    assert path.read_bytes() == before
    assert list(tmp_path.glob("*.broken-*")) == []


def test_a_looker_makes_no_file(tmp_path: Path) -> None:
    with StatusStore(tmp_path / "status.sqlite3", SystemClock(), read_only=True) as store:
        assert store.conditions() == {}
        assert store.passes() == ()
    assert list(tmp_path.iterdir()) == []


def test_a_looker_sees_what_a_running_loop_wrote(tmp_path: Path) -> None:
    path = tmp_path / "status.sqlite3"
    with _store(path) as writer:
        writer.write_conditions(NOW, None, CONDITIONS)
        with StatusStore(path, SystemClock(), read_only=True) as store:
            assert store.conditions() == writer.conditions()


def test_a_file_that_vanishes_under_a_running_loop_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "status.sqlite3"
    with _store(path) as store:
        store.write_conditions(NOW, None, CONDITIONS)
        for file in tmp_path.iterdir():
            file.unlink()
        store.write_conditions(NOW, None, CONDITIONS)
        assert store.conditions().keys() == CONDITIONS.keys()
    with _store(path) as store:
        assert store.conditions().keys() == CONDITIONS.keys()


def test_a_file_that_is_torn_under_a_running_loop_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "status.sqlite3"
    _filled(path)
    with _store(path) as store:
        _garbage(path)
        store.write_conditions(NOW, None, {})
        assert store.write_conditions(NOW, None, CONDITIONS)
    with _store(path) as store:
        assert store.conditions().keys() == CONDITIONS.keys()


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with _store(tmp_path / "status.sqlite3") as store:
            store.write_conditions(NOW, None, CONDITIONS)
            modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {0o600}


def test_few_broken_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "status.sqlite3"
    for _ in range(5):
        _garbage(path)
        _store(path).close()
    assert len(list(tmp_path.glob("*.broken-*"))) == 3


def test_a_file_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot open"):
        _store(tmp_path / "absent" / "status.sqlite3")
