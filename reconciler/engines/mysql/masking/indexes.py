"""Keys of a table that are made when its rows are there: sorted at once, not one entry after the other.

Called by :mod:`.rewrite`. What a table of InnoDB is kept by stays: its primary key, or the unique
one in place of it, and one that its counter needs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from reconciler.engines.mysql.link import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.mysql.link import Link

_KEY = re.compile(r"^  ((UNIQUE )?KEY `((?:[^`]|``)+)` \(`((?:[^`]|``)+)`.*?),?$", re.MULTILINE)
_COUNTED = re.compile(r"^  `((?:[^`]|``)+)` .* AUTO_INCREMENT\b", re.MULTILINE)
_INNODB = re.compile(r"^\) ENGINE=InnoDB\b", re.MULTILINE)
_PRIMARY = "\n  PRIMARY KEY "


def set_aside(link: Link, place: str) -> tuple[str, ...]:
    """Drop keys of an empty table; return what makes them again."""
    created = str(link.rows(f"SHOW CREATE TABLE {place}")[0][1])
    if not _INNODB.search(created):
        return ()
    counted = set(_COUNTED.findall(created))
    found = [
        (name.replace("``", "`"), made_by)
        for made_by, unique, name, first in _KEY.findall(created)
        if first not in counted and not (unique and _PRIMARY not in created)
    ]
    if found:
        link.rows(f"ALTER TABLE {place} {', '.join(f'DROP KEY {quoted(name)}' for name, _ in found)}")
    return tuple(made_by for _, made_by in found)


def bring_back(link: Link, place: str, made_by: Sequence[str]) -> None:
    """Make the keys of a table that has its rows; a value that must be unique and is not is an error here."""
    if made_by:
        link.rows(f"ALTER TABLE {place} {', '.join(f'ADD {one}' for one in made_by)}")
