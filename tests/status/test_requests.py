"""The inbox of requests."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import ConfigError
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.status.requests import ObjectResult, Outcome, RequestInbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)


@pytest.fixture
def inbox(tmp_path: Path) -> RequestInbox:
    (tmp_path / "requests").mkdir()
    (tmp_path / "outcomes").mkdir()
    return RequestInbox(tmp_path / "requests", tmp_path / "outcomes")


def _done(at: datetime = NOW) -> Outcome:
    return Outcome(status="succeeded", message="1 object changed", at=at)


def test_another_process_sees_a_request_exactly_as_it_was_submitted(inbox: RequestInbox, tmp_path: Path) -> None:
    request = inbox.submit("reset", "shop-dev", now=NOW, requested_by="ann")
    approval = inbox.submit("approve", now=NOW, plan_hash="0123456789abcdef")
    other = RequestInbox(tmp_path / "requests", tmp_path / "outcomes")
    wish = inbox.submit("quarantine", "shop-20261122t020000z-1a2b3c4d", now=NOW, note="an address in note")
    assert set(other.pending()) == {request, approval, wish}


def test_a_request_of_an_earlier_version_is_read(inbox: RequestInbox) -> None:
    request = inbox.submit("reset", "shop-dev", now=NOW)
    path = inbox.directory / f"{request.id}.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "note"}))
    assert inbox.pending() == (request,)


def test_requests_are_listed_oldest_first(inbox: RequestInbox) -> None:
    later = inbox.submit("refresh", "shop", now=NOW + timedelta(seconds=1))
    earlier = inbox.submit("refresh", "crm", now=NOW)
    assert inbox.pending() == (earlier, later)


def test_an_answer_ends_a_request_and_can_be_read_with_its_results(inbox: RequestInbox) -> None:
    request = inbox.submit("apply", now=NOW)
    assert inbox.outcome(request.id) is None
    result = ObjectResult(ObjectKey(Kind.CLONE, "shop-dev"), "reset", "failed", "the pool is full")
    outcome = Outcome(status="failed", message="1 of 1 objects failed", at=NOW, results=(result,))
    inbox.answer(request.id, outcome)
    assert inbox.pending() == ()
    assert inbox.outcome(request.id) == outcome
    assert not outcome.ok


def test_a_crash_between_answer_and_removal_does_not_serve_a_request_twice(inbox: RequestInbox) -> None:
    request = inbox.submit("reset", "shop-dev", now=NOW)
    file = inbox.directory / f"{request.id}.json"
    data = file.read_bytes()
    inbox.answer(request.id, _done())
    file.write_bytes(data)
    assert inbox.pending() == ()
    inbox.collect(NOW)
    assert list(inbox.directory.iterdir()) == []
    assert inbox.outcome(request.id) == _done()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda _data: b"",
        lambda data: json.dumps({k: v for k, v in json.loads(data).items() if k != "planHash"}).encode(),
        lambda data: data.replace(b'"approve"', b'"delete"'),
        lambda data: json.dumps(json.loads(data) | {"requestedAt": "2026-11-22T02:00:00"}).encode(),
    ],
)
def test_a_damaged_approval_approves_nothing_and_whoever_asked_is_told(
    inbox: RequestInbox, damage: Callable[[bytes], bytes]
) -> None:
    request = inbox.submit("approve", now=NOW, plan_hash="0123456789abcdef")
    file = inbox.directory / f"{request.id}.json"
    file.write_bytes(damage(file.read_bytes()))
    assert inbox.pending() == ()
    inbox.collect(NOW)
    outcome = inbox.outcome(request.id)
    assert outcome is not None
    assert outcome.status == "failed"
    assert "ask again" in outcome.message


def test_outcomes_are_kept_for_a_day(inbox: RequestInbox, tmp_path: Path) -> None:
    request = inbox.submit("apply", now=NOW)
    inbox.answer(request.id, _done())
    os.utime(tmp_path / "outcomes" / f"{request.id}.json", (NOW.timestamp(), NOW.timestamp()))
    inbox.collect(NOW + timedelta(hours=23))
    assert inbox.outcome(request.id) == _done()
    inbox.collect(NOW + timedelta(hours=25))
    assert inbox.outcome(request.id) is None


def test_collecting_leaves_waiting_requests_alone(inbox: RequestInbox) -> None:
    request = inbox.submit("refresh", "shop", now=NOW)
    inbox.collect(NOW + timedelta(days=30))
    assert inbox.pending() == (request,)


def test_a_damaged_outcome_is_an_error_and_not_a_wait_for_ever(inbox: RequestInbox, tmp_path: Path) -> None:
    (tmp_path / "outcomes" / "r.json").write_text('{"status": "succeeded"}')
    with pytest.raises(ConfigError):
        inbox.outcome("r")


def test_a_request_that_was_taken_is_not_pending_and_waits_for_its_answer(inbox: RequestInbox, tmp_path: Path) -> None:
    request = inbox.submit("approve", now=NOW)
    inbox.take(request.id)
    other = RequestInbox(tmp_path / "requests", tmp_path / "outcomes")
    assert other.pending() == ()
    assert other.taken() == {request.id}
    other.withdraw(request.id)
    assert other.taken() == {request.id}
    other.answer(request.id, _done())
    assert (other.taken(), other.outcome(request.id)) == (frozenset(), _done())


def test_a_request_that_was_withdrawn_was_never_there(inbox: RequestInbox) -> None:
    request = inbox.submit("approve", now=NOW)
    inbox.withdraw(request.id)
    inbox.withdraw(request.id)
    assert (inbox.pending(), inbox.outcome(request.id)) == ((), None)
