"""What a dump is: recognised from its first bytes.

Called by :mod:`.identify` and :mod:`.logical`. Reads little, changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.engines.compressed import compression_in, open_stream
from reconciler.engines.mysql import mydumper
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.compressed import Compression

_PROBE_BYTES = 16384
_OTHER_FORMATS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"PGDMP"), "an archive of pg_dump"),
    (re.compile(rb"SQLite format 3\x00"), "a SQLite database file"),
    (re.compile(rb"XBSTCK01"), "a stream of a physical backup"),
    (re.compile(rb"TAPE\x00\x00|MSSQLBAK"), "a SQL Server backup (.bak)"),
    (re.compile(rb"[\x00-\x04].{0,40}EXPORT:V\d|.{0,64}SYS_EXPORT_", re.DOTALL), "an Oracle export"),
    (re.compile(rb"--\s*\n-- PostgreSQL database (?:cluster )?dump"), "a PostgreSQL dump"),
    (re.compile(rb"PRAGMA foreign_keys\s*="), "a SQLite dump"),
)
_OTHER_WORDS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (
        re.compile(
            rb"(?im)^COPY [^;]+ FROM stdin;|^SET (?:client_encoding|search_path)\b|^CREATE EXTENSION|^\\connect "
        ),
        "a PostgreSQL script",
    ),
    (re.compile(rb"(?im)^GO\s*$|^USE \[|\bmaster\.dbo\.|\[dbo\]\."), "a SQL Server script"),
    (re.compile(rb"(?im)\bVARCHAR2\s*\(|^GRANT UNLIMITED TABLESPACE|\bNUMBER\(\d+(?:,\d+)?\)\s"), "an Oracle script"),
    (re.compile(rb"(?im)^PRAGMA \w+|\bAUTOINCREMENT\b|^(?:CREATE TABLE|INSERT INTO) \["), "a SQLite script"),
)
_HEADER = re.compile(rb"(?m)^-- (?:MySQL|MariaDB) dump ")
_NOISE = re.compile(rb"--[^\n]*|/\*(?!!|M!).*?(?:\*/|\Z)|'(?:[^'\\]|\\.|'')*'", re.DOTALL)
_OF = re.compile(rb"(?m)^-- (?:MySQL|MariaDB) dump .*?(?:Distrib |Ver )([0-9.]+)(-MariaDB)?")


@dataclass(frozen=True, slots=True)
class Format:
    """How a dump is packed, and whether its end says that it is one (``-- Dump completed``)."""

    compression: Compression | None = None
    says_its_end: bool = False
    directory: bool = False
    """Of mydumper."""


def detect(path: Path) -> Format:
    """Return the format of a dump.

    Raises:
        SourceError: it is missing, empty, unreadable, or another product's dump.
        NotInstalledError: no program to decompress it is on this host.

    """
    try:
        if path.is_dir() and mydumper.is_directory(path):
            return Format(directory=True)
        if path.is_dir():
            raise SourceError(_about_directory(path))
        with path.open("rb") as file:
            head = file.read(_PROBE_BYTES)
    except OSError as error:
        raise SourceError(f"cannot read the dump {path}: {error.strerror}") from error
    if not head:
        raise SourceError(f"the dump {path} is empty")
    compression = compression_in(head)
    if compression is not None:
        with open_stream(path, compression) as stream:
            head = stream.read(_PROBE_BYTES)
    _refuse_other(path, head)
    return Format(compression, says_its_end=_HEADER.search(head) is not None)


def _about_directory(path: Path) -> str:
    if any((path / name).is_file() for name in ("ibdata1", "xtrabackup_checkpoints", "mariadb_backup_checkpoints")):
        return f"{path} is a physical backup or a data directory: use source.backup or source.files"
    return f"the dump {path} is a directory, and not one of mydumper: it has no {mydumper.METADATA}"


def _refuse_other(path: Path, head: bytes) -> None:
    text = head.lstrip(b"\xef\xbb\xbf\r\n ")
    product = next((name for pattern, name in _OTHER_FORMATS if pattern.match(text)), None)
    if product is None and _HEADER.search(head) is None:
        code = _NOISE.sub(b" ", head)
        product = next((name for pattern, name in _OTHER_WORDS if pattern.search(code)), None)
    if product is None and b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        product = "no SQL text"
    if product is None and head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(f"the dump {path} is in UTF-16", hint="convert it to UTF-8")
    if product is not None:
        raise SourceError(f"the dump {path} looks like {product}, not like one of MariaDB or MySQL")
