"""Dumps: SQL text, compressed or not, recognised by how it begins and loaded statement by statement.

Called by the engine and the session. The text runs as :mod:`.guard` allows; a dump that
ends inside a statement or a transaction is truncated and refused.
"""

from __future__ import annotations

import codecs
import re
import sqlite3
from typing import TYPE_CHECKING

from reconciler.engines.compressed import compression_in, open_stream
from reconciler.engines.sqlite import guard, header
from reconciler.engines.sqlite.databases import connect
from reconciler.engines.sqlite.failures import code, reason
from reconciler.engines.sqlite.statements import statements
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reconciler.engines.base import BuildWork
    from reconciler.engines.compressed import Compression, Readable
    from reconciler.engines.sqlite.statements import Statement

_PROBE = 16384
_OTHER_PRODUCTS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"PGDMP|(?:--[^\n]*\n)*-- PostgreSQL database"), "a PostgreSQL dump"),
    (re.compile(rb"(?:/\*M?!\S*[^\n]*\n)*-- (?:MySQL|MariaDB) dump|-- phpMyAdmin"), "a MySQL or MariaDB dump"),
    (re.compile(rb"TAPE\x00\x00|MSSQLBAK"), "a SQL Server backup (.bak)"),
)
_FOREIGN_WORDS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"(?im)^GO\s*$|^USE \[|\bmaster\.dbo\.|\[dbo\]\."), "a SQL Server script"),
    (re.compile(rb"(?im)\)\s*ENGINE\s*=\s*\w+|^LOCK TABLES |^DELIMITER "), "a MySQL or MariaDB script"),
    (re.compile(rb"(?im)^COPY \S.* FROM stdin;|\bpg_catalog\."), "a PostgreSQL script"),
    (re.compile(rb"(?im)\bVARCHAR2\s*\(|^GRANT UNLIMITED TABLESPACE"), "an Oracle script"),
)


def detect(path: Path) -> Compression | None:
    """Return how a dump is compressed.

    Raises:
        SourceError: it is missing, empty, unreadable, a database file, or another product's dump.
        NotInstalledError: no program to decompress it is on this host.

    """
    try:
        if path.is_dir():
            raise SourceError(f"the dump {path} is a directory", hint="name the file with the SQL")
        with path.open("rb") as file:
            head = file.read(_PROBE)
    except OSError as error:
        raise SourceError(f"cannot read the dump {path}: {error.strerror}") from error
    compression = compression_in(head)
    if compression is not None:
        with open_stream(path, compression) as stream:
            head = stream.read(_PROBE)
    if not head.strip():
        raise SourceError(f"the dump {path} is empty")
    _refuse(path, head)
    return compression


def _refuse(path: Path, head: bytes) -> None:
    if head.startswith(header.MAGIC):
        raise SourceError(f"{path} is a database file, not a dump", hint="use source.files")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(f"{path} is UTF-16; write the dump in UTF-8")
    text = head.lstrip(b"\xef\xbb\xbf\r\n ")
    product = next((name for pattern, name in _OTHER_PRODUCTS if pattern.match(text)), None)
    product = product or next((name for pattern, name in _FOREIGN_WORDS if pattern.search(head)), None)
    if product is None and b"\0" in head:
        product = "no SQL text"
    if product is not None:
        raise SourceError(f"the dump {path} looks like {product}, not like one of SQLite")


def load(work: BuildWork, dump: Path, database: Path) -> None:
    """Run a dump in an empty database.

    Raises:
        SourceError: it is truncated, or a statement failed (file, line, statement).

    """
    compression = detect(dump)
    with open_stream(dump, compression) as stream, connect(database, cancel=work.cancel) as conn:
        conn.execute("PRAGMA synchronous = OFF")  # thrown away unless all of it is there
        loaded = _Load(conn, dump, work)
        for number, statement in enumerate(statements(_decoded(stream, dump))):
            if number % 5000 == 0:
                work.cancel.check()
            loaded.run(statement)
        loaded.end()


class _Load:
    """A dump on its way in."""

    def __init__(self, conn: sqlite3.Connection, dump: Path, work: BuildWork) -> None:
        self._conn, self._dump, self._work = conn, dump, work
        self._refused = guard.watch(conn, dump=True)

    def run(self, statement: Statement) -> None:
        where = f"{self._dump}:{statement.line}"
        if statement.dot_command:
            raise SourceError(
                f"{where}: the shell command .{statement.dot_command} is not run: write a dump of SQL alone"
            )
        if not statement.complete:
            raise SourceError(
                f"{where}: the file ends inside this statement: {statement.shown}", reason="SourceIncomplete"
            )
        if statement.text[:8].upper() == "ROLLBACK":  # what the shell writes at the end of what it could not read
            raise SourceError(f"{where}: the dump takes itself back: it was made of a damaged database")
        try:
            self._conn.execute(statement.text).fetchall()
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            self._work.cancel.check()
            refused = self._refused()
            why = f"{refused} is not allowed" if refused else reason(error)
            full = " (the disk is full)" if code(error) == "SQLITE_FULL" else ""
            raise SourceError(f"{where}: {why}{full}, in: {statement.shown}") from error

    def end(self) -> None:
        if self._conn.in_transaction:
            raise SourceError(f"{self._dump} ends inside a transaction: it is truncated", reason="SourceIncomplete")


def _decoded(stream: Readable, dump: Path) -> Callable[[int], str]:
    decoder = codecs.getincrementaldecoder("utf-8")()

    def more(size: int) -> str:
        try:
            while True:
                block = stream.read(size)
                text = decoder.decode(block, final=not block)
                if text or not block:
                    return text
        except UnicodeDecodeError as error:
            raise SourceError(f"{dump} is not UTF-8 text: {error.reason}") from error

    return more
