"""What holds for every plan, over generated documents and worlds."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.ids import CloneName, ImageName, InstallationId, RuntimeName, SnapshotId, VolumeId
from reconciler.plan.actions import BuildSnapshot, CreateClone, Plan, ReplaceClone
from reconciler.plan.policy import judge, pruned_objects
from reconciler.plan.schedule import expiry_text
from reconciler.plan.settings import PolicySettings
from reconciler.state.conditions import Kind
from reconciler.state.desired import (
    Desired,
    DesiredClone,
    DesiredImage,
    ImageSource,
    Refresh,
    Resources,
    Retention,
    SnapshotAt,
    User,
)
from reconciler.state.observed import CloneManifest, ClonePhase, Input, Observed, Tombstone, Volume, VolumeState
from tests.plan.world import (
    APP,
    HOUR,
    NOW,
    OTHER_POOL,
    POOL,
    World,
    a_build,
    a_clone,
    a_generation,
    a_pool,
    a_request,
    a_server,
    a_snapshot,
    an_image,
    asked,
    clone_key,
    image_key,
    planned,
    snapshot_id,
)

if TYPE_CHECKING:
    import random

    from reconciler.state.conditions import ObjectKey

IMAGES = ("shop", "store", "base")
CLONES = ("a", "b", "c", "d", "e", "f")
AGES = tuple(hours * HOUR for hours in (1, 2, 30, 80))
DIGESTS = ("d1" * 32, "d2" * 32)
POLICY = PolicySettings(max_delete=3, max_delete_percent=50)
MANY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@st.composite
def images(draw: st.DrawFn, name: str) -> DesiredImage:
    changes: dict[str, Any] = {
        "spec_digest": draw(st.sampled_from(DIGESTS)),
        "suspend": draw(st.sampled_from([False] * 5 + [True])),
        "retention": Retention(draw(st.integers(1, 3)), draw(st.sampled_from([None, 48 * HOUR]))),
        "refresh": draw(st.sampled_from([None, Refresh("0 2 * * *"), Refresh("0 * * * *", jitter=HOUR)])),
        "pool": draw(st.sampled_from([POOL, POOL, OTHER_POOL])),
    }
    if name == "store" and draw(st.booleans()):
        changes["source"] = ImageSource(ImageName("base"))
    if name == "shop" and draw(st.integers(0, 5)) == 0:
        changes["formerly"] = ImageName("before")
    return an_image(name, **changes)


@st.composite
def clones(draw: st.DrawFn, name: str, image: str) -> DesiredClone:
    choices: list[Any] = [
        "latest",
        "latest",
        snapshot_id(image, age=draw(st.sampled_from(AGES))),
        SnapshotAt(NOW - 3 * HOUR),
    ]
    changes: dict[str, Any] = {
        "snapshot": draw(st.sampled_from(choices)),
        "runtime": RuntimeName(draw(st.sampled_from(["process", "process", "docker", "none"]))),
        "owner": draw(st.sampled_from([None, "payments"])),
        "running": draw(st.sampled_from([True, True, False])),
        "ttl": draw(st.sampled_from([None, None, 5 * HOUR, 50 * HOUR])),
        "on_refresh": draw(st.sampled_from(["keep", "recreate"])),
        "protected": draw(st.sampled_from([False, False, True])),
        "users": draw(st.sampled_from([(), (APP,), (APP, User("reader", "readonly"))])),
        "resources": draw(st.sampled_from([Resources(), Resources(memory=2**30)])),
        "suspend": draw(st.sampled_from([False] * 5 + [True])),
        "scripts_digest": draw(st.sampled_from(["s1", "s2"])),
    }
    if name == "a" and draw(st.integers(0, 3)) == 0:
        changes["formerly"] = CloneName("z")
    return a_clone(name, image, **changes)


@st.composite
def commits(draw: st.DrawFn) -> Desired:
    names = draw(st.lists(st.sampled_from(IMAGES), unique=True))
    made: list[DesiredImage | DesiredClone] = [draw(images(name)) for name in names]
    if any(isinstance(d, DesiredImage) and isinstance(d.source, ImageSource) for d in made) and "base" not in names:
        made.append(draw(images("base")))
    if names:
        wanted = draw(st.lists(st.sampled_from(CLONES), unique=True))
        made += [draw(clones(name, draw(st.sampled_from(names)))) for name in wanted]
    return asked(*made)


@st.composite
def generations(draw: st.DrawFn, name: str, known: list[Volume]) -> list[Volume]:
    """The generations of a clone, delivered as some other document said."""
    created = draw(st.sampled_from(AGES))
    found = []
    for number in range(1, draw(st.integers(1, 3)) + 1):
        source = draw(st.sampled_from(known))
        document = draw(clones(name, source.manifest.image))
        phase = draw(st.sampled_from([ClonePhase.READY] * 5 + [ClonePhase.CREATING]))
        volume = a_generation(
            replace(document, name=CloneName(name)),
            SnapshotId(source.id),
            generation=number,
            age=created,
            pool=source.pool,
            phase=phase,
            ready_at=NOW - created + number * timedelta(minutes=20),
            port=5600 + 10 * ord(name) + number,
        )
        state = draw(st.sampled_from([VolumeState.COMPLETE] * 9 + [VolumeState.DELETING]))
        found.append(replace(volume, state=state))
    return found


@st.composite
def worlds(draw: st.DrawFn, *, settled: bool = False) -> Observed:
    """Anything that a host may find. ``settled``: nothing in flight, nothing away."""
    volumes: list[Volume] = []
    for image in (*IMAGES, "before"):
        for age in draw(st.lists(st.sampled_from(AGES), unique=True)):
            pool = draw(st.sampled_from([POOL, POOL, OTHER_POOL]))
            changes = {
                "spec_digest": draw(st.sampled_from(DIGESTS)),
                "input_id": draw(st.sampled_from(["input-1", "x"])),
            }
            volumes.append(a_snapshot(image, age=age, pool=pool, **changes))
        if draw(st.integers(0, 5)) == 0:
            volumes.append(a_build(image, age=9 * HOUR))
    snapshots = [volume for volume in volumes if volume.manifest.kind == "snapshot"]
    if snapshots:
        for name in draw(st.lists(st.sampled_from((*CLONES, "z")), unique=True)):
            volumes += draw(generations(name, snapshots))
    names = [volume.id for volume in volumes if isinstance(volume.manifest, CloneManifest)] + ["ghost.1"]
    running = draw(st.lists(st.sampled_from(names), unique=True))
    of = {volume.id: volume for volume in volumes}
    servers = {(server := a_server(of.get(VolumeId(name), name))).name: server for name in running}
    requests = [
        a_request(verb, name) for verb, name in draw(st.lists(st.sampled_from(WISHES), unique=True, max_size=2))
    ]
    busy = frozenset(draw(st.lists(st.sampled_from(KEYS), max_size=2))) if not settled else frozenset()
    tombs = draw(st.lists(st.sampled_from(CLONES), unique=True, max_size=2))
    return Observed(
        installation=volumes[0].manifest.installation if volumes else a_snapshot().manifest.installation,
        pools={
            POOL: a_pool(free_bytes=2**50, reserve_bytes=0),
            OTHER_POOL: a_pool(OTHER_POOL, available=settled or draw(st.booleans()), free_bytes=2**50, reserve_bytes=0),
        },
        volumes=tuple(volumes),
        servers=servers,
        inputs={ImageName(name): Input("input-1") for name in IMAGES},
        unknown_runtimes={} if settled or draw(st.booleans()) else {RuntimeName("docker"): "no answer"},
        in_flight=busy,
        requests=tuple(requests),
        tombstones={
            CloneName(n): Tombstone(CloneName(n), expiry_text(a_clone(ttl=5 * HOUR)), NOW - HOUR) for n in tombs
        },
    )


WISHES = [(verb, name) for verb in ("reset", "undo") for name in CLONES] + [("refresh", name) for name in IMAGES]
KEYS: list[ObjectKey] = [image_key(name) for name in IMAGES] + [clone_key(name) for name in CLONES]


def judged(desired: Desired, observed: Observed, policy: PolicySettings = POLICY) -> Plan:
    return judge(planned(desired, observed), desired, observed, NOW, settings=policy)


@MANY
@given(commits(), worlds(settled=True))
def test_from_any_state_plans_converge_to_an_empty_one(desired: Desired, observed: Observed) -> None:
    """Most take one pass. A second follows what the first made: a new snapshot, a free one, a rename."""
    world = World(desired, observed)
    for _pass in range(4):
        made = planned(desired, world.observed)
        if not made.actions:
            return
        world.run(made)
    assert planned(desired, world.observed).actions == ()


@MANY
@given(commits(), worlds(settled=True))
def test_applying_a_plan_without_builds_renames_and_deletions_makes_the_next_one_empty(
    desired: Desired, observed: Observed
) -> None:
    made = planned(desired, observed)
    if all(action.verb in ("create", "update", "restart", "start", "stop", "clear") for action in made.actions):
        assert planned(desired, World(desired, observed).run(made)).actions == ()


@MANY
@given(commits())
def test_a_commit_on_an_empty_host_is_there_after_one_plan(desired: Desired) -> None:
    observed = replace(
        Observed(installation=a_snapshot().manifest.installation),
        pools={POOL: a_pool(), OTHER_POOL: a_pool(OTHER_POOL)},
        inputs={ImageName(name): Input("input-1") for name in IMAGES},
    )
    assert planned(desired, World(desired, observed).run(planned(desired, observed))).actions == ()


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
            kept.update([] if heirs else [volume.id])
    for action in planned(desired, observed).actions:
        if action.destructive or action.verb == "drop":
            assert kept.isdisjoint(action.volumes)


@MANY
@given(commits(), worlds())
def test_what_is_in_flight_is_left_alone(desired: Desired, observed: Observed) -> None:
    assert observed.in_flight.isdisjoint({action.key for action in planned(desired, observed).actions})


@MANY
@given(commits(), worlds())
def test_a_pool_that_is_away_makes_a_plan_do_less(desired: Desired, observed: Observed) -> None:
    pools = {**observed.pools, OTHER_POOL: a_pool(OTHER_POOL, available=False)}
    there = {volume.id for volume in observed.volumes if volume.pool == OTHER_POOL}
    hidden = replace(observed, pools=pools, volumes=tuple(v for v in observed.volumes if v.pool == POOL))
    shown = {(v.manifest.kind, v.manifest.image) for v in hidden.volumes}
    for world in (replace(observed, pools=pools), hidden):
        for action in planned(desired, world).actions:
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
        elif isinstance(action, BuildSnapshot):
            taken.extend(action.volumes)
    assert len(taken) == len(set(taken))
    assert all(key.kind in (Kind.IMAGE, Kind.CLONE) for key in {action.key for action in made.actions})
