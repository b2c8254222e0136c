"""Removes files of a running build's databases that its catalogs do not know.

Called by the session before the build is settled. A crash while a table was made or
rewritten leaves its files for ever, with rows that no SQL can reach; people leave copies
beside them. They are removed rather than refused: every old production server has some,
its owner can neither see nor repair them, and nothing can depend on them. Spill files of
logical decoding, slots, logs and keys outside of ``base`` and ``global`` are emptied or
removed by :mod:`reconciler.engines.postgres.finish`.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines import files
from reconciler.engines.postgres import server
from reconciler.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import psycopg

    from reconciler.engines.base import BuildWork

_RELATION = re.compile(r"([0-9]+)(?:_(?:fsm|vm|init))?(?:\.[0-9]+)?")
_OTHERS = re.compile(r"PG_VERSION|pg_filenode\.map|pg_internal\.init(\.[0-9]+)?|pg_control")
_TEMPORARY = "pgsql_tmp"
"""Emptied by ``finish``: sorts of the running server may be in it."""
_KNOWN = """
SELECT pg_relation_filenode(oid) FROM pg_class WHERE pg_relation_filenode(oid) IS NOT NULL AND
    CASE WHEN %s THEN reltablespace = 1664 ELSE reltablespace <> 1664 END
"""


def remove_orphans(work: BuildWork) -> tuple[str, ...]:
    """Remove what the catalogs do not know; return the paths, relative to the data directory.

    Nobody else may be connected, and nothing may be in the middle of a transaction.

    Raises:
        PermanentError: what lies there is a link, so that it may lead elsewhere.

    """
    data = server.data_directory(work)
    with server.connect(work, "template1") as conn:
        conn.execute("CHECKPOINT")  # files of what was dropped stay until then
        names = {str(oid): name for oid, name in conn.execute("SELECT oid, datname FROM pg_database").fetchall()}
        removed = _clean(data, "global", _nodes(conn, shared=True))
    for directory in sorted(entry.name for entry in (data / "base").iterdir()):
        name = names.get(directory)
        if name is None:
            if directory != _TEMPORARY:
                removed += _remove(data, f"base/{directory}")
            continue
        with _let_in(work, name), server.connect(work, name) as conn:
            removed += _clean(data, f"base/{directory}", _nodes(conn, shared=False))
    return tuple(removed)


@contextmanager
def _let_in(work: BuildWork, database: str) -> Iterator[None]:
    """Allow connections to a database that refuses them, as template0 does, for a moment."""
    with server.connect(work, "template1") as conn:
        if database in server.connectable_databases(conn):
            yield
            return
        allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        conn.execute(allow.format(sql.Identifier(database), sql.Literal(True)))
        try:
            yield
        finally:
            conn.execute(allow.format(sql.Identifier(database), sql.Literal(False)))


def _nodes(conn: psycopg.Connection, *, shared: bool) -> frozenset[str]:
    """Return the numbers in the names of the files of a database's relations."""
    return frozenset(str(row[0]) for row in conn.execute(_KNOWN, [shared]).fetchall())


def _clean(data: Path, inside: str, known: frozenset[str]) -> list[str]:
    removed: list[str] = []
    for entry in sorted((data / inside).iterdir()):
        match = _RELATION.fullmatch(entry.name)
        if match[1] not in known if match else not _OTHERS.fullmatch(entry.name):
            removed += _remove(data, f"{inside}/{entry.name}")
    return removed


def _remove(data: Path, path: str) -> list[str]:
    if (data / path).is_symlink():
        raise PermanentError(f"the data directory has a symbolic link, which clones would share: {path}")
    if (data / path).is_dir():
        files.clear(data, path)
        (data / path).rmdir()
    else:
        files.remove(data, path)
    return [path]
