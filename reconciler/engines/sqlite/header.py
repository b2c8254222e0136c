"""The first hundred bytes of a database file (https://sqlite.org/fileformat.html, section 1.3), and what they tell.

Called for sources, before the library is let near them. Reads only.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"SQLite format 3\x00"
_SIZE = 100
_PROBE = 4096
_RANDOM_BITS = 7.5
"""Bits per byte above which a page is taken for encrypted: pages of databases have far fewer."""
_WAL = 2
_WAL_SIZE_OFFSETS = slice(18, 20)
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"PGDMP", "an archive of pg_dump"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"PK\x03\x04", "a zip archive"),
    (b"** This file contains an SQLite 2", "a database of SQLite 2"),
    (b"-- ", "SQL text"),
    (b"PRAGMA ", "SQL text"),
    (b"BEGIN", "SQL text"),
    (b"CREATE ", "SQL text"),
)


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says."""

    page_size: int
    wal: bool
    pages: int
    """Pages that the file says it has; 0: it does not say."""


def read(path: Path) -> Header:
    """Return the header of a database file.

    Raises:
        SourceError: it is no database of SQLite 3, encrypted, cut off, or cannot be read.

    """
    try:
        with path.open("rb") as file:
            head = file.read(_PROBE)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise SourceError(f"{path} is empty: there is no database in it")
    if not head.startswith(MAGIC):
        raise SourceError(_no_database(path, head))
    if len(head) < _SIZE:
        raise SourceError(f"{path} is cut off in the middle of its header", reason="SourceIncomplete")
    page = int.from_bytes(head[16:18], "big")
    page = 65536 if page == 1 else page
    if page < 512 or page & (page - 1):  # noqa: PLR2004 - the least that a page can be
        raise SourceError(f"{path} is damaged: its header says pages of {page} bytes")
    # The size in the header counts only if the change counter beside it is that of the header's last writer.
    pages = int.from_bytes(head[28:32], "big") if head[24:28] == head[92:96] else 0
    return Header(page, max(head[_WAL_SIZE_OFFSETS]) >= _WAL, pages)


def cut_off(path: Path) -> str:
    """Say how much of a file is missing that the library finds damaged; empty: that is not what is wrong.

    Of a file that somebody writes to it may say so as well, at the moment at which the file grows.
    """
    found, size = read(path), path.stat().st_size
    whole = found.pages * found.page_size
    return f"it is cut off: it has {size} of {whole} bytes" if size < whole else ""


def is_database(path: Path) -> bool:
    """Whether a file begins as a database does."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _no_database(path: Path, head: bytes) -> str:
    known = next((what for magic, what in _OTHERS if head.lstrip().upper().startswith(magic.upper())), None)
    if known == "SQL text":
        return f"{path} is SQL text, not a database file: use source.dump"
    if known is not None:
        return f"{path} is {known}, not a database of SQLite 3"
    if len(head) == _PROBE and _entropy(head) > _RANDOM_BITS:
        return (
            f"{path} is no database that can be read: it has no header of SQLite and looks encrypted (SQLCipher,"
            f" SEE); decrypt it where its key is, for example with sqlcipher_export"
        )
    return f"{path} is no database of SQLite: it does not begin as one does"


def _entropy(data: bytes) -> float:
    return -sum(n / len(data) * math.log2(n / len(data)) for n in Counter(data).values())
