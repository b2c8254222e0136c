"""Keeps drawn originals until the files of a build were searched for them.

Used by the engines that draw them. Most are a few megabytes, packed in memory. Those of
hundreds of columns are put into a temporary file that has no name, encrypted under a key
that is in memory only and is forgotten with it: whatever becomes of the process or the
disk, nobody can read them there. Nothing here is logged or shown.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
import weakref
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from reconciler.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOM = 4 << 20
"""Bytes that are kept in memory: what some 250 columns have."""
_NONCE = 12


class Vault:
    """Keeps the originals of a database. Several threads may read what was kept."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._file: _Encrypted | None = None

    def keep(self, texts: Iterable[str]) -> Sequence[str]:
        """Return the same texts, kept here.

        Raises:
            UnavailableError: the temporary file cannot be written.

        """
        ends = array("I")
        data = bytearray()
        for text in texts:
            data += _encoded(text)
            ends.append(len(data))
        if len(data) <= self._room:
            self._room -= len(data)
            return _Kept(ends, bytes(data), None)
        if self._file is None:
            self._file = _Encrypted()
        return _Kept(ends, self._file.write(bytes(data)), self._file)


class _Kept(Sequence[str]):
    """Texts of a vault; ``stored`` is their packed bytes, or the place of those in its file."""

    __slots__ = ("_ends", "_file", "_stored")

    def __init__(self, ends: array[int], stored: bytes | tuple[int, int, int], file: _Encrypted | None) -> None:
        self._ends = ends
        self._stored = stored
        self._file = file

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return tuple(self)[index]
        at = range(len(self._ends))[index]
        return self._text(self._packed(), at)

    def __iter__(self) -> Iterator[str]:
        packed = self._packed()
        return (self._text(packed, at) for at in range(len(self._ends)))

    def _text(self, packed: bytes, at: int) -> str:
        return packed[self._ends[at - 1] if at else 0 : self._ends[at]].decode("utf-8", "surrogatepass")

    def _packed(self) -> bytes:
        if isinstance(self._stored, bytes):
            return self._stored
        if self._file is None:
            raise AssertionError("there is no file")
        return self._file.read(self._stored)


class _Encrypted:
    """A file without a name, of records that only this object can read; the last one read is remembered."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305  # noqa: PLC0415 - few have so many columns

        self._cipher = ChaCha20Poly1305(secrets.token_bytes(32))
        self._lock = threading.Lock()
        self._written = 0
        self._last: tuple[int, bytes] = (-1, b"")
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object
        except OSError as error:
            raise UnavailableError(f"originals cannot be kept in a temporary file: {error.strerror}") from error
        weakref.finalize(self, self._file.close)

    def write(self, data: bytes) -> tuple[int, int, int]:
        """Add a record; return its number, where it begins and its length."""
        with self._lock:
            sealed = self._cipher.encrypt(self._written.to_bytes(_NONCE), data, None)
            try:
                start = self._file.seek(0, 2)
                self._file.write(sealed)
                self._file.flush()
            except OSError as error:
                raise UnavailableError(f"originals cannot be kept in a temporary file: {error.strerror}") from error
            self._written += 1
            return self._written - 1, start, len(sealed)

    def read(self, place: tuple[int, int, int]) -> bytes:
        """Return a record."""
        number, start, length = place
        with self._lock:
            if self._last[0] != number:
                self._file.seek(start)
                self._last = number, self._cipher.decrypt(number.to_bytes(_NONCE), self._file.read(length), None)
            return self._last[1]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
