"""What a clone's readers may read: everything in the schemas of users, nothing else of the server's.

Called by ``isolate`` for every database of a build, and by ``users`` when a clone has
readers. Readers can turn off that their transactions are read-only, so they have no
right to write: what production lets everybody change only owners may change here.

The predefined role pg_read_all_data is no way to read: it reads catalogs as well, such
as pg_authid with the verifiers of passwords and pg_statistic with values of all rows.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from reconciler.engines.postgres.server import OWNER, READONLY

if TYPE_CHECKING:
    from typing import LiteralString

# Only what is missing: a GRANT writes its catalog row anew even if it says nothing new.
_CONNECTING = """
SELECT format('GRANT CONNECT ON DATABASE %%I TO %%I', current_database(), %(readers)s::text)
WHERE NOT has_database_privilege(%(readers)s, current_database(), 'CONNECT')
"""
_MISSING = """
SELECT format('GRANT USAGE ON SCHEMA %%I TO %%I', nspname, %(readers)s::text) FROM pg_namespace n
WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND NOT has_schema_privilege(%(readers)s, n.oid, 'USAGE')
UNION ALL
SELECT format('GRANT SELECT ON %%s TO %%I', c.oid::regclass, %(readers)s::text)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT has_table_privilege(%(readers)s, c.oid, 'SELECT')
    AND (nspname !~ '^pg_' AND nspname <> 'information_schema'
         OR %(large)s AND c.oid = 'pg_catalog.pg_largeobject'::regclass)
"""
# Whoever may make things: a right that a role gives by default is kept per role and database.
_MAKERS = """
SELECT rolname FROM pg_roles r WHERE oid <> 10 AND (rolsuper OR rolname = %(owner)s OR EXISTS
    (SELECT FROM pg_auth_members a JOIN pg_roles g ON g.oid = roleid WHERE member = r.oid AND g.rolname = %(owner)s))
"""
_LATER: tuple[LiteralString, ...] = ("SELECT ON TABLES", "SELECT ON SEQUENCES", "USAGE ON SCHEMAS")
# A REVOKE for a table is one for its columns, too.
_WRITABLE_BY_ALL = """
WITH granted(relation, privilege) AS (
    SELECT oid, privilege_type FROM pg_class, aclexplode(relacl) WHERE grantee = 0
  UNION SELECT attrelid, privilege_type FROM pg_attribute, aclexplode(attacl) WHERE grantee = 0
)
SELECT format('REVOKE %s ON %s FROM PUBLIC', string_agg(privilege, ', '), relation::regclass)
FROM granted JOIN pg_class c ON c.oid = relation JOIN pg_namespace n ON n.oid = relnamespace
WHERE privilege <> 'SELECT' AND nspname !~ '^pg_' AND nspname <> 'information_schema' GROUP BY relation
UNION ALL
SELECT format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', nspname) FROM pg_namespace n
WHERE nspname !~ '^pg_' AND has_schema_privilege('public', n.oid, 'CREATE')
UNION ALL
SELECT format('REVOKE UPDATE ON LARGE OBJECT %s FROM PUBLIC', l.oid)
FROM pg_largeobject_metadata l, aclexplode(lomacl) WHERE grantee = 0 AND privilege_type = 'UPDATE'
UNION ALL
SELECT format('REVOKE CREATE, TEMPORARY ON DATABASE %I FROM PUBLIC', current_database())
WHERE has_database_privilege('public', current_database(), 'CREATE, TEMPORARY')
"""


def take_from_everybody(conn: psycopg.Connection) -> None:
    """Leave no right to write in the connected database to PUBLIC, which readers are part of."""
    for (statement,) in conn.execute(_WRITABLE_BY_ALL).fetchall():
        conn.execute(sql.SQL(statement))


def open_to_readers(conn: psycopg.Connection) -> None:
    """Let :data:`READONLY` read the connected database, and what its owners and superusers make there from now on."""
    for (statement,) in conn.execute(_CONNECTING, {"readers": READONLY}).fetchall():
        conn.execute(sql.SQL(statement))
    grant_missing(conn, READONLY, large_objects=True)
    for (maker,) in conn.execute(_MAKERS, {"owner": OWNER}).fetchall():
        grant_later(conn, maker, READONLY)


def grant_missing(conn: psycopg.Connection, readers: str, *, large_objects: bool) -> None:
    """Let a role read what is in the schemas of the connected database; it may connect already, or not.

    With ``large_objects`` all of these as well, which only a superuser can grant.
    """
    for (statement,) in conn.execute(_MISSING, {"readers": readers, "large": large_objects}).fetchall():
        with suppress(psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):  # somebody dropped it just now
            conn.execute(sql.SQL(statement))


def grant_later(conn: psycopg.Connection, maker: str, readers: str) -> None:
    """Let a role read what another one makes in the connected database from now on."""
    names = {"maker": sql.Identifier(maker), "readers": sql.Identifier(readers)}
    for right in _LATER:
        words = sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {maker} GRANT " + right + " TO {readers}")
        conn.execute(words.format(**names))
