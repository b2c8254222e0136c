"""A rebase takes a clone to another snapshot of its image, as a reset takes it back to its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from reconciler.plan.actions import Plan, ReplaceClone
from reconciler.state.desired import SnapshotAt
from tests.plan.world import (
    HOUR,
    NOW,
    World,
    a_clone,
    a_generation,
    a_request,
    a_snapshot,
    an_image,
    asked,
    clone_key,
    planned,
    reason,
    seen,
    served,
    snapshot_id,
    steps,
)

if TYPE_CHECKING:
    from reconciler.state.observed import Request

OLD, MIDDLE, NEW = (snapshot_id(age=age) for age in (5 * HOUR, 3 * HOUR, HOUR))
SNAPSHOTS = [a_snapshot(age=age) for age in (5 * HOUR, 3 * HOUR, HOUR)]


def a_rebase(to: str = "") -> Request:
    return a_request("rebase", "dev", snapshot=to)


def rebased(request: Request, *, of: str = OLD, image: dict[str, Any] | None = None, **spec: Any) -> Plan:  # noqa: ANN401 - fields of the clone
    clone = a_clone(**spec)
    return planned(
        asked(an_image(**(image or {})), clone),
        seen(*SNAPSHOTS, *served(a_generation(clone, of, age=2 * HOUR)), request),
    )


def test_a_rebase_goes_to_the_newest_snapshot_or_to_the_one_that_is_named() -> None:
    (newest,) = rebased(a_rebase()).actions
    (named,) = rebased(a_rebase(MIDDLE)).actions
    (back,) = rebased(a_rebase(OLD), of=NEW).actions
    assert isinstance(newest, ReplaceClone)
    assert isinstance(named, ReplaceClone)
    assert isinstance(back, ReplaceClone)
    assert [(a.snapshot, a.cause, a.request) for a in (newest, named, back)] == [
        (NEW, "rebase", "rebase-dev"),
        (MIDDLE, "rebase", "rebase-dev"),
        (OLD, "rebase", "rebase-dev"),
    ]


def test_a_clone_that_has_the_snapshot_already_is_left_alone() -> None:
    made = rebased(a_rebase(), of=NEW)
    assert (steps(made), "already" in made.served["rebase-dev"]) == ([], True)


@pytest.mark.parametrize(
    ("request_", "spec", "why"),
    [
        (a_rebase("shop-20200101t000000z-00000000"), {}, "has no snapshot"),
        (a_rebase(), {"snapshot": OLD}, "its document names snapshot"),
        (a_rebase(), {"snapshot": SnapshotAt(NOW - 4 * HOUR)}, "its document asks for data of"),
        (a_rebase(NEW), {"image": {"quarantine": (NEW,)}}, "quarantined"),
        (a_rebase(), {"image": {"spec_digest": "d2" * 32}}, "is built first"),
    ],
)
def test_a_rebase_that_cannot_be_is_answered_with_why_not(request_: Request, spec: dict[str, Any], why: str) -> None:
    made = rebased(request_, **spec)
    assert [step for step in steps(made) if step.endswith(" dev")] == []
    assert why in made.declined["rebase-dev"]


def test_the_newest_snapshot_of_a_rebase_is_one_that_is_not_quarantined() -> None:
    (made,) = rebased(a_rebase(), image={"quarantine": (NEW,)}).actions
    assert isinstance(made, ReplaceClone)
    assert made.snapshot == MIDDLE


def test_a_protected_clone_is_not_rebased() -> None:
    made = rebased(a_rebase(), protected=True)
    assert (steps(made), reason(made, clone_key("dev"), "Stalled")) == ([], "Protected")
    assert "protected" in made.declined["rebase-dev"]


def test_the_document_comes_before_a_rebase() -> None:
    made = rebased(a_rebase(NEW), snapshot=MIDDLE)
    (replaced,) = made.actions
    assert isinstance(replaced, ReplaceClone)
    assert (replaced.snapshot, "something else first" in made.declined["rebase-dev"]) == (MIDDLE, True)


def test_a_rebase_is_taken_back_by_an_undo() -> None:
    documents = asked(an_image(), a_clone())
    world = World(documents, seen(*SNAPSHOTS, *served(a_generation(a_clone(), OLD, age=2 * HOUR)), a_rebase()))
    world.run(planned(documents, world.observed))
    world.now = NOW + HOUR / 4
    world.observed = seen(
        *world.observed.volumes, *world.observed.servers.values(), a_request("undo", "dev", ago=-HOUR / 4)
    )
    assert steps(planned(documents, world.observed, now=world.now)) == ["restore dev"]
