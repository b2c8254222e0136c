"""The status document and its text."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reconciler.ids import (
    CloneName,
    ImageName,
    InstallationId,
    PoolName,
    Revision,
    RuntimeName,
    SecretName,
    ServerName,
    SnapshotId,
    VolumeId,
)
from reconciler.repository.base import Change
from reconciler.state.conditions import Kind, ObjectKey, not_ready, ready
from reconciler.state.desired import Desired, DesiredClone, DesiredImage, DocumentRef, EmptySource
from reconciler.state.observed import (
    AppliedUser,
    BuildManifest,
    CloneManifest,
    ClonePhase,
    Damage,
    Failure,
    MirrorManifest,
    MirrorPhase,
    Observed,
    ObservedMirror,
    ObservedPool,
    ObservedServer,
    RawManifest,
    ServerState,
    SnapshotManifest,
    Tombstone,
    Verified,
    Volume,
    VolumeState,
)
from reconciler.status.observation import observed_from_json
from reconciler.status.render import render_status
from reconciler.status.report import Facts, current_volume, status_document
from reconciler.status.values import Revisions, VolumeUsage

NOW = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
R1 = Revision("main@sha1:" + "1" * 40)
HOST, POOL, PROCESS = InstallationId("0011223344556677"), PoolName("default"), RuntimeName("process")
SHOP, DEV = ImageName("shop"), CloneName("shop-dev")
SNAPSHOT = SnapshotId("shop-20261122t020000z-1a2b3c4d")


def _snapshot(identity: SnapshotId = SNAPSHOT, *, hours: int = 3) -> Volume:
    manifest = SnapshotManifest(
        installation=HOST,
        image=SHOP,
        snapshot=identity,
        engine="postgres",
        version="18.6",
        major="18",
        spec_digest="1a2b3c4d",
        input_id="blob:1",
        revision=R1,
        created_at=NOW - timedelta(hours=hours),
        databases=("shop",),
    )
    return Volume(VolumeId(identity), POOL, VolumeState.COMPLETE, manifest)


def _clone(generation: int = 1, *, phase: ClonePhase = ClonePhase.READY, protected: bool = False) -> Volume:
    manifest = CloneManifest(
        installation=HOST,
        clone=DEV,
        generation=generation,
        phase=phase,
        image=SHOP,
        snapshot=SNAPSHOT,
        engine="postgres",
        major="18",
        runtime=PROCESS,
        port=5601,
        revision=R1,
        created_at=NOW - timedelta(hours=2),
        users=(AppliedUser("report", "readonly", "f1"), AppliedUser("app", "owner", "f2")),
        databases=("shop",),
        protected=protected,
    )
    return Volume(VolumeId(f"{DEV}.{generation}"), POOL, VolumeState.COMPLETE, manifest)


def _server(generation: int = 1) -> dict[ServerName, ObservedServer]:
    name = ServerName(f"{DEV}.{generation}")
    return {name: ObservedServer(name, PROCESS, ServerState.RUNNING, 5601, NOW)}


DESIRED = Desired(
    R1,
    {
        SHOP: DesiredImage(
            name=SHOP,
            document=DocumentRef("shop.yaml", 1),
            engine="postgres",
            source=EmptySource(),
            spec_digest="1a2b3c4d",
        )
    },
    {
        DEV: DesiredClone(
            name=DEV,
            document=DocumentRef("clones.yaml", 12),
            image=SHOP,
            owner="payments",
            ttl=timedelta(hours=8),
            scripts_digest="",
        )
    },
)
AVAILABLE = {POOL: ObservedPool(POOL, "btrfs", available=True, total_bytes=50 << 30, free_bytes=20 << 30)}
FACTS = Facts(
    now=NOW,
    observed=Observed(installation=HOST, pools=AVAILABLE, volumes=(_snapshot(), _clone()), servers=_server()),
    desired=DESIRED,
    revisions=Revisions(applied=R1, applied_at=NOW, attempted=R1, attempted_at=NOW),
    conditions={
        ObjectKey(Kind.IMAGE, "shop"): (ready("Built"),),
        ObjectKey(Kind.CLONE, "shop-dev"): (ready("Served"),),
    },
    usage={
        VolumeId(SNAPSHOT): VolumeUsage(1_500_000_000, 4096, NOW),
        VolumeId("shop-dev.1"): VolumeUsage(1, 40960, NOW),
    },
    changes={"clones.yaml": Change("abcdef0123456789", "Ann", NOW)},
    advertise={PROCESS: "db.example"},
)


def _observing(**changes: Any) -> Facts:  # noqa: ANN401 - fields of Observed
    return replace(FACTS, observed=replace(FACTS.observed, **changes))


def _only_clone(facts: Facts) -> dict[str, Any]:
    (clone,) = status_document(facts)["clones"]
    assert isinstance(clone, dict)
    return clone


def test_a_clone_says_what_the_contract_promises() -> None:
    clone = _only_clone(FACTS)
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "Served",
        "message": "",
        "lastTransitionTime": None,
        "observedRevision": None,
    }
    expected = {
        "name": "shop-dev",
        "image": "shop",
        "snapshot": SNAPSHOT,
        "runtime": "process",
        "state": "running",
        "owner": "payments",
        "endpoint": {"host": "db.example", "port": 5601, "database": "shop", "user": "app", "path": None},
        "createdAt": "2026-11-22T03:00:00Z",
        "expiresAt": "2026-11-22T11:00:00Z",
        "exclusiveBytes": 40960,
        "conditions": [condition],
        "generation": 1,
        "protected": False,
        "document": {"file": "clones.yaml", "line": 12},
        "changedBy": {"author": "Ann", "commit": "abcdef0123456789", "at": "2026-11-22T05:00:00Z"},
    }
    assert {key: clone[key] for key in expected} == expected


def test_an_image_says_what_the_contract_promises() -> None:
    document = status_document(FACTS)
    (image,) = document["images"]
    assert document["revision"] == R1
    assert (image["name"], image["engine"], image["conditions"][0]["type"]) == ("shop", "postgres", "Ready")
    (snapshot,) = image["snapshots"]
    expected = {
        "id": SNAPSHOT,
        "createdAt": "2026-11-22T02:00:00Z",
        "dataAsOf": "2026-11-22T02:00:00Z",
        "dataAgeSeconds": 10800,
        "sizeBytes": 1_500_000_000,
        "exclusiveBytes": 4096,
        "revision": R1,
        "specDigest": "1a2b3c4d",
        "usedBy": ["shop-dev"],
    }
    assert {key: snapshot[key] for key in expected} == expected


def test_a_snapshot_says_why_it_is_kept_and_what_its_build_proved() -> None:
    proved = Verified(NOW, Damage(120), 2)
    volume = _snapshot()
    assert isinstance(volume.manifest, SnapshotManifest)
    verified = replace(volume, manifest=replace(volume.manifest, verified=proved))
    facts = replace(_observing(volumes=(verified,)), kept={SNAPSHOT: ("daily", "used by shop-dev")})
    (image,) = status_document(facts)["images"]
    (snapshot,) = image["snapshots"]
    assert snapshot["keptBecause"] == ["daily", "used by shop-dev"]
    assert snapshot["verified"] == {"at": "2026-11-22T05:00:00Z", "amcheck": {"relations": 120}, "checks": 2}
    (image,) = status_document(FACTS)["images"]
    assert (image["snapshots"][0]["keptBecause"], image["snapshots"][0]["verified"]) == (None, None)


def test_an_image_says_what_its_last_refresh_came_to_and_when_the_next_one_is() -> None:
    hour = timedelta(hours=1)
    failure = Failure("ScriptFailed", "line 3", permanent=True, fingerprint="build:x", attempts=1, at=NOW)
    key = ObjectKey(Kind.IMAGE, "shop")
    for changes, expected in (
        ({}, ("Built", SNAPSHOT)),
        ({"refreshed": {SHOP: NOW - hour}}, ("UpToDate", "its source had not changed")),
        ({"refreshed": {SHOP: NOW - hour}, "failures": {key: (failure,)}}, ("Failed", "ScriptFailed: line 3")),
    ):
        facts = replace(_observing(**changes), next_refreshes={SHOP: NOW + hour})
        (image,) = status_document(facts)["images"]
        assert (image["lastRefresh"]["outcome"], image["lastRefresh"]["message"]) == expected
        assert image["nextRefreshAt"] == "2026-11-22T06:00:00Z"
    (image,) = status_document(_observing(volumes=()))["images"]
    assert (image["lastRefresh"], image["nextRefreshAt"]) == (None, None)


def test_points_of_clones_and_moments_are_no_refreshes_of_their_image() -> None:
    later = _snapshot(SnapshotId("shop-20261122t040000z-1a2b3c4d"), hours=1)
    for changes in ({"clone": DEV}, {"at": NOW}):
        assert isinstance(later.manifest, SnapshotManifest)
        beside = replace(later, manifest=replace(later.manifest, **changes))
        (image,) = status_document(_observing(volumes=(_snapshot(), beside)))["images"]
        assert len(image["snapshots"]) == 2
        assert image["lastRefresh"]["message"] == SNAPSHOT


MIRROR = Volume(
    VolumeId("shop.mirror"),
    POOL,
    VolumeState.COMPLETE,
    MirrorManifest(
        installation=HOST,
        image=SHOP,
        engine="postgres",
        phase=MirrorPhase.FOLLOWING,
        url=SecretName("dsn"),
        slot="reconciler_shop",
        revision=R1,
        started_at=NOW,
    ),
)


def test_a_mirror_says_how_far_it_is_behind_its_primary_in_bytes_and_time() -> None:
    look = ObservedMirror(following=True, lag_bytes=3 << 20, last_commit=NOW - timedelta(minutes=4))
    document = status_document(_observing(volumes=(MIRROR,), mirrors={SHOP: look}))
    (told,) = document["images"][0]["mirrors"]
    assert (told["lagBytes"], told["lagSeconds"]) == (3 << 20, 240)
    assert "3.0 MiB behind" in render_status(document)
    at_rest = replace(look, lag_bytes=0)
    (told,) = status_document(_observing(volumes=(MIRROR,), mirrors={SHOP: at_rest}))["images"][0]["mirrors"]
    assert (told["lagBytes"], told["lagSeconds"]) == (0, 0)


def test_a_mirror_says_since_when_moments_can_be_reached() -> None:
    volumes = [MIRROR]
    for number, (of, until) in enumerate((("shop.mirror", 2), ("shop.mirror", 5), ("other.mirror", 9))):
        raw = RawManifest(
            installation=HOST,
            image=SHOP,
            engine="postgres",
            mirror=VolumeId(of),
            taken_at=NOW,
            until=NOW - timedelta(hours=until),
        )
        volumes.append(Volume(VolumeId(f"shop.raw-{number}"), POOL, VolumeState.COMPLETE, raw))
    (image,) = status_document(_observing(volumes=tuple(volumes)))["images"]
    (told,) = image["mirrors"]
    assert (told["rawCopies"], told["momentsSince"]) == (2, "2026-11-22T00:00:00Z")
    text = render_status(status_document(_observing(volumes=tuple(volumes))))
    assert "moments since 5 h ago" in text


def test_the_document_is_json_and_holds_the_whole_observation() -> None:
    assert observed_from_json(json.dumps(status_document(FACTS))) == FACTS.observed


def test_snapshots_are_listed_newest_first_and_what_is_unfinished_is_no_snapshot() -> None:
    newer = SnapshotId("shop-20261122t040000z-1a2b3c4d")
    build = BuildManifest(
        installation=HOST,
        image=SHOP,
        snapshot=SnapshotId("shop-b"),
        engine="postgres",
        spec_digest="x",
        revision=R1,
        started_at=NOW,
    )
    deleting = replace(_snapshot(SnapshotId("shop-old")), state=VolumeState.DELETING)
    volumes = (
        _snapshot(),
        _snapshot(newer, hours=1),
        deleting,
        Volume(VolumeId("shop-b"), POOL, VolumeState.COMPLETE, build),
    )
    (image,) = status_document(_observing(volumes=volumes))["images"]
    assert [snapshot["id"] for snapshot in image["snapshots"]] == [newer, SNAPSHOT]
    assert [build["id"] for build in image["builds"]] == ["shop-b"]


def test_the_highest_ready_generation_is_the_clone() -> None:
    volumes = (_clone(1), _clone(2), _clone(3, phase=ClonePhase.CREATING))
    found = current_volume(volumes, DEV)
    assert found is not None
    assert found[0].id == "shop-dev.2"
    assert _only_clone(_observing(volumes=volumes))["generation"] == 2


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "running"),
        ({"servers": {}}, "stopped"),
        ({"servers": {}, "unknown_runtimes": {PROCESS: "cannot be asked"}}, "unknown"),
        ({"volumes": (_clone(1, phase=ClonePhase.CREATING),)}, "creating"),
        ({"volumes": ()}, "absent"),
        ({"volumes": (), "tombstones": {DEV: Tombstone(DEV, "8h", NOW)}}, "expired"),
        ({"volumes": (), "pools": {POOL: ObservedPool(POOL, "btrfs", available=False)}}, "unknown"),
    ],
)
def test_the_state_of_a_clone_is_what_is_known_and_no_guess(changes: dict[str, Any], state: str) -> None:
    assert _only_clone(_observing(**changes))["state"] == state


def test_without_a_good_commit_what_exists_is_still_shown() -> None:
    document = status_document(replace(FACTS, desired=None, revisions=Revisions()))
    assert document["revision"] is None
    assert [clone["name"] for clone in document["clones"]] == ["shop-dev"]
    assert document["clones"][0]["document"] is None


def test_problems_of_the_repository_stand_at_the_top() -> None:
    facts = replace(FACTS, conditions={ObjectKey(Kind.REPOSITORY, "repository"): (not_ready("Away", "no answer"),)})
    assert [condition["reason"] for condition in status_document(facts)["conditions"]] == ["Away"]
