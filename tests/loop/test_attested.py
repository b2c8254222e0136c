"""``requireAttestation``, up to the last look before a clone is delivered, on volumes that are directories."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.ids import PoolName, VolumeId
from reconciler.masking import attestation
from reconciler.state.conditions import Kind
from reconciler.state.observed import SnapshotManifest
from reconciler.storage.copy import CopyStorage
from tests.masking.keys import a_key, pem
from tests.masking.volumes import proof_of

from .conftest import CLONE, IMAGE

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.masking.dsse import Signer

    from .conftest import World

DEFAULT = PoolName("default")


@pytest.fixture
def kept(world: World, tmp_path: Path) -> World:
    """A world whose pool lies on disk, requires signed attestations, and has a key to sign with."""
    storage = CopyStorage(DEFAULT, tmp_path / "pool", installation=world.state.installation, reserve=0)
    storage.prepare()
    world.host.pools = {DEFAULT: storage}
    world.secret("signing", pem(a_key()))
    record: dict[str, Any] = {
        "repository": {"path": str(world.specs)},
        "state": str(world.state.path),
        "pools": {"default": {"requireAttestation": "signed"}},
        "attestation": {"key": {"secret": "signing"}},
    }
    world.host.config = type(world.host.config).model_validate(record, context={"base": tmp_path})
    return world


def manifest(world: World) -> SnapshotManifest:
    (found,) = [v.manifest for v in world.host.pools[DEFAULT].volumes() if isinstance(v.manifest, SnapshotManifest)]
    return found


def attest(world: World, signer: Signer | None) -> Path:
    """Give the snapshot an attestation, as its build does; return the file."""
    known, storage = replace(manifest(world), attestation=None), world.host.pools[DEFAULT]
    directory = storage.path(VolumeId(known.snapshot))
    content = attestation.statement(known, proof_of(directory))
    storage.update(VolumeId(known.snapshot), replace(known, attestation=attestation.write(directory, content, signer)))
    return directory / attestation.NAME


def built(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    attest(world, world.host.signer())


def why(world: World) -> tuple[str, str]:
    found = world.conditions(Kind.CLONE, "dev")
    told = found.get("Stalled") or found["Ready"]
    return told.reason, told.message


def test_what_is_signed_by_this_host_is_delivered(kept: World) -> None:
    built(kept)
    kept.write(IMAGE, CLONE)
    kept.apply()
    assert kept.running() == ["dev.1"]


def test_what_is_not_signed_is_refused_in_the_plan(kept: World) -> None:
    built(kept)
    attest(kept, None)
    kept.write(IMAGE, CLONE)
    view = kept.apply()
    assert view.plan is not None
    assert ([refusal.rule for refusal in view.plan.refused], kept.running()) == (["attestation"], [])


@pytest.mark.parametrize(
    ("damage", "told"),
    [("gone", "is gone"), ("exchanged", "not the one that"), ("nonsense", "not a DSSE envelope")],
)
def test_what_only_the_volume_can_tell_is_noticed_before_delivery(kept: World, damage: str, told: str) -> None:
    built(kept)
    path = kept.host.pools[DEFAULT].path(VolumeId(manifest(kept).snapshot)) / attestation.NAME
    if damage == "gone":
        path.unlink()
    elif damage == "nonsense":
        path.write_bytes(b"nonsense")
    else:
        known = manifest(kept)
        storage = kept.host.pools[DEFAULT]
        attest(kept, kept.host.signer())
        path.write_bytes(path.read_bytes() + b" ")
        storage.update(VolumeId(known.snapshot), known)
    kept.write(IMAGE, CLONE)
    kept.apply()
    assert kept.running() == []
    assert [str(v.id) for v in kept.host.pools[DEFAULT].volumes()] == [manifest(kept).snapshot]
    reason, message = why(kept)
    assert (reason, told in message) == ("AttestationInvalid", True)


def test_a_manifest_that_was_changed_is_noticed_before_delivery(kept: World) -> None:
    built(kept)
    known = manifest(kept)
    kept.host.pools[DEFAULT].update(VolumeId(known.snapshot), replace(known, input_id="other"))
    kept.write(IMAGE, CLONE)
    kept.apply()
    assert (kept.running(), why(kept)[0]) == ([], "AttestationInvalid")


def test_a_key_that_cannot_be_read_trusts_nothing(kept: World) -> None:
    built(kept)
    kept.secret("signing", "no key")
    kept.write(IMAGE, CLONE)
    kept.apply()
    assert (kept.running(), why(kept)[0]) == ([], "AttestationRequired")


def test_clones_of_earlier_days_go_on(kept: World) -> None:
    built(kept)
    kept.write(IMAGE, CLONE)
    kept.apply()
    attest(kept, None)
    view = kept.apply()
    assert view.plan is not None
    assert (view.plan.refused, kept.running()) == ((), ["dev.1"])
    assert kept.ask("reset", "dev").ok is False
    assert kept.running() == ["dev.1"]
