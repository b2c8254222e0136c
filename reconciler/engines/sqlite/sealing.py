"""From a filled build to files that can be sealed: written anew, at rest, nothing beside them.

Called by the session (``settle``) and the engine (``finish``). A database that is written
anew (VACUUM INTO, https://sqlite.org/lang_vacuum.html) has no free pages, no slack in its
pages and no deleted rows: what was in them stays in the old file, which goes.
"""

from __future__ import annotations

import json
import os
import sqlite3
from typing import TYPE_CHECKING, Any

from reconciler.engines.sqlite.databases import MAJOR, connect, databases_in, file_of
from reconciler.engines.sqlite.identify import BESIDE
from reconciler.errors import PermanentError
from reconciler.handover import give_tree

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.base import BuildWork

NOTES = "build.json"
_NEW = ".new"
_MODES = "modes"
_STATISTICS = "SELECT 1 FROM sqlite_schema WHERE name IN ('sqlite_stat1', 'sqlite_stat4') LIMIT 1"


def settle(work: BuildWork, *, anew: bool) -> None:
    """Bring every database to rest; with ``anew`` it is written anew, with fresh statistics if it had some."""
    for name in databases_in(work.directory):
        work.cancel.check()
        path = file_of(work.directory, name)
        with connect(path, cancel=work.cancel) as conn:
            note_mode(work, name, conn)
            conn.execute("PRAGMA journal_mode = DELETE").fetchone()
            if anew:
                work.progress(f"writing {name} anew")
                _analyse(conn)
                _rewrite(conn, path)
        if anew:
            replacement = path.with_name(path.name + _NEW)
            replacement.replace(path)
        if notes(work)[_MODES][name] == "wal":
            with connect(path) as conn:
                conn.execute("PRAGMA journal_mode = WAL").fetchone()
        _sync(path)


def note_mode(work: BuildWork, name: str, conn: sqlite3.Connection) -> None:
    """Remember how a database keeps its journal, before it is kept otherwise: clones are to do it as production did."""
    known = notes(work).get(_MODES, {})
    if name not in known:
        note(work, **{_MODES: known | {name: str(conn.execute("PRAGMA journal_mode").fetchone()[0])}})


def _analyse(conn: sqlite3.Connection) -> None:
    """Take statistics anew: those of before hold values of columns (sqlite_stat4)."""
    if conn.execute(_STATISTICS).fetchone() is None:
        return
    present = {row[0] for row in conn.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'sqlite_stat_'")}
    for table in sorted(present):
        conn.execute(f'DELETE FROM "{table}"')
    conn.execute("ANALYZE")


def _rewrite(conn: sqlite3.Connection, path: Path) -> None:
    replacement = path.with_name(path.name + _NEW)
    replacement.unlink(missing_ok=True)
    os.close(os.open(replacement, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # an empty file may be there
    conn.execute("PRAGMA synchronous = OFF")  # it is synced as a whole
    conn.execute("VACUUM INTO ?", (str(replacement),))


def _sync(path: Path) -> None:
    for place in (path, path.parent):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def note(work: BuildWork, **facts: Any) -> None:  # noqa: ANN401 - whatever JSON has
    """Remember something of a build until it is finished."""
    known = notes(work)
    (work.directory / NOTES).write_text(json.dumps(known | facts))


def notes(work: BuildWork) -> dict[str, Any]:
    """Return what is remembered of a build."""
    path = work.directory / NOTES
    return dict(json.loads(path.read_text())) if path.exists() else {}


def finish(work: BuildWork) -> None:
    """Make the files of a build fit for sealing.

    Raises:
        PermanentError: something is beside a database that belongs to it: it is not at rest.

    """
    (work.directory / NOTES).unlink(missing_ok=True)
    for name in databases_in(work.directory):
        path = file_of(work.directory, name)
        for suffix in (*BESIDE, "-shm"):
            beside = path.with_name(path.name + suffix)
            if suffix in BESIDE and beside.exists() and beside.stat().st_size:
                raise PermanentError(f"the database {name} is not at rest: there is {beside.name}")
            beside.unlink(missing_ok=True)
    give_tree(work.directory, work.final_account)


def version() -> tuple[str, str]:
    """Return the version of the library that built it, and its major version."""
    return sqlite3.sqlite_version, MAJOR
