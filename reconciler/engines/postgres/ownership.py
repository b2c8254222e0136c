"""Who owns what in a cluster, so that nobody but the admin leads to a superuser.

Called by ``isolate`` for one database at a time. Everything that users made goes to
:data:`~reconciler.engines.postgres.server.OWNER`, a group without superuser rights:
clones' owners are its members, a SECURITY DEFINER function runs with its rights.
Members of extensions and functions in untrusted languages stay the superuser's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres.server import OWNER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import LiteralString

    import psycopg

_FIRST_USER_OID = 16384
"""FirstNormalObjectId in PostgreSQL's access/transam.h: lower ones are made by initdb."""

# Objects of the bootstrap superuser (oid 10) have no entries in pg_shdepend, so each catalog is asked.
_ADMIN_OWNED = """
WITH owned(classid, objid) AS (
    SELECT 'pg_class'::regclass, oid FROM pg_class c WHERE relowner = 10
        AND (relkind IN ('r', 'p', 'v', 'm', 'f') OR relkind = 'S' AND NOT EXISTS
            (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
             AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')))
  UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type t WHERE typowner = 10 AND typtype <> 'm'
        AND (typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = typrelid AND c.relkind = 'c'))
        AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
  UNION ALL SELECT 'pg_proc'::regclass, p.oid FROM pg_proc p JOIN pg_language l ON l.oid = prolang
        WHERE proowner = 10 AND (lanpltrusted OR lanname = 'sql')
  UNION ALL SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspowner = 10
        AND nspname !~ '^pg_(toast_)?temp_'
  UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator WHERE oprowner = 10
  UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass WHERE opcowner = 10
  UNION ALL SELECT 'pg_opfamily'::regclass, oid FROM pg_opfamily WHERE opfowner = 10
  UNION ALL SELECT 'pg_collation'::regclass, oid FROM pg_collation WHERE collowner = 10
  UNION ALL SELECT 'pg_conversion'::regclass, oid FROM pg_conversion WHERE conowner = 10
  UNION ALL SELECT 'pg_ts_dict'::regclass, oid FROM pg_ts_dict WHERE dictowner = 10
  UNION ALL SELECT 'pg_ts_config'::regclass, oid FROM pg_ts_config WHERE cfgowner = 10
  UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext WHERE stxowner = 10
  UNION ALL SELECT 'pg_foreign_server'::regclass, oid FROM pg_foreign_server WHERE srvowner = 10
  UNION ALL SELECT 'pg_largeobject'::regclass, oid FROM pg_largeobject_metadata WHERE lomowner = 10
)
SELECT format('ALTER %%s %%s OWNER TO %%I',
              CASE i.type WHEN 'statistics object' THEN 'STATISTICS' ELSE upper(i.type) END,
              i.identity, %(owner)s::text)
FROM owned o, pg_identify_object(o.classid, o.objid, 0) i
WHERE (o.objid >= %(first)s
    OR o.classid = 'pg_largeobject'::regclass -- their oids are chosen by users
    OR o.classid = 'pg_namespace'::regclass AND i.identity = 'public')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.classid AND d.objid = o.objid AND d.deptype = 'e')
"""

# There can be millions of large objects, and ALTER takes one at a time: only those with grants are left to it.
_LARGE_OBJECTS = """
WITH heir AS (SELECT oid FROM pg_roles WHERE rolname = %(owner)s),
given AS (
    UPDATE pg_largeobject_metadata l SET lomowner = heir.oid FROM heir
    WHERE l.lomowner = 10 AND l.lomacl IS NULL AND NOT EXISTS
        (SELECT FROM pg_depend d WHERE d.classid = 'pg_largeobject'::regclass AND d.objid = l.oid AND d.deptype = 'e')
    RETURNING l.oid, l.lomowner
)
INSERT INTO pg_shdepend (dbid, classid, objid, objsubid, refclassid, refobjid, deptype)
SELECT d.oid, 'pg_largeobject'::regclass, given.oid, 0, 'pg_authid'::regclass, given.lomowner, 'o'
FROM given, pg_database d WHERE d.datname = current_database()
"""

_UNTRUSTED = """
SELECT p.oid::regprocedure::text, CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.oid >= %s AND l.lanispl AND NOT l.lanpltrusted
"""

# What was granted on built-in functions (pg_read_file, lo_import, …) beyond what initdb gives.
_EXTRA_GRANTS = """
SELECT DISTINCT p.oid::regprocedure::text,
       CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
       CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
FROM pg_proc p, aclexplode(p.proacl) a
WHERE p.oid < %s AND p.pronamespace = 'pg_catalog'::regnamespace AND a.grantee <> p.proowner AND NOT EXISTS
    (SELECT FROM pg_init_privs i, aclexplode(i.initprivs) b
     WHERE i.classoid = 'pg_proc'::regclass AND i.objoid = p.oid AND b.grantee = a.grantee)
"""

# Functions that connect to wherever their arguments say, which bodies of functions and views do with passwords.
_OUTWARD = """
SELECT p.oid::regprocedure::text, CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
       CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
FROM pg_proc p CROSS JOIN aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE e.extname = ANY(%s) AND a.grantee <> p.proowner
"""
# What PostgreSQL lets only a superuser own, at least in some version or form.
_SUPERUSERS_OWN = """
SELECT 'EVENT TRIGGER', evtname, evtenabled IN ('A', 'R') FROM pg_event_trigger
    WHERE pg_get_userbyid(evtowner) = ANY(%(names)s)
UNION ALL SELECT 'PUBLICATION', pubname, false FROM pg_publication WHERE pg_get_userbyid(pubowner) = ANY(%(names)s)
UNION ALL SELECT 'FOREIGN DATA WRAPPER', fdwname, false FROM pg_foreign_data_wrapper
    WHERE pg_get_userbyid(fdwowner) = ANY(%(names)s)
UNION ALL SELECT 'SUBSCRIPTION', subname, false FROM pg_subscription
    WHERE pg_get_userbyid(subowner) = ANY(%(names)s)
    AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_OTHER_SUPERUSERS = "SELECT rolname FROM pg_roles WHERE rolsuper AND oid <> 10"
_ORDINARY = "SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_'"
_OUTWARD_EXTENSIONS = ["dblink", "http", "pg_net", "pg_curl", "plproxy"]


def adopt(conn: psycopg.Connection) -> None:
    """Give everything that users own in the connected database to :data:`OWNER`."""
    admin = _admin(conn)
    _reassign(conn, _OTHER_SUPERUSERS, admin)
    conn.execute(_LARGE_OBJECTS, {"owner": OWNER})
    rows = conn.execute(_ADMIN_OWNED, {"owner": OWNER, "first": _FIRST_USER_OID}).fetchall()
    for (statement,) in rows:
        conn.execute(sql.SQL(statement))
    keep_with_admin(conn, _roles(conn, _ORDINARY))  # who was a superuser once may own them still
    _reassign(conn, _ORDINARY, OWNER)
    _close_untrusted(conn)
    close_outward(conn)
    _take_databases(conn)


def keep_with_admin(conn: psycopg.Connection, names: Sequence[str]) -> None:
    """Give the admin what only a superuser may own of what these users own in the connected database."""
    for kind, name, in_replicas in conn.execute(_SUPERUSERS_OWN, {"names": list(names)}).fetchall():
        thing = sql.SQL(kind + " {}").format(sql.Identifier(name))
        if in_replicas:  # its function becomes the group's, and must not run in the admin's sessions
            conn.execute(sql.SQL("ALTER {} ENABLE").format(thing))
        conn.execute(sql.SQL("ALTER {} OWNER TO {}").format(thing, sql.Identifier(_admin(conn))))


def close_outward(conn: psycopg.Connection) -> None:
    """Leave the functions of extensions that reach other hosts to the admin alone."""
    for function, kind, grantee in conn.execute(_OUTWARD, [_OUTWARD_EXTENSIONS]).fetchall():
        conn.execute(sql.SQL(f"REVOKE ALL ON {kind} {function} FROM {grantee} CASCADE"))


def open_to_owners(conn: psycopg.Connection, database: str) -> None:
    """Let :data:`OWNER` do everything in a database and its schemas, so that delivery has nothing left to do here."""
    conn.execute(sql.SQL("GRANT ALL ON DATABASE {} TO {}").format(sql.Identifier(database), sql.Identifier(OWNER)))
    rows = conn.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'"
    ).fetchall()
    for (name,) in rows:
        conn.execute(sql.SQL("GRANT ALL ON SCHEMA {} TO {}").format(sql.Identifier(name), sql.Identifier(OWNER)))


def _admin(conn: psycopg.Connection) -> str:
    row = conn.execute("SELECT rolname FROM pg_roles WHERE oid = 10").fetchone()
    if row is None:
        raise LookupError("the cluster has no bootstrap superuser")
    return str(row[0])


def _reassign(conn: psycopg.Connection, owners: LiteralString, heir: str) -> None:
    names = [sql.Identifier(name) for name in _roles(conn, owners) if name != heir]
    if names:
        conn.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(sql.SQL(", ").join(names), sql.Identifier(heir)))


def _roles(conn: psycopg.Connection, query: LiteralString) -> list[str]:
    return [row[0] for row in conn.execute(query).fetchall()]


def _close_untrusted(conn: psycopg.Connection) -> None:
    """Leave no way to run untrusted code: it acts as the server's account, whoever calls it."""
    for function, kind in conn.execute(_UNTRUSTED, [_FIRST_USER_OID]).fetchall():
        admin = sql.Identifier(_admin(conn))
        conn.execute(sql.SQL(f"ALTER {kind} {function} OWNER TO {{}}").format(admin))
        conn.execute(sql.SQL(f"REVOKE ALL ON {kind} {function} FROM PUBLIC, {{}}").format(sql.Identifier(OWNER)))
    for function, kind, grantee in conn.execute(_EXTRA_GRANTS, [_FIRST_USER_OID]).fetchall():
        conn.execute(sql.SQL(f"REVOKE ALL ON {kind} {function} FROM {grantee} CASCADE"))


def _take_databases(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        "SELECT datname FROM pg_database WHERE datdba = 10 AND datname NOT IN ('postgres', 'template0', 'template1')"
    ).fetchall()
    for (name,) in rows:
        conn.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), sql.Identifier(OWNER)))
