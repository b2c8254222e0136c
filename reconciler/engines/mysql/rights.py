"""Which rights a user lacks to copy databases by SQL: what it may not see, a server does not show at all.

Called by :mod:`.copying`. Pure: it reads what ``SHOW GRANTS`` says. A primary that shows no
trigger to somebody without the right to triggers would be copied without them, and nobody
would know; so every right is asked for before anything is read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from reconciler.engines.mysql.link import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NEEDED = ("SELECT", "SHOW VIEW", "TRIGGER", "EVENT")
_GRANT = re.compile(
    r"GRANT (?P<rights>.+?) ON (?:TABLE )?(?P<place>(?:\*|`(?:[^`]|``)*`)\.(?:\*|`(?:[^`]|``)*`)) TO ", re.IGNORECASE
)
_EVERYTHING = frozenset({"ALL", "ALL PRIVILEGES"})


class _Grant(NamedTuple):
    rights: frozenset[str]
    database: str
    """As SQL writes it, a pattern of LIKE; ``*``: all."""
    table: str


def missing(grants: Iterable[str], databases: Sequence[str], code_rights: Sequence[str]) -> list[str]:
    """Return the rights that are lacking to copy ``databases`` (none: all of them), as GRANT would name them.

    Of ``code_rights`` one is enough: with them the code of routines can be read.
    """
    known = [found for text in grants if (found := _parse(text)) is not None]
    lacking = []
    for right in _NEEDED:
        wanting = [name for name in databases if not _has(known, right, name)]
        if not _has(known, right, None) and (wanting or not databases):
            places = [f"{quoted(name)}.*" for name in wanting] if databases else ["*.*"]
            lacking += [f"{right} ON {place}" for place in places]
    if not any(_has_exactly(known, text) for text in code_rights):
        lacking.append(code_rights[0])
    return lacking


def has(grants: Iterable[str], right: str) -> bool:
    """Tell whether a right, as ``RIGHT ON place``, is among what ``SHOW GRANTS`` says."""
    return _has_exactly([found for text in grants if (found := _parse(text)) is not None], right)


def _parse(text: str) -> _Grant | None:
    found = _GRANT.match(text)
    if found is None:
        return None  # a role, or what is said of proxies
    rights = frozenset(re.sub(r"\s*\(.*?\)", "", one).strip().upper() for one in found["rights"].split(","))
    database, table = _parts(found["place"])
    return _Grant(rights, database, table)


def _parts(place: str) -> tuple[str, str]:
    names = re.findall(r"\*|`(?:[^`]|``)*`", place)
    first, second = (name if name == "*" else name[1:-1].replace("``", "`") for name in names[:2])
    return first, second


def _has(known: Iterable[_Grant], right: str, database: str | None) -> bool:
    return any(
        grant.table == "*"
        and (right in grant.rights or _EVERYTHING & grant.rights)
        and (grant.database == "*" or (database is not None and _like(grant.database, database)))
        for grant in known
    )


def _has_exactly(known: Iterable[_Grant], text: str) -> bool:
    """Whether a right as ``RIGHT ON place`` is there, by itself or with all of its place."""
    right, _on, place = text.partition(" ON ")
    database, _dot, table = place.partition(".")
    return any(
        (right in grant.rights or _EVERYTHING & grant.rights)
        and (grant.database == "*" or (database != "*" and _like(grant.database, database)))
        and grant.table in ("*", table)
        for grant in known
    )


def _like(pattern: str, name: str) -> bool:
    words = re.findall(r"\\.|.", pattern, re.DOTALL)
    regex = "".join(".*" if word == "%" else "." if word == "_" else re.escape(word[-1]) for word in words)
    return re.fullmatch(regex, name, re.DOTALL) is not None
