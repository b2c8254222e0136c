"""Trees change hands completely, and nothing outside of them does."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import PermanentError
from reconciler.handover import give_tree, take_tree
from reconciler.proc import Account

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files to another account"),
]


@pytest.fixture
def nobody() -> Account:
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_uid, entry.pw_gid)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "outside").touch()
    directory = tmp_path / "data"
    (directory / "base").mkdir(parents=True)
    (directory / "base" / "1").touch()
    (directory / "link").symlink_to(tmp_path / "outside")
    return directory


def owners(tree: Path) -> set[int]:
    return {path.lstat().st_uid for path in (tree, *tree.rglob("*"))}


def test_a_tree_is_given_with_its_links_and_nothing_that_they_point_to(tree: Path, nobody: Account) -> None:
    give_tree(tree, nobody)
    assert owners(tree) == {nobody.uid}
    assert (tree.parent / "outside").stat().st_uid == 0


def test_a_tree_is_taken_back(tree: Path, nobody: Account) -> None:
    give_tree(tree, nobody)
    take_tree(tree)
    assert owners(tree) == {0}


def test_without_an_account_everything_stays_ours(tree: Path) -> None:
    give_tree(tree, None)
    assert owners(tree) == {0}


def test_a_second_name_of_a_file_outside_is_not_given_away(tree: Path, nobody: Account) -> None:
    (tree / "base" / "shadow").hardlink_to(tree.parent / "outside")
    with pytest.raises(PermanentError, match="base/shadow has another name"):
        give_tree(tree, nobody)
    assert (tree.parent / "outside").stat().st_uid == 0
    assert tree.stat().st_uid == 0
