"""Of a large file that shares blocks with the base, a scan reads what it does not share, and finds as much."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.masking import digests
from reconciler.masking.digests import PIECE, WHOLE
from reconciler.masking.evidence import Base
from reconciler.masking.leaks import scan
from reconciler.storage import linux

from .originals import sample_of

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.masking.evidence import FileScan

pytestmark = pytest.mark.root

SECRET = b"anna.berg-7731@example.org"
HALF = len(SECRET) // 2
SIZE = WHOLE + 8 * PIECE + 4096
BORDER = 20 * PIECE


@pytest.fixture(params=["btrfs_path", "xfs_path"])
def volume(request: pytest.FixtureRequest) -> Path:
    """A directory with ``base``, and ``build`` with a copy on write of its large file."""
    directory: Path = request.getfixturevalue(request.param)
    content = bytearray(os.urandom(SIZE))
    content[BORDER : BORDER + len(SECRET) - HALF] = SECRET[HALF:]
    content[BORDER + PIECE - HALF : BORDER + PIECE] = SECRET[:HALF]
    for name in ("base", "build"):
        (directory / name).mkdir()
    (directory / "base" / "large").write_bytes(content)
    with (directory / "base" / "large").open("rb") as source, (directory / "build" / "large").open("wb") as target:
        linux.share_blocks(source.fileno(), target.fileno())
    return directory


def searched(volume: Path) -> Base:
    """Scan the base, and keep what its attestation would."""
    found = scan(volume / "base", [])
    digests.write(volume / "base", found.pieces)
    return Base(directory=volume / "base", digests=found.digests)


def scanned(volume: Path, base: Base) -> FileScan:
    found = scan(volume / "build", [sample_of([SECRET.decode()])], base=base)
    (file,) = found.files
    assert not found.full
    assert file.sha256 == digests.of_file(volume / "build" / "large", like=file.sha256)
    assert found.searched_bytes + found.skipped_bytes == SIZE
    return file


def write(volume: Path, place: int, content: bytes) -> None:
    with (volume / "build" / "large").open("r+b") as file:
        file.seek(place)
        file.write(content)


def test_what_was_not_written_to_is_not_read(volume: Path) -> None:
    base = searched(volume)
    file = scanned(volume, base)
    assert (file.left_out, file.found) == (SIZE - 4096, frozenset())
    write(volume, 3 * PIECE + 5000, b"x")
    assert scanned(volume, base).left_out == SIZE - 4096 - PIECE


@pytest.mark.parametrize("place", [0, 9 * PIECE + 70_000, SIZE - len(SECRET)])
def test_an_original_in_what_was_written_is_found(volume: Path, place: int) -> None:
    base = searched(volume)
    write(volume, place, SECRET)
    file = scanned(volume, base)
    assert file.found == {(0, 0)}
    assert file.left_out > WHOLE


@pytest.mark.parametrize(
    ("place", "part"), [(BORDER - HALF, SECRET[:HALF]), (BORDER + PIECE, SECRET[HALF:])], ids=["begins", "ends"]
)
def test_an_original_of_which_a_part_was_there_before_is_found(volume: Path, place: int, part: bytes) -> None:
    base = searched(volume)
    write(volume, place, part)
    assert scanned(volume, base).found == {(0, 0)}


def test_pieces_that_the_attestation_does_not_vouch_for_are_read(volume: Path) -> None:
    base = searched(volume)
    digests.write(volume / "base", {"large": os.urandom(32 * -(-SIZE // PIECE))})
    write(volume, BORDER, b"x")
    found = scan(volume / "build", [sample_of([SECRET.decode()])], base=base)
    assert found.full


def test_what_is_known_of_pieces_is_handed_on(volume: Path) -> None:
    base = searched(volume)
    os.utime(volume / "base" / "large", (1_700_000_000, 1_700_000_000))
    (volume / "build" / "large").unlink()
    os.link(volume / "base" / "large", volume / "build" / "large")
    later = datetime.fromtimestamp(1_700_000_000, UTC) + timedelta(hours=1)
    (file,) = scan(volume / "build", [], base=replace(base, begun_at=later)).files
    assert not file.searched
    assert file.pieces == scan(volume / "base", [], base=None).pieces["large"]
