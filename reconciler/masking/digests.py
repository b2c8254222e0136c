"""Digests of files: of small ones SHA-256, of large ones SHA-256 over the SHA-256 of their pieces.

Used by :mod:`.reader`, which takes them, and by :mod:`.attestation`, which says and checks
them. A SHA-256 of a file has to read all of it, also where one page of a gigabyte was
written to. Those of pieces are kept beside the attestation, so that the next build reads
only the pieces that it does not share. Nobody has to trust what is kept: the digests of a
file's pieces are good if theirs is the one that the attestation has of the file.

As text a digest is hexadecimal digits, behind ``sha256Pieces128k:`` where it is of pieces.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Self

from reconciler import durable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PIECES_NAME = "attestation.pieces"
"""The file in a volume, beside its attestation: a line of JSON (offset and length by path), and the digests."""
WHOLE = 16 << 20
"""Bytes up to which a file is read as a whole; a segment of WAL is."""
PIECE = 128 << 10
"""Bytes of a piece: few beside what a changed page costs anyway, many beside the 32 bytes of its digest."""
_PLAIN, _PIECES = "sha256", "sha256Pieces128k"
_DIGEST = 32
_LONGEST_INDEX = 64 << 20


def has_pieces(size: int) -> bool:
    """Tell whether a file of that size has a digest of pieces."""
    return size > WHOLE


class Digester:
    """Takes the digest of a file of ``size`` bytes, which come in their order, in blocks of whole pieces."""

    def __init__(self, size: int) -> None:
        self._plain = None if has_pieces(size) else hashlib.sha256()
        self._pieces = bytearray()

    def update(self, block: memoryview) -> None:
        """Add what was read; all blocks but the last are of whole pieces."""
        if self._plain is not None:
            self._plain.update(block)
            return
        for start in range(0, len(block), PIECE):
            self._pieces += hashlib.sha256(block[start : start + PIECE]).digest()

    def add_known(self, pieces: bytes) -> None:
        """Add pieces by their digests."""
        self._pieces += pieces

    @property
    def pieces(self) -> bytes:
        """Digests of the pieces; empty for a small file."""
        return bytes(self._pieces)

    def text(self) -> str:
        """Return the digest as text."""
        return self._plain.hexdigest() if self._plain is not None else _of_pieces(self._pieces)


class KnownPieces:
    """Digests of pieces that lie in a sealed volume."""

    def __init__(self, descriptor: int | None, index: Mapping[str, tuple[int, int]]) -> None:
        self._descriptor = descriptor
        self._index = index

    @classmethod
    def opened(cls, directory: Path) -> Self:
        """Open what a volume has; nothing, where that is absent or malformed."""
        try:
            descriptor = os.open(directory / PIECES_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return cls(None, {})
        try:
            with os.fdopen(os.dup(descriptor), "rb") as file:
                line = file.readline(_LONGEST_INDEX)
            known = {path: (len(line) + int(row[0]), int(row[1])) for path, row in json.loads(line).items()}
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            os.close(descriptor)
            return cls(None, {})
        return cls(descriptor, known)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def of(self, path: str, digest: str) -> bytes:
        """Return the digests of a file's pieces; empty unless ``digest`` is theirs."""
        if self._descriptor is None or path not in self._index:
            return b""
        start, length = self._index[path]
        try:
            found = os.pread(self._descriptor, max(0, length), start)
        except (OSError, OverflowError):
            return b""
        return found if _of_pieces(found) == digest else b""


def known_piece(pieces: bytes, number: int) -> bytes:
    """Return the digest of one piece; empty when there is none."""
    return pieces[number * _DIGEST : (number + 1) * _DIGEST]


def write(directory: Path, pieces: Mapping[str, bytes]) -> None:
    """Put the digests of all pieces, by the path of their file, into a volume; remove what lies there, of a base.

    Raises:
        OSError: there is no room, or the volume is gone.

    """
    index, place = {}, 0
    for path, digests in sorted(pieces.items()):
        index[path] = (place, len(digests))
        place += len(digests)
    if not index:
        (directory / PIECES_NAME).unlink(missing_ok=True)
        return
    line = json.dumps(index).encode() + b"\n"
    durable.write(directory / PIECES_NAME, b"".join((line, *(pieces[path] for path in index))))


def of_file(path: Path, *, like: str) -> str:
    """Return the digest of a file, of the kind that ``like`` is.

    Raises:
        OSError: it cannot be read.

    """
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:  # noqa: PTH123 - a descriptor, no path
        if not like.startswith(_PIECES):
            return hashlib.file_digest(file, "sha256").hexdigest()
        pieces = bytearray()
        while block := file.read(PIECE):
            pieces += hashlib.sha256(block).digest()
        return _of_pieces(pieces)


def as_set(digest: str) -> dict[str, str]:
    """Return a digest as in-toto's DigestSet has it, by the name of its algorithm."""
    kind, _, value = digest.rpartition(":")
    return {kind or _PLAIN: value}


def from_set(digests: Mapping[str, str]) -> str:
    """Return the digest in a DigestSet.

    Raises:
        KeyError: it has none that is known here.
        TypeError: it is no text.

    """
    if _PLAIN in digests:
        return digests[_PLAIN] + ""
    return f"{_PIECES}:" + digests[_PIECES]


def _of_pieces(pieces: bytes | bytearray) -> str:
    return f"{_PIECES}:{hashlib.sha256(pieces).hexdigest()}"
