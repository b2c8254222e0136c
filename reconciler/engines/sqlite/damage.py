"""Looking for damage: what the library itself finds (PRAGMA integrity_check).

Called for what was copied, and by ``verify`` of an image. It reads everything, and of what
it finds nothing is told that could be data.
"""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING

from reconciler.engines.sqlite.databases import connect
from reconciler.engines.sqlite.failures import is_damage, reason
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.proc import CancelToken

_SHOWN = 3
_HARMLESS = re.compile(
    r"NULL value in |CHECK constraint failed in |non-unique entry in index |NUMERIC value in |TEXT value in "
)
"""What the check says of rows that break rules of their table: bad data of a sound file."""


def problems(path: Path, *, cancel: CancelToken) -> list[str]:
    """Return what is damaged in a database, bounded; nothing for a whole one.

    Raises:
        sqlite3.Error: it could not be looked at, for a cause that is no damage.

    """
    try:
        with connect(path, readonly=True, cancel=cancel) as conn:
            found = [str(row[0]) for row in conn.execute("PRAGMA integrity_check(100)")]
    except sqlite3.Error as error:
        if is_damage(error):
            return [reason(error)]
        raise
    lines = [line for text in found for line in text.splitlines() if line and not line.startswith("***")]
    return [line for line in lines if line != "ok" and not _HARMLESS.match(line)]


def require_whole(path: Path, *, what: str, cancel: CancelToken) -> None:
    """Insist that a database is not damaged; ``what`` is what the message calls it.

    Raises:
        SourceError: it is.

    """
    found = problems(path, cancel=cancel)
    if found:
        shown = "; ".join(found[:_SHOWN]) + ("; and more" if len(found) > _SHOWN else "")
        raise SourceError(
            f"{what} is damaged: {shown}",
            reason="SourceDamaged",
            hint="restore it from a backup, or save what can be read with the shell's .recover",
        )


def relations(path: Path) -> int:
    """Return how many tables and indexes hold data."""
    with connect(path, readonly=True) as conn:
        return int(conn.execute("SELECT count(*) FROM sqlite_schema WHERE rootpage > 0").fetchone()[0])
