"""What a dump is: recognised from its first bytes, and opened as a stream of SQL when it is one.

Called by :mod:`.identify` and :mod:`.logical`. Reads little, changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from reconciler.engines.compressed import compression_in, open_stream
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.compressed import Compression

Layout = Literal["plain", "custom", "directory", "tar"]

_PROBE_BYTES = 16384
_TAR_MAGIC_AT = 257
_OTHER_PRODUCTS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"SQLite format 3\x00"), "a SQLite database file"),
    (
        re.compile(
            rb"TAPE\x00\x00|MSSQLBAK|.{0,64}M\x00i\x00c\x00r\x00o\x00s\x00o\x00f\x00t\x00 \x00S\x00Q\x00L", re.DOTALL
        ),
        "a SQL Server backup (.bak)",
    ),
    (re.compile(rb"[\x00-\x04].{0,40}EXPORT:V\d|.{0,64}SYS_EXPORT_", re.DOTALL), "an Oracle export (exp or Data Pump)"),
    (re.compile(rb"(?:/\*M?!\S*[^\n]*\n)*-- (?:MySQL|MariaDB) dump|-- phpMyAdmin"), "a MySQL or MariaDB dump"),
    (re.compile(rb"PRAGMA foreign_keys\s*="), "a SQLite dump"),
)
_FOREIGN_WORDS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (
        re.compile(rb"(?im)^GO\s*$|^USE \[|\bmaster\.dbo\.|\[dbo\]\."),
        "a SQL Server script",
    ),
    (
        re.compile(
            rb"(?im)^(?:DROP DATABASE IF EXISTS|CREATE (?:TABLE|DATABASE)(?: IF NOT EXISTS)?|USE|INSERT INTO"
            rb"|LOCK TABLES) `|\)\s*ENGINE\s*=\s*\w+"
        ),
        "a MySQL or MariaDB script",
    ),
    (re.compile(rb"(?im)\bVARCHAR2\s*\(|^GRANT UNLIMITED TABLESPACE|\bNUMBER\(\d+(?:,\d+)?\)\s"), "an Oracle script"),
    (re.compile(rb"(?im)^PRAGMA \w+|\bAUTOINCREMENT\b|^(?:CREATE TABLE|INSERT INTO) \["), "a SQLite script"),
)
_DUMPED_FROM = re.compile(rb"^-- Dumped from database version (\d+)", re.MULTILINE)
_SQL_NOISE = re.compile(rb"--[^\n]*|/\*.*?(?:\*/|\Z)|'(?:[^']|'')*'", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Format:
    """How a dump is laid out; ``from_major`` is the major version that it was taken from, when its head says so."""

    layout: Layout
    compression: Compression | None = None
    from_major: int | None = None


def detect(path: Path) -> Format:
    """Return the format of a dump.

    Raises:
        SourceError: it is missing, empty, unreadable, or another product's dump.
        NotInstalledError: no program to decompress it is on this host.

    """
    try:
        if path.is_dir():
            return _directory(path)
        with path.open("rb") as file:
            head = file.read(_PROBE_BYTES)
    except OSError as error:
        raise SourceError(f"cannot read the dump {path}: {error.strerror}") from error
    if not head:
        raise SourceError(f"the dump {path} is empty")
    if head.startswith(b"PGDMP"):
        return Format("custom")
    compression = compression_in(head)
    if compression is not None:
        with open_stream(path, compression) as stream:
            head = stream.read(_PROBE_BYTES)
        if head.startswith(b"PGDMP") or _is_tar(head):
            raise SourceError(f"{path} is a compressed archive", hint=f"decompress it: {compression} -d")
    elif _is_tar(head):
        return _tar(path, head)
    _refuse_other_product(path, head)
    dumped = _DUMPED_FROM.search(head)
    return Format("plain", compression, int(dumped[1]) if dumped else None)


def _directory(path: Path) -> Format:
    if (path / "toc.dat").is_file():
        return Format("directory")
    if (path / "PG_VERSION").is_file():
        raise SourceError(f"{path} is a data directory or physical backup", hint="use source.backup or source.files")
    if (path / "base.tar").exists() or any(path.glob("base.tar.*")):
        raise SourceError(f"{path} is a physical backup", hint="use source.backup")
    raise SourceError(f"{path} is no directory-format dump: it has no toc.dat")


def _is_tar(head: bytes) -> bool:
    return head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar" or head[:8] == b"toc.dat\x00"


def _tar(path: Path, head: bytes) -> Format:
    if head.startswith(b"toc.dat\x00"):
        return Format("tar")
    raise SourceError(f"{path} is a tar file, but no dump of pg_dump --format=tar", hint="unpack it first")


def _refuse_other_product(path: Path, head: bytes) -> None:
    product = next(
        (name for pattern, name in _OTHER_PRODUCTS if pattern.match(head.lstrip(b"\xef\xbb\xbf\r\n "))), None
    )
    if product is None and b"PostgreSQL database" not in head[:500]:
        code = _SQL_NOISE.sub(b" ", head)
        product = next((name for pattern, name in _FOREIGN_WORDS if pattern.search(code)), None)
    if product is None and b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        product = "no SQL text and no archive of pg_dump"
    if product is not None:
        raise SourceError(f"the dump {path} looks like {product}, not like one of PostgreSQL")
