from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from reconciler.storage.tree import copy_bytes, copy_tree, regular_files, remove_tree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.root
def test_owners_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "file").write_bytes(b"x")
    (source / "link").symlink_to("inner")
    if os.geteuid() != 0:
        pytest.skip("needs root: only root gives files away")
    for number, path in enumerate((source, source / "inner", source / "inner" / "file", source / "link")):
        os.chown(path, 1000 + number, 2000 + number, follow_symlinks=False)
    copy_tree(source, tmp_path / "target", copy_bytes)
    copies = (tmp_path / "target" / name for name in (".", "inner", "inner/file", "link"))
    assert [(path.lstat().st_uid, path.lstat().st_gid) for path in copies] == [
        (1000 + number, 2000 + number) for number in range(4)
    ]


@pytest.mark.parametrize(
    "spans", [[], [(0, 10)], [(0, 1 << 20), (9 << 20, 17)], [(5 << 20, 4096)], [(0, (8 << 20) + 3)]]
)
def test_every_layout_of_holes_is_copied(tmp_path: Path, spans: list[tuple[int, int]]) -> None:
    (tmp_path / "source").mkdir()
    with (tmp_path / "source" / "file").open("wb") as file:
        for start, length in spans:
            file.seek(start)
            file.write(os.urandom(length))
        file.truncate(10 << 20)
    copy_tree(tmp_path / "source", tmp_path / "target", copy_bytes)
    assert (tmp_path / "target" / "file").read_bytes() == (tmp_path / "source" / "file").read_bytes()


def test_removing_what_is_absent_does_nothing(tmp_path: Path) -> None:
    remove_tree(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_walking_copes_with_files_that_vanish(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"file-{number}").write_bytes(b"x" * number)
    sizes = []
    for _, status in regular_files(tmp_path):
        sizes.append(status.st_size)
        for path in tmp_path.iterdir():
            path.unlink()
    assert len(sizes) == 1


def test_walking_opens_nothing_but_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "file").write_bytes(b"12")
    (tmp_path / "again").hardlink_to(tmp_path / "file")
    assert [status.st_size for _, status in regular_files(tmp_path)] == [2]
