"""Collation versions: text indexes are only right under the sort order that they were built with.

Called by ``settle`` (repair and record) and ``engine`` (refuse to serve elsewhere). The
order comes from the host's C library or ICU and changes with their versions, which
silently corrupts indexes (https://wiki.postgresql.org/wiki/Locale_data_changes).
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler import proc
from reconciler.engines.postgres import contained, server
from reconciler.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import psycopg

    from reconciler.engines.base import InstalledServer

_FACT = "collation."
_PROVIDERS = {"c": "glibc", "i": "icu"}
_VERSIONED = 150000
"""Since version 15 databases record the version of their collation."""
_PROVIDER_COLUMN = 150000

# Collations (besides the database's own) that columns and indexes use, by provider.
_USED = """
SELECT DISTINCT collprovider::text FROM pg_collation c
WHERE collprovider IN ('c', 'i') AND NOT (collprovider = 'c' AND collcollate ~* '^(C|POSIX)(\\.|$)')
  AND (EXISTS (SELECT FROM pg_attribute a WHERE a.attcollation = c.oid AND a.attrelid >= 16384)
       OR EXISTS (SELECT FROM pg_index i WHERE c.oid = ANY(i.indcollation::oid[]) AND i.indexrelid >= 16384))
"""
_STALE_COLLATIONS = """
SELECT oid::regcollation::text, oid FROM pg_collation
WHERE collversion IS NOT NULL AND collversion IS DISTINCT FROM pg_collation_actual_version(oid)
  AND (collencoding IN (-1, (SELECT encoding FROM pg_database WHERE datname = current_database())))
"""
_INDEXES = """
SELECT i.indexrelid, i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relkind = 'i' AND i.indcollation::oid[] && %s::oid[]
"""
_DEFAULT_COLLATION = 100


def dependencies(conn: psycopg.Connection) -> set[str]:
    """Return which of ``glibc`` and ``icu`` decide sort orders in the connected database."""
    provider, name = _database_locale(conn)
    used = {row[0] for row in conn.execute(_USED).fetchall()}
    if provider in _PROVIDERS and not (provider == "c" and _is_plain(name)):
        used.add(provider)
    return {_PROVIDERS[letter] for letter in used}


def stale_indexes(conn: psycopg.Connection) -> dict[int, str]:
    """Return the connected database's indexes whose sort order is, or may be, another on this host: oids and names."""
    oids = [oid for _, oid in conn.execute(_STALE_COLLATIONS).fetchall()]
    oids += [_DEFAULT_COLLATION] if _database_is_stale(conn) else []
    return dict(conn.execute(_INDEXES, [oids]).fetchall()) if oids else {}


def repair(conn: psycopg.Connection) -> None:
    """Rebuild the connected database's indexes whose sort order is another on this host, and record the new one."""
    stale = conn.execute(_STALE_COLLATIONS).fetchall()
    whole = _database_is_stale(conn)
    for index in stale_indexes(conn).values():
        conn.execute(sql.SQL(f"REINDEX INDEX {index}"))
    for name, _ in stale:
        conn.execute(sql.SQL(f"ALTER COLLATION {name} REFRESH VERSION"))
    if whole and conn.info.server_version >= _VERSIONED:
        database = sql.Identifier(conn.info.dbname)
        conn.execute(sql.SQL("ALTER DATABASE {} REFRESH COLLATION VERSION").format(database))


def record(used: Iterable[str], installed: InstalledServer) -> dict[str, str]:
    """Return the facts that :func:`check` compares later."""
    here = _versions(installed)
    return {_FACT + provider: here.get(provider, "none") for provider in used}


def is_record(fact: str) -> bool:
    """Tell whether a fact's name is one of :func:`record`."""
    return fact.startswith(_FACT)


def check(facts: Mapping[str, str], installed: InstalledServer) -> None:
    """Refuse to serve data whose sort orders are not this host's.

    Raises:
        UnsupportedError: the C library or ICU is another than where the snapshot was built.

    """
    recorded = {key.removeprefix(_FACT): then for key, then in facts.items() if is_record(key)}
    here = _versions(installed) if recorded else {}
    for provider, then in recorded.items():
        if here.get(provider, "none") != then:
            image = installed.software.reference if installed.software is not None else None
            where = f"the container image {image}" if image else "this host"
            raise UnsupportedError(
                f"the snapshot was built with {provider} {then}, {where} has {here.get(provider, 'none')}:"
                " its text indexes would be wrong",
                hint="build it with `runtime: docker`, or name an image with the same"
                if image
                else "build the image again on this host",
            )


def _versions(installed: InstalledServer) -> dict[str, str]:
    """Return the versions of the C library and of the ICU that a server is linked with."""
    if installed.software is not None:
        return contained.collation_versions(installed.software)
    found = {}
    if "CS_GNU_LIBC_VERSION" in os.confstr_names:
        asked = Path(proc.require_program("getconf"))
        found["glibc"] = _glibc_version(asked, server.stamp(asked))
    for library in server.linked_libraries(installed):
        if library.startswith("libicui18n.so."):
            found["icu"] = library.removeprefix("libicui18n.so.")
    return found


@lru_cache(maxsize=1)
def _glibc_version(getconf: Path, _stamp: server.Stamp) -> str:
    """Ask another program: ours has the library that it started with. ``getconf`` is upgraded with the library."""
    return proc.run([getconf, "GNU_LIBC_VERSION"], timeout=30).text.strip().removeprefix("glibc ")


def _is_plain(locale: str) -> bool:
    return re.match(r"(C|POSIX)(\.|$)", locale, re.IGNORECASE) is not None


def _database_locale(conn: psycopg.Connection) -> tuple[str, str]:
    """Return the provider's letter and the locale of the connected database."""
    provider = "datlocprovider::text" if conn.info.server_version >= _PROVIDER_COLUMN else "'c'"
    row = conn.execute(
        sql.SQL(f"SELECT {provider}, datcollate FROM pg_database WHERE datname = current_database()")  # noqa: S608 - one of two literals
    ).fetchone()
    return (str(row[0]), str(row[1])) if row else ("c", "C")


def _database_is_stale(conn: psycopg.Connection) -> bool:
    """Tell whether the database's own order is, or may be, another than when its indexes were built."""
    provider, name = _database_locale(conn)
    if provider not in _PROVIDERS or (provider == "c" and _is_plain(name)):
        return False
    if conn.info.server_version < _VERSIONED:
        return True
    row = conn.execute(
        "SELECT datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid)"
        " FROM pg_database WHERE datname = current_database()"
    ).fetchone()
    return row is None or bool(row[0])
