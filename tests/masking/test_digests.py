"""A large file's digest is of its pieces, is the same however it is taken, and cannot be lent to another content."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from reconciler.masking import digests
from reconciler.masking.digests import PIECE, WHOLE, Digester, KnownPieces

if TYPE_CHECKING:
    from pathlib import Path

LARGE = WHOLE + PIECE + 17
CONTENT = os.urandom(PIECE) * (LARGE // PIECE) + b"the rest of it..."


def taken(content: bytes) -> Digester:
    digester = Digester(len(content))
    for start in range(0, len(content), 4 * PIECE):
        digester.update(memoryview(content)[start : start + 4 * PIECE])
    return digester


@pytest.mark.parametrize("content", [b"", b"x" * WHOLE, CONTENT], ids=["empty", "small", "large"])
def test_a_digest_is_what_reading_the_file_gives(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    found = taken(content).text()
    assert digests.of_file(tmp_path / "file", like=found) == found
    assert digests.from_set(digests.as_set(found)) == found


def test_small_files_have_a_plain_digest_and_large_ones_that_of_their_pieces() -> None:
    assert digests.as_set(taken(b"small").text()) == {"sha256": hashlib.sha256(b"small").hexdigest()}
    pieces = [hashlib.sha256(CONTENT[start : start + PIECE]).digest() for start in range(0, LARGE, PIECE)]
    assert digests.as_set(taken(CONTENT).text()) == {"sha256Pieces128k": hashlib.sha256(b"".join(pieces)).hexdigest()}
    assert taken(CONTENT).pieces == b"".join(pieces)


def test_pieces_are_read_back_for_the_digest_that_they_have_and_no_other(tmp_path: Path) -> None:
    found = taken(CONTENT)
    digests.write(tmp_path, {"data/a": found.pieces, "data/b": taken(CONTENT[::-1]).pieces})
    known = KnownPieces.opened(tmp_path)
    assert known.of("data/a", found.text()) == found.pieces
    assert known.of("data/b", found.text()) == b""
    assert known.of("data/c", found.text()) == b""
    known.close()
    assert known.of("data/a", found.text()) == b""


def test_pieces_of_a_base_do_not_stay(tmp_path: Path) -> None:
    digests.write(tmp_path, {"data/a": taken(CONTENT).pieces})
    digests.write(tmp_path, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]\n", b'{"data/a": 1}\n', b'{"data/a": [1]}\n', b'{"data/a": [0, 9]}\n']
)
def test_pieces_that_cannot_be_read_are_none(tmp_path: Path, line: bytes) -> None:
    (tmp_path / digests.PIECES_NAME).write_bytes(line + b"x")
    known = KnownPieces.opened(tmp_path)
    assert known.of("data/a", taken(CONTENT).text()) == b""
    known.close()
