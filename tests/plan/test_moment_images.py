"""Images of a moment of another one: built on it once, with it kept, and told apart when it cannot be had."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.ids import ImageName, SecretName
from reconciler.plan.actions import BuildSnapshot, CreateClone, DeleteSnapshot, RenameImage
from reconciler.state.desired import PointInTime, SnapshotAt
from reconciler.state.observed import MirrorManifest, Observed, ObservedServer, RawManifest, Volume
from tests.plan.world import (
    HOUR,
    NOW,
    World,
    a_clone,
    a_failure,
    a_look,
    a_mirror,
    a_raw,
    a_server,
    a_snapshot,
    asked,
    clone_key,
    condition,
    derived,
    following,
    image_key,
    planned,
    reason,
    seen,
)

if TYPE_CHECKING:
    from datetime import datetime

    from reconciler.state.desired import DesiredImage

DAY = 24 * HOUR
SHOP = following(point_in_time=PointInTime(7 * DAY, DAY))
SECRETS = {SecretName("dsn"): "key-1"}
AT = NOW - 30 * HOUR
MIRROR = a_mirror(SHOP, secrets=SECRETS, at=NOW - 9 * DAY)


def then(at: datetime = AT, **changes: object) -> DesiredImage:
    return derived("then", "shop", at=at, **changes)


def past(*more: Volume | ObservedServer, oldest: int = 8, **changes: object) -> Observed:
    """Return a world with a mirror, a snapshot, and raw copies of each of the last days."""
    assert isinstance(MIRROR.manifest, MirrorManifest)
    times = [NOW - days * DAY + HOUR for days in range(1, oldest + 1)]
    raws = [a_raw(MIRROR.manifest, at=at, until=at - timedelta(minutes=1)) for at in times]
    looks = {ImageName("shop"): a_look(last_commit=NOW)}
    return seen(MIRROR, a_server(MIRROR), a_snapshot(), *raws, *more, mirrors=looks, secrets=SECRETS, **changes)


def built_there(desired: object = None) -> World:
    there = World(desired or asked(SHOP, then()), past())  # type: ignore[arg-type]  # a Desired
    there.run(planned(there.desired, there.observed))
    return there


def test_the_moment_is_built_first_then_what_is_on_it_and_clones_that_ask_for_it_share_it() -> None:
    documents = asked(SHOP, then(), a_clone("dev", "then"), a_clone("raw", snapshot=SnapshotAt(AT)))
    there = World(documents, past())
    made = planned(documents, there.observed)
    moment, image = (action for action in made.actions if isinstance(action, BuildSnapshot))
    dev, raw = (action for action in made.actions if isinstance(action, CreateClone))
    assert (moment.image, moment.at, image.image, image.at) == ("shop", AT, "then", None)
    assert image.base == raw.snapshot == moment.snapshot
    assert image.after == (image_key("shop"),)
    assert dev.snapshot == image.snapshot
    there.run(made)
    assert planned(documents, there.observed).actions == ()


def test_it_is_not_rebuilt_when_its_base_has_a_newer_snapshot() -> None:
    there = built_there()
    newer = replace(there.observed, volumes=(*there.observed.volumes, a_snapshot(age=timedelta(0))))
    assert planned(there.desired, newer).actions == ()


def test_another_moment_in_the_document_builds_anew_and_the_old_moment_goes_with_the_snapshot_on_it() -> None:
    there = built_there()
    there.desired = asked(SHOP, then(AT + HOUR, spec_digest="e2" * 32))
    there.now += timedelta(minutes=1)
    first = planned(there.desired, there.observed, now=there.now)
    assert [(action.image, action.at) for action in first.actions if isinstance(action, BuildSnapshot)] == [
        ("shop", AT + HOUR),
        ("then", None),
    ]
    there.run(first)
    (delete,) = planned(there.desired, there.observed, now=there.now).actions
    assert isinstance(delete, DeleteSnapshot)
    assert planned(there.desired, there.run(planned(there.desired, there.observed, now=there.now))).actions == ()


@pytest.mark.parametrize(
    ("at", "word"), [(NOW - 9 * DAY, "too long ago: image shop reaches from"), (NOW + HOUR, "still to come")]
)
def test_outside_of_the_window_it_is_stalled_and_the_window_named(at: datetime, word: str) -> None:
    made = planned(asked(SHOP, then(at)), past())
    assert made.actions == ()
    told = condition(made, image_key("then"), "Stalled")
    assert told is not None
    assert (told.reason, word in told.message) == ("MomentUnreachable", True)
    assert reason(made, image_key("then"), "Ready") == "NoSnapshot"


def test_its_moment_stays_when_the_window_has_passed_over_it_so_that_its_scripts_can_change() -> None:
    there = built_there()
    later = NOW + 20 * DAY
    changed = asked(SHOP, then(spec_digest="e2" * 32))
    kept = [volume for volume in there.observed.volumes if not isinstance(volume.manifest, RawManifest)]
    (build, *_more) = planned(changed, replace(there.observed, volumes=tuple(kept)), now=later).actions
    moments = [action for action in planned(changed, there.observed, now=later).actions if action.verb == "build"]
    assert build.key.name in ("shop", "then")
    assert [action.key.name for action in moments] == ["then"]


def test_when_its_base_changed_and_the_moment_is_out_of_reach_new_clones_wait_and_nothing_is_deleted() -> None:
    there = built_there()
    masked = replace(SHOP, spec_digest="e2" * 32)
    later = NOW + 20 * DAY
    documents = asked(masked, then(), a_clone("dev", "then"))
    made = planned(documents, there.observed, now=later)
    assert reason(made, image_key("then"), "Stalled") == "MomentUnreachable"
    assert {action.verb for action in made.actions if action.key == image_key("then")} == set()
    assert not [action for action in made.actions if isinstance(action, CreateClone | DeleteSnapshot)]


def test_a_moment_that_somebody_deleted_beyond_the_window_leaves_what_was_built_on_it_as_it_is() -> None:
    there = built_there()
    left = tuple(v for v in there.observed.volumes if getattr(v.manifest, "at", None) is None)
    made = planned(
        asked(SHOP, then(), a_clone("dev", "then")), replace(there.observed, volumes=left), now=NOW + 20 * DAY
    )
    assert [action.key.name for action in made.actions if isinstance(action, CreateClone)] == ["dev"]
    assert reason(made, image_key("then"), "Ready") == "UpToDate"


def test_the_moment_goes_once_the_document_and_its_snapshots_are_gone() -> None:
    there = built_there()
    there.desired = asked(SHOP)
    for _ in range(3):
        there.run(planned(there.desired, there.observed))
    left = [volume.manifest for volume in there.observed.volumes if volume.manifest.kind == "snapshot"]
    assert [(manifest.image, manifest.at) for manifest in left] == [("shop", None)]


def test_a_moment_that_failed_for_good_says_so_at_whoever_waits_for_it() -> None:
    made = planned(asked(SHOP, then(), a_clone(snapshot=SnapshotAt(AT))), past())
    (build,) = [a for a in made.actions if isinstance(a, BuildSnapshot) and a.at is not None]
    failure = a_failure(build.fingerprint)
    failed = past(failures={image_key("shop"): (failure,)})
    again = planned(asked(SHOP, then(), a_clone(snapshot=SnapshotAt(AT))), failed)
    assert again.actions == ()
    for told in (
        c for key in (image_key("then"), clone_key("dev")) for c in again.conditions[key] if c.type == "Stalled"
    ):
        assert told.reason == failure.reason


def test_a_quarantined_moment_is_not_built_again_it_would_hold_the_same() -> None:
    there = built_there()
    (moment,) = [v.manifest.snapshot for v in there.observed.volumes if getattr(v.manifest, "at", None) is not None]  # type: ignore[union-attr]  # a snapshot
    documents = asked(replace(SHOP, quarantine=(moment,)), then(), a_clone(snapshot=SnapshotAt(AT)))
    made = planned(documents, there.observed)
    assert [action for action in made.actions if isinstance(action, BuildSnapshot | CreateClone)] == []
    assert reason(made, image_key("then"), "Ready") == "Quarantined"


def test_moments_and_raw_copies_are_renamed_with_their_image() -> None:
    there = built_there()
    store = replace(SHOP, name=ImageName("store"), formerly=ImageName("shop"))
    there.desired = asked(store, replace(then(), source=derived("then", "store").source))
    made = planned(there.desired, there.observed)
    (rename,) = [action for action in made.actions if isinstance(action, RenameImage)]
    there.run(made)
    assert len([volume for volume in rename.volumes if ".raw" in volume]) == 8
    there.desired = asked(replace(store, formerly=None), replace(then(), source=derived("then", "store").source))
    assert planned(there.desired, there.observed).actions == ()
