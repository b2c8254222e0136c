"""What a scan may leave out: only what an earlier one, that this host believes, found clean by the same rules."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.ids import SnapshotId
from reconciler.masking import attestation, dsse, leaks
from reconciler.masking.attestation import statement, write
from reconciler.masking.evidence import Wiped
from reconciler.masking.lineage import FullScan, Lineage, lineage, must_be_full, rules
from tests.masking.keys import a_signer
from tests.masking.volumes import MANIFEST, a_volume, masked, proof_of

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.masking.dsse import Signer
    from reconciler.state.observed import SnapshotManifest

RULES = rules(MANIFEST.spec_digest, MANIFEST.key_id, masked())
SOON = MANIFEST.created_at + timedelta(days=6)


def sealed(volume: Path, signer: Signer | None = None, **changes: Any) -> SnapshotManifest:  # noqa: ANN401 - of a proof
    """Attest a volume in which something was found in one file."""
    proof = replace(proof_of(a_volume(volume)), rules=RULES, holding=("data/base/2",), **changes)
    written = write(volume, statement(MANIFEST, proof, masked=masked()), signer)
    return replace(MANIFEST, attestation=written)


def known(volume: Path, manifest: SnapshotManifest, *trusted: Signer, **changes: Any) -> Lineage | None:  # noqa: ANN401 - as below
    keys = {signer.public.id: signer.public for signer in trusted}
    return lineage(volume, manifest, keys, **{"signed": bool(trusted), "rules": RULES, "now": SOON, **changes})


def test_files_of_a_full_scan_in_which_nothing_was_found_need_not_be_searched(tmp_path: Path) -> None:
    found = known(tmp_path, sealed(tmp_path))
    assert found is not None
    assert found.snapshot == MANIFEST.snapshot
    assert (found.last_full.snapshot, found.last_full.at) == (MANIFEST.snapshot, MANIFEST.created_at)
    assert set(found.base.digests) == {"data/PG_VERSION", "data/base/1"}
    assert found.base.directory == tmp_path


def test_a_chain_of_snapshots_leads_to_the_full_scan_behind_it(tmp_path: Path) -> None:
    first = known(tmp_path / "one", sealed(tmp_path / "one"))
    assert first is not None
    earlier = replace(first, last_full=replace(first.last_full, snapshot=SnapshotId("shop-20261120t020000z-1a2b3c4d")))
    manifest = sealed(tmp_path / "two", lineage=earlier, skipped=(2, 4099))
    predicate = attestation.examine((tmp_path / "two" / attestation.NAME).read_bytes(), manifest, {}).predicate
    assert predicate["scan"]["full"] is False
    assert predicate["scan"]["skipped"] == {"files": 2, "bytes": 4099}
    assert predicate["scan"]["comparedWith"] == {"snapshot": first.snapshot, "sha256": first.attestation.digest}
    second = known(tmp_path / "two", manifest)
    assert second is not None
    assert second.last_full == earlier.last_full


def test_what_was_wiped_counts_for_files_in_which_something_was_found_too(tmp_path: Path) -> None:
    found = known(tmp_path, sealed(tmp_path, wiped=Wiped(version=3, full=True, pages=5, read_bytes=9)))
    assert found is not None
    assert found.wiped.wiped == 3
    assert set(found.wiped.digests) == {"data/PG_VERSION", "data/base/1", "data/base/2"}
    assert found.last_full_wipe == FullScan(MANIFEST.snapshot, MANIFEST.created_at)


def test_without_a_wipe_that_was_attested_every_page_is_read(tmp_path: Path) -> None:
    found = known(tmp_path, sealed(tmp_path))
    assert found is not None
    assert (found.wiped.wiped, found.last_full_wipe) == (None, None)


@pytest.mark.parametrize(("days", "version"), [(1, 3), (8, None)])
def test_every_page_is_read_every_week_whatever_was_searched_meanwhile(
    tmp_path: Path, days: int, version: int | None
) -> None:
    first = known(tmp_path / "one", sealed(tmp_path / "one"))
    assert first is not None
    full = FullScan(SnapshotId("shop-20261120t020000z-1a2b3c4d"), SOON - timedelta(days=days))
    wiped = Wiped(version=3, full=False, pages=1, read_bytes=4, same_bytes=95)
    manifest = sealed(tmp_path / "two", wiped=wiped, compared=replace(first, last_full_wipe=full))
    said = attestation.examine((tmp_path / "two" / attestation.NAME).read_bytes(), manifest, {}).predicate["wipe"]
    assert (said["full"], said["bytes"], said["skipped"]) == (False, 4, {"bytes": 95})
    assert said["comparedWith"]["snapshot"] == first.snapshot
    second = known(tmp_path / "two", manifest)
    assert second is not None
    assert (second.wiped.wiped, second.last_full_wipe) == (version, full)


@pytest.mark.parametrize(
    "changes",
    [
        {"now": MANIFEST.created_at + timedelta(days=7)},
        {"now": MANIFEST.created_at - timedelta(seconds=1)},  # a clock that was wrong
        {"rules": "other"},
    ],
)
def test_a_scan_is_full_every_week_and_when_the_rules_changed(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert known(tmp_path, sealed(tmp_path), **changes) is None


def test_the_first_scan_is_full_and_so_is_one_after_a_week_or_a_change() -> None:
    now = MANIFEST.created_at
    assert must_be_full(None, now, same_rules=True)
    assert must_be_full(now, now, same_rules=False)
    assert must_be_full(now - timedelta(days=7), now, same_rules=True)
    assert not must_be_full(now - timedelta(days=6), now, same_rules=True)


def test_an_attestation_that_is_not_believed_is_as_none(tmp_path: Path) -> None:
    ours, stranger = a_signer(), a_signer()
    assert known(tmp_path, sealed(tmp_path, ours), ours) is not None
    assert known(tmp_path, sealed(tmp_path, stranger), ours) is None
    assert known(tmp_path, sealed(tmp_path), ours) is None  # not signed, where keys are configured
    assert known(tmp_path, sealed(tmp_path), signed=True) is None  # keys are, and cannot be read
    manifest = sealed(tmp_path)
    assert known(tmp_path, replace(manifest, attestation=None)) is None
    assert known(tmp_path, replace(manifest, input_id="another")) is None
    (tmp_path / attestation.NAME).write_bytes(b"torn")
    assert known(tmp_path, manifest) is None
    (tmp_path / attestation.NAME).unlink()
    assert known(tmp_path, manifest) is None


@pytest.mark.parametrize(
    "scan",
    [
        {"full": True, "files": 3},  # from before scans had a lineage
        {"rules": RULES, "holding": [], "lastFull": {"snapshot": "s", "at": "yesterday"}},
        {"rules": RULES, "holding": [], "lastFull": {"snapshot": "s", "at": "2026-11-22T02:00:00"}},
        {"rules": RULES, "holding": 7, "lastFull": {"snapshot": "s", "at": "2026-11-22T02:00:00Z"}},
        {"rules": RULES, "holding": [], "lastFull": None},
        "full",
    ],
)
def test_an_attestation_that_says_nothing_of_it_asks_for_a_full_scan(tmp_path: Path, scan: object) -> None:
    sealed(tmp_path)
    document = json.loads(dsse.unseal((tmp_path / attestation.NAME).read_bytes()).payload)
    document["predicate"]["scan"] = scan
    manifest = replace(MANIFEST, attestation=write(tmp_path, json.dumps(document).encode(), None))
    assert attestation.examine((tmp_path / attestation.NAME).read_bytes(), manifest, {}).problems == ()
    assert known(tmp_path, manifest) is None


def test_whatever_decides_what_is_looked_for_is_part_of_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    done = masked()
    table, other = done.tables
    (sample,) = done.samples
    (column,) = other.columns
    another = replace(other, columns=(replace(column, method="hash"),))
    assert rules(MANIFEST.spec_digest, MANIFEST.key_id, replace(done, tables=(other, table), reports=())) == RULES
    changed = [
        rules("sha256:other", MANIFEST.key_id, done),
        rules(MANIFEST.spec_digest, "key-2", done),
        rules(MANIFEST.spec_digest, MANIFEST.key_id, replace(done, tables=(table, another))),
        rules(MANIFEST.spec_digest, MANIFEST.key_id, replace(done, tables=(table,))),
        rules(MANIFEST.spec_digest, MANIFEST.key_id, replace(done, samples=(replace(sample, database="b"),))),
    ]
    monkeypatch.setattr(leaks, "VERSION", leaks.VERSION + 1)
    changed.append(rules(MANIFEST.spec_digest, MANIFEST.key_id, done))
    assert len({RULES, *changed}) == 7
