"""Virtual tables: what keeps the rows that they show, and how their indexes are made anew.

Used by :mod:`.introspect` and :mod:`.rewrite`. Full-text indexes hold words of rows in
shadow tables, also of rows that were changed or deleted since: after masking they are
rebuilt from what the rows hold by then (https://sqlite.org/fts5.html, section 6.10).
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from reconciler.engines.sqlite.databases import quoted
from reconciler.errors import MaskingError

if TYPE_CHECKING:
    from collections.abc import Iterable

_USING = re.compile(
    r"\bUSING\s+[\"'`\[]?(?P<module>\w+)[\"'`\]]?\s*(?:\((?P<arguments>.*)\))?\s*;?\s*$", re.DOTALL | re.IGNORECASE
)
_CONTENT = re.compile(r"\bcontent\s*=\s*(?:'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\"|(?P<bare>\w+))", re.IGNORECASE)
_FULL_TEXT = frozenset({"fts3", "fts4", "fts5"})
_DERIVED = frozenset({"fts5vocab", "fts4aux"})
"""Modules that only show what another table has."""


@dataclass(frozen=True, slots=True)
class Virtual:
    """A virtual table. ``content``: whose rows it shows."""

    name: str
    module: str
    content: Literal["own", "other", "none"]
    """Rows of its own, those of another table, or none: only the words of its index."""

    @property
    def full_text(self) -> bool:
        """Whether it is a full-text index."""
        return self.module in _FULL_TEXT

    @property
    def derived(self) -> bool:
        """Whether nothing in it is not in another table."""
        return self.content == "other" or self.module in _DERIVED


def virtual_tables(conn: sqlite3.Connection) -> tuple[Virtual, ...]:
    """Return the virtual tables of a database, by name."""
    rows = conn.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL%' ORDER BY name"
    )
    return tuple(_virtual(name, text) for name, text in rows.fetchall())


def _virtual(name: str, text: str) -> Virtual:
    found = _USING.search(text)
    module = found["module"].lower() if found is not None else ""
    option = _CONTENT.search((found["arguments"] or "") if found is not None else "")
    if module not in _FULL_TEXT or option is None:
        return Virtual(name, module, "own")
    content = next(one for one in (option["single"], option["double"], option["bare"]) if one is not None)
    return Virtual(name, module, "other" if content else "none")


def refuse_unreadable(conn: sqlite3.Connection, database: str, tables: Iterable[Virtual]) -> None:
    """Refuse virtual tables that hold what masking cannot reach.

    Raises:
        MaskingError: their module is not here, or they have words of rows and not the rows.

    """
    for one in tables:
        if one.content == "none":
            raise MaskingError(
                f"{database}: the full-text index {one.name} has the words of rows and not the rows (content=''):"
                " it cannot be masked",
                hint=f"drop it in a script that runs before masking: DROP TABLE {one.name}",
                reason="MaskingUncovered",
            )
        try:
            conn.execute(f"SELECT * FROM {quoted(one.name)} LIMIT 0")
        except sqlite3.Error as error:
            raise MaskingError(
                f"{database}: the virtual table {one.name} cannot be read: this SQLite has no module {one.module}",
                hint=f"drop it in a script that runs before masking: DROP TABLE {one.name}",
                reason="MaskingUncovered",
            ) from error


def rebuild(conn: sqlite3.Connection, database: str, tables: Iterable[Virtual]) -> None:
    """Make full-text indexes anew from the rows that there are.

    Raises:
        MaskingError: one cannot be.

    """
    for one in tables:
        if not one.full_text:
            continue
        try:
            conn.execute(f"INSERT INTO {quoted(one.name)}({quoted(one.name)}) VALUES ('rebuild')")
        except sqlite3.Error as error:
            raise MaskingError(
                f"{database}: the full-text index {one.name} cannot be rebuilt after masking",
                hint="drop it in a script that runs before masking, and make it anew in one that runs after",
            ) from error
