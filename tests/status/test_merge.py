"""Merging reported conditions into stored ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from reconciler.ids import Revision
from reconciler.state.conditions import Condition, not_ready, ready, reconciling
from reconciler.status.merge import merge, same, transitions

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
R1, R2 = Revision("main@sha1:1"), Revision("main@sha1:2")


def _stored(*conditions: Condition) -> tuple[Condition, ...]:
    return merge((), conditions, revision=R1, now=NOW)


def test_a_new_condition_gets_the_time_and_the_revision_of_the_pass() -> None:
    (condition,) = _stored(ready("Served"))
    assert condition == Condition(
        type="Ready", status="True", reason="Served", last_transition_time=NOW, observed_revision=R1
    )


def test_the_time_moves_only_with_the_status() -> None:
    stored = _stored(ready("Served"))
    (kept,) = merge(stored, (ready("Restarted", "again"),), revision=R2, now=LATER)
    assert (kept.reason, kept.last_transition_time, kept.observed_revision) == ("Restarted", NOW, R2)
    (moved,) = merge(stored, (not_ready("PortInUse", "5601"),), revision=R1, now=LATER)
    assert moved.last_transition_time == LATER


def test_the_same_report_is_the_same_and_anything_else_is_not() -> None:
    stored = _stored(ready("Served"), reconciling("Progressing", "restoring"))
    assert same(stored, (ready("Served"), reconciling("Progressing", "restoring")), R1)
    assert not same(stored, (ready("Served"), reconciling("Progressing", "vacuum")), R1)
    assert not same(stored, (ready("Served"),), R1)
    assert not same(stored, (ready("Served"), reconciling("Progressing", "restoring")), R2)


def test_of_two_conditions_of_one_type_the_last_counts() -> None:
    assert [condition.reason for condition in _stored(ready("A"), ready("B"))] == ["B"]


def test_a_password_in_a_message_is_not_stored() -> None:
    (condition,) = _stored(not_ready("Unavailable", "cannot reach postgresql://app:s3cret@db/shop"))
    assert "s3cret" not in condition.message


def test_transitions_tell_what_appeared_flipped_and_went() -> None:
    before = _stored(ready("Served"), reconciling("Progressing", "x"))
    after = merge(
        before,
        (not_ready("Down", "y"), Condition(type="Orphaned", status="True", reason="NoImage")),
        revision=R1,
        now=LATER,
    )
    found = [(b.type if b else None, a.status if a else None) for b, a in transitions(before, after)]
    assert found == [("Ready", "False"), (None, "True"), ("Reconciling", None)]
    assert transitions(before, before) == []
