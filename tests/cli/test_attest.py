"""``reconciler attest``, through the program, on volumes made by hand: no database is needed to verify one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.ids import PoolName, VolumeId
from reconciler.state.observed import SnapshotManifest
from tests.masking.keys import a_key, pem, public_pem
from tests.masking.volumes import CONTROL, ORIGINAL, SNAPSHOT, cloned, sealed
from tests.support import new_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import World

DEFAULT = PoolName("default")


@pytest.fixture
def world() -> Iterator[World]:
    """An installation that signs, with one snapshot that it signed, and a clone of it."""
    made = new_world(driver="copy")
    try:
        (made.root / "secrets").mkdir(exist_ok=True)
        (made.root / "secrets" / "signing").write_text(pem(a_key()))
        (made.root / "secrets" / "signing").chmod(0o600)
        made.configure(attestation={"key": {"secret": "signing"}})
        make(made)
        yield made
    finally:
        made.close()


def make(world: World) -> None:
    with world.host(writes=True) as host:
        storage = host.pools[DEFAULT]
        cloned(storage, sealed(storage, host.installation, host.signer()))


def change(world: World, **changes: Any) -> None:  # noqa: ANN401 - fields of a manifest
    with world.host(writes=True) as host:
        storage = host.pools[DEFAULT]
        (manifest,) = [v.manifest for v in storage.volumes() if isinstance(v.manifest, SnapshotManifest)]
        storage.update(VolumeId(SNAPSHOT), replace(manifest, **changes))


def volume(world: World, name: str = SNAPSHOT) -> Path:
    return world.pool_path / "volumes" / name


def attested(world: World, *words: str) -> tuple[int, dict[str, Any]]:
    done = world.run("attest", *words, "-o", "json")
    return done.returncode, json.loads(done.stdout)


def test_it_tells_people_what_was_masked_how_it_was_proved_and_who_signed(world: World) -> None:
    done = world.run("attest", SNAPSHOT, "--files")
    assert (done.returncode, done.stderr) == (0, "comparing 3 files\n")
    for told in (
        f"Snapshot {SNAPSHOT} of image shop",
        "main@sha1:" + "0" * 40,
        "Masked by pii, key key-1",
        "shop: public.customer",
        "100 of 100 rows, 3 NULL, 0 as before  (policy pii)",
        "none of 500 original values is in 3 files, 16.0 KiB (all files)",
        "checks    shop.yaml:12",
        "Signed by key ",
        "Files: all 3 are as they were sealed",
        "Verified\n",
    ):
        assert told in done.stdout
    assert not any(value in done.stdout for value in (ORIGINAL, CONTROL))


def test_a_clone_is_verified_by_the_snapshot_that_it_was_made_of(world: World) -> None:
    (volume(world, "dev.1") / "data" / "base" / "1").write_bytes(b"somebody's work")
    (volume(world, "dev.1") / "attestation.json").write_bytes(b"somebody's idea")
    code, document = attested(world, "dev", "--files")
    assert (code, document["verified"], document["clone"]) == (0, True, "dev")
    assert document["files"] == {"subjects": 3, "compared": True, "differences": []}
    assert document["statement"]["predicate"]["snapshot"] == SNAPSHOT


def test_files_are_read_when_asked_for(world: World) -> None:
    (volume(world) / "data" / "base" / "1").write_bytes(b"other")
    assert attested(world, SNAPSHOT)[0] == 0
    code, document = attested(world, SNAPSHOT, "--files")
    assert (code, document["problems"]) == (1, ["data/base/1 has changed"])


def test_an_exchanged_attestation_is_not_verified(world: World) -> None:
    path = volume(world) / "attestation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "signatures": []}))
    code, document = attested(world, SNAPSHOT)
    assert (code, document["signature"]["status"]) == (1, "none")
    assert "not the one that" in document["problems"][0]
    done = world.run("attest", SNAPSHOT)
    assert (done.returncode, "NOT VERIFIED" in done.stdout) == (1, True)


def test_a_manifest_that_says_otherwise_is_not_verified(world: World) -> None:
    change(world, spec_digest="sha256:other")
    code, document = attested(world, SNAPSHOT)
    assert (code, document["problems"][0].endswith(": specDigest")) == (1, True)


def test_a_snapshot_without_one_is_not_verified(world: World) -> None:
    (volume(world) / "attestation.json").unlink()
    code, document = attested(world, SNAPSHOT)
    assert (code, "it is gone" in document["problems"][0]) == (1, True)
    change(world, attestation=None)
    done = world.run("attest", SNAPSHOT)
    assert (done.returncode, "has no attestation" in done.stdout) == (1, True)


def test_another_host_needs_the_public_key(world: World) -> None:
    stranger = a_key()
    (world.root / "other.pub").write_text(public_pem(stranger))
    world.configure(attestation={"publicKeys": ["other.pub", "none.pub"]})
    done = world.run("attest", SNAPSHOT, "-o", "json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["signature"]["status"]) == (1, "invalid")
    assert "does not trust" in document["problems"][0]
    assert "none.pub cannot be read" in done.stderr


def test_what_is_not_signed_is_said_to_be_so(world: World) -> None:
    world.configure(attestation={})
    with world.host(writes=True) as host:
        host.pools[DEFAULT].delete(VolumeId(SNAPSHOT))
        sealed(host.pools[DEFAULT], host.installation, host.signer())
    done = world.run("attest", SNAPSHOT)
    assert (done.returncode, "Not signed" in done.stdout) == (0, True)


def test_of_a_snapshot_that_is_gone_a_signed_copy_in_a_clone_is_enough(world: World) -> None:
    with world.host(writes=True) as host:
        host.pools[DEFAULT].delete(VolumeId(SNAPSHOT))
    code, document = attested(world, "dev", "--files")
    assert (code, document["signature"]["status"], document["files"]["compared"]) == (0, "valid", False)
    path = volume(world, "dev.1") / "attestation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "signatures": []}))
    code, document = attested(world, "dev")
    assert (code, "is not signed" in document["problems"][0]) == (1, True)


def test_a_quarantine_is_told(world: World) -> None:
    done = world.run("quarantine", SNAPSHOT, "--reason", "an address in note")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, f"quarantine {SNAPSHOT}: 1 object changed")
    done = world.run("attest", SNAPSHOT)
    assert (done.returncode, "QUARANTINED" in done.stdout, "an address in note" in done.stdout) == (0, True, True)
    assert world.run("quarantine", "--release", SNAPSHOT).returncode == 0
    assert "QUARANTINED" not in world.run("attest", SNAPSHOT).stdout


def test_what_does_not_exist_is_told_with_what_may_be_meant(world: World) -> None:
    done = world.run("attest", "shop-20261122t020000z-1a2b3c4e")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"did you mean {SNAPSHOT}?" in done.stderr
    done = world.run("quarantine", "shop-20261122t020000z-1a2b3c4e")
    assert (done.returncode, f"did you mean {SNAPSHOT}?" in done.stderr) == (1, True)
