"""Parts of two files are told to be one only where they are one on disk."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from reconciler import fiemap
from reconciler.storage import linux

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.fiemap import Part

KIB = 1024
SIZE = 1024 * KIB


@pytest.fixture(params=["btrfs_path", "xfs_path"])
def copies(request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A file and its copy on write."""
    directory: Path = request.getfixturevalue(request.param)
    one, other = directory / "one", directory / "other"
    one.write_bytes(os.urandom(SIZE))
    with one.open("rb") as source, other.open("wb") as target:
        linux.share_blocks(source.fileno(), target.fileno())
    return one, other


def common(one: Path, other: Path) -> list[Part]:
    with one.open("rb") as first, other.open("rb") as second:
        return fiemap.common(first.fileno(), second.fileno())


def write(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


@pytest.mark.root
def test_what_was_not_written_to_is_one(copies: tuple[Path, Path]) -> None:
    one, other = copies
    assert common(one, other) == [(0, SIZE)]
    write(other, 512 * KIB, b"x" * 8 * KIB)
    assert common(one, other) == [(0, 512 * KIB), (520 * KIB, SIZE)]
    write(one, 0, b"x")
    assert common(one, other) == [(4 * KIB, 512 * KIB), (520 * KIB, SIZE)]


@pytest.mark.root
def test_equal_bytes_that_were_written_anew_are_not_one(copies: tuple[Path, Path]) -> None:
    one, other = copies
    write(other, 64 * KIB, one.read_bytes()[64 * KIB : 128 * KIB])
    assert one.read_bytes() == other.read_bytes()
    assert common(one, other) == [(0, 64 * KIB), (128 * KIB, SIZE)]


@pytest.mark.root
def test_the_same_bytes_at_another_place_are_not_one(copies: tuple[Path, Path]) -> None:
    one, other = copies
    moved = other.with_name("moved")
    with one.open("rb") as source, moved.open("wb") as target:
        target.truncate(64 * KIB)
        linux.share_blocks(source.fileno(), target.fileno())
    os.truncate(moved, 32 * KIB)
    assert common(moved, other) == [(0, 32 * KIB)]
    plain = other.with_name("plain")
    shutil.copyfile(one, plain)
    assert common(plain, other) in ([], [(0, SIZE)])  # what copies may share the blocks by itself


def test_where_nothing_is_shared_nothing_is_one(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).write_bytes(b"x" * SIZE)
    assert common(tmp_path / "one", tmp_path / "other") == []
    read, written = os.pipe()
    with closing(os.fdopen(read)), closing(os.fdopen(written, "w")):
        assert fiemap.common(read, written) == []
