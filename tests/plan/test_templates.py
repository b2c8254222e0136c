"""What clones on an instance are copied from: loaded once, waited for, and dropped when nothing needs it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.ids import on_instance
from reconciler.plan.actions import (
    BuildSnapshot,
    CreateClone,
    DropTemplate,
    DropVolume,
    LoadTemplate,
    ReplaceClone,
    template_key,
)
from reconciler.plan.policy import judge
from reconciler.plan.settings import AttestationRules, PolicySettings
from reconciler.state.observed import BuildManifest, ObservedTemplate, Volume, VolumeState
from tests.plan.world import (
    HOUR,
    NOW,
    OURS,
    POOL,
    PROCESS,
    REVISION,
    World,
    a_clone,
    a_failure,
    a_generation,
    a_request,
    a_snapshot,
    an_image,
    asked,
    clone_key,
    condition,
    planned,
    reason,
    seen,
    served,
)

if TYPE_CHECKING:
    from reconciler.ids import SnapshotId
    from reconciler.plan.actions import Action, Plan

SHARED = on_instance("shared")
DEV = a_clone(runtime=SHARED)
OLD, NEW = a_snapshot(age=2 * HOUR), a_snapshot()


def a_template(volume: Volume = NEW, **changes: Any) -> ObservedTemplate:  # noqa: ANN401 - fields of any type
    manifest = volume.manifest
    values: dict[str, Any] = {"databases": manifest.databases, "instant": True}  # type: ignore[union-attr]
    return ObservedTemplate(SHARED, snapshot(volume), **{**values, **changes})


def snapshot(volume: Volume) -> SnapshotId:
    return volume.manifest.snapshot  # type: ignore[union-attr]


def kinds(made: Plan) -> list[type[Action]]:
    return [type(action) for action in made.actions]


def test_a_snapshot_is_loaded_once_for_all_clones_that_wait_for_it() -> None:
    others = [a_clone(name, runtime=SHARED) for name in ("one", "two")]
    made = planned(asked(an_image(), DEV, *others), seen(NEW))
    (load,) = [action for action in made.actions if isinstance(action, LoadTemplate)]
    creates = [action for action in made.actions if isinstance(action, CreateClone)]
    assert [action.after for action in creates] == [(load.key,)] * 3


def test_what_is_built_in_a_plan_is_loaded_after_that() -> None:
    made = planned(asked(an_image(), DEV), seen())
    assert kinds(made) == [BuildSnapshot, LoadTemplate, CreateClone]
    assert made.actions[1].after == (made.actions[0].key,)


def test_what_is_loaded_already_is_not_loaded_again() -> None:
    made = planned(asked(an_image(), DEV), seen(NEW, templates=(a_template(),)))
    assert kinds(made) == [CreateClone]


def test_what_was_not_loaded_to_its_end_is_loaded_again_while_a_clone_asks_for_it() -> None:
    half = a_template(a_snapshot(databases=("shop", "more")), databases=("shop",))
    observed = seen(a_snapshot(databases=("shop", "more")), templates=(half,))
    assert kinds(planned(asked(an_image(), DEV), observed)) == [LoadTemplate, CreateClone]
    assert kinds(planned(asked(an_image()), observed)) == [DropTemplate]


def test_a_clone_lives_while_what_it_is_to_be_made_of_is_loaded() -> None:
    current = a_generation(DEV, snapshot(OLD))
    observed = seen(OLD, NEW, *served(current), templates=(a_template(OLD),), requests=(a_request("rebase", "dev"),))
    made = planned(asked(an_image(), DEV), observed)
    assert kinds(made) == [LoadTemplate]
    assert reason(made, clone_key("dev"), "Reconciling") == "WaitingForTemplate"
    loaded = replace(observed, templates=(a_template(OLD), a_template(NEW)))
    assert kinds(planned(asked(an_image(), DEV), loaded)) == [ReplaceClone]


def test_nothing_is_loaded_for_a_clone_that_is_protected_and_so_stays_what_it_is() -> None:
    moved = a_clone(runtime=SHARED, protected=True)
    observed = seen(OLD, *served(a_generation(a_clone(protected=True), snapshot(OLD))))
    made = planned(asked(an_image(), moved), observed)
    assert kinds(made) == []
    assert [refusal.rule for refusal in made.refused] == ["protected"]
    assert reason(made, clone_key("dev"), "Stalled") == "Protected"


def test_a_failed_load_is_what_its_clones_say_and_is_not_tried_again_at_once() -> None:
    observed = seen(NEW)
    load = planned(asked(an_image(), DEV), observed).actions[0]
    assert isinstance(load, LoadTemplate)
    failure = replace(a_failure(load.fingerprint), permanent=True, retry_at=None)
    made = planned(asked(an_image(), DEV), replace(observed, failures={load.key: (failure,)}))
    assert made.actions == ()
    assert condition(made, clone_key("dev"), "Stalled") == condition(made, load.key, "Stalled")


@pytest.mark.parametrize("kept", ["a clone", "the newest"])
def test_what_a_clone_is_of_stays_and_so_does_the_newest(kept: str) -> None:
    volume = OLD if kept == "a clone" else NEW
    clones = served(a_generation(DEV, snapshot(OLD))) if kept == "a clone" else ()
    documents = asked(an_image(), DEV) if clones else asked(an_image())
    made = planned(documents, seen(OLD, NEW, *clones, templates=(a_template(volume),)))
    assert [action for action in made.actions if isinstance(action, DropTemplate)] == []


def test_what_no_clone_is_of_and_is_not_the_newest_goes() -> None:
    made = planned(asked(an_image()), seen(OLD, NEW, templates=(a_template(OLD),)))
    assert kinds(made) == [DropTemplate]
    assert World(asked(an_image()), seen(OLD, NEW, templates=(a_template(OLD),))).run(made).templates == ()


def test_what_is_of_a_snapshot_that_is_gone_goes() -> None:
    assert kinds(planned(asked(an_image()), seen(NEW, templates=(a_template(OLD),)))) == [DropTemplate]


def test_a_copy_that_nothing_is_loaded_from_any_more_goes() -> None:
    manifest = BuildManifest(
        installation=OURS,
        image=an_image().name,
        template=SHARED,
        snapshot=snapshot(NEW),
        engine="postgres",
        spec_digest="",
        revision=REVISION,
        started_at=NOW,
    )
    copy = Volume(f"{snapshot(NEW)}.loaded", POOL, VolumeState.COMPLETE, manifest)  # type: ignore[arg-type]
    (drop,) = planned(asked(an_image()), seen(NEW, copy)).actions
    assert isinstance(drop, DropVolume)
    assert (drop.volume, drop.key) == (copy.id, template_key(SHARED, snapshot(NEW)))
    busy = seen(NEW, copy, in_flight=frozenset({template_key(SHARED, snapshot(NEW))}))
    assert planned(asked(an_image()), busy).actions == ()


def test_what_may_not_be_delivered_is_not_loaded_either() -> None:
    documents = asked(an_image(unmasked_reason="made up"), DEV)
    denied = PolicySettings(unmasked="deny")
    asks = PolicySettings(attestation=AttestationRules(runtimes={SHARED: "any"}))
    for settings in (denied, asks):
        judged = judge(planned(documents, seen(NEW)), documents, seen(NEW), NOW, settings=settings)
        assert judged.actions == ()


def test_a_full_copy_is_said_of_each_clone() -> None:
    observed = seen(NEW, *served(a_generation(DEV)), templates=(a_template(instant=False),))
    made = planned(asked(an_image(), DEV), observed)
    assert reason(made, clone_key("dev"), "FullCopy") == "FilesNotShared"
    for instant in (True, None):
        other = replace(observed, templates=(a_template(instant=instant),))
        assert condition(planned(asked(an_image(), DEV), other), clone_key("dev"), "FullCopy") is None


def test_a_silent_instance_leaves_its_clones_unknown_and_the_others_worked_on() -> None:
    other = a_clone("other", runtime=PROCESS)
    observed = seen(NEW, *served(a_generation(DEV)), unknown_runtimes={SHARED: "no answer"})
    made = planned(asked(an_image(), replace(DEV, running=False), other), observed)
    assert kinds(made) == [CreateClone]
    assert reason(made, clone_key("dev"), "Ready") == "RuntimeUnavailable"
