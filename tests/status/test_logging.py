"""Structured logging."""

from __future__ import annotations

import io
import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import structlog

from reconciler.state.conditions import Kind, ObjectKey
from reconciler.status.events import Event
from reconciler.status.logging import configure, log_event

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, ours = list(root.handlers), root.level, logging.getLogger("reconciler").level
    yield
    root.handlers = handlers
    root.setLevel(level)
    logging.getLogger("reconciler").setLevel(ours)
    structlog.reset_defaults()


def _records(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_json_line_without_secrets() -> None:
    stream = io.StringIO()
    configure(json=True, stream=stream)
    structlog.get_logger("reconciler.loop").info("fetched", url="https://git:s3cret@git.example", password="s3cret")
    (record,) = _records(stream)
    assert record["event"] == "fetched"
    assert record["level"] == "info"
    assert record["logger"] == "reconciler.loop"
    assert record["url"] == "https://[redacted]@git.example"
    assert record["password"] == "[redacted]"


def test_records_and_tracebacks_of_libraries_are_redacted_too() -> None:
    stream = io.StringIO()
    configure(json=True, stream=stream)
    try:
        raise RuntimeError("cannot reach postgresql://app:s3cret@db/shop")
    except RuntimeError:
        logging.getLogger("git.cmd").exception("clone of %s failed", "https://u:s3cret@h/r")
    assert "s3cret" not in stream.getvalue()
    (record,) = _records(stream)
    assert "RuntimeError: cannot reach postgresql://[redacted]@db/shop" in str(record["exception"])


def test_libraries_are_heard_from_warnings_on_and_details_only_when_asked_for() -> None:
    stream = io.StringIO()
    configure(json=True, stream=stream)
    logging.getLogger("watchfiles").info("noise")
    structlog.get_logger("reconciler.apply").debug("detail")
    configure(json=True, verbose=True, stream=stream)
    structlog.get_logger("reconciler.apply").debug("wanted detail")
    assert [record["event"] for record in _records(stream)] == ["wanted detail"]


def test_text_for_people_has_no_colours_outside_a_terminal() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    try:
        raise ValueError("token=s3cret")
    except ValueError:
        structlog.get_logger("reconciler.loop").exception("pass failed")
    assert "pass failed" in stream.getvalue()
    assert "ValueError" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert "s3cret" not in stream.getvalue()


def test_events_are_log_records_with_a_level_and_fields_of_their_own() -> None:
    stream = io.StringIO()
    configure(json=True, stream=stream)
    for severity in ("info", "error", "trace"):
        log_event(
            Event(
                at=datetime(2026, 11, 22, tzinfo=UTC),
                object=ObjectKey(Kind.IMAGE, "shop"),
                severity=severity,
                reason="BuildSucceeded",
                message="postgresql://app:geheim@db/shop",
                metadata={"action": "build"},
            )
        )
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["level"], line["event"], line["object"], line["action"]) for line in lines] == [
        ("info", "BuildSucceeded", "Image/shop", "build"),
        ("error", "BuildSucceeded", "Image/shop", "build"),
    ]
    assert "geheim" not in stream.getvalue()
