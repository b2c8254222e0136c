"""Known pools, tombstones and the ledger of prunings."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import ConfigError
from reconciler.ids import CloneName, PoolName
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.observed import Tombstone
from reconciler.status.records import KnownPools, PruneLedger, Tombstones

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
DEFAULT = PoolName("default")


def _clone(number: int) -> ObjectKey:
    return ObjectKey(Kind.CLONE, f"c{number}")


def test_pools_are_remembered_until_they_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "pools.json"
    KnownPools(path).remember(DEFAULT, "p1")
    KnownPools(path).remember(PoolName("fast"), "p2")
    assert KnownPools(path).all() == {"default": "p1", "fast": "p2"}
    KnownPools(path).forget(DEFAULT)
    assert KnownPools(path).all() == {"fast": "p2"}


def test_remembering_what_is_known_writes_nothing(tmp_path: Path) -> None:
    pools = KnownPools(tmp_path / "pools.json")
    pools.remember(DEFAULT, "p1")
    before = (tmp_path / "pools.json").stat().st_ino
    pools.remember(DEFAULT, "p1")
    assert (tmp_path / "pools.json").stat().st_ino == before


@pytest.mark.parametrize("damage", [b"", b'{"pools"', b"{}", b'{"pools": {"default": 1}}', b'{"pools": []}'])
def test_a_damaged_list_of_pools_is_an_error_and_never_an_empty_list(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "pools.json"
    path.write_bytes(damage)
    with pytest.raises(ConfigError) as caught:
        KnownPools(path).all()
    assert ".reconciler-pool.json" in str(caught.value)
    with pytest.raises(ConfigError):
        KnownPools(path).remember(DEFAULT, "p1")
    assert path.read_bytes() == damage


def test_tombstones_stay_until_they_are_cleared(tmp_path: Path) -> None:
    stone = Tombstone(CloneName("shop-dev"), "ttl 8h", NOW)
    Tombstones(tmp_path).put(stone)
    assert Tombstones(tmp_path).all() == {"shop-dev": stone}
    Tombstones(tmp_path).clear(stone.clone)
    Tombstones(tmp_path).clear(stone.clone)
    assert Tombstones(tmp_path).all() == {}


def test_a_damaged_tombstone_hides_no_other_one(tmp_path: Path) -> None:
    stone = Tombstone(CloneName("shop-dev"), "ttl 8h", NOW)
    Tombstones(tmp_path).put(stone)
    (tmp_path / "crm-dev.json").write_bytes(b'{"expiry": "ttl')
    assert Tombstones(tmp_path).all() == {"shop-dev": stone}


def test_deletions_count_for_an_hour(tmp_path: Path) -> None:
    ledger = PruneLedger(tmp_path / "prunes.jsonl")
    for minutes in (70, 59, 1):
        ledger.record(_clone(minutes), NOW - timedelta(minutes=minutes))
    expected = {f"Clone/c{minutes}": NOW - timedelta(minutes=minutes) for minutes in (59, 1)}
    assert PruneLedger(tmp_path / "prunes.jsonl").recent(NOW) == expected


def test_an_object_counts_once_however_often_its_deletion_is_tried(tmp_path: Path) -> None:
    ledger = PruneLedger(tmp_path / "prunes.jsonl")
    for minutes in (3, 2, 1):
        ledger.record(_clone(1), NOW - timedelta(minutes=minutes))
    assert ledger.recent(NOW) == {"Clone/c1": NOW - timedelta(minutes=1)}


def test_damage_makes_the_ledger_count_more_and_never_less(tmp_path: Path) -> None:
    path = tmp_path / "prunes.jsonl"
    ledger = PruneLedger(path)
    ledger.record(_clone(1), NOW)
    ledger.record(_clone(2), NOW)
    os.truncate(path, path.stat().st_size - 10)
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    assert len(ledger.recent(NOW)) == 2
    ledger.record(_clone(3), NOW)
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    assert len(ledger.recent(NOW)) == 3


def test_an_absent_ledger_is_empty(tmp_path: Path) -> None:
    assert PruneLedger(tmp_path / "prunes.jsonl").recent(NOW) == {}


def test_the_ledger_stays_small_and_forgets_nothing_recent(tmp_path: Path) -> None:
    path = tmp_path / "prunes.jsonl"
    old = "".join(f'{{"object": "Clone/o{i}", "at": "2026-11-01T00:00:00+00:00"}}\n' for i in range(3000))
    path.write_text(old)
    ledger = PruneLedger(path)
    ledger.record(_clone(1), NOW)
    ledger.record(_clone(2), NOW)
    assert path.stat().st_size < 1000
    assert ledger.recent(NOW) == {"Clone/c1": NOW, "Clone/c2": NOW}
