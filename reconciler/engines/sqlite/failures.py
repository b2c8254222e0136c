"""Errors of the library in words for people, without a value of the data.

Messages of SQLite name tables, columns and words of the SQL, never what a row holds; the
one exception, an error that SQL raised itself (``RAISE``), is the author's own text.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reconciler.errors import PermanentError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIMIT = 300
_PASSING = frozenset({"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_NOMEM"})
_DAMAGED = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB"})


def reason(error: Exception) -> str:
    """Return what the library says, bounded."""
    return " ".join(str(error).split())[:_LIMIT]


def code(error: Exception) -> str:
    """Return the primary result code of the library, such as ``SQLITE_BUSY``; empty where there is none."""
    name = getattr(error, "sqlite_errorname", "")
    return "_".join(name.split("_")[:2])


def is_damage(error: Exception) -> bool:
    """Whether the library says that a file is damaged, or no database."""
    return code(error) in _DAMAGED


@contextmanager
def translated() -> Iterator[None]:
    """Let what the library raises, and nobody has translated, be an error of this program."""
    try:
        yield
    except sqlite3.Error as error:
        text = f"SQLite: {reason(error)}"
        if code(error) in _PASSING or (code(error) == "SQLITE_IOERR"):
            raise UnavailableError(text) from error
        raise PermanentError(text) from error
