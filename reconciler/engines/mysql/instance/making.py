"""Databases of ours are made and dropped, under names that rights can be given for.

Called by :mod:`.databases`, :mod:`.loading` and :mod:`.moving`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from reconciler.engines.mysql.failures import SqlError
from reconciler.engines.mysql.instance import accounts, catalog, marks
from reconciler.engines.mysql.instance.marks import Row
from reconciler.engines.mysql.link import quoted, text
from reconciler.errors import UnsupportedError
from reconciler.state.hosted import bounded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reconciler.engines.mysql.instance.catalog import Database
    from reconciler.engines.mysql.instance.link import InstanceLink
    from reconciler.engines.mysql.instance.marks import Mark, Registry
    from reconciler.engines.mysql.link import Link

_DIGEST = 8
_READABLE = 40
_EXISTS = 1007
_UNKNOWN = frozenset({1115, 1273})
_SORTED = """
SELECT default_character_set_name, default_collation_name FROM information_schema.schemata WHERE schema_name = %s
"""


def fitting(name: str) -> str:
    """Return a name of ours that rights can be given for."""
    try:
        accounts.pattern(name)
    except UnsupportedError:
        digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]
        return bounded(f"{name.replace('_', '-')[:_READABLE]}-{digest}")
    return name


def sorting(link: Link, name: str) -> tuple[str, str]:
    """Return the character set and collation of a database."""
    charset, collation = link.rows(_SORTED, name)[0]
    return str(charset), str(collation)


def make(
    access: InstanceLink, link: Link, registry: Registry, name: str, mark: Mark, sorted_by: tuple[str, str]
) -> Row:
    """Make an empty database of ours, and return its row.

    Raises:
        BusyError: somebody else has one of the name, or rights in it.
        UnsupportedError: the instance does not know its collation.

    """
    accounts.require_ungranted(link, registry, name)
    row = Row(name, marks.token(), mark)
    registry.put(link, "database", [row])
    charset, collation = sorted_by
    try:
        link.rows(
            f"CREATE DATABASE {quoted(name)} CHARACTER SET {charset} COLLATE {collation}"
            f" COMMENT {text(registry.comment(row.token))}"
        )
    except SqlError as error:
        registry.forget(link, "database", name)
        if error.code == _EXISTS:
            catalog.databases(link, registry).require_free(name, access.where)
        if error.code in _UNKNOWN:
            raise UnsupportedError(
                f"{access.where} lacks the collation {collation} of database {name}",
                reason="CollationMissing",
                hint="use an instance of the snapshot's version, or convert it in a script of the image",
            ) from error
        raise
    return row


def drop(link: Link, registry: Registry, databases: Iterable[Database]) -> None:
    """Drop databases of ours; what has not our token is somebody else's, and forgotten."""
    for database in databases:
        if database.there:
            link.rows(f"DROP DATABASE IF EXISTS {quoted(database.name)}")
        registry.forget(link, "database", database.name)
