"""Events of transitions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from reconciler.state.conditions import Condition, Kind, ObjectKey, not_ready, ready, reconciling, stalled
from reconciler.status.events import Event, Severity
from reconciler.status.values import Transition

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
DEV = ObjectKey(Kind.CLONE, "shop-dev")


@pytest.mark.parametrize(
    ("before", "after", "severity", "reason", "message"),
    [
        (None, ready("Served"), "info", "Served", "Ready is True"),
        (ready("Served"), not_ready("Down", "it died"), "error", "Down", "Ready is False: it died"),
        (None, stalled("BadSql", "line 3"), "error", "BadSql", "Stalled is True: line 3"),
        (None, reconciling("Progressing", "x"), "trace", "Progressing", "Reconciling is True: x"),
        (stalled("BadSql", "line 3"), None, "trace", "StalledCleared", "Stalled is gone: line 3"),
    ],
)
def test_a_transition_becomes_an_event_of_the_right_weight(
    before: Condition | None, after: Condition | None, severity: Severity, reason: str, message: str
) -> None:
    event = Event.of_transition(Transition(DEV, before, after), NOW, None)
    assert (event.severity, event.reason, event.message) == (severity, reason, message)
    assert (event.object, event.at) == (DEV, NOW)
