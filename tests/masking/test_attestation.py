"""What an attestation says, what it never says, and what it takes to be believed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import UnavailableError
from reconciler.ids import ImageName, Revision, SnapshotId
from reconciler.masking import attestation, dsse
from reconciler.masking.attestation import differences, examine, read, statement, write
from reconciler.state.observed import Attestation
from tests.masking.keys import a_signer
from tests.masking.volumes import CONTROL, MANIFEST, ORIGINAL, a_volume, masked, proof_of, written

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.masking.attestation import Examination
    from reconciler.masking.dsse import Signer
    from reconciler.state.observed import SnapshotManifest


def examined(volume: Path, manifest: SnapshotManifest | None, *trusted: Signer) -> Examination:
    data = read(volume)
    assert data is not None
    return examine(data, manifest, {signer.public.id: signer.public for signer in trusted})


def test_a_statement_has_the_layout_of_in_toto_and_says_what_was_done(tmp_path: Path) -> None:
    said = json.loads(statement(MANIFEST, proof_of(a_volume(tmp_path)), masked=masked()))
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicateType"] == "urn:reconciler:snapshot:v1"
    assert [row["name"] for row in said["subject"]] == ["data/PG_VERSION", "data/base/1", "data/base/2"]
    assert all(set(row) == {"name", "digest"} and set(row["digest"]) == {"sha256"} for row in said["subject"])
    predicate = said["predicate"]
    assert predicate["snapshot"] == MANIFEST.snapshot
    assert predicate["revision"] == MANIFEST.revision
    assert predicate["dataAsOf"] == "2026-11-22T01:00:00+00:00"
    assert predicate["checks"] == ["shop.yaml:12"]
    assert predicate["scan"] == {
        "full": True, "files": 3, "bytes": 16387, "samples": 500, "excluded": {"short": 2}, "holding": [],
        "rules": "r" * 64, "lastFull": {"snapshot": MANIFEST.snapshot, "at": "2026-11-22T02:00:00.123456+00:00"},
    }  # fmt: skip
    table, other = predicate["masking"]["tables"]
    assert (table["database"], table["table"], other["table"]) == ("shop", "public.customer", "public.zoo")
    assert table["columns"] == [
        {"name": "email", "method": "email", "policy": "pii", "rows": 100, "selected": 100, "nulls": 3, "equal": 0}
    ]


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    proof = proof_of(a_volume(tmp_path))
    other = replace(proof, digests=dict(sorted(proof.digests.items(), reverse=True)))
    elsewhere = replace(MANIFEST, created_at=MANIFEST.created_at.astimezone())
    swapped = replace(masked(), tables=masked().tables[::-1])
    assert statement(MANIFEST, proof, masked=masked()) == statement(elsewhere, other, masked=swapped)


def test_what_is_not_masked_is_attested_with_its_reason_and_without_masking(tmp_path: Path) -> None:
    manifest = replace(MANIFEST, masked_by=(), key_id=None)
    said = json.loads(statement(manifest, proof_of(a_volume(tmp_path)), unmasked_reason="public sample data"))
    assert said["predicate"]["unmasked"] == {"reason": "public sample data"}
    assert "masking" not in said["predicate"]


def test_a_snapshot_on_another_one_names_its_attestation(tmp_path: Path) -> None:
    manifest = replace(MANIFEST, base=SnapshotId("base-20261121t020000z-1a2b3c4d"))
    said = json.loads(statement(manifest, proof_of(a_volume(tmp_path)), base=Attestation("d" * 64)))
    assert said["predicate"]["base"] == "base-20261121t020000z-1a2b3c4d"
    assert said["predicate"]["baseAttestation"] == {"sha256": "d" * 64}


def test_no_value_of_a_row_and_no_key_is_in_it(tmp_path: Path) -> None:
    signer = a_signer()
    volume = a_volume(tmp_path)
    written(volume, signer)
    data = read(volume)
    assert data is not None
    payload = dsse.unseal(data).payload
    assert b"masking-key" not in payload
    for value in (ORIGINAL, CONTROL):
        assert value.encode() not in payload
        assert value.encode() not in data
    private = signer._key.private_bytes_raw()
    assert private not in data
    assert private.hex().encode() not in payload


def test_what_was_written_is_believed_signed_by_a_trusted_key(tmp_path: Path) -> None:
    signer = a_signer()
    volume = a_volume(tmp_path)
    manifest = written(volume, signer)
    assert manifest.attestation is not None
    assert manifest.attestation.signer == signer.public.id
    found = examined(volume, manifest, signer)
    assert (found.problems, found.signer) == ((), signer.public)
    assert list(differences(volume, found.subjects)) == []


def test_an_unsigned_one_is_believed_for_what_it_is(tmp_path: Path) -> None:
    volume = a_volume(tmp_path)
    manifest = written(volume, None)
    found = examined(volume, manifest, a_signer())
    assert (found.problems, found.signer, found.claimed) == ((), None, ())


def test_a_signature_of_a_stranger_is_no_signature(tmp_path: Path) -> None:
    stranger = a_signer()
    volume = a_volume(tmp_path)
    found = examined(volume, written(volume, stranger), a_signer())
    assert found.signer is None
    assert found.problems == (f"it is signed by a key that this host does not trust: {stranger.public.id[:16]}",)


def test_an_exchanged_payload_is_noticed_by_signature_and_by_digest(tmp_path: Path) -> None:
    signer = a_signer()
    volume = a_volume(tmp_path)
    manifest = written(volume, signer)
    envelope = json.loads((volume / attestation.NAME).read_bytes())
    forged = json.loads(dsse.seal(statement(manifest, proof_of(volume)), None))
    (volume / attestation.NAME).write_text(json.dumps({**envelope, "payload": forged["payload"]}))
    first, second = examined(volume, manifest, signer).problems
    assert "signature of key" in first
    assert "not the one that" in second


def test_an_unsigned_forgery_of_the_files_is_noticed_by_the_manifest(tmp_path: Path) -> None:
    volume = a_volume(tmp_path)
    manifest = written(volume, None)
    (volume / "data" / "base" / "1").write_bytes(b"other")
    write(volume, statement(MANIFEST, proof_of(volume), masked=masked()), None)
    (problem,) = examined(volume, manifest).problems
    assert "its digest is not in the manifest" in problem


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"snapshot": SnapshotId("shop-20261123t020000z-1a2b3c4d")}, "snapshot"),
        ({"spec_digest": "sha256:other"}, "specDigest"),
        ({"key_id": "key-2"}, "keyId"),
        ({"masked_by": ()}, "maskedBy"),
        ({"created_at": MANIFEST.created_at + timedelta(microseconds=1)}, "createdAt"),
        ({"revision": Revision("main@sha1:" + "1" * 40)}, "revision"),
    ],
)
def test_the_attestation_of_another_snapshot_is_not_taken(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    signer = a_signer()
    volume = a_volume(tmp_path)
    manifest = written(volume, signer)
    (problem,) = examined(volume, replace(manifest, **changes), signer).problems  # type: ignore[arg-type]  # fields by name
    assert problem.endswith(f": {named}")


def test_a_renamed_image_keeps_its_attestations(tmp_path: Path) -> None:
    volume = a_volume(tmp_path)
    manifest = written(volume, None)
    assert examined(volume, replace(manifest, image=ImageName("store"))).problems == ()


def test_a_manifest_without_attestation_is_told(tmp_path: Path) -> None:
    volume = a_volume(tmp_path)
    written(volume, None)
    (problem,) = examined(volume, MANIFEST).problems
    assert "knows of no attestation" in problem


@pytest.mark.parametrize(
    ("payload", "kind", "what"),
    [
        (b"{}", dsse.PAYLOAD_TYPE, "not an in-toto statement"),
        (b"[]", dsse.PAYLOAD_TYPE, "not an in-toto statement"),
        (b"nothing", dsse.PAYLOAD_TYPE, "not an in-toto statement"),
        (b"{}", "text/plain", "does not hold an in-toto statement"),
        (
            b'{"_type":"https://in-toto.io/Statement/v1","predicateType":"urn:other","subject":[],"predicate":{}}',
            dsse.PAYLOAD_TYPE,
            "not a statement of the kind urn:reconciler:snapshot:v1",
        ),
    ],
)
def test_what_is_something_else_is_told(payload: bytes, kind: str, what: str) -> None:
    (problem,) = examine(dsse.seal(payload, None, kind=kind), None, {}).problems
    assert what in problem


def test_a_file_named_twice_is_malformed(tmp_path: Path) -> None:
    said = json.loads(statement(MANIFEST, proof_of(a_volume(tmp_path))))
    said["subject"].append(said["subject"][0])
    (problem,) = examine(dsse.seal(json.dumps(said).encode(), None), None, {}).problems
    assert "malformed" in problem


def test_every_difference_of_the_files_is_told(tmp_path: Path) -> None:
    volume = a_volume(tmp_path)
    subjects = examined(volume, written(volume, None)).subjects
    (volume / "data" / "PG_VERSION").unlink()
    (volume / "data" / "base" / "1").write_bytes(b"pagf" + b"page" * 4095)
    (volume / "data" / "base" / "3").write_bytes(b"")
    (volume / "data" / "link").symlink_to("base")
    os.mkfifo(volume / "pipe")
    assert sorted(differences(volume, subjects)) == [
        "data/PG_VERSION is missing",
        "data/base/1 has changed",
        "data/base/3 was not there when it was sealed",
        "data/link is not a regular file",
        "pipe is not a regular file",
    ]


def test_a_volume_that_is_away_is_not_called_changed(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        list(differences(tmp_path / "nowhere", {}))


def test_what_cannot_be_an_attestation_is_not_followed(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    (tmp_path / attestation.NAME).symlink_to(tmp_path / "other")
    with pytest.raises(UnavailableError):
        read(tmp_path)
    (tmp_path / attestation.NAME).unlink()
    os.mkfifo(tmp_path / attestation.NAME)
    with pytest.raises(UnavailableError):
        read(tmp_path)


def test_writing_replaces_what_a_base_left(tmp_path: Path) -> None:
    volume = a_volume(tmp_path)
    written(volume, a_signer())
    manifest = written(volume, None, replace(MANIFEST, snapshot=SnapshotId("child-20261123t020000z-1a2b3c4d")))
    assert examined(volume, manifest).problems == ()
    assert attestation.NAME not in examined(volume, manifest).subjects
