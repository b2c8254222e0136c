"""When a live primary is copied, followed and left, and what is cut from its mirror when."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.ids import ImageName, RuntimeName, SecretName, SnapshotId, VolumeId
from reconciler.plan.actions import (
    BuildSnapshot,
    CopyPrimary,
    DropRaw,
    FollowPrimary,
    LeavePrimary,
    Plan,
    ReplayArchive,
    StopServer,
)
from reconciler.plan.fingerprints import mirror_input
from reconciler.plan.policy import judge
from reconciler.plan.settings import PolicySettings
from reconciler.state.conditions import Condition, Kind, ObjectKey
from reconciler.state.desired import PrimarySource, Refresh, SourcePath
from reconciler.state.observed import (
    MirrorManifest,
    MirrorPhase,
    Observed,
    ObservedMirror,
    SnapshotManifest,
    Volume,
    VolumeState,
)
from tests.plan.world import (
    HOUR,
    NOW,
    OTHER_POOL,
    POOL,
    SYSTEM,
    World,
    a_failure,
    a_look,
    a_mirror,
    a_pool,
    a_raw,
    a_request,
    a_server,
    a_snapshot,
    an_image,
    asked,
    following,
    image_key,
    planned,
    seen,
)

if TYPE_CHECKING:
    from reconciler.state.desired import DesiredImage

SHOP = following()
NAME = ImageName("shop")
MIRROR = ObjectKey(Kind.MIRROR, "shop")
SECRETS = {SecretName("dsn"): "key-1"}
NIGHTLY = following(refresh=Refresh("0 2 * * *"))
AT = "0/3000148"


def mirrored(image: DesiredImage = SHOP, look: ObservedMirror | None = None, **changes: object) -> Observed:
    """Return a world with a mirror that runs, and a snapshot that was cut a day ago where it had come by now."""
    mirror = a_mirror(image, secrets=SECRETS, at=NOW - 30 * HOUR)
    mirror = replace(mirror, manifest=replace(mirror.manifest, **changes))  # type: ignore[arg-type]  # fields of any type
    snapshot = a_snapshot(age=24 * HOUR, input_id=mirror_input(SYSTEM, AT))
    return seen(mirror, a_server(mirror), snapshot, mirrors={NAME: look or a_look(AT)}, secrets=SECRETS)


def said(made: Plan, key: ObjectKey, kind: str) -> Condition:
    return next(condition for condition in made.conditions[key] if condition.type == kind)


def test_the_first_snapshot_is_cut_by_the_plan_that_copies_the_primary() -> None:
    copy, build = planned(asked(SHOP), seen(secrets=SECRETS)).actions
    assert isinstance(copy, CopyPrimary)
    assert isinstance(build, BuildSnapshot)
    assert (copy.volume, build.mirror, build.after) == ("shop.mirror", "shop.mirror", (MIRROR,))


def test_one_plan_after_the_copy_nothing_is_left_to_do() -> None:
    there = World(asked(SHOP), seen(secrets=SECRETS))
    there.run(planned(asked(SHOP), there.observed))
    assert planned(asked(SHOP), there.observed).actions == ()


def test_without_the_secret_nothing_is_copied_and_the_secret_is_named() -> None:
    made = planned(asked(SHOP), seen())
    assert made.actions == ()
    assert "dsn" in said(made, MIRROR, "Stalled").message


def test_a_mirror_that_follows_is_ready_and_nothing_is_done() -> None:
    made = planned(asked(SHOP), mirrored())
    assert made.actions == ()
    assert said(made, MIRROR, "Ready").reason == "Following"


def test_a_due_refresh_is_cut_when_the_primary_has_gone_on() -> None:
    (build,) = planned(asked(NIGHTLY), mirrored(NIGHTLY, a_look("0/4000000"))).actions
    assert isinstance(build, BuildSnapshot)
    assert (build.mirror, build.input_id) == ("shop.mirror", mirror_input(SYSTEM, "0/4000000"))


def test_a_due_refresh_of_an_idle_primary_is_up_to_date() -> None:
    made = planned(asked(NIGHTLY), mirrored(NIGHTLY))
    assert made.actions == ()
    assert made.checked == ("shop",)


def test_a_refresh_waits_while_the_mirror_does_not_follow_and_says_why() -> None:
    made = planned(asked(NIGHTLY), mirrored(NIGHTLY, a_look("0/4", following=False, problem="no route to host")))
    assert made.actions == ()
    assert "no route to host" in said(made, image_key("shop"), "Reconciling").message
    assert said(made, MIRROR, "Ready").status == "False"


def test_what_the_commit_asks_for_is_built_of_what_the_mirror_has() -> None:
    changed = following(spec_digest="d2" * 32)
    (build,) = planned(asked(changed), mirrored(SHOP, a_look(following=False, problem="away"))).actions
    assert isinstance(build, BuildSnapshot)


@pytest.mark.parametrize("look", [None, a_look(outdated=True)])
def test_a_mirror_is_started_when_it_does_not_run_or_has_old_settings(look: ObservedMirror | None) -> None:
    world = mirrored(SHOP, look)
    (action,) = planned(asked(SHOP), world if look else replace(world, servers={}, mirrors={})).actions
    assert isinstance(action, FollowPrimary)


def test_a_mirror_is_started_again_when_the_secret_of_its_primary_changed() -> None:
    (action,) = planned(asked(SHOP), replace(mirrored(), secrets={SecretName("dsn"): "key-2"})).actions
    assert isinstance(action, FollowPrimary)


def test_a_mirror_that_cannot_follow_any_more_is_left_and_copied_anew_for_the_next_refresh() -> None:
    look = a_look(following=False, lost="the primary has removed log that the mirror needs")
    leave, copy, build = planned(asked(NIGHTLY), mirrored(NIGHTLY, look)).actions
    assert isinstance(leave, LeavePrimary)
    assert isinstance(copy, CopyPrimary)
    assert isinstance(build, BuildSnapshot)
    assert build.mirror == copy.volume != leave.volume


@pytest.mark.parametrize(("phase", "state"), [("copying", "complete"), ("following", "creating")])
def test_a_copy_that_was_interrupted_is_dropped_and_begun_again(phase: str, state: str) -> None:
    mirror = replace(a_mirror(SHOP, phase=MirrorPhase(phase)), state=VolumeState(state))
    leave, copy, _build = planned(asked(SHOP), seen(mirror, secrets=SECRETS)).actions
    assert isinstance(leave, LeavePrimary)
    assert isinstance(copy, CopyPrimary)


def test_nothing_is_left_when_the_document_goes_and_the_end_is_tried_until_it_is_done() -> None:
    made = planned(asked(), mirrored())
    assert LeavePrimary in {type(action) for action in made.actions}
    leaving = seen(a_mirror(SHOP, phase=MirrorPhase.LEAVING), failures={MIRROR: (a_failure("", retry_in=-HOUR),)})
    (again,) = planned(asked(), leaving).actions
    assert isinstance(again, LeavePrimary)


def test_several_that_are_left_go_in_the_same_order_however_pools_list_them() -> None:
    mirror = a_mirror(SHOP, phase=MirrorPhase.LEAVING)
    both = [mirror, replace(mirror, id=VolumeId("before.mirror"))]
    plans = [planned(asked(), seen(*listed)) for listed in (both, both[::-1])]
    assert plans[0] == plans[1]
    assert [action.volume for action in plans[0].actions if isinstance(action, LeavePrimary)] == [
        "before.mirror",
        "shop.mirror",
    ]


def test_while_the_primary_cannot_be_reached_what_may_be_left_there_is_said() -> None:
    failure = a_failure("", permanent=False, retry_in=HOUR)
    made = planned(asked(), seen(a_mirror(SHOP, phase=MirrorPhase.LEAVING), failures={MIRROR: (failure,)}))
    assert made.actions == ()
    assert "slot_shop" in said(made, MIRROR, "Ready").message


def test_another_source_leaves_the_mirror() -> None:
    made = planned(asked(an_image()), mirrored())
    assert LeavePrimary in {type(action) for action in made.actions}


def test_a_mirror_in_another_pool_is_left_and_one_is_copied_in_the_new_pool() -> None:
    moved = following(pool=OTHER_POOL, refresh=Refresh("0 2 * * *"))
    world = mirrored(NIGHTLY, a_look("0/4"))
    pools = {**world.pools, OTHER_POOL: a_pool(OTHER_POOL)}
    actions = planned(asked(moved), replace(world, pools=pools)).actions
    assert [type(action) for action in actions] == [LeavePrimary, CopyPrimary, BuildSnapshot]


def test_a_mirror_that_no_refresh_has_used_for_too_long_goes_and_the_next_refresh_copies_anew() -> None:
    old = replace(SHOP, source=PrimarySource(SecretName("dsn"), "physical", raw_max_age=timedelta(hours=20)))
    (leave,) = planned(asked(old), mirrored(old)).actions
    assert isinstance(leave, LeavePrimary)
    asked_for = replace(mirrored(old), requests=(a_request("refresh", "shop"),), volumes=_snapshots(mirrored(old)))
    copy, build = planned(asked(old), replace(asked_for, servers={}, mirrors={})).actions
    assert isinstance(copy, CopyPrimary)
    assert isinstance(build, BuildSnapshot)


def test_a_mirror_is_not_removed_under_a_build() -> None:
    world = replace(mirrored(), in_flight=frozenset({image_key("shop")}), in_use=frozenset({VolumeId("shop.mirror")}))
    assert planned(asked(), world).actions == ()


def test_log_that_the_primary_keeps_is_told_before_the_limit() -> None:
    made = planned(asked(SHOP), mirrored(SHOP, a_look(held_bytes=6 << 30)))
    assert "10.0 GiB" in said(made, MIRROR, "HoldsLog").message


OVER = a_look(held_bytes=11 << 30)
DOWN = ObservedMirror(following=False, problem="its server does not run", held_bytes=11 << 30)


def too_much(look: ObservedMirror = DOWN, **changes: object) -> Observed:
    """Return a world whose primary keeps too much log for a mirror that does not run."""
    return replace(mirrored(SHOP, look), **{"servers": {}, **changes})  # type: ignore[arg-type]  # fields of any type


@pytest.mark.parametrize(
    ("image", "world"),
    [
        pytest.param(SHOP, mirrored(SHOP, OVER), id="it is connected, and slow"),
        pytest.param(SHOP, too_much(), id="its server does not run"),
        pytest.param(SHOP, mirrored(SHOP, replace(DOWN, problem="it cannot be asked")), id="it does not answer"),
        pytest.param(SHOP, too_much(pools={POOL: a_pool(free_bytes=99)}), id="its pool is at its reserve"),
        pytest.param(replace(SHOP, suspend=True), too_much(), id="its image is suspended"),
        pytest.param(
            SHOP, too_much(pools={POOL: a_pool(), OTHER_POOL: a_pool(OTHER_POOL, available=False)}), id="away"
        ),
        pytest.param(
            replace(SHOP, runtime=RuntimeName("docker")),
            too_much(unknown_runtimes={RuntimeName("docker"): "no answer"}),
            id="another runtime does not answer",
        ),
        pytest.param(
            SHOP,
            too_much(failures={MIRROR: (a_failure("follow:x", permanent=False, retry_in=HOUR),)}),
            id="its start is held back",
        ),
        pytest.param(
            SHOP,
            replace(mirrored(SHOP, OVER), in_flight=frozenset({image_key("shop")}), in_use=frozenset()),
            id="a build that was cut goes on",
        ),
    ],
)
def test_beyond_the_limit_a_mirror_goes_whatever_else_is_the_matter(image: DesiredImage, world: Observed) -> None:
    made = planned(asked(image), world)
    (leave,) = made.actions
    assert isinstance(leave, LeavePrimary)
    assert "11.0 GiB" in leave.reason
    assert "11.0 GiB" in said(made, MIRROR, "HoldsLog").message


@pytest.mark.parametrize("suspend", [False, True])
def test_before_the_limit_people_are_warned_also_of_a_mirror_that_does_not_run(suspend: bool) -> None:  # noqa: FBT001 - a parameter of the test
    made = planned(asked(replace(SHOP, suspend=suspend)), too_much(replace(DOWN, held_bytes=6 << 30)))
    assert not any(isinstance(action, LeavePrimary) for action in made.actions)
    assert "6.0 GiB" in said(made, MIRROR, "HoldsLog").message


def test_without_a_document_that_can_be_applied_no_limit_is_known_and_people_are_told_so() -> None:
    broken = replace(asked(), problems={image_key("shop"): ("RuntimeUnavailable", "there is no docker here")})
    made = planned(broken, too_much())
    assert made.actions == ()
    assert "no walLimit is known" in said(made, MIRROR, "HoldsLog").message


def test_a_mirror_beyond_its_limit_waits_for_a_build_that_is_not_cut_yet_and_nothing_is_copied_under_it() -> None:
    busy = replace(mirrored(NIGHTLY, OVER), in_flight=frozenset({image_key("shop")}))
    for in_use in (None, frozenset({VolumeId("shop.mirror")})):
        assert planned(asked(NIGHTLY), replace(busy, in_use=in_use)).actions == ()
    (leave,) = planned(asked(NIGHTLY), replace(busy, in_use=frozenset())).actions
    assert isinstance(leave, LeavePrimary)


@pytest.mark.parametrize("phase", [MirrorPhase.COPYING, MirrorPhase.LEAVING])
def test_a_suspended_image_keeps_no_slot_of_what_was_interrupted_or_given_up(phase: MirrorPhase) -> None:
    suspended = replace(SHOP, suspend=True)
    (leave,) = planned(asked(suspended), seen(a_mirror(SHOP, phase=phase), secrets=SECRETS)).actions
    assert isinstance(leave, LeavePrimary)


def test_a_mirror_that_is_far_behind_is_told_with_bytes_and_time() -> None:
    far = a_look(lag_bytes=3 << 30, last_commit=NOW - 2 * HOUR)
    told = said(planned(asked(SHOP), mirrored(SHOP, far)), MIRROR, "Behind")
    assert (told.status, told.reason, told.message) == ("True", "FarBehind", "it is 3.0 GiB and 2 h behind its primary")
    near = a_look(lag_bytes=3 << 20, last_commit=NOW - 2 * HOUR)
    told = said(planned(asked(SHOP), mirrored(SHOP, near)), MIRROR, "Behind")
    assert (told.status, told.message) == ("False", "3.0 MiB and 2 h behind")


@pytest.mark.parametrize(("lag", "hours", "far"), [(100 << 20, 2, "True"), (100 << 20, 0, "False"), (0, 9, "False")])
def test_how_far_is_far_takes_bytes_and_time_together(lag: int, hours: int, far: str) -> None:
    look = a_look(lag_bytes=lag, last_commit=NOW - hours * HOUR)
    assert said(planned(asked(SHOP), mirrored(SHOP, look)), MIRROR, "Behind").status == far


def test_a_suspended_image_keeps_no_unmasked_data_beyond_its_age() -> None:
    suspended = replace(SHOP, suspend=True)
    world = replace(mirrored(), volumes=(*mirrored().volumes, a_raw_of_the_mirror()))
    assert planned(asked(suspended), world, now=NOW + 20 * 24 * HOUR).actions == ()
    (leave,) = planned(asked(suspended), world, now=NOW + 400 * 24 * HOUR).actions
    assert isinstance(leave, LeavePrimary)
    (drop,) = planned(asked(suspended), seen(a_raw_of_the_mirror(), secrets=SECRETS)).actions
    assert isinstance(drop, DropRaw)


def test_what_failed_for_good_is_tried_again_at_the_next_time_of_the_schedule_and_not_before() -> None:
    world = mirrored(NIGHTLY, a_look("0/4000000"))
    (build,) = planned(asked(NIGHTLY), world).actions
    assert isinstance(build, BuildSnapshot)
    failed = replace(world, failures={image_key("shop"): (a_failure(build.fingerprint),)})
    gone_on = replace(failed, mirrors={NAME: a_look("0/5000000")})
    assert planned(asked(NIGHTLY), gone_on).actions == ()
    assert len(planned(asked(NIGHTLY), gone_on, now=NOW + 24 * HOUR).actions) == 1


def test_a_renamed_image_keeps_its_mirror() -> None:
    renamed = following("store", formerly=NAME)
    there = World(asked(renamed), mirrored())
    for _ in range(3):
        made = planned(asked(renamed), there.observed)
        assert not any(isinstance(action, CopyPrimary | LeavePrimary) for action in made.actions)
        there.run(made)
    assert made.actions == ()


def _snapshots(world: Observed) -> tuple[Volume, ...]:
    return tuple(v for v in world.volumes if isinstance(v.manifest, SnapshotManifest) and SnapshotId(v.id))


def test_a_commit_without_documents_takes_no_mirror_before_it_is_approved() -> None:
    world = replace(mirrored(), volumes=(*mirrored().volumes, a_raw_of_the_mirror()))
    judged = judge(planned(asked(), world), asked(), world, NOW, settings=PolicySettings())
    assert judged.actions == ()
    assert {a.verb for refusal in judged.refused for a in refusal.actions} == {"leave", "forget", "delete"}
    leaving = seen(a_mirror(SHOP, phase=MirrorPhase.LEAVING))
    again = judge(planned(asked(), leaving), asked(), leaving, NOW, settings=PolicySettings())
    assert [action.verb for action in again.actions] == ["leave"]


def a_raw_of_the_mirror() -> Volume:
    manifest = a_mirror(SHOP).manifest
    assert isinstance(manifest, MirrorManifest)
    return a_raw(manifest, at=NOW - HOUR, until=NOW - HOUR)


def archived(**changes: object) -> DesiredImage:
    source = PrimarySource(SecretName("dsn"), "physical", archive=SourcePath("/backups/shop-wal"))
    return replace(SHOP, source=source, **changes)  # type: ignore[arg-type]  # fields of any type


def test_what_came_into_an_archive_is_replayed_before_the_refresh_that_is_due() -> None:
    image = archived(refresh=NIGHTLY.refresh)
    replay, build = planned(asked(image), mirrored(image, a_look("0/4", pending=3), slot="")).actions
    assert isinstance(replay, ReplayArchive)
    assert isinstance(build, BuildSnapshot)
    assert build.after == (MIRROR,)
    assert "3 files" in replay.reason


def test_one_plan_after_it_was_replayed_nothing_is_left_to_do() -> None:
    there = World(asked(archived()), mirrored(archived(), a_look(AT, pending=1), slot=""))
    there.run(planned(asked(archived()), there.observed))
    assert planned(asked(archived()), there.observed).actions == ()


def test_a_refresh_waits_while_an_archive_cannot_be_replayed_and_the_mirror_says_why() -> None:
    image = archived(refresh=NIGHTLY.refresh)
    world = mirrored(image, a_look("0/4", pending=3), slot="")
    fingerprint = next(a.fingerprint for a in planned(asked(image), world).actions if isinstance(a, ReplayArchive))
    failure = a_failure(fingerprint, permanent=False, retry_in=HOUR)
    made = planned(asked(image), replace(world, failures={MIRROR: (failure,)}))
    assert made.actions == ()
    assert said(made, MIRROR, "Ready").status == "False"
    assert said(made, image_key("shop"), "Reconciling").reason == "WaitingForMirror"


def test_an_archive_that_ends_is_a_condition_and_holds_up_no_refresh() -> None:
    image = archived(refresh=NIGHTLY.refresh)
    made = planned(asked(image), mirrored(image, a_look("0/4", behind="look at archive_command"), slot=""))
    assert said(made, MIRROR, "Behind").message == "look at archive_command"
    (build,) = made.actions
    assert isinstance(build, BuildSnapshot)


def test_another_way_to_get_log_restarts_the_mirror_and_copies_nothing() -> None:
    (action,) = planned(asked(archived()), mirrored()).actions
    assert isinstance(action, FollowPrimary)


def test_a_mirror_that_its_server_found_lost_is_copied_anew_though_it_does_not_run() -> None:
    world = replace(mirrored(NIGHTLY, lost="a tablespace"), servers={}, mirrors={})
    assert [type(action) for action in planned(asked(NIGHTLY), world).actions] == [
        LeavePrimary,
        CopyPrimary,
        BuildSnapshot,
    ]


def test_what_is_left_at_a_primary_is_forgotten_on_request_however_it_fails() -> None:
    failure = a_failure("", permanent=False, retry_in=HOUR)
    world = seen(a_mirror(SHOP, phase=MirrorPhase.LEAVING), failures={MIRROR: (failure,)})
    assert "reconciler forget shop" in said(planned(asked(), world), MIRROR, "Ready").message
    (leave,) = planned(asked(), replace(world, requests=(a_request("forget", "shop"),))).actions
    assert isinstance(leave, LeavePrimary)
    assert leave.forgotten
    assert "slot_shop" in leave.reason


@pytest.mark.parametrize("world", [mirrored(), seen(secrets=SECRETS)])
def test_nothing_but_what_is_left_can_be_forgotten(world: Observed) -> None:
    made = planned(asked(SHOP), replace(world, requests=(a_request("forget", "shop"),)))
    assert list(made.declined) == ["forget-shop"]
    assert not any(isinstance(action, LeavePrimary) for action in made.actions)


def test_a_mirror_that_filled_its_pool_is_not_started_until_there_is_room_and_people_are_told() -> None:
    stopped = replace(mirrored(), servers={}, mirrors={})
    full = replace(stopped, pools={POOL: a_pool(free_bytes=99)})
    made = planned(asked(SHOP), full)
    assert made.actions == ()
    assert said(made, MIRROR, "Ready").reason == "NotFollowing"
    assert said(made, MIRROR, "Stalled").reason == "InsufficientDisk"
    (action,) = planned(asked(SHOP), replace(stopped, pools={POOL: a_pool(free_bytes=100)})).actions
    assert isinstance(action, FollowPrimary)


def test_a_mirror_that_would_live_on_the_reserve_of_its_pool_is_stopped_but_not_while_it_is_cut() -> None:
    full = replace(mirrored(), pools={POOL: a_pool(free_bytes=99)})
    made = planned(asked(SHOP), full)
    (action,) = made.actions
    assert isinstance(action, StopServer)
    assert (action.key, action.volumes) == (MIRROR, ("shop.mirror",))
    assert said(made, MIRROR, "Stalled").reason == "InsufficientDisk"
    busy = replace(full, in_flight=frozenset({image_key("shop")}), in_use=frozenset())
    assert planned(asked(SHOP), busy).actions == ()
