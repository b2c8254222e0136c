"""What was done to objects, as it is kept and shown."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.clock import SystemClock
from reconciler.errors import ConfigError
from reconciler.ids import Revision, VolumeId
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.status import history as module
from reconciler.status.render import history_json, render_history
from reconciler.status.store import StatusStore
from reconciler.status.values import Done

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
SHOP, DEV = ObjectKey(Kind.IMAGE, "shop"), ObjectKey(Kind.CLONE, "dev")


@dataclass(frozen=True)
class Size:
    logical_bytes: int
    exclusive_bytes: int | None = None


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StatusStore]:
    with StatusStore(tmp_path / "status.sqlite3", SystemClock()) as store:
        yield store


def done(minutes: float = 0, **changes: Any) -> Done:  # noqa: ANN401 - fields of the entry
    entry = Done(
        started_at=NOW + timedelta(minutes=minutes),
        seconds=12.5,
        object=SHOP,
        action="build",
        outcome="succeeded",
        reason="there is no snapshot yet",
        volume=VolumeId("shop-1"),
        revision=Revision("main@sha1:1"),
        changed_by="Ann in abcdef012345",
    )
    return replace(entry, **changes)


def failed(minutes: float = 0, **changes: Any) -> Done:  # noqa: ANN401
    return done(minutes, outcome="failed", reason="ScriptFailed", **{"message": "syntax error", **changes})


def test_entries_are_read_back_by_object_in_order(store: StatusStore) -> None:
    entries = [done(), done(1, object=DEV, action="create", volume=VolumeId("dev.1"), asked_by="bob"), done(2)]
    for entry in entries:
        store.history.add(entry)
    found = store.history.of("shop", kind=Kind.IMAGE)
    assert [replace(entry, last_at=None) for entry in found] == [entries[0], entries[2]]
    assert [entry.asked_by for entry in store.history.of("dev")] == ["bob"]
    assert store.history.of("shop", kind=Kind.CLONE) == ()
    assert store.history.of("shop", limit=1)[0].started_at == entries[2].started_at


def test_a_mirror_belongs_to_the_history_of_its_image(store: StatusStore) -> None:
    store.history.add(done(object=ObjectKey(Kind.MIRROR, "shop"), action="copy"))
    assert [entry.action for entry in store.history.of("shop", kind=Kind.IMAGE)] == ["copy"]


def test_a_failure_that_repeats_itself_is_one_entry_that_counts(store: StatusStore) -> None:
    for minute in range(5):
        store.history.add(failed(minute))
    store.history.add(failed(5, message="another error"))
    store.history.add(failed(6))
    counts = [(entry.count, entry.message, entry.last_at) for entry in store.history.of("shop")]
    assert counts == [
        (5, "syntax error", NOW + timedelta(minutes=4)),
        (1, "another error", NOW + timedelta(minutes=5)),
        (1, "syntax error", NOW + timedelta(minutes=6)),
    ]


def test_sizes_come_with_the_entry_that_made_a_volume_when_they_are_known(store: StatusStore) -> None:
    store.history.add(done())
    store.write_usage({VolumeId("shop-1"): Size(4096)}, NOW)
    store.write_usage({VolumeId("shop-1"): Size(8192)}, NOW)
    store.history.add(done(9, action="delete"))
    assert [(entry.action, entry.bytes) for entry in store.history.of("shop")] == [("build", 4096), ("delete", 8192)]


def test_what_an_object_was_called_before_is_its_history(store: StatusStore) -> None:
    store.history.add(done())
    store.history.rename(SHOP, ObjectKey(Kind.IMAGE, "store"))
    assert store.history.of("shop") == ()
    assert [entry.action for entry in store.history.of("store", kind=Kind.IMAGE)] == ["build"]


def test_the_newest_entries_of_an_object_are_kept_and_those_of_others(
    store: StatusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_OF_ONE", 3)
    store.history.add(done(object=DEV))
    for minute in range(8):
        store.history.add(done(minute))
    assert [entry.started_at.minute for entry in store.history.of("shop")] == [5, 6, 7]
    assert len(store.history.of("dev")) == 1
    monkeypatch.setattr(module, "KEPT", 2)
    store.history.add(done(9))
    assert (len(store.history.of("shop")), len(store.history.of("dev"))) == (2, 0)


def test_no_secret_gets_into_history(store: StatusStore) -> None:
    store.history.add(failed(message="cannot connect to postgresql://app:geheim@db.example/shop"))
    assert "geheim" not in store.history.of("shop")[0].message


def test_history_is_shown_to_people_and_programs(store: StatusStore) -> None:
    store.history.add(done(bytes=2048))
    store.history.add(failed(1))
    store.history.add(failed(2, seconds=7300))
    text = render_history(store.history.of("shop"))
    assert [line.split("  ")[0] for line in text.splitlines()] == [
        "TIME",
        "2026-11-22T02:00:00Z",
        "2026-11-22T02:01:00Z",
    ]
    assert "2.0 KiB" in text
    assert "failed (2 times, last 2026-11-22T02:02:00Z)" in text
    assert "2 h" in text
    assert "ScriptFailed: syntax error" in text
    assert "Ann in abcdef012345" in text
    rows = history_json(store.history.of("shop"))
    assert (rows[0]["bytes"], rows[0]["seconds"], rows[1]["count"]) == (2048, 12.5, 2)
    assert render_history(()) == "no history\n"


def test_a_file_of_the_version_before_is_carried_over_with_its_events(tmp_path: Path) -> None:
    file = tmp_path / "status.sqlite3"
    with sqlite3.connect(file) as connection:
        connection.executescript(VERSION_3)
    connection.close()
    with StatusStore(file, SystemClock()) as store:
        (event,) = store.events()
        assert (event.message, event.count, event.first_at) == ("it works", 1, None)
        assert store.conditions() != {}
        store.history.add(done())
        assert len(store.history.of("shop")) == 1
    assert list(tmp_path.glob("*.broken-*")) == []


def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "status.sqlite3"
    with StatusStore(file, SystemClock()) as store:
        store.history.add(done())
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for read_only in (False, True):
        with pytest.raises(ConfigError, match="written by a newer reconciler") as caught:
            StatusStore(file, SystemClock(), read_only=read_only)
        assert caught.value.reason == "StateTooNew"
    assert [path.name for path in tmp_path.glob("status.sqlite3*.broken*")] == []


VERSION_3 = """
PRAGMA journal_mode = WAL;
CREATE TABLE conditions (kind TEXT, name TEXT, position INTEGER, type TEXT, status TEXT, reason TEXT, message TEXT,
    since TEXT, revision TEXT, PRIMARY KEY (kind, name, position)) WITHOUT ROWID;
CREATE TABLE events (id INTEGER PRIMARY KEY, time TEXT, kind TEXT, name TEXT, severity TEXT, reason TEXT, message TEXT,
    revision TEXT, metadata TEXT);
CREATE INDEX events_by_object ON events (kind, name, id);
CREATE INDEX events_by_time ON events (time);
CREATE TABLE failures (kind TEXT, name TEXT, reason TEXT, message TEXT, permanent INTEGER, fingerprint TEXT,
    attempts INTEGER, at TEXT, retry_at TEXT, work TEXT, PRIMARY KEY (kind, name, work)) WITHOUT ROWID;
CREATE TABLE refreshed (image TEXT PRIMARY KEY, at TEXT, asked TEXT, skipped TEXT) WITHOUT ROWID;
CREATE TABLE usage (volume TEXT PRIMARY KEY, logical INTEGER, exclusive INTEGER, at TEXT) WITHOUT ROWID;
CREATE TABLE activity (volume TEXT PRIMARY KEY, used TEXT, looked TEXT, sessions INTEGER) WITHOUT ROWID;
CREATE TABLE passes (id INTEGER PRIMARY KEY, revision TEXT, started TEXT, finished TEXT, outcome TEXT, counts TEXT);
CREATE TABLE revisions (role TEXT PRIMARY KEY, revision TEXT, at TEXT, diagnostics TEXT) WITHOUT ROWID;
INSERT INTO events VALUES (1, '2026-11-22T02:00:00.000000+00:00', 'Image', 'shop', 'info', 'BuildSucceeded',
    'it works', 'main@sha1:1', '{}');
INSERT INTO conditions VALUES ('Image', 'shop', 0, 'Ready', 'True', 'Built', '', '2026-11-22T02:00:00.000000+00:00',
    'main@sha1:1');
PRAGMA application_id = 1919247215;
PRAGMA user_version = 3;
"""
"""The first format that was released."""
