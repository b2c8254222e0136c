"""What a dump is: recognised from its first bytes, and opened as a stream of SQL when it is one.

Called by :mod:`.identify` and :mod:`.logical`. Reads little, changes nothing.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import threading
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

from reconciler import proc
from reconciler.errors import CommandError, ReconcilerError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.engines.postgres.lexer import Readable

Layout = Literal["plain", "custom", "directory", "tar"]
Compression = Literal["gzip", "bzip2", "xz", "zstd", "lz4"]

_PROBE_BYTES = 16384
_MAGIC_BYTES = 8
_MAGIC: tuple[tuple[bytes, Compression], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
)
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
    compression = _compression(head)
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


def compression_of(path: Path) -> Compression | None:
    """Return how a file is compressed, by its first bytes."""
    with path.open("rb") as file:
        return _compression(file.read(_MAGIC_BYTES))


@contextmanager
def open_stream(path: Path, compression: Compression | None) -> Iterator[Readable]:
    """Open a dump or archive, decompressed, as a stream.

    Raises:
        SourceError: the compressed data is damaged or truncated.
        NotInstalledError: the program that decompresses it is not on this host.

    """
    try:
        if compression is None:
            with path.open("rb", buffering=0) as raw:
                yield raw
        elif compression in ("zstd", "lz4"):
            with path.open("rb") as file, _piped([compression, "-dc"], file) as output:
                yield output
        else:
            with _decompressed(path, compression) as stream:
                yield stream
    except CommandError as error:
        raise SourceError(f"{path} is damaged or truncated: {error.stderr.strip()[-200:]}") from error
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"{path} is damaged or truncated: {error}") from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error}") from error


class _Output:
    """Standard output of a running command; reading its end raises what the command failed with."""

    def __init__(self, argv: list[str], stdin: IO[bytes]) -> None:
        read_end, write_end = os.pipe()
        self._pipe = os.fdopen(read_end, "rb", buffering=0)
        self._cancel = proc.CancelToken()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(argv, stdin, write_end), daemon=True)
        self._thread.start()

    def read(self, size: int, /) -> bytes:
        block = self._pipe.read(size)
        if not block:
            self._thread.join()
            if self._failure is not None:
                raise self._failure
        return block

    def close(self) -> None:
        self._cancel.cancel()
        self._pipe.close()
        self._thread.join()

    def _run(self, argv: list[str], stdin: IO[bytes], write_end: int) -> None:
        with os.fdopen(write_end, "wb", buffering=0) as output:
            try:
                proc.run(argv, stdin=stdin, stdout=output, cancel=self._cancel)
            except ReconcilerError as error:
                self._failure = error


@contextmanager
def _piped(argv: list[str], stdin: IO[bytes]) -> Iterator[Readable]:
    output = _Output(argv, stdin)
    try:
        yield output
    finally:
        output.close()


def _decompressed(path: Path, compression: Compression) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    if compression == "gzip":
        return gzip.open(path, "rb")
    return bz2.open(path, "rb") if compression == "bzip2" else lzma.open(path, "rb")


def _compression(head: bytes) -> Compression | None:
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


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
