"""Commits and worlds of every kind, generated: what the properties of planning are checked on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from reconciler.ids import CloneName, ImageName, RuntimeName, SecretName, SnapshotId, VolumeId, on_instance
from reconciler.plan.actions import volumes_in_use
from reconciler.plan.diff import plan
from reconciler.plan.fingerprints import GENERATED, document_digest
from reconciler.plan.schedule import expiry_text
from reconciler.plan.settings import PlanSettings
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.desired import (
    Desired,
    DesiredClone,
    DesiredImage,
    ImageSource,
    PrimarySource,
    Refresh,
    Resources,
    Retention,
    SnapshotAt,
    SourcePath,
    User,
    Window,
)
from reconciler.state.observed import (
    CloneManifest,
    ClonePhase,
    Idle,
    Input,
    MirrorManifest,
    MirrorPhase,
    Observed,
    ObservedTemplate,
    Quarantine,
    Tombstone,
    Volume,
    VolumeState,
)
from tests.plan.world import (
    APP,
    HOUR,
    NOW,
    OTHER_POOL,
    OURS,
    POOL,
    a_build,
    a_clone,
    a_failure,
    a_generation,
    a_look,
    a_mirror,
    a_policy,
    a_pool,
    a_request,
    a_server,
    a_snapshot,
    an_image,
    asked,
    clone_key,
    following,
    image_key,
    snapshot_id,
)

IMAGES = ("shop", "store", "base")
CLONES = ("a", "b", "c", "d", "e", "f")
AGES = tuple(hours * HOUR for hours in (1, 2, 30, 80))
DIGESTS = ("d1" * 32, "d2" * 32)
SETTINGS = PlanSettings(pools=frozenset({POOL}))
MASKING_KEY, PASSWORD, DSN = SecretName("masking-key"), SecretName("password"), SecretName("dsn")
WISHES = [(verb, name) for verb in ("reset", "rebase", "undo", "start") for name in CLONES] + [
    *(("refresh", name) for name in IMAGES),
    ("forget", "shop"),
]
SNAPSHOTS = [snapshot_id(name, age=age) for name in IMAGES for age in AGES]
BASES = [None, *(snapshot_id("base", age=age) for age in AGES)]
JUDGEMENTS = [(verb, snapshot) for verb in ("quarantine", "release") for snapshot in SNAPSHOTS]
SHARED = on_instance("shared")
KEYS = [image_key(name) for name in IMAGES] + [ObjectKey(Kind.MIRROR, "shop")] + [clone_key(name) for name in CLONES]
RARELY: st.SearchStrategy[bool] = st.sampled_from([False] * 5 + [True])
ENDS: list[dict[str, Any]] = [
    {},
    {},
    {"ttl": 5 * HOUR},
    {"ttl": 50 * HOUR},
    {"expires": NOW - HOUR},
    {"expires": NOW + HOUR},
]
MASKINGS: list[dict[str, Any]] = [{}, {}, *({"key_id": key, "masked_by": ("pii",)} for key in ("key-1", "key-2"))]
CLOSED, OPEN = Window("0 13 * * *", 6 * HOUR), Window("0 10 * * *", 6 * HOUR)
REFRESHES = [
    None,
    Refresh("0 2 * * *"),
    Refresh("0 * * * *", jitter=HOUR),
    Refresh("0 * * * *", suspend=True),
    Refresh("0 * * * *", windows=(CLOSED,)),
    Refresh(windows=(CLOSED,)),
    Refresh("0 2 * * *", windows=(CLOSED, OPEN)),
]
PROBLEM = ("SourceNotGranted", "the host does not grant its source")


@st.composite
def images(draw: st.DrawFn, name: str) -> DesiredImage:
    changes: dict[str, Any] = {
        "spec_digest": draw(st.sampled_from(DIGESTS)),
        "suspend": draw(RARELY),
        "retention": replace(
            draw(st.sampled_from([Retention(), Retention(daily=2), Retention(weekly=1, monthly=2)])),
            keep=draw(st.integers(1, 3)),
            max_age=draw(st.sampled_from([None, 48 * HOUR])),
        ),
        "refresh": draw(st.sampled_from(REFRESHES)),
        "asked": draw(st.sampled_from([None, None, "once", "again"])),
        "pool": draw(st.sampled_from([POOL, POOL, OTHER_POOL])),
    }
    if draw(RARELY):
        changes["quarantine"] = tuple(draw(st.lists(st.sampled_from(SNAPSHOTS), unique=True, max_size=3)))
    if name == "store" and draw(st.booleans()):
        changes["source"] = ImageSource(ImageName("base"))
    if name == "shop" and draw(RARELY):
        changes["formerly"] = ImageName("before")
    if name == "shop" and draw(st.booleans()):
        changes["source"] = PrimarySource(
            DSN,
            "physical",
            raw_max_age=draw(st.sampled_from([20 * HOUR, 500 * HOUR])),
            archive=draw(st.sampled_from([None, SourcePath("/backups/wal")])),
        )
    if draw(RARELY):
        changes |= {"masking": (a_policy(key=MASKING_KEY),)}
    return an_image(name, **changes)


@st.composite
def clones(draw: st.DrawFn, name: str, image: str) -> DesiredClone:
    choices: list[Any] = [
        "latest",
        "latest",
        snapshot_id(image, age=draw(st.sampled_from(AGES))),
        SnapshotAt(NOW - 3 * HOUR),
    ]
    end: dict[str, Any] = draw(st.sampled_from(ENDS))
    users = [(), (APP,), (APP, User("reader", "readonly")), (User("app", "owner", PASSWORD),)]
    changes: dict[str, Any] = {
        "snapshot": draw(st.sampled_from(choices)),
        "runtime": RuntimeName(draw(st.sampled_from(["process", "process", "docker", "none", SHARED]))),
        "owner": draw(st.sampled_from([None, "payments"])),
        "running": draw(st.sampled_from([True, True, False])),
        "on_refresh": draw(st.sampled_from(["keep", "recreate"])),
        "protected": draw(st.sampled_from([False, False, True])),
        "users": draw(st.sampled_from(users)),
        "resources": draw(st.sampled_from([Resources(), Resources(memory=2**30)])),
        "suspend": draw(RARELY),
        "idle": draw(st.sampled_from([None, None, HOUR])),
        "scripts_digest": draw(st.sampled_from(["s1", "s2"])),
        **end,
    }
    if name == "a" and draw(st.integers(0, 3)) == 0:
        changes["formerly"] = CloneName("z")
    return a_clone(name, image, **changes)


@st.composite
def commits(draw: st.DrawFn) -> Desired:
    """What commits ask for, and what this host cannot give of it."""
    names = draw(st.lists(st.sampled_from(IMAGES), unique=True))
    made: list[DesiredImage | DesiredClone] = [draw(images(name)) for name in names]
    if any(isinstance(d, DesiredImage) and isinstance(d.source, ImageSource) for d in made) and "base" not in names:
        made.append(draw(images("base")))
    if names:
        wanted = draw(st.lists(st.sampled_from(CLONES), unique=True))
        documents = {name: draw(clones(name, draw(st.sampled_from(names)))) for name in wanted}
        made += [draw(sourced(document, documents)) for document in documents.values()]
    problems = draw(st.dictionaries(st.sampled_from(KEYS), st.just(PROBLEM), max_size=2)) if draw(RARELY) else {}
    found, elsewhere = asked(*made, problems=problems), draw(RARELY)
    return _without_image(found, ImageName(draw(st.sampled_from(names)))) if names and elsewhere else found


@st.composite
def sourced(draw: st.DrawFn, clone: DesiredClone, others: dict[str, DesiredClone]) -> DesiredClone:
    """Let a clone start from one that comes before it by name, sometimes."""
    source = others.get(draw(st.sampled_from(["a", "b", "c"])))
    if source is None or source.name >= clone.name or source.source_clone is not None or draw(st.booleans()):
        return clone
    changes: dict[str, Any] = {"snapshot": "latest", "on_refresh": "keep"}
    return replace(clone, image=source.image, source_clone=source.name, **changes)


def _without_image(documents: Desired, other: ImageName) -> Desired:
    """Leave an image to another host, as its selector does; what needs it here has a problem."""
    needs = [clone_key(clone.name) for clone in documents.clones.values() if clone.image == other]
    needs += [image_key(i.name) for i in documents.images.values() if i.source == ImageSource(other)]
    images = {name: image for name, image in documents.images.items() if name != other}
    return replace(documents, images=images, problems={**documents.problems, **dict.fromkeys(needs, PROBLEM)})


@st.composite
def generations(draw: st.DrawFn, name: str, known: list[Volume]) -> list[Volume]:
    """The generations of a clone, delivered as some other document said."""
    created = draw(st.sampled_from(AGES))
    found = []
    for number in range(1, draw(st.integers(1, 3)) + 1):
        source = draw(st.sampled_from(known))
        document = draw(clones(name, source.manifest.image))
        if source.manifest.kind == "snapshot":
            document = replace(document, source_clone=source.manifest.clone)
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
            account=70000 + number if draw(RARELY) else None,
            idle=draw(st.sampled_from([None, None, Idle(NOW - 3 * HOUR, NOW - HOUR, document_digest(document))])),
        )
        state = draw(st.sampled_from([VolumeState.COMPLETE] * 9 + [VolumeState.DELETING]))
        found.append(replace(volume, state=state))
    return found


@st.composite
def volumes(draw: st.DrawFn) -> list[Volume]:
    found: list[Volume] = []
    for image in (*IMAGES, "before"):
        for age in draw(st.lists(st.sampled_from(AGES), unique=True)):
            changes = {
                "spec_digest": draw(st.sampled_from(DIGESTS)),
                "input_id": draw(st.sampled_from(["input-1", "x"])),
                "base": draw(st.sampled_from(BASES)) if image == "store" else None,
                "quarantine": Quarantine(NOW - HOUR, "a leak") if draw(RARELY) else None,
                **draw(st.sampled_from(MASKINGS)),
            }
            found.append(a_snapshot(image, age=age, pool=draw(st.sampled_from([POOL, POOL, OTHER_POOL])), **changes))
        if draw(RARELY):
            found.append(a_build(image, age=9 * HOUR))
    snapshots = [volume for volume in found if volume.manifest.kind == "snapshot"]
    if snapshots:
        found += (points := [draw(of_clone(name, snapshots)) for name in ("a", "z") if draw(st.booleans())])
        snapshots += points
    found += [draw(mirrors(image)) for image in ("shop", "before") if draw(st.booleans())]
    if snapshots:
        for name in draw(st.lists(st.sampled_from((*CLONES, "z")), unique=True)):
            found += draw(generations(name, snapshots))
    return found


@st.composite
def of_clone(draw: st.DrawFn, name: str, known: list[Volume]) -> Volume:
    """A point in a clone's life."""
    base = draw(st.sampled_from(known))
    age = draw(st.sampled_from(AGES))
    clone, wanted = CloneName(name), snapshot_id(name, age=age, digest="00000000")
    changes = {"clone": clone, "base": SnapshotId(base.id), "masked_by": ("pii",)}
    return a_snapshot(base.manifest.image, age=age, snapshot=wanted, pool=base.pool, **changes)


@st.composite
def mirrors(draw: st.DrawFn, image: str) -> Volume:
    """A mirror, whole or not, of a primary that is asked for or not."""
    volume = a_mirror(
        following(image),
        pool=draw(st.sampled_from([POOL, POOL, OTHER_POOL])),
        secrets={DSN: draw(st.sampled_from(["key-1", "other"]))},
        phase=draw(st.sampled_from([MirrorPhase.FOLLOWING] * 4 + [MirrorPhase.COPYING, MirrorPhase.LEAVING])),
        copied_at=NOW - draw(st.sampled_from(AGES)),
        lost=draw(st.sampled_from(["", "", "", "a tablespace"])),
        slot=draw(st.sampled_from([f"slot_{image}", ""])),
    )
    return replace(volume, state=draw(st.sampled_from([VolumeState.COMPLETE] * 9 + [VolumeState.CREATING])))


LOOKS = st.sampled_from(
    [
        a_look(),
        a_look(),
        a_look(following=False, problem="the primary is away"),
        a_look(following=False, lost="the primary has removed log that the mirror needs"),
        a_look(outdated=True),
        a_look(held_bytes=9 << 30),
        a_look(pending=2),
        a_look(behind="the archive ends"),
    ]
)


def templates(snapshot: SnapshotId) -> st.SearchStrategy[ObservedTemplate]:
    """What an instance has of a snapshot, finished or not."""
    whole = st.sampled_from([("shop",), ("shop",), ()])
    instant = st.sampled_from([True, False, None])
    return st.builds(ObservedTemplate, st.just(SHARED), st.just(snapshot), whole, instant)


@st.composite
def worlds(draw: st.DrawFn) -> Observed:
    """Anything that a host may find."""
    found = draw(volumes())
    names = [v.id for v in found if isinstance(v.manifest, CloneManifest | MirrorManifest)] + ["ghost.1"]
    of = {volume.id: volume for volume in found}
    running = draw(st.lists(st.sampled_from(names), unique=True))
    servers = {(server := a_server(of.get(VolumeId(name), name))).name: server for name in running}
    wishes = draw(st.lists(st.sampled_from(WISHES), unique=True, max_size=2))
    wishes += draw(st.lists(st.sampled_from(JUDGEMENTS), unique=True, max_size=3)) if draw(RARELY) else []
    unread = [VolumeId("b.9"), VolumeId("y.1"), VolumeId(snapshot_id("base", age=90 * HOUR))]
    hidden = tuple(draw(st.lists(st.sampled_from(unread), unique=True, min_size=1))) if draw(RARELY) else ()
    away = draw(RARELY)
    known = [(), (MASKING_KEY, DSN), (MASKING_KEY, PASSWORD, DSN), (MASKING_KEY, PASSWORD, DSN)]
    secrets: tuple[SecretName, ...] = draw(st.sampled_from(known))
    manifests = [v.manifest for v in found if isinstance(v.manifest, MirrorManifest) and v.id in running]
    asked_mirrors = [manifest.image for manifest in manifests if draw(st.booleans())]
    return Observed(
        installation=OURS,
        pools={
            POOL: a_pool(free_bytes=2**50, reserve_bytes=0, unknown=hidden, atomic_snapshots=draw(st.booleans())),
            OTHER_POOL: a_pool(OTHER_POOL, available=not away, free_bytes=2**50, reserve_bytes=0),
        },
        volumes=tuple(found),
        servers=servers,
        mirrors={name: draw(LOOKS) for name in asked_mirrors},
        templates=tuple(
            draw(templates(snapshot)) for snapshot in draw(st.lists(st.sampled_from(SNAPSHOTS), unique=True))
        ),
        inputs={ImageName(name): Input("input-1") for name in IMAGES},
        unknown_runtimes={RuntimeName("docker"): "no answer"} if draw(RARELY) else {},
        requests=tuple(a_request(verb, name) for verb, name in wishes),
        tombstones={CloneName(name): draw(tombstones(name)) for name in draw(st.lists(st.sampled_from(CLONES)))},
        secrets=dict.fromkeys(secrets, "key-1"),
        failures=draw(st.dictionaries(st.sampled_from(KEYS), FAILURES)) if draw(RARELY) else {},
        lost_credentials=draw(lost(found)),
        last_used={VolumeId(name): NOW - draw(st.sampled_from([0, 1, 2])) * HOUR for name in running},
    )


@st.composite
def tombstones(draw: st.DrawFn, name: str) -> Tombstone:
    ended = draw(st.sampled_from([a_clone(ttl=5 * HOUR), a_clone(ttl=50 * HOUR), a_clone(expires=NOW - HOUR)]))
    return Tombstone(CloneName(name), expiry_text(ended), NOW - HOUR)


@st.composite
def lost(draw: st.DrawFn, found: list[Volume]) -> frozenset[CloneName]:
    """Clones with generated passwords that the host does not have any more."""
    manifests = [volume.manifest for volume in found if isinstance(volume.manifest, CloneManifest)]
    generated = {m.clone for m in manifests if any(user.password == GENERATED for user in m.users)}
    return frozenset(name for name in sorted(generated) if draw(RARELY))


FAILURES = st.sampled_from(
    [
        (a_failure("", permanent=False, retry_in=HOUR),),
        (a_failure("", permanent=False, retry_in=-HOUR),),
        (a_failure("of other inputs"),),
        (a_failure(""), a_failure("of other inputs", permanent=False, retry_in=HOUR)),
    ]
)


@st.composite
def busy_worlds(draw: st.DrawFn) -> Observed:
    """Worlds in which the work of an earlier commit goes on."""
    observed, before = draw(worlds()), draw(commits())
    actions = plan(before, observed, NOW, settings=SETTINGS).actions
    keys = draw(st.sets(st.sampled_from(sorted({action.key for action in actions})))) if actions else set()
    touched = (volumes_in_use(action) for action in actions if action.key in keys)
    return replace(observed, in_flight=frozenset(keys), in_use=frozenset[VolumeId]().union(*touched))
