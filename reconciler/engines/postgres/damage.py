"""Looking for damage: every heap and B-tree of a build, with the server's contrib module amcheck.

Called by ``session``. It makes the extension in a schema of its own, or uses the one that
a database has already, and takes it away again. It reads; what it finds is told with the
relation's name and place, never with a value. What amcheck finds:
https://www.postgresql.org/docs/current/amcheck.html.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from reconciler.engines.postgres import collations, server
from reconciler.engines.postgres.failures import safe_message
from reconciler.engines.postgres.masking.lanes import Lane, Lanes, Piece
from reconciler.engines.postgres.settle import freeze_catalogs
from reconciler.errors import CheckFailedError, NotInstalledError, UnsupportedError

if TYPE_CHECKING:
    from reconciler.engines.base import BuildWork, InstalledServer

_HEAPS = """
SELECT c.oid, c.oid::regclass::text, pg_relation_size(c.oid) FROM pg_class c JOIN pg_am a ON a.oid = c.relam
WHERE a.amname = 'heap' AND c.relkind IN ('r', 'm', 't') AND c.relpersistence <> 't' AND (%(shared)s OR NOT relisshared)
"""
_INDEXES = """
SELECT c.oid, c.oid::regclass::text, pg_relation_size(c.oid) + pg_relation_size(i.indrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
WHERE a.amname = 'btree' AND c.relkind = 'i' AND i.indisvalid AND i.indisready AND c.relpersistence <> 't'
  AND (%(shared)s OR NOT relisshared)
"""
# Functions that belong to the extension, whatever else may have such a name in its schema.
_MEMBERS = """
SELECT p.proname, pg_get_function_identity_arguments(p.oid), n.nspname
FROM pg_extension e JOIN pg_depend d ON d.refobjid = e.oid AND d.refclassid = 'pg_extension'::regclass
JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE e.extname = 'amcheck'
"""
_UNIQUE_CHECK = "index regclass, heapallindexed boolean, checkunique boolean"
"""Arguments of bt_index_check since amcheck 1.4 (PostgreSQL 17)."""
_DAMAGED = ("XX000", "XX001", "XX002", "58P01")
"""Internal error, data corrupted, index corrupted, a file that is gone."""
_TOLD = ("XX001", "XX002")
"""Their messages name relations, blocks and offsets; those of others might have anything."""
_PASSING = ("08", "40", "53", "57")
"""No connection, rolled back, no disk or memory, shut down: says nothing about the data."""


@dataclass(frozen=True, slots=True)
class _Relation:
    oid: int
    index: bool


@dataclass(frozen=True, slots=True)
class _Amcheck:
    """The extension as a database has it; ``ours``: it goes again, with its schema."""

    schema: str
    ours: bool
    unique: bool

    @property
    def heap_query(self) -> sql.Composed:
        return sql.SQL(
            "SELECT blkno, offnum, attnum, msg FROM {}.verify_heapam"
            "(%s::oid::regclass, true, true, 'none'::text, NULL::bigint, NULL::bigint) LIMIT 1"
        ).format(sql.Identifier(self.schema))

    @property
    def index_query(self) -> sql.Composed:
        more = sql.SQL(", true") if self.unique else sql.SQL("")
        return sql.SQL("SELECT {}.bt_index_check(%s::oid::regclass, true{})").format(sql.Identifier(self.schema), more)


def look_for_damage(work: BuildWork, installed: InstalledServer, *, final: bool) -> int:
    """Check every database of a build; return how many tables, TOAST tables and indexes are whole.

    Not ``final``: without the indexes that ``settle`` will rebuild, because they are sorted
    as another host sorts.

    Raises:
        CheckFailedError: a relation is damaged, or cannot be read through (``DataDamaged``).
        NotInstalledError: the server has no amcheck.
        UnsupportedError: a database has an amcheck that is too old.

    """
    with server.connect(work, "template1") as conn:
        names = server.connectable_databases(conn)
    return sum(_check_database(work, installed, name, shared=name == names[0], final=final) for name in names)


def _check_database(work: BuildWork, installed: InstalledServer, name: str, *, shared: bool, final: bool) -> int:
    with server.connect(work, name) as conn:
        amcheck = _provide(conn, installed, name)
        unsorted = frozenset() if final else collations.stale_indexes(conn)
        pieces = [
            Piece(text, size, _Relation(oid, index))
            for query, index in ((_HEAPS, False), (_INDEXES, True))
            for oid, text, size in conn.execute(query, {"shared": shared}).fetchall()
            if oid not in unsorted
        ]
        Lanes(work, name).run(
            "looking for damage in", "relations", pieces, lambda lane, piece: _check(lane, amcheck, name, piece)
        )
        if amcheck.ours:
            conn.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(amcheck.schema)))
        if final:
            freeze_catalogs(conn)
    return len(pieces)


def _provide(conn: psycopg.Connection, installed: InstalledServer, database: str) -> _Amcheck:
    """Return the database's amcheck, made if it has none."""
    if conn.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'").fetchone() is None:
        raise NotInstalledError(
            f"PostgreSQL {installed.version} in {installed.directory} has no extension amcheck",
            hint=f"install its contrib modules: the package postgresql-{installed.major} of Debian has them,"
            f" on Red Hat postgresql{installed.major}-contrib; or leave verify.amcheck out",
        )
    ours = conn.execute("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'").fetchone() is None
    if ours:
        schema = sql.Identifier(f"reconciler_{secrets.token_hex(8)}")
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        conn.execute(sql.SQL("CREATE EXTENSION amcheck SCHEMA {}").format(schema))
    members = conn.execute(_MEMBERS).fetchall()
    heap = next((schema for name, _arguments, schema in members if name == "verify_heapam"), None)
    if heap is None:
        raise UnsupportedError(
            f"the extension amcheck of database {database} is too old to look into tables",
            hint="run ALTER EXTENSION amcheck UPDATE where the data comes from, or drop it there",
        )
    unique = any(name == "bt_index_check" and arguments == _UNIQUE_CHECK for name, arguments, _schema in members)
    return _Amcheck(heap, ours, unique)


def _check(lane: Lane, amcheck: _Amcheck, database: str, piece: Piece[_Relation]) -> None:
    what = f"{'index' if piece.what.index else 'table'} {piece.name} of database {database}"
    query = amcheck.index_query if piece.what.index else amcheck.heap_query
    try:
        found = lane.admin.execute(query, [piece.what.oid]).fetchone()
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate.startswith(_PASSING):
            raise
        raise _failure(what, error) from None  # a traceback that shows the original would show its DETAIL
    if found is not None and not piece.what.index:
        block, offset, attribute, message = found
        place = ", ".join(
            f"{word} {number}"
            for word, number in (("block", block), ("item", offset), ("column", attribute))
            if number is not None
        )
        raise CheckFailedError(f"{what} is damaged at {place}: {message}", reason="DataDamaged")


def _failure(what: str, error: psycopg.Error) -> CheckFailedError:
    name = type(error).__name__
    if error.sqlstate not in _DAMAGED:
        return CheckFailedError(
            f"{what} cannot be looked through ({name}, SQLSTATE {error.sqlstate})", reason="DataDamaged"
        )
    told = f": {safe_message(error.diag)}" if error.sqlstate in _TOLD else f" ({name}, SQLSTATE {error.sqlstate})"
    return CheckFailedError(f"{what} is damaged{told}", reason="DataDamaged")
