"""Quarantined snapshots: nothing is made of them, what was made is stopped, and nothing of it is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.ids import ImageName, SnapshotId, VolumeId
from reconciler.plan.actions import BuildSnapshot, CreateClone, QuarantineSnapshot, ReplaceClone, origin
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.desired import ImageSource, Retention, SnapshotAt
from reconciler.state.observed import Quarantine
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
    condition,
    derived,
    image_key,
    planned,
    reason,
    seen,
    served,
    snapshot_id,
    steps,
)

if TYPE_CHECKING:
    from reconciler.plan.actions import Plan

OLD, NEW = snapshot_id(age=3 * HOUR), snapshot_id(age=HOUR)
MARK = Quarantine(NOW - HOUR, "an address in public.note", "ann")
TWO = (a_snapshot(age=3 * HOUR), a_snapshot(age=HOUR))
TWO_MARKED = (TWO[0], a_snapshot(age=HOUR, quarantine=MARK))
NAMED = an_image(quarantine=(NEW,))
DEV = clone_key("dev")


def made_of(made: Plan) -> list[str | None]:
    return [origin(action) for action in made.actions if isinstance(action, CreateClone | ReplaceClone | BuildSnapshot)]


@pytest.mark.parametrize("of", ["git", "manifest", "request"])
def test_latest_is_the_newest_that_is_not_quarantined(of: str) -> None:
    image = NAMED if of == "git" else an_image()
    volumes = TWO_MARKED if of == "manifest" else TWO
    wishes = [a_request("quarantine", NEW)] if of == "request" else []
    assert made_of(planned(asked(image, a_clone()), seen(*volumes, *wishes))) == [OLD]


def test_a_clone_of_a_quarantined_id_stalls() -> None:
    made = planned(asked(NAMED, a_clone(snapshot=NEW)), seen(*TWO))
    assert steps(made) == []
    found = condition(made, DEV, "Stalled")
    assert found is not None
    assert (found.reason, found.message) == (
        "Quarantined",
        f"snapshot {NEW} is quarantined: named in images.yaml:1",
    )


def test_a_time_takes_the_one_before() -> None:
    clone = a_clone(snapshot=SnapshotAt(NOW))
    assert made_of(planned(asked(NAMED, clone), seen(*TWO))) == [OLD]
    assert reason(planned(asked(NAMED, clone), seen(TWO[1])), DEV, "Stalled") == "Quarantined"


def test_while_every_snapshot_is_quarantined_clones_stall_and_the_image_is_not_ready() -> None:
    made = planned(asked(NAMED, a_clone()), seen(TWO[1]))
    assert (steps(made), reason(made, DEV, "Stalled")) == ([], "Quarantined")
    assert reason(made, image_key("shop"), "Ready") == "Quarantined"


def test_a_quarantine_builds_nothing_by_itself() -> None:
    assert steps(planned(asked(NAMED), seen(TWO[1]))) == []


def test_a_refresh_on_request_builds_although_nothing_changed() -> None:
    made = planned(asked(NAMED), seen(*TWO, a_request("refresh", "shop")))
    assert [type(action) for action in made.actions] == [BuildSnapshot]


def test_its_image_says_which_and_why() -> None:
    made = planned(asked(an_image()), seen(*TWO_MARKED))
    found = condition(made, image_key("shop"), "Quarantined")
    assert found is not None
    assert NEW in found.message
    assert "an address in public.note" in found.message
    assert "by ann" in found.message


def test_a_slip_in_the_id_of_a_leaking_snapshot_is_told() -> None:
    wrong = SnapshotId(f"{NEW[:-1]}{'0' if NEW[-1] != '0' else '1'}")
    found = condition(planned(asked(an_image(quarantine=(wrong,))), seen(*TWO)), image_key("shop"), "Quarantined")
    assert found is not None
    assert found.reason == "SnapshotUnknown"
    assert f'there is no snapshot {wrong}, which the document names; did you mean "{NEW}"?' in found.message
    both = condition(planned(asked(an_image(quarantine=(NEW, wrong))), seen(*TWO)), image_key("shop"), "Quarantined")
    assert both is not None
    assert f"nothing is made of {NEW}" in both.message
    assert wrong in both.message


def test_its_clones_are_stopped_and_kept() -> None:
    clone = a_clone()
    made = planned(asked(NAMED, clone), seen(*TWO, *served(a_generation(clone, NEW))))
    assert steps(made) == ["stop dev"]
    assert reason(made, DEV, "Stalled") == "Quarantined"
    assert reason(made, DEV, "Ready") == "Quarantined"


def test_stopped_clones_stay_stopped_whatever_their_documents_say() -> None:
    clone = a_clone(parameters={"work_mem": "64MB"}, users=())
    volume = a_generation(a_clone(), NEW)
    made = planned(asked(NAMED, clone), seen(*TWO, volume))
    assert (steps(made), reason(made, DEV, "Stalled")) == ([], "Quarantined")


def test_what_needs_no_server_is_still_applied() -> None:
    volume = a_generation(a_clone(protected=True), NEW)
    assert steps(planned(asked(NAMED, a_clone(owner="ann")), seen(*TWO, volume))) == ["update dev"]


@pytest.mark.parametrize("how", ["suspended", "problem", "protected", "orphaned"])
def test_no_document_keeps_quarantined_data_served(how: str) -> None:
    clone = a_clone(suspend=how == "suspended", protected=how in ("protected", "orphaned"))
    problems = {DEV: ("SecretNotGranted", "no")} if how == "problem" else {}
    desired = asked(NAMED, problems=problems) if how == "orphaned" else asked(NAMED, clone, problems=problems)
    made = planned(desired, seen(*TWO, *served(a_generation(clone, NEW))))
    assert [step for step in steps(made) if step != "delete dev"] == ["stop dev"]
    assert "Quarantined" in {c.reason for c in made.conditions[DEV]}


def test_a_clone_that_follows_is_taken_to_another_snapshot_stopped_first() -> None:
    clone = a_clone(on_refresh="recreate")
    made = planned(asked(NAMED, clone), seen(*TWO, *served(a_generation(clone, NEW, ready_at=NOW))))
    assert (steps(made), made_of(made)) == (["stop dev", "replace dev"], [OLD])


def test_an_undo_that_somebody_wanted_does_not_hold_a_clone_on_a_quarantined_snapshot() -> None:
    clone = a_clone(on_refresh="recreate")
    volume = a_generation(clone, NEW, undone_at=NOW)
    assert made_of(planned(asked(NAMED, clone), seen(*TWO, volume))) == [OLD]


def test_a_reset_takes_a_clone_off_it() -> None:
    clone = a_clone()
    made = planned(asked(NAMED, clone), seen(*TWO, a_generation(clone, NEW), a_request("reset", "dev")))
    assert (steps(made), made_of(made)) == (["replace dev"], [OLD])


def test_a_reset_to_a_quarantined_id_is_declined() -> None:
    clone = a_clone(snapshot=NEW)
    made = planned(asked(NAMED, clone), seen(*TWO, a_generation(clone, NEW), a_request("reset", "dev")))
    assert steps(made) == []
    assert "is quarantined" in made.declined["reset-dev"]


def test_an_undo_brings_nothing_quarantined_back() -> None:
    clone = a_clone()
    first = a_generation(clone, NEW, ready_at=NOW - HOUR / 2)
    second = a_generation(clone, OLD, generation=2, ready_at=NOW - HOUR / 4)
    made = planned(asked(NAMED, clone), seen(*TWO, first, *served(second), a_request("undo", "dev")))
    assert steps(made) == []
    assert "is quarantined" in made.declined["undo-dev"]


def test_a_reverted_commit_brings_nothing_quarantined_back() -> None:
    clone = a_clone(snapshot=OLD)
    first = a_generation(clone, OLD, ready_at=NOW - HOUR / 2)
    second = a_generation(clone, NEW, generation=2, ready_at=NOW - HOUR / 4)
    made = planned(asked(an_image(quarantine=(OLD,)), clone), seen(*TWO, first, *served(second)))
    assert (steps(made), reason(made, DEV, "Stalled")) == ([], "Quarantined")


def test_it_is_kept_as_evidence_and_takes_nobodys_place() -> None:
    keep_one = an_image(retention=Retention(keep=1), quarantine=(NEW,))
    assert steps(planned(asked(keep_one), seen(*TWO))) == []
    oldest = a_snapshot(age=9 * HOUR)
    assert steps(planned(asked(keep_one), seen(oldest, *TWO))) == ["delete shop"]


def test_what_was_asked_for_outlives_the_document_of_its_image() -> None:
    made = planned(asked(), seen(*TWO_MARKED))
    assert [str(volume) for action in made.actions for volume in action.volumes] == [OLD]
    found = condition(made, image_key("shop"), "Orphaned")
    assert found is not None
    assert (found.reason, NEW in found.message) == ("Quarantined", True)


def test_what_is_built_on_it_is_quarantined_as_well_and_built_anew_on_another() -> None:
    bases = a_snapshot("base", age=3 * HOUR), a_snapshot("base", age=2 * HOUR)
    good, bad = snapshot_id("base", age=3 * HOUR), snapshot_id("base", age=2 * HOUR)
    child = a_snapshot("child", input_id=bad, base=bad)
    desired = asked(an_image("base", quarantine=(bad,)), derived("child", "base"), a_clone(image="child"))
    made = planned(desired, seen(*bases, child))
    assert made_of(made)[0] == good
    assert condition(made, image_key("child"), "Quarantined") is not None


def test_what_was_built_on_a_snapshot_that_is_gone_is_still_quarantined_by_its_name() -> None:
    bad = snapshot_id("base", age=9 * HOUR)
    desired = asked(an_image("base", quarantine=(bad,)), derived("child", "base"), a_clone(image="child"))
    assert snapshot_id("child") not in made_of(planned(desired, seen(a_snapshot("child", input_id=bad, base=bad))))


def test_a_base_with_nothing_but_quarantined_snapshots_is_waited_for() -> None:
    desired = asked(an_image("base", quarantine=(snapshot_id("base"),)), derived("child", "base"))
    made = planned(desired, seen(a_snapshot("base")))
    assert (steps(made), reason(made, image_key("child"), "Reconciling")) == ([], "WaitingForBase")


def test_a_request_is_written_into_the_manifest_with_who_and_why() -> None:
    wish = a_request("quarantine", NEW, note="a leak", requested_by="ann")
    (action,) = planned(asked(an_image()), seen(*TWO, wish)).actions
    assert isinstance(action, QuarantineSnapshot)
    assert (action.key, action.snapshot) == (ObjectKey(Kind.SNAPSHOT, NEW), NEW)
    assert (action.why, action.by, action.request) == ("a leak", "ann", wish.id)


def test_a_request_waits_for_no_build_of_its_image() -> None:
    busy = seen(*TWO, a_request("quarantine", NEW), in_flight=frozenset({image_key("shop")}), in_use=frozenset())
    assert steps(planned(asked(an_image()), busy)) == [f"quarantine {NEW}"]


def test_it_counts_at_once_while_something_still_works_on_the_snapshot() -> None:
    clone = a_clone()
    busy = seen(
        *TWO,
        *served(a_generation(clone, NEW)),
        a_request("quarantine", NEW),
        in_flight=frozenset({clone_key("other")}),
        in_use=frozenset({VolumeId(NEW)}),
    )
    assert steps(planned(asked(an_image(), clone), busy)) == ["stop dev"]


def test_it_counts_while_it_is_being_written_down() -> None:
    clone = a_clone()
    busy = seen(
        *TWO, a_generation(clone, NEW), in_flight=frozenset({ObjectKey(Kind.SNAPSHOT, NEW)}), in_use=frozenset()
    )
    assert steps(planned(asked(an_image(), clone), busy)) == []


def test_a_release_lets_clones_start_again() -> None:
    clone = a_clone()
    desired = asked(an_image(), clone)
    there = World(desired, seen(*TWO_MARKED, a_generation(clone, NEW), a_request("release", NEW)))
    first = planned(desired, there.observed)
    assert steps(first) == [f"release {NEW}"]
    assert steps(planned(desired, there.run(first))) == ["start dev"]


def test_the_last_wish_counts() -> None:
    wishes = a_request("quarantine", NEW, ago=HOUR), a_request("release", NEW)
    made = planned(asked(an_image()), seen(*TWO, *wishes))
    assert (steps(made), set(made.served)) == ([], {wish.id for wish in wishes})


def test_what_stands_in_git_is_released_there() -> None:
    made = planned(asked(NAMED), seen(*TWO, a_request("release", NEW)))
    assert steps(made) == []
    assert "images.yaml:1" in made.declined[f"release-{NEW}"]


def test_what_is_quarantined_for_its_base_is_released_with_it() -> None:
    bad = snapshot_id("base")
    child = a_snapshot("child", input_id=bad, base=bad)
    wish = a_request("release", child.id)
    desired = asked(an_image("base", quarantine=(bad,)), derived("child", "base"))
    made = planned(desired, seen(a_snapshot("base"), child, wish))
    assert bad in made.declined[wish.id]


def test_wishes_for_what_is_so_or_does_not_exist_are_answered() -> None:
    again, nothing = a_request("quarantine", NEW), a_request("quarantine", "shop-20200101t000000z-00000000")
    made = planned(asked(an_image()), seen(*TWO_MARKED, again, nothing))
    assert steps(made) == []
    assert "already" in made.served[again.id]
    assert "there is no snapshot" in made.declined[nothing.id]


def test_another_reason_is_written_down() -> None:
    wish = a_request("quarantine", NEW, note="and a name")
    assert steps(planned(asked(an_image()), seen(*TWO_MARKED, wish))) == [f"quarantine {NEW}"]


def test_a_renamed_image_keeps_its_quarantines() -> None:
    store = replace(an_image("store", formerly=ImageName("shop")), source=ImageSource(ImageName("base")))
    desired = asked(store, an_image("base"), a_clone(image="store"))
    made = planned(desired, seen(*TWO_MARKED, a_snapshot("base")))
    assert NEW not in made_of(made)
