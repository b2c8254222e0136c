"""Which snapshots go, and which never do."""

from __future__ import annotations

from datetime import timedelta

from reconciler.ids import VolumeId
from reconciler.plan.actions import DeleteSnapshot, Plan
from reconciler.state.desired import Retention, SnapshotAt
from reconciler.state.observed import ClonePhase
from tests.plan.world import (
    HOUR,
    NOW,
    OTHER_POOL,
    a_clone,
    a_generation,
    a_pool,
    a_snapshot,
    an_image,
    asked,
    clone_key,
    image_key,
    planned,
    reason,
    seen,
    served,
    snapshot_id,
    steps,
)

KEEP_ONE = Retention(keep=1)
DAYS = [timedelta(days=days) for days in (5, 4, 3, 2, 1)]
FIVE = tuple(a_snapshot(age=age) for age in DAYS)
SHOP = image_key("shop")


def gone(made: Plan) -> list[str]:
    return [action.snapshot for action in made.actions if isinstance(action, DeleteSnapshot)]


def ids(*days: int) -> list[str]:
    return [snapshot_id(age=timedelta(days=day)) for day in days]


def test_the_newest_are_kept() -> None:
    assert gone(planned(asked(an_image(retention=Retention(keep=3))), seen(*FIVE))) == ids(5, 4)


def test_what_is_too_old_goes_but_never_the_newest() -> None:
    young = Retention(keep=9, max_age=timedelta(days=3))
    old = Retention(keep=9, max_age=HOUR)
    assert gone(planned(asked(an_image(retention=young)), seen(*FIVE))) == ids(5, 4, 3)
    assert gone(planned(asked(an_image(retention=old)), seen(*FIVE))) == ids(5, 4, 3, 2)


def test_what_a_clone_uses_stays_be_it_retired_or_unfinished() -> None:
    clone = a_clone()
    retired = a_generation(clone, ids(5)[0], ready_at=NOW - HOUR, age=2 * HOUR)
    current = a_generation(clone, ids(4)[0], generation=2, ready_at=NOW, age=2 * HOUR)
    busy = a_generation(a_clone("busy"), ids(3)[0], phase=ClonePhase.CREATING)
    made = planned(
        asked(an_image(retention=KEEP_ONE), clone, a_clone("busy")),
        seen(*FIVE, retired, *served(current), busy, in_flight=frozenset({clone_key("busy")}), in_use=frozenset()),
    )
    assert gone(made) == ids(2)
    made = planned(asked(an_image(retention=KEEP_ONE), clone), seen(*FIVE, retired, *served(current)))
    assert gone(made) == ids(3, 2)


def test_what_a_document_names_stays() -> None:
    documents = asked(
        an_image(retention=KEEP_ONE),
        a_clone("a", snapshot=ids(5)[0], suspend=True),
        a_clone("b", snapshot=SnapshotAt(NOW - timedelta(days=4)), suspend=True),
    )
    assert gone(planned(documents, seen(*FIVE))) == ids(3, 2)


def test_what_this_plan_makes_a_clone_of_stays() -> None:
    documents = asked(an_image(retention=KEEP_ONE), a_clone(snapshot=SnapshotAt(NOW - timedelta(days=2))))
    assert gone(planned(documents, seen(*FIVE))) == ids(5, 4, 3)


def test_what_work_in_flight_uses_stays_whatever_the_documents_say_now() -> None:
    moved = asked(an_image(retention=KEEP_ONE), an_image("other"), a_clone(image="other"))
    busy = seen(*FIVE, in_flight=frozenset({clone_key("dev")}), in_use=frozenset(map(VolumeId, ids(5))))
    assert gone(planned(moved, busy)) == ids(4, 3, 2)
    assert gone(planned(asked(an_image("other")), busy)) == ids(4, 3, 2, 1)


def test_nothing_goes_while_nobody_can_tell_what_work_in_flight_uses() -> None:
    documents = asked(an_image(retention=KEEP_ONE))
    assert gone(planned(documents, seen(*FIVE, in_flight=frozenset({clone_key("elsewhere")})))) == []


def test_what_only_a_new_snapshot_makes_superfluous_goes_after_its_build() -> None:
    documents = asked(an_image(retention=Retention(keep=4), spec_digest="d2" * 32))
    assert steps(planned(documents, seen(*FIVE))) == ["delete shop", "build shop", "delete shop"]
    assert gone(planned(documents, seen(*FIVE))) == ids(5, 4)


def test_nothing_goes_while_a_pool_is_away() -> None:
    away = a_pool(OTHER_POOL, available=False)
    assert planned(asked(an_image(retention=KEEP_ONE)), seen(a_pool(), away, *FIVE)).actions == ()
    assert planned(asked(), seen(a_pool(), away, *FIVE)).actions == ()


def test_nothing_of_a_suspended_or_busy_image_goes() -> None:
    assert planned(asked(an_image(retention=KEEP_ONE, suspend=True)), seen(*FIVE)).actions == ()
    busy = seen(*FIVE, in_flight=frozenset({SHOP}))
    assert planned(asked(an_image(retention=KEEP_ONE)), busy).actions == ()
    assert planned(asked(), busy).actions == ()


def test_snapshots_of_a_removed_image_are_pruned() -> None:
    made = planned(asked(an_image("store")), seen(a_snapshot("store"), *FIVE[:2]))
    assert gone(made) == ids(5, 4)
    assert all(action.pruned for action in made.actions if isinstance(action, DeleteSnapshot))


def test_snapshots_of_a_removed_image_go_after_its_clones() -> None:
    made = planned(asked(an_image("store")), seen(a_snapshot("store"), a_snapshot(), *served(a_generation(a_clone()))))
    assert steps(made) == ["delete dev", "delete shop"]
    assert made.actions[1].after == (clone_key("dev"),)


def test_a_removed_image_stays_under_its_protected_clones() -> None:
    protected = a_generation(a_clone(protected=True))
    made = planned(asked(an_image("store")), seen(a_snapshot("store"), a_snapshot(), *served(protected)))
    assert made.actions == ()
    assert reason(made, SHOP, "Orphaned") == "Protected"
