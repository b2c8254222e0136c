"""Status and events as text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from reconciler.ids import Revision
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.status.events import Event
from reconciler.status.render import events_json, render_events, render_status

NOW = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
SNAPSHOT = "shop-20261122t020000z-1a2b3c4d"


def _condition(type_: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-11-22T04:00:00Z",
        "observedRevision": None,
    }


def _clone(name: str, *conditions: dict[str, Any], state: str = "running") -> dict[str, Any]:
    return {
        "name": name,
        "image": "shop",
        "state": state,
        "owner": "payments",
        "dataAsOf": "2026-11-22T02:00:00Z",
        "endpoint": {"host": "127.0.0.1", "port": 5601, "database": "shop", "user": "app"},
        "expiresAt": "2026-11-22T10:00:00Z",
        "exclusiveBytes": 40960,
        "conditions": list(conditions),
        "protected": False,
        "suspended": False,
        "document": {"file": "clones.yaml", "line": 12},
        "changedBy": {"author": "Ann", "commit": "abcdef0123456789", "at": "2026-11-22T01:00:00Z"},
    }


def _document(*clones: dict[str, Any]) -> dict[str, Any]:
    snapshot = {
        "id": SNAPSHOT,
        "dataAsOf": "2026-11-22T02:00:00Z",
        "sizeBytes": 1_500_000_000,
        "exclusiveBytes": 3_000_000,
        "version": "18.6",
        "usedBy": ["shop-dev"],
        "keptBecause": ["daily", "used by shop-dev"],
        "verified": {"at": "2026-11-22T02:00:00Z", "amcheck": {"relations": 9}, "checks": 0},
    }
    image = {
        "name": "shop",
        "engine": "postgres",
        "conditions": [_condition("Ready", "True", "Built")],
        "snapshots": [snapshot],
        "builds": [],
        "suspended": False,
        "document": {"file": "shop.yaml", "line": 1},
        "lastRefresh": {"at": "2026-11-22T04:00:00Z", "outcome": "UpToDate", "message": ""},
        "nextRefreshAt": None,
    }
    pool = {
        "name": "default",
        "driver": "btrfs",
        "available": True,
        "freeBytes": 20 << 30,
        "totalBytes": 50 << 30,
        "conditions": [],
    }
    return {
        "revision": "main@sha1:1111",
        "attemptedRevision": "main@sha1:1111",
        "appliedAt": "2026-11-22T04:00:00Z",
        "generatedAt": "2026-11-22T05:00:00Z",
        "conditions": [],
        "pools": [pool],
        "images": [image],
        "clones": list(clones),
    }


READY = _condition("Ready", "True", "Served")
BROKEN = _condition("Ready", "False", "PortInUse", "port 5601 is used by another program")


def test_a_healthy_host_is_three_tables() -> None:
    kept = "kept: daily, used by shop-dev; verified 3 h ago: 9 relations"
    assert (
        render_status(_document(_clone("shop-dev", READY)))
        == f"""\
main@sha1:1111, in force since 1 h ago

POOL     DRIVER  STATE      FREE      OF
default  btrfs   available  20.0 GiB  50.0 GiB

IMAGE / SNAPSHOT                  ENGINE    STATE   DATA     SIZE     FREES    CLONES  NOTES
shop                              postgres  ready                              1       found up to date 1 h ago
  shop-20261122t020000z-1a2b3c4d  18.6      sealed  3 h ago  1.4 GiB  2.9 MiB  1       {kept}

CLONE     STATE    IMAGE  DATA     ADDRESS              OWNER     OWN SIZE  EXPIRES
shop-dev  running  shop   3 h ago  127.0.0.1:5601/shop  payments  40.0 KiB  in 5 h
"""
    )


def test_a_clone_shows_what_is_newer_that_it_rests_and_who_uses_it() -> None:
    idle = _condition("Idle", "True", "NobodyConnected", "stopped")
    used = {"connections": 2, "lastActivity": "2026-11-22T04:59:00Z", "applications": ["app", "psql"]}
    newer = {"snapshot": "shop-20261122t040000z-1a2b3c4d", "dataAsOf": "2026-11-22T04:00:00Z"}
    rests = {**_clone("rests", READY, idle), "state": "stopped", "activity": None, "newer": newer}
    text = render_status(_document({**_clone("busy", READY), "activity": used}, rests))
    busy, resting = text.splitlines()[-2:]
    assert busy.endswith("2 (app, psql), last active 1 min ago")
    assert resting.split()[:9] == ["rests", "idle", "shop", "3", "h", "ago", "(newer:", "1", "h"]
    assert "PROBLEMS" not in text


def test_an_image_tells_its_next_refresh_and_a_snapshot_that_goes_is_not_kept() -> None:
    document = _document(_clone("shop-dev", READY))
    document["images"][0]["nextRefreshAt"] = "2026-11-23T01:00:00Z"
    document["images"][0]["snapshots"][0] |= {"keptBecause": [], "verified": None}
    _pools, _blank, _head, image, snapshot, *_clones = render_status(document).splitlines()[3:]
    assert image.endswith("found up to date 1 h ago, next refresh in 20 h")
    assert snapshot.endswith("not kept")


def test_problems_come_first_with_where_to_look_and_who_to_ask() -> None:
    lines = render_status(_document(_clone("shop-dev", BROKEN))).splitlines()
    assert lines[2:6] == [
        "PROBLEMS",
        "✗ Clone/shop-dev  not ready: PortInUse (1 h ago)",
        "  port 5601 is used by another program",
        "  clones.yaml:12, last changed by Ann in abcdef01",
    ]


def test_what_keeps_many_objects_up_is_said_once_below_them() -> None:
    clones = [_clone(name, BROKEN) for name in ("dev", "test")]
    lines = render_status(_document(*clones)).splitlines()
    assert lines[3:7] == [
        "✗ Clone/dev  not ready: PortInUse (1 h ago)",
        "✗ Clone/test  not ready: PortInUse (1 h ago)",
        "  port 5601 is used by another program",
        "  clones.yaml:12, last changed by Ann in abcdef01",
    ]
    clones[1]["document"] = {"file": "test.yaml", "line": 1}
    assert "  test.yaml:1, last changed by Ann in abcdef01" in render_status(_document(*clones)).splitlines()


def test_an_image_without_a_document_is_not_called_ready() -> None:
    document = _document()
    document["images"][0] |= {"document": None, "conditions": []}
    assert " no document " in render_status(document)


def test_a_problem_keeps_its_lines_so_that_what_it_says_to_write_can_be_copied() -> None:
    message = "decide about:\n    - table: public.customer\n      columns:\n\n✗ Clone/other  \x1b[1mgone"
    lines = render_status(_document(_clone("shop-dev", _condition("Stalled", "True", "BadSql", message)))).splitlines()
    assert lines[4:8] == [
        "  decide about:",
        "      - table: public.customer",
        "        columns:",
        "  ✗ Clone/other  \ufffd[1mgone",
    ]


def test_nothing_is_cut_or_wrapped_on_a_pipe() -> None:
    message = "word " * 200 + "end"
    clone = _clone("c" * 63, _condition("Stalled", "True", "BadSql", message))
    text = render_status(_document(clone))
    assert message in text
    assert "c" * 63 in text
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_narrow_terminal_shows_fewer_columns_but_whole_values() -> None:
    text = render_status(_document(_clone("shop-dev", READY), _clone("shop-integration", BROKEN)), width=80)
    assert text.splitlines()[-3:] == [
        "CLONE             STATE      IMAGE  ADDRESS              OWNER     EXPIRES",
        "shop-dev          running    shop   127.0.0.1:5601/shop  payments  in 5 h",
        "shop-integration  not ready  shop   127.0.0.1:5601/shop  payments  in 5 h",
    ]


def test_an_event_on_a_terminal_has_its_message_below() -> None:
    text = render_events([_event("word " * 30)], width=60)
    assert text.splitlines()[0] == "2026-11-22T05:00:00Z  Image/shop  CheckFailed"
    assert all(line.startswith("  word") for line in text.splitlines()[1:])
    assert max(map(len, text.splitlines())) <= 60


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    clone = _clone("c" * 63, _condition("Stalled", "True", "BadSql", "word " * 60))
    text = render_status(_document(clone, _clone("shop-dev", READY)), width=width)
    assert max(map(len, text.splitlines())) <= width


def test_a_terminal_gets_colours_and_a_pipe_gets_none() -> None:
    document = _document(_clone("shop-dev", BROKEN))
    assert "\x1b[" in render_status(document, colour=True)
    assert "\x1b[" not in render_status(document)


@pytest.mark.parametrize(
    ("conditions", "word"),
    [
        ((READY,), "running"),
        ((READY, _condition("Reconciling", "True", "Progressing")), "working"),
        ((BROKEN,), "not ready"),
        ((BROKEN, _condition("Stalled", "True", "BadSql")), "stalled"),
        ((_condition("Ready", "Unknown", "PoolUnavailable"),), "unknown"),
    ],
)
def test_one_word_says_how_a_clone_is(conditions: tuple[dict[str, Any], ...], word: str) -> None:
    text = render_status(_document(_clone("shop-dev", *conditions)))
    (line,) = [line for line in text.splitlines() if line.startswith("shop-dev ")]
    assert line.split("  ")[1].strip() == word


def test_foreign_text_cannot_act_on_the_terminal() -> None:
    clone = _clone("shop-dev", _condition("Stalled", "True", "BadSql", "\x1b[2J[bold]not markup[/] \u202egnp"))
    text = render_status(_document(clone))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]not markup[/]" in text


def test_a_commit_that_is_not_applied_is_named() -> None:
    document = _document() | {"attemptedRevision": "main@sha1:2222"}
    assert "NOT applied: main@sha1:2222" in render_status(document)


def _event(message: str) -> Event:
    return Event(
        at=NOW,
        object=ObjectKey(Kind.IMAGE, "shop"),
        severity="error",
        reason="CheckFailed",
        message=message,
        revision=Revision("main@sha1:1"),
    )


def test_an_event_is_one_line() -> None:
    assert render_events([_event("check 1\nreturned \x1b[31mfalse")]) == (
        "TIME                  OBJECT      REASON       MESSAGE\n"
        "2026-11-22T05:00:00Z  Image/shop  CheckFailed  check 1 returned \ufffd[31mfalse\n"
    )
    assert render_events([]) == "no events\n"


def test_events_as_json_keep_everything() -> None:
    assert events_json([_event("m")]) == [
        {
            "time": "2026-11-22T05:00:00Z",
            "kind": "Image",
            "name": "shop",
            "severity": "error",
            "reason": "CheckFailed",
            "message": "m",
            "revision": "main@sha1:1",
            "metadata": {},
            "count": 1,
            "firstTime": "2026-11-22T05:00:00Z",
        }
    ]


def test_a_quarantined_snapshot_is_told_from_the_others() -> None:
    document = _document()
    document["images"][0]["snapshots"][0]["quarantined"] = "quarantined at 2026-11-22T04:00:00+00:00 by ann: a leak"
    (row,) = [line for line in render_status(document).splitlines() if SNAPSHOT in line]
    assert ("quarantined" in row, "sealed" in row) == (True, False)
