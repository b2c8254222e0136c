from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from reconciler.ids import VolumeId
from reconciler.state.observed import Attestation, Quarantine, VolumeState
from reconciler.storage.manifests import (
    ManifestStore,
    Record,
    UnreadableError,
    decode,
    encode,
)
from reconciler.testing.storage import CLONE, SNAPSHOT, build_manifest, clone_manifest, snapshot_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.state.observed import Manifest


@pytest.fixture
def store(tmp_path: Path) -> ManifestStore:
    return ManifestStore(tmp_path)


@pytest.mark.parametrize("manifest", [build_manifest(), snapshot_manifest(), clone_manifest()])
@pytest.mark.parametrize("state", list(VolumeState))
def test_what_is_written_is_read_back(store: ManifestStore, state: VolumeState, manifest: Manifest) -> None:
    store.write(CLONE, Record(state, manifest))
    assert store.read(CLONE) == Record(state, manifest)
    assert store.scan().records == {CLONE: Record(state, manifest)}


def test_a_snapshot_of_an_earlier_version_is_read() -> None:
    content = json.loads(encode(Record(VolumeState.COMPLETE, snapshot_manifest())))
    for later in ("attestation", "quarantine"):
        del content["manifest"][later]
    assert decode(json.dumps(content).encode()).manifest == snapshot_manifest()


def test_what_is_added_to_a_snapshot_is_read_back() -> None:
    manifest = replace(
        snapshot_manifest(),
        attestation=Attestation("0" * 64, "1" * 64),
        quarantine=Quarantine(datetime(2026, 11, 22, tzinfo=UTC), "an address in note", "ann"),
    )
    assert decode(encode(Record(VolumeState.COMPLETE, manifest))).manifest == manifest


def test_a_file_is_json_that_a_person_can_read(store: ManifestStore) -> None:
    store.write(SNAPSHOT, Record(VolumeState.COMPLETE, snapshot_manifest()))
    content = json.loads(store.file(SNAPSHOT).read_text())
    assert content["state"] == "complete"
    assert content["manifest"]["kind"] == "snapshot"
    assert content["manifest"]["databases"] == ["shop", "Käse"]
    assert content["manifest"]["created_at"] == "2026-11-22T02:00:00Z"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"\xff\xfe",
        b'{"state":"complete"}',
        encode(Record(VolumeState.COMPLETE, clone_manifest())).replace(b'"complete"', b'"finished"'),
        encode(Record(VolumeState.COMPLETE, clone_manifest())).replace(b'"format":1', b'"format":2'),
        encode(Record(VolumeState.COMPLETE, clone_manifest())).replace(b'"kind":"clone"', b'"kind":"mirror"'),
        encode(Record(VolumeState.COMPLETE, clone_manifest()))[:-40],
    ],
)
def test_what_is_no_manifest_of_ours_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableError):
        decode(data)


def test_problems_never_quote_the_content() -> None:
    with pytest.raises(UnreadableError) as raised:
        decode(b'{"state": "hunter2", "manifest": {"kind": "clone", "port": "hunter2"}}')
    assert "hunter2" not in str(raised.value)


def test_a_changed_file_is_noticed(store: ManifestStore) -> None:
    store.write(CLONE, Record(VolumeState.COMPLETE, clone_manifest()))
    store.scan()
    other = ManifestStore(store.file(CLONE).parent)
    other.write(CLONE, Record(VolumeState.DELETING, clone_manifest()))
    assert store.scan().records[CLONE].state is VolumeState.DELETING
    other.remove(CLONE)
    assert store.scan().records == {}


def test_unchanged_files_are_not_read_again(store: ManifestStore) -> None:
    for number in range(100):
        store.write(VolumeId(f"dev.{number}"), Record(VolumeState.COMPLETE, clone_manifest(number)))
    first, second = store.scan().records, store.scan().records
    assert all(first[volume] is second[volume] for volume in first)


def test_other_files_are_no_manifests(store: ManifestStore, tmp_path: Path) -> None:
    (tmp_path / "README").write_text("x")
    (tmp_path / ".tmp-1-00").write_text("x")
    listing = store.scan()
    assert (dict(listing.records), dict(listing.problems)) == ({}, {})


def test_a_symlink_or_directory_in_place_of_a_manifest_is_a_problem(store: ManifestStore, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(encode(Record(VolumeState.COMPLETE, clone_manifest())))
    store.file(CLONE).symlink_to(tmp_path / "elsewhere")
    store.file(SNAPSHOT).mkdir()
    assert set(store.scan().problems) == {CLONE, SNAPSHOT}


def test_a_volume_is_marked_as_deleting_without_new_room(store: ManifestStore) -> None:
    record = Record(VolumeState.COMPLETE, snapshot_manifest())
    store.write(SNAPSHOT, record)
    size = store.file(SNAPSHOT).stat().st_size
    assert store.mark_in_place(SNAPSHOT, VolumeState.DELETING)
    assert store.read(SNAPSHOT) == Record(VolumeState.DELETING, snapshot_manifest())
    assert store.file(SNAPSHOT).stat().st_size == size


def test_manifests_are_readable_by_their_owner_only(store: ManifestStore) -> None:
    store.write(CLONE, Record(VolumeState.COMPLETE, clone_manifest()))
    assert store.file(CLONE).stat().st_mode & 0o777 == 0o600


def test_leftovers_of_interrupted_writes_are_swept(store: ManifestStore, tmp_path: Path) -> None:
    (tmp_path / f".tmp-{os.getpid()}-00").write_text("half")
    (tmp_path / "notes").write_text("mine")
    store.sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
