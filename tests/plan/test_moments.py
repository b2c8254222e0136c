"""Moments that clones ask for: which raw copies are kept for them, what is built, shared, and when it goes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.ids import ImageName, SecretName, VolumeId
from reconciler.plan.actions import BuildSnapshot, CreateClone, DeleteSnapshot, DropRaw, KeepRaw, LeavePrimary
from reconciler.plan.policy import judge
from reconciler.plan.settings import PolicySettings
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.desired import DesiredImage, PointInTime, PrimarySource, SnapshotAt
from reconciler.state.observed import MirrorManifest, Observed, ObservedPool, ObservedServer, Volume
from tests.plan.world import (
    HOUR,
    NOW,
    World,
    a_clone,
    a_generation,
    a_look,
    a_mirror,
    a_pool,
    a_raw,
    a_server,
    a_snapshot,
    asked,
    clone_key,
    following,
    planned,
    seen,
)

if TYPE_CHECKING:
    from datetime import datetime

DAY = 24 * HOUR
SHOP = following(point_in_time=PointInTime(7 * DAY, DAY))
SECRETS = {SecretName("dsn"): "key-1"}
AT = NOW - 30 * HOUR
MIRROR = a_mirror(SHOP, secrets=SECRETS, at=NOW - 9 * DAY)
assert isinstance(MIRROR.manifest, MirrorManifest)


def raw(age: timedelta, **changes: object) -> Volume:
    assert isinstance(MIRROR.manifest, MirrorManifest)
    return a_raw(MIRROR.manifest, at=NOW - age, **{"until": NOW - age - timedelta(minutes=1), **changes})  # type: ignore[arg-type]  # fields of any type


def past(*more: Volume | ObservedServer | ObservedPool, look: object = None, **changes: object) -> Observed:
    """Return a world with a mirror, a snapshot, and raw copies of each of the last eight days."""
    things = [MIRROR, a_server(MIRROR), a_snapshot(), *(raw(days * DAY - HOUR) for days in range(1, 9)), *more]
    looks = {ImageName("shop"): look or a_look(last_commit=NOW)}
    return seen(*things, mirrors=looks, secrets=SECRETS, **changes)


def test_a_moment_is_replayed_from_the_newest_raw_copy_that_is_wholly_before_it() -> None:
    build, create = planned(asked(SHOP, a_clone(snapshot=SnapshotAt(AT))), past()).actions
    assert isinstance(build, BuildSnapshot)
    assert isinstance(create, CreateClone)
    assert (build.at, build.raw, build.mirror) == (AT, raw(47 * HOUR).id, "shop.mirror")
    assert create.snapshot == build.snapshot


def test_clones_that_ask_for_the_same_moment_share_one_build() -> None:
    clones = [a_clone(name, snapshot=SnapshotAt(AT)) for name in ("a", "b")]
    there = World(asked(SHOP, *clones), past())
    made = planned(asked(SHOP, *clones), there.observed)
    assert [type(action) for action in made.actions] == [BuildSnapshot, CreateClone, CreateClone]
    there.run(made)
    assert planned(asked(SHOP, *clones), there.observed).actions == ()


def test_moments_are_no_newest_snapshots() -> None:
    moment = a_snapshot(age=timedelta(0), at=AT)
    clones = [a_clone("a", snapshot=SnapshotAt(AT)), a_clone("b")]
    made = planned(asked(SHOP, *clones), past(moment))
    sources = {str(action.clone): str(action.snapshot) for action in made.actions if isinstance(action, CreateClone)}
    assert sources == {"a": str(moment.id), "b": str(a_snapshot().id)}


@pytest.mark.parametrize(
    ("at", "word"), [(NOW - 9 * DAY, "too long ago"), (NOW + HOUR, "still to come"), (NOW - HOUR, "not come")]
)
def test_outside_of_the_window_it_is_named(at: datetime, word: str) -> None:
    world = past(look=a_look(lag_bytes=5000, last_commit=NOW - 2 * HOUR))
    made = planned(asked(SHOP, a_clone(snapshot=SnapshotAt(at))), world)
    assert made.actions == ()
    told = [c.message for c in made.conditions[clone_key("dev")] if word in c.message]
    assert told
    assert word == "still to come" or "reaches from" in told[0]


def test_a_mirror_that_has_caught_up_reaches_to_what_the_clock_of_its_primary_says() -> None:
    """Be that behind the clock of this host, or ahead of it."""
    for clock in (NOW - HOUR, NOW + HOUR):
        world = past(look=a_look(lag_bytes=0, last_commit=NOW - 2 * HOUR, complete_until=clock))
        build, _create = planned(asked(SHOP, a_clone(snapshot=SnapshotAt(clock))), world).actions
        assert isinstance(build, BuildSnapshot)
        later = planned(asked(SHOP, a_clone(snapshot=SnapshotAt(clock + timedelta(microseconds=1)))), world)
        assert later.actions == ()


def test_without_the_clock_of_the_primary_the_last_commit_is_as_far_as_it_reaches() -> None:
    world = past(look=a_look(lag_bytes=0, last_commit=NOW - 2 * HOUR))
    assert planned(asked(SHOP, a_clone(snapshot=SnapshotAt(NOW - HOUR))), world).actions == ()


def test_a_raw_copy_is_kept_when_the_last_one_is_old_and_the_first_one_at_once() -> None:
    young = past()
    assert planned(asked(SHOP), young).actions == ()
    assert KeepRaw in {type(action) for action in planned(asked(SHOP), young, now=NOW + HOUR).actions}
    none = replace(young, volumes=tuple(v for v in young.volumes if v.manifest.kind != "raw"))
    (first,) = planned(asked(SHOP), none).actions
    assert isinstance(first, KeepRaw)


@pytest.mark.parametrize(("instant", "verbs"), [(False, []), (True, ["keep"])])
def test_a_raw_copy_takes_room_where_copies_are_not_instant_and_is_refused_with_figures(
    instant: bool,  # noqa: FBT001 - a parameter of the test
    verbs: list[str],
) -> None:
    world = past(a_pool(instant_clones=instant, free_bytes=10 << 30, reserve_bytes=1 << 30))
    world = replace(world, volumes=tuple(v for v in world.volumes if v.manifest.kind != "raw"))
    policy = PolicySettings(sizes={MIRROR.id: 12 << 30})
    judged = judge(planned(asked(SHOP), world), asked(SHOP), world, NOW, settings=policy)
    assert [action.verb for action in judged.actions] == verbs
    told = [c for c in judged.conditions[ObjectKey(Kind.MIRROR, "shop")] if c.reason == "InsufficientDisk"]
    assert len(told) == len(judged.refused) == 1 - len(verbs)
    assert all("a raw copy of the mirror of image shop needs about 12.0 GiB" in one.message for one in told)


def test_the_newest_raw_copy_before_the_window_stays_and_older_ones_go() -> None:
    (drop,) = planned(asked(SHOP), past(raw(9 * DAY))).actions
    assert isinstance(drop, DropRaw)
    assert drop.volume == raw(9 * DAY).id


def test_raw_copies_of_another_mirror_and_unfinished_ones_go() -> None:
    strange, unfinished = raw(5 * HOUR, of="shop.mirror0"), raw(6 * HOUR, until=None)
    dropped = {a.volume for a in planned(asked(SHOP), past(strange, unfinished)).actions if isinstance(a, DropRaw)}
    assert dropped == {strange.id, unfinished.id}


def test_without_the_field_or_the_document_all_raw_copies_go() -> None:
    for documents in ((following(),), ()):
        made = planned(asked(*documents), past())
        assert sum(isinstance(action, DropRaw) for action in made.actions) == 8


@pytest.mark.parametrize("unread", ["shop.mirror", "shop.raw20261114130000", "former.mirror"])
def test_while_a_manifest_of_the_pool_cannot_be_read_raw_copies_stay_as_they_are(unread: str) -> None:
    there = past(raw(9 * DAY), a_pool(unknown=(VolumeId(unread),)))
    seen = replace(there, volumes=tuple(v for v in there.volumes if v.id not in (unread, "shop.mirror")), mirrors={})
    assert not [a for a in planned(asked(SHOP), seen).actions if isinstance(a, DropRaw)]
    kept = planned(asked(SHOP), there, now=NOW + HOUR).actions
    assert not [action for action in kept if isinstance(action, DropRaw | KeepRaw)]


def test_a_raw_copy_that_a_build_starts_from_stays() -> None:
    old = raw(9 * DAY)
    key = ObjectKey(Kind.IMAGE, "shop")
    assert planned(asked(SHOP), past(old, in_flight=frozenset({key}), in_use=frozenset({old.id}))).actions == ()


def test_a_moment_stays_while_a_clone_is_of_it_or_asks_for_it_and_goes_then() -> None:
    moment = a_snapshot(age=HOUR, at=AT)
    clone = a_clone(snapshot=SnapshotAt(AT))
    made_of_it = a_generation(clone, moment.id)
    world = past(moment, made_of_it, a_server(made_of_it))
    assert planned(asked(SHOP, clone), world).actions == ()
    assert planned(asked(SHOP, clone), past(moment)).actions[0].verb == "create"
    (delete,) = planned(asked(SHOP), past(moment)).actions
    assert isinstance(delete, DeleteSnapshot)


def test_another_moment_in_the_document_replaces_the_clone_once_that_is_built() -> None:
    moment = a_snapshot(age=HOUR, at=AT)
    made_of_it = a_generation(a_clone(snapshot=SnapshotAt(AT)), moment.id)
    later = a_clone(snapshot=SnapshotAt(AT + HOUR))
    there = World(asked(SHOP, later), past(moment, made_of_it, a_server(made_of_it)))
    first = planned(asked(SHOP, later), there.observed)
    assert [type(action) for action in first.actions] == [BuildSnapshot]
    there.run(first)
    assert [action.verb for action in planned(asked(SHOP, later), there.observed).actions] == ["replace"]


def test_a_mirror_that_is_lost_is_left_after_the_moments_that_read_its_log() -> None:
    lost = a_look(lost="the primary has removed log", last_commit=NOW, following=False)
    made = planned(asked(SHOP, a_clone(snapshot=SnapshotAt(AT))), past(look=lost))
    assert [type(action) for action in made.actions] == [BuildSnapshot, LeavePrimary, CreateClone]
    (leave,) = [action for action in made.actions if isinstance(action, LeavePrimary)]
    assert leave.after == (ObjectKey(Kind.IMAGE, "shop"),)
    there = World(asked(SHOP, a_clone(snapshot=SnapshotAt(AT))), past(look=lost))
    there.run(made)
    assert "dev.1" in {volume.id for volume in there.observed.volumes}


def test_what_the_commit_asks_for_is_built_of_a_lost_mirror_before_that_is_left() -> None:
    lost = a_look(lost="the primary has removed log", last_commit=NOW, following=False)
    changed = replace(SHOP, spec_digest="d2" * 32)
    made = planned(asked(changed, a_clone(snapshot=SnapshotAt(AT))), past(look=lost))
    kinds = [type(action) for action in made.actions if not isinstance(action, DeleteSnapshot)]
    assert kinds == [BuildSnapshot, BuildSnapshot, LeavePrimary, CreateClone]


def test_a_past_that_is_asked_for_and_moments_are_a_use_of_the_mirror() -> None:
    def old(**changes: object) -> DesiredImage:
        source = PrimarySource(SecretName("dsn"), "physical", raw_max_age=1.5 * HOUR)
        return replace(SHOP, source=source, **changes)  # type: ignore[arg-type]  # fields of any type

    def leaves(image: DesiredImage, *more: Volume) -> bool:
        mirror = a_mirror(image, secrets=SECRETS, at=NOW - DAY)
        there = past(*more)
        there = replace(there, volumes=tuple(mirror if v.id == mirror.id else v for v in there.volumes))
        return any(isinstance(action, LeavePrimary) for action in planned(asked(image), there, now=NOW + HOUR).actions)

    assert not leaves(old())
    assert leaves(old(point_in_time=None))
    assert not leaves(old(point_in_time=None), a_snapshot(age=timedelta(0), at=AT))


def test_without_a_past_a_clone_gets_the_snapshot_before_as_ever() -> None:
    old = a_snapshot(age=40 * HOUR)
    made = planned(asked(following(), a_clone(snapshot=SnapshotAt(AT))), _without_raws(past(old)))
    assert [action.snapshot for action in made.actions if isinstance(action, CreateClone)] == [str(old.id)]


def _without_raws(world: Observed) -> Observed:
    return replace(world, volumes=tuple(v for v in world.volumes if v.manifest.kind != "raw"))


def test_nothing_is_built_from_a_raw_copy_that_the_same_plan_drops() -> None:
    early = NOW - 8 * DAY + HOUR
    made = planned(asked(SHOP, a_clone(snapshot=SnapshotAt(early))), past(raw(9 * DAY)))
    assert [type(action) for action in made.actions] == [DropRaw, BuildSnapshot, CreateClone]
    sooner = planned(asked(SHOP, a_clone(snapshot=SnapshotAt(early - DAY))), past(raw(9 * DAY)))
    assert [type(action) for action in sooner.actions] == [DropRaw]
    assert ["too long ago" in c.message for c in sooner.conditions[clone_key("dev")] if c.type == "Stalled"] == [True]


def test_the_edges_of_what_can_be_reached_are_inclusive() -> None:
    world = past(look=a_look(lag_bytes=5000, last_commit=NOW - HOUR))
    first = NOW - 8 * DAY + HOUR - timedelta(minutes=1)
    instant = timedelta(microseconds=1)
    for at, there in ((first, True), (first - instant, False), (NOW - HOUR, True), (NOW - HOUR + instant, False)):
        made = planned(asked(SHOP, a_clone(snapshot=SnapshotAt(at))), world)
        assert any(isinstance(action, BuildSnapshot) for action in made.actions) is there
