"""Restore a dump into a running, freshly initialised build server.

Called by the engine's session. Plain SQL is run here as psql would run it; archives go
to :mod:`.archive`. Everything that a dump contains runs without superuser rights (see
:mod:`.restore_target`), unless the host grants ``superuserScripts``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from reconciler.engines.compressed import open_stream
from reconciler.engines.postgres.archive import restore_archive
from reconciler.engines.postgres.failures import SqlError
from reconciler.engines.postgres.formats import Format, detect
from reconciler.engines.postgres.lexer import SqlReader
from reconciler.engines.postgres.restore_target import RestoreTarget
from reconciler.engines.postgres.runner import Runner
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.base import BuildWork, InstalledServer, Progress
    from reconciler.engines.postgres.lexer import Readable

_HEADERS = (
    (b"-- PostgreSQL database cluster dump\n", b"-- PostgreSQL database cluster dump complete"),
    (b"-- PostgreSQL database dump\n", b"-- PostgreSQL database dump complete"),
)
_HEAD_BYTES = 512
_TAIL_BYTES = 1024
_REPORT_BYTES = 256 << 20
_GIB = 1 << 30


def restore_dump(work: BuildWork, installed: InstalledServer) -> None:
    """Load ``work.source`` (kind ``dump``). ``ensure_builder`` was called before.

    Raises:
        SourceError: missing, truncated, damaged, of another product or a newer version, or its SQL failed.
        UnavailableError: the server went away.

    """
    path = work.source.path
    if path is None:
        raise SourceError("the source has no path")
    found = detect(path)
    _refuse_newer(path, found, installed)
    target = RestoreTarget(work, default=default_database(work.source.name or path.name, work.databases))
    try:
        if work.source.globals is not None:
            restore_plain(work, target, work.source.globals, detect(work.source.globals))
            target.begin()
        if found.layout == "plain":
            restore_plain(work, target, path, found)
        else:
            restore_archive(work, installed, target, found)
        if target.database is None:
            raise SourceError(f"the dump {path} holds no database: no statement of it belongs into one")
        target.finish()
    except SqlError as error:
        raise SourceError(f"{path}: {error}", hint=error.hint) from error
    finally:
        target.close()


def default_database(name: str, wanted: tuple[str, ...]) -> str:
    """Return where a dump goes that names no database itself: the only wanted one, or the file's name."""
    if len(wanted) == 1:
        return wanted[0]
    return re.sub(r"[^\w-]", "_", name.split(".", maxsplit=1)[0]) or "restored"


def restore_plain(work: BuildWork, target: RestoreTarget, path: Path, found: Format) -> None:
    """Run a file of plain SQL, and require the end that pg_dump writes.

    Raises:
        SourceError: it is an archive, or truncated.

    """
    if found.layout != "plain":
        raise SourceError(f"{path} is an archive; globals must be plain SQL (pg_dumpall --globals-only)")
    with open_stream(path, found.compression) as stream:
        watched = _Watched(stream, work.progress, None if found.compression else path.stat().st_size)
        run_sql(work, target, SqlReader(watched, origin=str(path), error=SourceError))
        watched.require_end(path)


def run_sql(work: BuildWork, target: RestoreTarget, reader: SqlReader) -> None:
    """Run a whole script of a dump."""
    Runner(reader, target, cancel=work.cancel, whole=True, superuser=work.superuser_scripts).run()


def _refuse_newer(path: Path, found: Format, installed: InstalledServer) -> None:
    if found.from_major is not None and found.from_major > int(installed.major):
        raise SourceError(
            f"the dump {path} is of PostgreSQL {found.from_major}, and the server is {installed.version}",
            hint=f'set version: "{found.from_major}" and install postgresql-{found.from_major}',
        )


class _Watched:
    """A stream that reports progress and remembers whether it ended as it began."""

    def __init__(self, stream: Readable, progress: Progress, size: int | None) -> None:
        self._stream = stream
        self._progress = progress
        self._of = f" of {size / _GIB:.1f}" if size else ""
        self._count = 0
        self._next_report = _REPORT_BYTES
        self._head = b""
        self._tail = b""

    def read(self, size: int, /) -> bytes:
        block = self._stream.read(size)
        if not self._count:
            self._head = block[:_HEAD_BYTES]
        self._tail = block[-_TAIL_BYTES:] if len(block) >= _TAIL_BYTES else (self._tail + block)[-_TAIL_BYTES:]
        self._count += len(block)
        if self._count >= self._next_report:
            self._next_report += _REPORT_BYTES
            self._progress(f"restoring {self._count / _GIB:.1f}{self._of} GiB of SQL")
        return block

    def require_end(self, path: Path) -> None:
        """Check that a dump of pg_dump has the last line that pg_dump writes.

        Raises:
            SourceError: it was cut off between two statements.

        """
        head = self._head.replace(b"\r\n", b"\n")
        for begin, end in _HEADERS:
            if begin in head:
                if end not in self._tail:
                    raise SourceError(f"the dump {path} is truncated: its last line ({end.decode()}) is missing")
                return
