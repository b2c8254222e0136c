"""The status store."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.clock import SystemClock
from reconciler.ids import ImageName, Revision, VolumeId
from reconciler.state.conditions import Condition, Kind, ObjectKey, not_ready, ready, reconciling
from reconciler.state.observed import Failure
from reconciler.status.events import Event, Severity
from reconciler.status.store import StatusStore
from reconciler.status.values import PassRecord, Revisions, VolumeUsage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
R1, R2 = Revision("main@sha1:1"), Revision("main@sha1:2")
SHOP, DEV = ObjectKey(Kind.IMAGE, "shop"), ObjectKey(Kind.CLONE, "shop-dev")


def _later(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StatusStore]:
    with StatusStore(tmp_path / "status.sqlite3", SystemClock()) as store:
        yield store


def _again(tmp_path: Path) -> StatusStore:
    return StatusStore(tmp_path / "status.sqlite3", SystemClock(), read_only=True)


def _event(
    message: str = "m",
    *,
    at: datetime = NOW,
    reason: str = "BuildSucceeded",
    severity: Severity = "info",
    key: ObjectKey = SHOP,
) -> Event:
    return Event(
        at=at, object=key, severity=severity, reason=reason, message=message, revision=R1, metadata={"action": "build"}
    )


def test_conditions_are_read_back_as_they_were_stored(store: StatusStore, tmp_path: Path) -> None:
    report = {SHOP: (ready("Built"), reconciling("Progressing", "restoring")), DEV: (not_ready("PortInUse", "5601"),)}
    store.write_conditions(NOW, R1, report)
    with _again(tmp_path) as other:
        assert other.conditions() == store.conditions()
    assert [condition.type for condition in store.conditions()[SHOP]] == ["Ready", "Reconciling"]


def test_a_pass_returns_what_changed_status_in_order_of_objects(store: StatusStore) -> None:
    store.write_conditions(NOW, R1, {SHOP: (ready("Built"),), DEV: (ready("Served"),)})
    found = store.write_conditions(
        _later(1), R1, {SHOP: (ready("Built", "again"),), DEV: (not_ready("PortInUse", "5601"),)}
    )
    assert [(t.object, t.before and t.before.status, t.after and t.after.status) for t in found] == [
        (DEV, "True", "False")
    ]
    assert store.conditions()[SHOP][0].message == "again"
    assert store.conditions()[SHOP][0].last_transition_time == NOW


def test_objects_that_are_not_reported_are_gone_with_their_failures(store: StatusStore, tmp_path: Path) -> None:
    store.write_conditions(NOW, R1, {SHOP: (ready("Built"),), DEV: (ready("Served"),)})
    store.set_failure(DEV, _failure())
    found = store.write_conditions(_later(1), R1, {SHOP: (ready("Built"),)})
    assert [(t.object, t.after) for t in found] == [(DEV, None)]
    assert store.failures() == {}
    with _again(tmp_path) as other:
        assert other.conditions().keys() == {SHOP}


def test_ten_thousand_objects_that_did_not_change_cost_no_write(store: StatusStore, tmp_path: Path) -> None:
    def report() -> dict[ObjectKey, tuple[Condition, ...]]:
        return {ObjectKey(Kind.CLONE, f"c{number}"): (ready("Served", "fine"),) for number in range(10_000)}

    store.write_conditions(NOW, R1, report())
    with sqlite3.connect(tmp_path / "status.sqlite3") as watcher:
        before = watcher.execute("PRAGMA data_version").fetchone()
        assert store.write_conditions(_later(1), R1, report()) == ()
        assert watcher.execute("PRAGMA data_version").fetchone() == before
        changed = report() | {ObjectKey(Kind.CLONE, "c7"): (not_ready("Down", "x"),)}
        assert len(store.write_conditions(_later(2), R1, changed)) == 1
        assert watcher.execute("PRAGMA data_version").fetchone() != before
    watcher.close()


def test_a_message_that_had_to_be_redacted_is_not_written_in_every_pass(store: StatusStore, tmp_path: Path) -> None:
    report = {SHOP: (not_ready("Unavailable", "postgresql://app:s3cret@db/shop"),)}
    store.write_conditions(NOW, R1, report)
    with sqlite3.connect(tmp_path / "status.sqlite3") as watcher:
        before = watcher.execute("PRAGMA data_version").fetchone()
        assert store.write_conditions(_later(1), R1, report) == ()
        assert watcher.execute("PRAGMA data_version").fetchone() == before
    watcher.close()


def test_a_new_revision_is_observed_without_moving_the_time(store: StatusStore) -> None:
    store.write_conditions(NOW, R1, {SHOP: (ready("Built"),)})
    assert store.write_conditions(_later(1), R2, {SHOP: (ready("Built"),)}) == ()
    (condition,) = store.conditions()[SHOP]
    assert (condition.observed_revision, condition.last_transition_time) == (R2, NOW)


def test_events_are_kept_in_order_and_read_back_as_recorded(store: StatusStore) -> None:
    events = [_event("one"), _event("two", at=_later(1), key=DEV, severity="error"), _event("three", at=_later(2))]
    for event in events:
        assert store.record(event)
    assert list(store.events()) == events
    assert list(store.events(limit=2)) == events[1:]
    assert list(store.events(key=DEV)) == [events[1]]
    assert list(store.events(since=_later(1))) == events[1:]


def test_the_same_event_is_kept_once_and_counted_as_long_as_it_is_said_every_hour(store: StatusStore) -> None:
    assert store.record(_event())
    assert store.record(_event(at=_later(1), reason="CheckFailed"))
    assert store.record(_event(at=_later(1), key=DEV))
    assert not store.record(_event(at=_later(50)))
    assert not store.record(_event(at=_later(100)))
    newest = store.events()[-1]
    assert (newest.reason, newest.at, newest.count, newest.first_at) == ("BuildSucceeded", _later(100), 3, NOW)
    assert len(store.events()) == 3
    assert store.record(_event(at=_later(161)))
    assert [(event.count, event.first_at) for event in store.events()[-1:]] == [(1, None)]


def test_an_event_is_bounded_and_carries_no_secret(store: StatusStore) -> None:
    store.record(_event("x" * 50_000))
    store.record(
        Event(
            at=NOW,
            object=SHOP,
            severity="error",
            reason="Failed",
            message="dsn postgresql://u:s3cret@h/d",
            metadata={"password": "s3cret"},
        )
    )
    long, secret = store.events()
    assert len(long.message) == 39_000
    assert "s3cret" not in secret.message
    assert secret.metadata == {"password": "[redacted]"}


def test_the_oldest_events_and_passes_make_room(store: StatusStore, tmp_path: Path) -> None:
    store.record(_event("first"))
    store.record_pass(_pass("First"))
    with sqlite3.connect(tmp_path / "status.sqlite3") as connection:
        connection.execute("UPDATE events SET id = 1")
        connection.execute(
            "INSERT INTO events SELECT 10000, time, kind, name, severity, 'R', 'last', '', '{}', 1, NULL FROM events"
        )
        connection.execute("INSERT INTO passes SELECT 1000, revision, started, finished, 'Last', counts FROM passes")
    connection.close()
    store.record(_event("new"))
    store.record_pass(_pass("New"))
    assert [event.message for event in store.events()] == ["last", "new"]
    assert [record.outcome for record in store.passes()] == ["New", "Last"]


def test_many_workers_can_record_while_conditions_are_written(store: StatusStore) -> None:
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for step in range(25):
            store.record(_event(f"{number}/{step}"))
            store.set_failure(ObjectKey(Kind.CLONE, f"c{number}"), _failure())
            store.write_conditions(NOW, R1, {DEV: (ready(f"R{number}{step}"),), **_keys()})
            store.clear_failure(ObjectKey(Kind.CLONE, f"c{number}"), "deliver:f00")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(store.events(limit=1000)) == 200
    assert store.failures() == {}


def _keys() -> dict[ObjectKey, tuple[Condition, ...]]:
    return {ObjectKey(Kind.CLONE, f"c{number}"): (ready("Served"),) for number in range(8)}


def _failure(retry_at: datetime | None = None) -> Failure:
    return Failure("ScriptFailed", "sql/trim.sql:3: no such table", True, "deliver:f00", 2, NOW, retry_at)


@pytest.mark.parametrize("retry_at", [None, NOW + timedelta(minutes=3)])
def test_a_failure_is_remembered_until_it_is_cleared(
    store: StatusStore, tmp_path: Path, retry_at: datetime | None
) -> None:
    failure = _failure(retry_at)
    store.set_failure(SHOP, failure)
    with _again(tmp_path) as other:
        assert other.failures() == {SHOP: (failure,)}
        assert other.failure(SHOP, "deliver:other") == failure
    store.clear_failure(SHOP, failure.fingerprint)
    store.clear_failure(DEV, "")
    assert store.failure(SHOP, failure.fingerprint) is None


def test_what_failed_of_each_kind_of_work_is_kept_apart(store: StatusStore) -> None:
    deletion, delivery, start = (replace(_failure(), fingerprint=work) for work in ("", "deliver:f00", "serve:f00"))
    newer = replace(delivery, fingerprint="deliver:f01")
    for failure in (start, deletion, delivery, newer):
        store.set_failure(DEV, failure)
    assert store.failures() == {DEV: (deletion, newer, start)}
    store.clear_failure(DEV, "")
    store.clear_failure(DEV, "serve:other")
    assert store.failures() == {DEV: (newer,)}


def test_refreshes_are_remembered(store: StatusStore) -> None:
    store.set_refreshed(ImageName("shop"), NOW)
    store.set_refreshed(ImageName("shop"), _later(1))
    assert store.refreshed() == {"shop": _later(1)}


def test_what_a_look_answered_and_what_was_skipped_is_remembered_apart(store: StatusStore) -> None:
    shop = ImageName("shop")
    store.set_skipped(shop, NOW)
    assert (store.refreshed(), store.answered(), store.skipped()) == ({}, {}, {"shop": NOW})
    store.set_refreshed(shop, _later(1), "two")
    assert (store.refreshed(), store.answered()) == ({"shop": _later(1)}, {"shop": "two"})
    assert store.skipped() == {"shop": NOW}
    store.set_skipped(shop, _later(2))
    store.set_refreshed(shop, _later(3))
    assert (store.answered(), store.skipped()) == ({}, {"shop": _later(2)})


def test_what_was_told_is_known_however_long_ago(store: StatusStore) -> None:
    event = Event(at=NOW, object=DEV, severity="warning", reason="ExpiresSoon", message="at noon")
    assert store.was_told(event) is False
    store.record(event)
    assert store.was_told(replace(event, at=_later(9_000))) is True
    assert store.was_told(replace(event, message="at one")) is False
    assert store.was_told(replace(event, object=SHOP)) is False


def test_sizes_are_kept_per_volume_until_the_volume_is_gone(store: StatusStore) -> None:
    a, b = VolumeId("shop-dev.1"), VolumeId("crm-dev.1")
    store.write_usage({a: VolumeUsage(10, 1, NOW), b: VolumeUsage(20, None, NOW)}, NOW)
    store.write_usage({a: VolumeUsage(11, 2, NOW)}, _later(1))
    assert store.usage() == {a: VolumeUsage(11, 2, _later(1)), b: VolumeUsage(20, None, NOW)}
    store.retain_usage({b})
    assert store.usage().keys() == {b}


def _pass(outcome: str) -> PassRecord:
    return PassRecord(revision=R1, started_at=NOW, finished_at=_later(1), outcome=outcome, counts={"create": 2})


def test_passes_are_listed_newest_first(store: StatusStore) -> None:
    store.record_pass(_pass("Succeeded"))
    store.record_pass(_pass("Failed"))
    assert store.passes() == (_pass("Failed"), _pass("Succeeded"))
    assert store.passes(limit=1) == (_pass("Failed"),)


def test_the_revision_in_force_keeps_the_time_at_which_it_came(store: StatusStore) -> None:
    assert store.revisions() == Revisions()
    store.set_applied(R1, NOW)
    store.set_applied(R1, _later(1))
    store.set_attempted(R2, _later(2), ["specs/a.yaml:3:1: unknown field"])
    assert store.revisions() == Revisions(
        applied=R1,
        applied_at=NOW,
        attempted=R2,
        attempted_at=_later(2),
        diagnostics=("specs/a.yaml:3:1: unknown field",),
    )
