"""Restore a dump into a running, freshly initialised build server.

Called by the session. The dump is run here as the product's client would run it, as the
account that has rights on databases of users only; what it says about accounts,
replication and the server's own databases is left out. Definers become that account.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from reconciler.engines.compressed import compression_of, open_stream
from reconciler.engines.mysql import accounts, mydumper, notes, server
from reconciler.engines.mysql.dumps import detect
from reconciler.engines.mysql.failures import SqlError
from reconciler.engines.mysql.lexer import SqlReader
from reconciler.engines.mysql.link import quoted
from reconciler.engines.mysql.runner import Runner
from reconciler.engines.mysql.statements import Kind, classify, without_definer
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.base import BuildWork, Progress
    from reconciler.engines.compressed import Readable
    from reconciler.engines.mysql.lexer import Statement
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.product import Product

_TRAILER = b"-- Dump completed"
_TAIL_BYTES = 1024
_REPORT_BYTES = 256 << 20
_GIB = 1 << 30
_NO_DATABASE = 1046


def restore_dump(work: BuildWork, product: Product) -> None:
    """Load ``work.source`` (kind ``dump``).

    Raises:
        SourceError: missing, truncated, damaged, of another product, or its SQL failed.
        UnavailableError: the server went away.

    """
    path = work.source.path
    if path is None:
        raise SourceError("the source has no path")
    if work.source.globals is not None:
        raise SourceError(
            "dumps of this product have no globals: accounts of production are not restored",
            hint="remove source.dump.globals; users of a clone are in its document",
        )
    with (
        accounts.opened_owner(work, product) as password,
        server.link(work, server.OWNER, password, cancel=work.cancel) as link,
    ):
        target = DumpTarget(link, default=default_database(work.source.name or path.name, work.databases))
        _restore(work, target, path)
    if target.left_out:
        told = ", ".join(sorted(target.left_out))
        notes.add_line(work, "left_out", f"left out of the dump: {told}")
    if not target.databases:
        raise SourceError(f"the dump {path} holds no database: no statement of it belongs into one")


def default_database(name: str, wanted: tuple[str, ...]) -> str:
    """Return where a dump goes that names no database itself: the only wanted one, or the file's name."""
    if len(wanted) == 1:
        return wanted[0]
    return re.sub(r"[^\w-]", "_", name.split(".", maxsplit=1)[0]) or "restored"


def _restore(work: BuildWork, target: DumpTarget, path: Path) -> None:
    found = detect(path)
    if found.directory:
        _restore_directory(work, target, path)
        return
    with open_stream(path, found.compression) as stream:
        watched = _Watched(stream, work.progress, None if found.compression else path.stat().st_size)
        reader = SqlReader(watched, origin=str(path), error=SourceError)
        Runner(reader, target, cancel=work.cancel, whole=True).run()
        if found.says_its_end and _TRAILER not in watched.tail:
            raise SourceError(f"the dump {path} is truncated: its last line ({_TRAILER.decode()}) is missing")


def _restore_directory(work: BuildWork, target: DumpTarget, path: Path) -> None:
    """Run the files of mydumper one after the other."""
    parts = mydumper.parts(path)
    made = {part.database for part in parts if part.makes_database}
    for number, part in enumerate(parts, start=1):
        if part.database.lower() in server.SYSTEM_DATABASES:
            continue
        work.progress(f"restoring file {number} of {len(parts)}")
        if not part.makes_database:
            target.begin(part.database, make=part.database not in made)
            made.add(part.database)
        with open_stream(part.path, compression_of(part.path)) as stream:
            reader = SqlReader(stream, origin=str(part.path), error=SourceError, delimiter=mydumper.DELIMITER)
            Runner(reader, target, cancel=work.cancel, whole=True).run()


class DumpTarget:
    """The connection that a dump runs on, and what of it is not run."""

    def __init__(self, link: Link, *, default: str) -> None:
        self._link = link
        self._default = default
        self._skipping = False
        self.databases: set[str] = set()
        self.left_out: set[str] = set()
        """What was left out, in a few words."""

    @property
    def link(self) -> Link:
        return self._link

    def execute(self, statement: Statement) -> None:
        kind, name = classify(statement.text)
        ours = name.lower() in server.SYSTEM_DATABASES
        if kind is Kind.USE:
            self._skipping = ours
        if (self._skipping and kind is not Kind.CREATE_DATABASE) or (kind is Kind.CREATE_DATABASE and ours):
            self.left_out.add("the server's own databases")
            return
        if kind is Kind.SKIP:
            self.left_out.add("accounts and settings of the server")
            return
        if kind in (Kind.USE, Kind.CREATE_DATABASE):
            self.databases.add(name)
        self._run(without_definer(statement.text))

    def _run(self, text: bytes) -> None:
        try:
            self._link.execute(text)
        except SqlError as error:
            if error.code != _NO_DATABASE or self.databases:
                raise
            self._begin_default()
            self._link.execute(text)

    def begin(self, database: str, *, make: bool) -> None:
        """Go on in a database, which is made if no statement has done that."""
        if make:
            self._link.rows(f"CREATE DATABASE {quoted(database)}")
        self._link.rows(f"USE {quoted(database)}")
        self.databases.add(database)

    def _begin_default(self) -> None:
        """Make the database that the dump does not name, once it needs one."""
        self.begin(self._default, make=True)


class _Watched:
    """A stream that reports progress and remembers how it ended."""

    def __init__(self, stream: Readable, progress: Progress, size: int | None) -> None:
        self._stream = stream
        self._progress = progress
        self._of = f" of {size / _GIB:.1f}" if size else ""
        self._count = 0
        self._next_report = _REPORT_BYTES
        self.tail = b""

    def read(self, size: int, /) -> bytes:
        block = self._stream.read(size)
        self.tail = (self.tail + block)[-_TAIL_BYTES:] if block else self.tail
        self._count += len(block)
        if self._count >= self._next_report:
            self._next_report += _REPORT_BYTES
            self._progress(f"restoring {self._count / _GIB:.1f}{self._of} GiB of SQL")
        return block
