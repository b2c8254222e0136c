"""Generated passwords."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.ids import CloneName
from reconciler.status.credentials import Credentials, _file_name

if TYPE_CHECKING:
    from pathlib import Path

SHOP, CRM = CloneName("shop-dev"), CloneName("crm-dev")


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return Credentials(tmp_path)


def test_a_password_is_made_once_and_kept(credentials: Credentials, tmp_path: Path) -> None:
    password = credentials.credential(SHOP, "app")
    assert len(password) >= 32
    assert credentials.credential(SHOP, "app") == password
    assert Credentials(tmp_path).existing(SHOP, "app") == password


def test_every_user_of_every_clone_has_a_password_of_its_own(credentials: Credentials) -> None:
    made = {credentials.credential(clone, user) for clone in (SHOP, CRM) for user in ("app", "report")}
    assert len(made) == 4


def test_looking_makes_no_password(credentials: Credentials) -> None:
    assert credentials.existing(SHOP, "app") is None
    assert credentials.clones() == frozenset()


def test_only_the_owner_can_read_a_password(credentials: Credentials, tmp_path: Path) -> None:
    credentials.credential(SHOP, "app")
    assert stat.S_IMODE((tmp_path / "shop-dev").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "shop-dev" / "app").stat().st_mode) == 0o600


def test_many_threads_that_ask_at_once_get_the_same_password(credentials: Credentials) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: credentials.credential(SHOP, "app"), range(32)))
    assert len(made) == 1


@pytest.mark.parametrize("damage", [b"", b"\n", b"\xff\xfe"])
def test_a_damaged_password_is_replaced(credentials: Credentials, tmp_path: Path, damage: bytes) -> None:
    before = credentials.credential(SHOP, "app")
    (tmp_path / "shop-dev" / "app").write_bytes(damage)
    assert credentials.existing(SHOP, "app") is None
    after = credentials.credential(SHOP, "app")
    assert after != before
    assert credentials.credential(SHOP, "app") == after


def test_a_forgotten_clone_leaves_nothing(credentials: Credentials, tmp_path: Path) -> None:
    credentials.credential(SHOP, "app")
    credentials.credential(CRM, "app")
    credentials.forget(SHOP)
    credentials.forget(SHOP)
    assert credentials.clones() == {CRM}
    assert [path.name for path in tmp_path.iterdir()] == ["crm-dev"]


def test_a_user_who_comes_back_gets_a_new_password(credentials: Credentials) -> None:
    before = credentials.credential(SHOP, "app")
    report = credentials.credential(SHOP, "report")
    credentials.retain(SHOP, {"report"})
    credentials.retain(CRM, {"report"})
    assert credentials.users(SHOP) == {"report"}
    assert credentials.clones() == {SHOP}
    assert credentials.existing(SHOP, "report") == report
    assert credentials.credential(SHOP, "app") != before


def test_a_renamed_clone_keeps_its_passwords(credentials: Credentials) -> None:
    password = credentials.credential(SHOP, "app")
    credentials.credential(CRM, "app")
    credentials.rename(SHOP, CRM)
    credentials.rename(SHOP, CRM)
    assert credentials.existing(CRM, "app") == password
    assert credentials.clones() == {CRM}


@given(st.text(min_size=1, max_size=20))
def test_no_user_name_leaves_the_directory_or_meets_another_one(name: str) -> None:
    file = _file_name(name)
    assert "/" not in file
    assert not file.startswith(".")
    assert _file_name(name + "x") != file


def test_a_user_with_a_hostile_name_stays_in_its_clone(credentials: Credentials, tmp_path: Path) -> None:
    for name in ("../../up", ".hidden", "..", "a/b", "émilie"):
        assert credentials.credential(SHOP, name) == credentials.existing(SHOP, name)
    assert credentials.users(SHOP) == {"../../up", ".hidden", "..", "a/b", "émilie"}
    assert [path.name for path in tmp_path.iterdir()] == ["shop-dev"]
