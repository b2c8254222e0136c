"""Sealed volumes with attestations, made by hand, for tests of who shows and checks them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.ids import (
    CloneName,
    ImageName,
    InstallationId,
    PolicyName,
    Revision,
    RuntimeName,
    SecretName,
    SnapshotId,
    VolumeId,
)
from reconciler.masking import attestation
from reconciler.masking import digests as taking
from reconciler.masking.assignment import ColumnMasking
from reconciler.masking.attestation import Proof, statement, write
from reconciler.masking.report import ColumnCounts, Masked, Sample, TableCounts
from reconciler.masking.schema import Column, Family, TableName
from reconciler.state.observed import BuildManifest, CloneManifest, ClonePhase, SnapshotManifest

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.masking.dsse import Signer
    from reconciler.storage.base import Storage

ORIGINAL, CONTROL = "ada.lovelace@analytical.engine", "masked-7f3@example.com"
CUSTOMER = TableName("public", "customer")
SNAPSHOT = SnapshotId("shop-20261122t020000z-1a2b3c4d")
MANIFEST = SnapshotManifest(
    installation=InstallationId("ours"),
    image=ImageName("shop"),
    snapshot=SNAPSHOT,
    engine="postgres",
    version="18.1",
    major="18",
    spec_digest="sha256:1a2b3c4d",
    input_id="blob:99",
    key_id="key-1",
    masked_by=("pii",),
    revision=Revision("main@sha1:" + "0" * 40),
    created_at=datetime(2026, 11, 22, 2, 0, 0, 123456, tzinfo=UTC),
    data_as_of=datetime(2026, 11, 22, 1, 0, tzinfo=UTC),
    databases=("shop",),
)


def masked() -> Masked:
    """Return what masking one column leaves: counts, and originals that must be nowhere."""
    email = Column(name="email", type="text", family=Family.TEXT)
    rule = ColumnMasking(email, "email", PolicyName("pii"), SecretName("masking-key"))
    counts = ColumnCounts(column="email", method="email", policy="pii", rows=100, selected=100, nulls=3, equal=0)
    return Masked(
        tables=(TableCounts("shop", TableName("public", "zoo"), ()), TableCounts("shop", CUSTOMER, (counts,))),
        samples=(Sample("shop", CUSTOMER, rule, originals=(ORIGINAL,), controls=(CONTROL,)),),
        reports=("shop: no rule matches public.note",),
    )


def a_volume(path: Path) -> Path:
    """Make a few files, as an engine leaves them."""
    (path / "data" / "base").mkdir(parents=True, exist_ok=True)
    for name, content in {"PG_VERSION": b"18\n", "base/1": b"page" * 4096, "base/2": b""}.items():
        (path / "data" / name).write_bytes(content)
    return path


def proof_of(volume: Path) -> Proof:
    names, _strange = attestation._listed(volume)
    digests = {name: taking.of_file(volume / name, like="") for name in names}
    return Proof(
        digests=digests,
        rules="r" * 64,
        files=3,
        bytes=16_387,
        samples=500,
        excluded={"short": 2},
        checks=("shop.yaml:12",),
    )


def written(volume: Path, signer: Signer | None, manifest: SnapshotManifest = MANIFEST) -> SnapshotManifest:
    """Attest a volume and return the manifest that it is sealed with."""
    content = statement(manifest, proof_of(volume), masked=masked())
    return replace(manifest, attestation=write(volume, content, signer))


def sealed(storage: Storage, installation: InstallationId, signer: Signer | None) -> SnapshotManifest:
    """Make a snapshot in a pool, with its attestation."""
    manifest = replace(MANIFEST, installation=installation)
    build = BuildManifest(
        installation=installation,
        image=manifest.image,
        snapshot=SNAPSHOT,
        engine="postgres",
        spec_digest=manifest.spec_digest,
        revision=manifest.revision,
        started_at=manifest.created_at,
    )
    manifest = written(a_volume(storage.create(VolumeId(SNAPSHOT), build)), signer, manifest)
    storage.seal(VolumeId(SNAPSHOT), manifest)
    return manifest


def cloned(storage: Storage, manifest: SnapshotManifest) -> Path:
    """Make a clone of a snapshot, called ``dev``."""
    clone = CloneManifest(
        installation=manifest.installation,
        clone=CloneName("dev"),
        generation=1,
        phase=ClonePhase.READY,
        image=manifest.image,
        snapshot=manifest.snapshot,
        engine=manifest.engine,
        major=manifest.major,
        runtime=RuntimeName("process"),
        port=5600,
        revision=manifest.revision,
        created_at=manifest.created_at,
    )
    return storage.clone(VolumeId(manifest.snapshot), VolumeId("dev.1"), clone)
