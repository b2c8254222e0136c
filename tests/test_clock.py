from __future__ import annotations

import threading
from datetime import UTC, datetime

from reconciler.clock import SystemClock


def test_now_is_in_utc() -> None:
    before = datetime.now(UTC)
    now = SystemClock().now()
    assert now.tzinfo is UTC
    assert before <= now <= datetime.now(UTC)


def test_monotonic_never_goes_backwards() -> None:
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(100)]
    assert readings == sorted(readings)


def test_a_wait_ends_when_its_event_is_set() -> None:
    event = threading.Event()
    threading.Timer(0.01, event.set).start()
    assert SystemClock().wait(event, 60)


def test_a_wait_without_an_event_ends_unset_after_its_time() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    assert not clock.wait(threading.Event(), 0.01)
    assert clock.monotonic() - before >= 0.01


def test_a_wait_of_negative_length_returns_at_once() -> None:
    assert not SystemClock().wait(threading.Event(), -5)
