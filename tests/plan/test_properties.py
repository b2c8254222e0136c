"""What holds for every plan, over generated documents and worlds."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, assume, event, given, note, settings
from hypothesis import strategies as st

from reconciler.ids import CloneName, ImageName, InstallationId, RuntimeName, ServerName, VolumeId
from reconciler.plan.actions import (
    BuildSnapshot,
    ClearTombstone,
    CopyPrimary,
    CreateClone,
    CutPoint,
    DeleteSnapshot,
    DropTemplate,
    FollowPrimary,
    LoadTemplate,
    Plan,
    ReleaseSnapshot,
    RenameImage,
    ReplaceClone,
    ReplayArchive,
    RestartClone,
    RestoreClone,
    StartClone,
    UpdateClone,
    origin,
)
from reconciler.plan.policy import judge, pruned_objects
from reconciler.plan.settings import PolicySettings
from reconciler.state.conditions import Kind
from reconciler.state.observed import (
    CloneManifest,
    ClonePhase,
    Input,
    Observed,
    SnapshotManifest,
    Volume,
    VolumeState,
)
from reconciler.state.quarantine import quarantined
from tests.plan import world
from tests.plan.generated import IMAGES, KEYS, SETTINGS, busy_worlds, commits, worlds
from tests.plan.world import NOW, OTHER_POOL, OURS, POOL, World, a_pool, clone_key, image_key

if TYPE_CHECKING:
    import random

    from reconciler.plan.actions import Action
    from reconciler.state.conditions import ObjectKey
    from reconciler.state.desired import Desired

POLICY = PolicySettings(max_delete=3, max_delete_percent=50)
MANY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def planned(desired: Desired, observed: Observed) -> Plan:
    return world.planned(desired, observed, settings=SETTINGS)


def judged(desired: Desired, observed: Observed, policy: PolicySettings = POLICY) -> Plan:
    return judge(planned(desired, observed), desired, observed, NOW, settings=policy)


@settings(MANY, max_examples=150)
@given(commits(), st.one_of(worlds(), busy_worlds()), st.frozensets(st.sampled_from(KEYS), max_size=2))
def test_applying_plans_makes_the_next_one_empty(
    desired: Desired, observed: Observed, broken: frozenset[ObjectKey]
) -> None:
    """One pass does it, but for what follows only from what it did (see ``follows``), and for what failed.

    What depended on it, or is another kind of work on an object that failed, comes next. Every
    action of ``broken`` objects fails; nothing that failed is tried again before its time.
    """
    there = World(desired, observed, broken=broken)
    made = planned(desired, observed)
    assume(made.actions)
    failed: set[ObjectKey] = set()
    for number in range(1, 7):
        note(f"plan {number}: {[(action.verb, str(action.key), action.reason) for action in made.actions]}")
        there.run(made)
        failed |= there.failed
        before, made = made, planned(desired, there.observed)
        if not made.actions:
            event(f"empty after {number} passes")
            return
        for action in made.actions:
            after_others = follows(action, before) or _starts_from_another(desired, action)
            assert after_others or _goes_on(action, failed), action
    raise AssertionError(made.actions)


def follows(action: Action, before: Plan) -> bool:  # noqa: PLR0911 - one case per action
    """Whether an action became possible only by what the plan before did."""
    built = {done.snapshot for done in before.actions if isinstance(done, BuildSnapshot)}
    loaded = {done.snapshot for done in before.actions if isinstance(done, LoadTemplate)}
    restored = any(done.key == action.key and done.verb == "restore" for done in before.actions)
    if any(isinstance(done, ReleaseSnapshot) for done in before.actions):  # what was withheld can be had again
        return True
    match action:
        case ReplaceClone():  # a clone lives on until the snapshot that it is to be made of exists
            return restored or action.snapshot in built | loaded
        case UpdateClone() | RestartClone():  # an earlier generation is made current as it was left
            return restored
        case DeleteSnapshot():  # not while its image is built or renamed: that may fail, and it be needed after all
            busy = any(done.key == action.key and done.verb in ("build", "cut", "rename") for done in before.actions)
            return busy or action.snapshot in loaded
        case LoadTemplate():  # for a clone that lives on until the snapshot exists
            return action.snapshot in built
        case DropTemplate():  # not before clones have let go of it, or there is a newer snapshot
            return any(done.verb in ("delete", "expire", "drop", "replace", "build", "cut") for done in before.actions)
        case ClearTombstone():  # a clone whose document is gone, and now its volumes are as well
            return any(done.key == action.key and done.verb in ("delete", "drop") for done in before.actions)
        case _:
            return False


def _goes_on(action: Action, failed: set[ObjectKey]) -> bool:
    """Whether it is other work on what failed: a mirror that could not be left has its image's new name until then."""
    left = any(key.kind is Kind.MIRROR and key.name == action.key.name for key in failed)
    return action.key in failed or (isinstance(action, RenameImage) and left)


@MANY
@given(commits())
def test_a_commit_on_an_empty_host_is_there_after_one_plan(desired: Desired) -> None:
    """Clones that start from others come after those, which have to be there."""
    observed = replace(
        Observed(installation=OURS),
        pools={POOL: a_pool(), OTHER_POOL: a_pool(OTHER_POOL)},
        inputs={ImageName(name): Input("input-1") for name in IMAGES},
    )
    there = World(desired, observed)
    there.run(planned(desired, observed))
    while late := planned(desired, there.observed).actions:
        assert all(_starts_from_another(desired, action) for action in late)
        there.run(planned(desired, there.observed))


def _starts_from_another(desired: Desired, action: Action) -> bool:
    """Whether it comes after what happens to another clone, which has to be over."""
    if isinstance(action, CreateClone | ReplaceClone):
        return desired.clones[action.clone].source_clone is not None
    if isinstance(action, LoadTemplate):  # for clones that start from others
        return any(c.source_clone is not None and c.runtime == action.runtime for c in desired.clones.values())
    return isinstance(action, CutPoint)


@MANY
@given(commits(), worlds(), st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_listed_does_not_matter(
    desired: Desired, observed: Observed, shuffle: random.Random
) -> None:
    def mixed(mapping: Any) -> dict[Any, Any]:  # noqa: ANN401 - any mapping
        rows = list(mapping.items())
        shuffle.shuffle(rows)
        return dict(rows)

    volumes, requests = list(observed.volumes), list(observed.requests)
    shuffle.shuffle(volumes)
    shuffle.shuffle(requests)
    other = planned(
        replace(desired, images=mixed(desired.images), clones=mixed(desired.clones)),
        replace(
            observed,
            volumes=tuple(volumes),
            requests=tuple(requests),
            servers=mixed(observed.servers),
            pools=mixed(observed.pools),
        ),
    )
    assert other == planned(desired, observed)


@MANY
@given(commits(), worlds(), st.integers(0, 5))
def test_deletions_of_what_lost_its_document_stay_within_the_limit(
    desired: Desired, observed: Observed, recent: int
) -> None:
    observed = replace(observed, recent_deletions={f"Clone/x{n}": NOW - timedelta(minutes=1) for n in range(recent)})
    gone = pruned_objects(judged(desired, observed).actions)
    assert not gone or len(gone) + recent <= POLICY.max_delete


@MANY
@given(commits(), worlds())
def test_what_another_installation_made_is_not_seen_at_all(desired: Desired, observed: Observed) -> None:
    theirs = tuple(
        replace(
            volume,
            id=VolumeId(f"{volume.id}x"),
            manifest=replace(volume.manifest, installation=InstallationId("theirs")),
        )
        for volume in observed.volumes
    )
    both = planned(desired, replace(observed, volumes=(*observed.volumes, *theirs)))
    assert both == planned(desired, observed)


@MANY
@given(commits(), worlds())
def test_every_deletion_is_of_a_volume_that_was_seen(desired: Desired, observed: Observed) -> None:
    seen = {volume.id for volume in observed.volumes if observed.pools[volume.pool].available}
    for action in planned(desired, observed).actions:
        if action.destructive or action.verb == "drop":
            assert seen.issuperset(action.volumes)


@MANY
@given(commits(), worlds())
def test_the_current_volume_of_a_protected_clone_is_never_ended(desired: Desired, observed: Observed) -> None:
    current: dict[str, Volume] = {}
    for volume in observed.volumes:
        manifest = volume.manifest
        ours = isinstance(manifest, CloneManifest) and manifest.phase is ClonePhase.READY
        if ours and isinstance(manifest, CloneManifest) and volume.state is VolumeState.COMPLETE:
            last = current.get(manifest.clone)
            if last is None or last.manifest.generation < manifest.generation:  # type: ignore[union-attr]  # only clones
                current[manifest.clone] = volume
    kept = set()
    for name, volume in current.items():
        clone = desired.clones.get(CloneName(name))
        manifest = volume.manifest
        if clone.protected if clone is not None else isinstance(manifest, CloneManifest) and manifest.protected:
            heirs = [c for c in desired.clones.values() if c.formerly == name]
            renamed = clone is not None and clone.formerly in current  # of the two the higher generation is current
            kept.update([] if heirs or renamed else [volume.id])
    for action in planned(desired, observed).actions:
        if action.destructive or action.verb == "drop":
            assert kept.isdisjoint(action.volumes)


@MANY
@given(commits(), busy_worlds())
def test_what_is_in_flight_is_left_alone(desired: Desired, observed: Observed) -> None:
    for action in planned(desired, observed).actions:
        # they only start from a snapshot; and what is cut from a mirror keeps its server from being started meanwhile
        if not isinstance(action, CreateClone | ReplaceClone | BuildSnapshot | FollowPrimary | ReplayArchive):
            assert observed.in_use is not None
            assert observed.in_use.isdisjoint(action.volumes)
    assert observed.in_flight.isdisjoint({action.key for action in planned(desired, observed).actions})


@MANY
@given(commits(), st.one_of(worlds(), busy_worlds()))
def test_nothing_is_made_of_what_is_quarantined_and_it_never_goes(desired: Desired, observed: Observed) -> None:
    sealed = [v for v in observed.volumes if v.state is VolumeState.COMPLETE and observed.pools[v.pool].available]
    manifests = [v.manifest for v in sealed if isinstance(v.manifest, SnapshotManifest)]
    bad = quarantined(desired, observed, manifests)
    assume(bad)
    of = {volume.id: volume.manifest for volume in observed.volumes}
    for action in planned(desired, observed).actions:
        assert origin(action) not in bad
        if isinstance(action, RestoreClone | StartClone | RestartClone):
            manifest = of[action.volume]
            assert isinstance(manifest, CloneManifest)
            assert manifest.snapshot not in bad
        assert not isinstance(action, DeleteSnapshot) or action.snapshot not in bad


@MANY
@given(commits(), worlds())
def test_what_serves_quarantined_data_is_stopped_by_one_plan(desired: Desired, observed: Observed) -> None:
    observed = replace(observed, failures={}, unknown_runtimes={})
    after = World(desired, observed).run(planned(desired, observed))
    sealed = [v for v in after.volumes if v.state is VolumeState.COMPLETE and observed.pools[v.pool].available]
    bad = quarantined(desired, after, [v.manifest for v in sealed if isinstance(v.manifest, SnapshotManifest)])
    for volume in sealed:
        if isinstance(volume.manifest, CloneManifest) and volume.manifest.phase is ClonePhase.READY:
            assert volume.manifest.snapshot not in bad or ServerName(volume.id) not in after.servers


@MANY
@given(commits(), worlds())
def test_a_pool_that_is_away_makes_a_plan_do_less(desired: Desired, observed: Observed) -> None:
    pools = {**observed.pools, OTHER_POOL: a_pool(OTHER_POOL, available=False)}
    there = {volume.id for volume in observed.volumes if volume.pool == OTHER_POOL}
    hidden = replace(observed, pools=pools, volumes=tuple(v for v in observed.volumes if v.pool == POOL))
    shown = {(v.manifest.kind, v.manifest.image) for v in hidden.volumes}
    for case in (replace(observed, pools=pools), hidden):
        for action in planned(desired, case).actions:
            assert not isinstance(action, CreateClone | ReplaceClone)
            assert action.verb not in ("delete", "expire", "restore", "rename")
            assert there.isdisjoint(action.volumes)
            if isinstance(action, BuildSnapshot):
                image = desired.images[action.image]
                assert image.pool == POOL
                assert ("snapshot", image.formerly or action.image) in shown or ("snapshot", action.image) in shown


@MANY
@given(commits(), worlds())
def test_unknown_runtimes_keep_their_clones_from_being_touched(desired: Desired, observed: Observed) -> None:
    observed = replace(observed, unknown_runtimes={RuntimeName("docker"): "no answer"})
    on_docker = {
        volume.id
        for volume in observed.volumes
        if isinstance(volume.manifest, CloneManifest) and volume.manifest.runtime == "docker"
    }
    for action in planned(desired, observed).actions:
        if action.verb != "rename":
            assert on_docker.isdisjoint(action.volumes)


@MANY
@given(commits(), worlds())
def test_what_an_action_waits_for_comes_before_it(desired: Desired, observed: Observed) -> None:
    actions = planned(desired, observed).actions
    keys = [action.key for action in actions]
    for number, action in enumerate(actions):
        assert set(action.after) <= set(keys[:number])
        assert action.key not in action.after
    blocks = [before for before, after in pairwise([*keys, None]) if before != after]
    assert len(blocks) == len(set(blocks)), "the actions of an object stay together"


@MANY
@given(commits(), worlds())
def test_every_object_has_a_condition_and_new_ids_are_new(desired: Desired, observed: Observed) -> None:
    made = planned(desired, observed)
    documents = {image_key(name) for name in desired.images} | {clone_key(name) for name in desired.clones}
    assert documents <= made.conditions.keys()
    taken = [volume.id for volume in observed.volumes]
    for action in made.actions:
        if isinstance(action, CreateClone | ReplaceClone):
            taken.append(action.volume)
        elif isinstance(action, BuildSnapshot | CopyPrimary | CutPoint):
            taken.extend(action.volumes)
    assert len(taken) == len(set(taken))
    kinds = {action.key.kind for action in made.actions}
    assert kinds <= {Kind.SNAPSHOT, Kind.MIRROR, Kind.TEMPLATE, Kind.IMAGE, Kind.POINT, Kind.CLONE}
