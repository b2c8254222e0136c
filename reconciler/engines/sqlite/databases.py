"""The SQLite library of this Python, and connections to database files that are safe to work with.

Called by the rest of this package; nothing else opens a database. Every connection
commits by itself, ends when its work is cancelled, and lets nothing that is written in a
schema call a function that the database itself does not have.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from reconciler.engines.base import InstalledServer
from reconciler.engines.sqlite.failures import reason
from reconciler.errors import NotInstalledError, UnavailableError, UnsupportedError
from reconciler.proc import CancelToken

if TYPE_CHECKING:
    from collections.abc import Iterator

MAJOR = "3"
DATA = "data"
SUFFIX = ".db"
_OLDEST = (3, 37, 0)
"""The first library that tells shadow tables from others (PRAGMA table_list)."""
_PROGRESS_STEPS = 100_000
_BUSY_SECONDS = 5.0
_SAFE_NAME = re.compile(r"[^/\0.][^/\0]{0,199}")


def installed() -> tuple[InstalledServer, ...]:
    """Return the library that this Python has; none where it is too old to be worked with."""
    if sqlite3.sqlite_version_info < _OLDEST:
        return ()
    return (InstalledServer(sqlite3.sqlite_version, MAJOR, "embedded", Path(sqlite3.__file__).parent),)


def require(major: str | None) -> InstalledServer:
    """Return the library for a major version.

    Raises:
        NotInstalledError: this Python has another one, or one that is too old.

    """
    found = installed()
    if not found:
        needed = ".".join(map(str, _OLDEST))
        raise NotInstalledError(
            f"this Python has SQLite {sqlite3.sqlite_version}, and {needed} is the oldest that can be used",
            hint="use a Python that is linked with a newer one",
        )
    if major not in (None, MAJOR):
        raise NotInstalledError(f"SQLite {major} is not on this host, which has {found[0].version}")
    return found[0]


def file_of(directory: Path, database: str) -> Path:
    """Return where a database lies in the directory of a volume.

    Raises:
        UnsupportedError: its name cannot be the name of a file.

    """
    if not _SAFE_NAME.fullmatch(database):
        raise UnsupportedError(f"the database name {database!r} cannot be the name of a file")
    return directory / DATA / f"{database}{SUFFIX}"


def databases_in(directory: Path) -> tuple[str, ...]:
    """Return the names of the databases in the directory of a volume, sorted."""
    return tuple(sorted(path.name.removesuffix(SUFFIX) for path in (directory / DATA).glob(f"*{SUFFIX}")))


def make(path: Path) -> None:
    """Make an empty database that is a database already: with a header, readable by its owner alone."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with connect(path) as conn:
        conn.execute("VACUUM")


@contextmanager
def connect(path: Path, *, readonly: bool = False, cancel: CancelToken | None = None) -> Iterator[sqlite3.Connection]:
    """Open a database that exists.

    Raises:
        UnavailableError: it cannot be opened.
        CancelledError: the work was cancelled while a statement ran.

    """
    token = cancel or CancelToken()
    try:
        conn = sqlite3.connect(
            f"file:{quote(str(path))}?mode={'ro' if readonly else 'rw'}",
            uri=True,
            isolation_level=None,
            timeout=_BUSY_SECONDS,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise UnavailableError(f"the database {path} cannot be opened: {reason(error)}") from error
    try:
        conn.set_progress_handler(lambda: int(token.cancelled), _PROGRESS_STEPS)
        conn.execute("PRAGMA trusted_schema = OFF")
        if not readonly:
            conn.execute("PRAGMA secure_delete = ON")
        yield conn
    except Exception:
        token.check()  # what was interrupted fails in many ways
        raise
    finally:
        conn.close()


def quoted(name: str) -> str:
    """Return an identifier as SQL."""
    return '"' + name.replace('"', '""') + '"'
