"""What a clone's readers may read: everything in the schemas of users, nothing else of the server's.

Called by ``isolate`` for every database of a build, and by ``users`` when a clone has
readers. The predefined role pg_read_all_data is no way to it: it reads catalogs as well,
such as pg_authid with the verifiers of passwords and pg_statistic with values of all rows.
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
_MISSING = """
SELECT format('GRANT CONNECT ON DATABASE %%I TO %%I', current_database(), %(readers)s::text)
WHERE NOT has_database_privilege(%(readers)s, current_database(), 'CONNECT')
UNION ALL
SELECT format('GRANT USAGE ON SCHEMA %%I TO %%I', nspname, %(readers)s::text) FROM pg_namespace n
WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND NOT has_schema_privilege(%(readers)s, n.oid, 'USAGE')
UNION ALL
SELECT format('GRANT SELECT ON %%s TO %%I', c.oid::regclass, %(readers)s::text)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT has_table_privilege(%(readers)s, c.oid, 'SELECT')
    AND (nspname !~ '^pg_' AND nspname <> 'information_schema' OR c.oid = 'pg_catalog.pg_largeobject'::regclass)
"""
# Whoever may make things: a right that a role gives by default is kept per role and database.
_MAKERS = """
SELECT rolname FROM pg_roles r WHERE oid <> 10 AND (rolsuper OR rolname = %(owner)s OR EXISTS
    (SELECT FROM pg_auth_members a JOIN pg_roles g ON g.oid = roleid WHERE member = r.oid AND g.rolname = %(owner)s))
"""
_LATER: tuple[LiteralString, ...] = ("SELECT ON TABLES", "SELECT ON SEQUENCES", "USAGE ON SCHEMAS")


def open_to_readers(conn: psycopg.Connection) -> None:
    """Let :data:`READONLY` read the connected database, and what its owners and superusers make there from now on."""
    for (statement,) in conn.execute(_MISSING, {"readers": READONLY}).fetchall():
        with suppress(psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):  # somebody dropped it just now
            conn.execute(sql.SQL(statement))
    for (maker,) in conn.execute(_MAKERS, {"owner": OWNER}).fetchall():
        names = {"maker": sql.Identifier(maker), "readers": sql.Identifier(READONLY)}
        for right in _LATER:
            words = sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {maker} GRANT " + right + " TO {readers}")
            conn.execute(words.format(**names))
