"""Cut everything in the data that could reach production or act on the world, and lock production's logins.

Called by ``session``: before any SQL of a spec runs on a physical copy, and before
every sealing. Idempotent. It contacts nobody: subscriptions lose their slot names and
pending table synchronisations before they are dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from reconciler.engines.postgres import ownership, readers, server
from reconciler.engines.postgres.parameters import refused
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import LiteralString

    from reconciler.engines.base import BuildWork

# Tables of job schedulers, and what makes their jobs harmless.
_JOBS = (
    ("cron", "job", "DELETE FROM cron.job"),
    ("pgagent", "pga_job", "UPDATE pgagent.pga_job SET jobenabled = false WHERE jobenabled"),
    ("timetable", "chain", "UPDATE timetable.chain SET live = false WHERE live"),
    ("_timescaledb_config", "bgw_job", "UPDATE _timescaledb_config.bgw_job SET scheduled = false WHERE scheduled"),
)
# What a foreign table may keep: the name of its remote counterpart. All else can be an address, a file or a program.
_HARMLESS_OPTIONS = ["schema_name", "table_name", "schema", "table", "column_name"]

_HIDDEN = """
SELECT datname, datconnlimit = -2 FROM pg_database
WHERE datname <> 'template0' AND (NOT datallowconn OR datconnlimit = -2)
"""
_LOCK_LOGINS = """
UPDATE pg_authid SET rolcanlogin = false, rolsuper = false, rolreplication = false, rolcreaterole = false,
    rolcreatedb = false, rolbypassrls = false, rolpassword = NULL, rolvaliduntil = NULL, rolconnlimit = -1
WHERE oid <> 10 AND rolname !~ '^pg_' AND rolname <> ALL(%s)
"""
_FREE_ADMIN = """
UPDATE pg_authid SET rolpassword = NULL, rolvaliduntil = NULL, rolconnlimit = -1, rolcanlogin = true WHERE oid = 10
"""
_DANGEROUS_MEMBERSHIPS = """
SELECT r.rolname, m.rolname, g.rolname FROM pg_auth_members a
JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member LEFT JOIN pg_roles g ON g.oid = a.grantor
WHERE r.rolname = ANY(%s) OR r.oid = 10
"""


def isolate_cluster(work: BuildWork) -> None:
    """Isolate every database of a build and everything that databases share."""
    with server.connect(work, "template1") as conn:
        _reset_settings(work, conn)
        _open_hidden_databases(conn)
        server.ensure_builder(conn)
        names = server.connectable_databases(conn)
        _roll_back_prepared(work, conn)
        _drop_slots(conn)
    for name in names:
        with server.connect(work, name) as conn:
            _isolate_database(conn, name)
    with server.connect(work, "template1") as conn:
        _lock_roles(conn)
    _stop_jobs(work, names)


def _isolate_database(conn: psycopg.Connection, name: str) -> None:
    _tame_event_triggers(conn)
    _drop_subscriptions(conn)
    _drop_publications(conn)
    _clear_foreign(conn)
    ownership.adopt(conn)
    ownership.open_to_owners(conn, name)
    readers.take_from_everybody(conn)
    readers.open_to_readers(conn)


def _open_hidden_databases(conn: psycopg.Connection) -> None:
    """Let us into databases that refuse connections; what an interrupted DROP DATABASE left is dropped."""
    for name, broken in conn.execute(_HIDDEN).fetchall():
        if broken:
            conn.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
        else:
            conn.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name)))
    conn.execute("UPDATE pg_database SET datconnlimit = -1 WHERE datconnlimit > -1")  # like those of roles


def _roll_back_prepared(work: BuildWork, conn: psycopg.Connection) -> None:
    for gid, database in conn.execute("SELECT gid, database FROM pg_prepared_xacts").fetchall():
        with server.connect(work, database) as inside:
            inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))


def _drop_slots(conn: psycopg.Connection) -> None:
    conn.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


def _drop_subscriptions(conn: psycopg.Connection) -> None:
    """Drop the database's subscriptions. A table still being synchronised would make DROP call the publisher."""
    rows = conn.execute(
        "SELECT subname FROM pg_subscription"
        " WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
    ).fetchall()
    for (name,) in rows:
        conn.execute(
            "DELETE FROM pg_subscription_rel WHERE srsubid = (SELECT oid FROM pg_subscription WHERE subname = %s"
            " AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()))",
            [name],
        )
        identifier = sql.Identifier(name)
        conn.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(identifier))
        conn.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(identifier))
        conn.execute(sql.SQL("DROP SUBSCRIPTION {}").format(identifier))


def _drop_publications(conn: psycopg.Connection) -> None:
    """Drop publications: nobody subscribes to a clone, and they forbid updates of tables without a primary key."""
    for (name,) in conn.execute("SELECT pubname FROM pg_publication").fetchall():
        conn.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name)))


def _clear_foreign(conn: psycopg.Connection) -> None:
    """Remove user mappings and every option that could be an address, a credential, a file or a program."""
    rows = conn.execute("SELECT srvname, umuser, usename FROM pg_user_mappings").fetchall()
    for name, user, role in rows:
        who = sql.SQL("PUBLIC") if user == 0 else sql.Identifier(role)
        conn.execute(sql.SQL("DROP USER MAPPING FOR {} SERVER {}").format(who, sql.Identifier(name)))
    conn.execute("UPDATE pg_foreign_server SET srvoptions = NULL WHERE srvoptions IS NOT NULL")
    conn.execute("UPDATE pg_foreign_data_wrapper SET fdwoptions = NULL WHERE fdwoptions IS NOT NULL")
    conn.execute(
        "UPDATE pg_foreign_table SET ftoptions ="
        " (SELECT array_agg(o) FROM unnest(ftoptions) o WHERE split_part(o, '=', 1) = ANY(%(kept)s))"
        " WHERE EXISTS (SELECT FROM unnest(ftoptions) o WHERE split_part(o, '=', 1) <> ALL(%(kept)s))",
        {"kept": _HARMLESS_OPTIONS},
    )


def _tame_event_triggers(conn: psycopg.Connection) -> None:
    """Keep event triggers out of the admin's sessions, which are replicas: a clone's owner may change their functions.

    Only since version 17 a setting can turn them off.
    """
    rows = conn.execute("SELECT evtname FROM pg_event_trigger WHERE evtenabled IN ('A', 'R')").fetchall()
    for (name,) in rows:
        conn.execute(sql.SQL("ALTER EVENT TRIGGER {} ENABLE").format(sql.Identifier(name)))


def _stop_jobs(work: BuildWork, databases: Sequence[str]) -> None:
    """Stop scheduled jobs, as the builder and not as the admin.

    Whoever made a table of such a name may have put triggers, rules or expressions
    behind it, and these run with the rights of who changes its rows.
    """
    with server.connect(work, "template1") as conn:
        grant = sql.SQL("GRANT pg_read_all_data, pg_write_all_data TO {}")
        conn.execute(grant.format(sql.Identifier(server.BUILDER)))
    for database in databases:
        with server.connect(work, database) as conn:
            found = [job for job in _JOBS if _has_table(conn, job[0], job[1])]
        for schema, table, statement in found:
            with server.connect(work, database, role=server.BUILDER) as conn:
                _stop(conn, f"{schema}.{table} of database {database}", statement)


def _has_table(conn: psycopg.Connection, schema: str, table: str) -> bool:
    return conn.execute("SELECT to_regclass(format('%%I.%%I', %s::text, %s::text))", [schema, table]).fetchone() != (
        None,
    )


def _stop(conn: psycopg.Connection, where: str, statement: LiteralString) -> None:
    try:
        conn.execute(statement)
    except psycopg.errors.UndefinedColumn:
        return  # a table of the same name that is no scheduler's
    except psycopg.Error as error:
        message = f"the scheduled jobs in {where} cannot be stopped: {type(error).__name__}"
        raise SourceError(message, hint="drop them in a script") from error


def _lock_roles(conn: psycopg.Connection) -> None:
    with conn.transaction():
        conn.execute(_LOCK_LOGINS, [[server.BUILDER]])
        conn.execute(_FREE_ADMIN)
    for role, member, grantor in conn.execute(_DANGEROUS_MEMBERSHIPS, [list(server.DANGEROUS_ROLES)]).fetchall():
        statement = sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(role), sql.Identifier(member))
        if grantor is not None:
            statement += sql.SQL(" GRANTED BY {}").format(sql.Identifier(grantor))
        conn.execute(statement + sql.SQL(" CASCADE"))
    if conn.execute("SELECT to_regclass('pg_catalog.pg_parameter_acl')").fetchone() != (None,):
        _revoke_parameters(conn)


def _revoke_parameters(conn: psycopg.Connection) -> None:
    """Take back grants on settings (since version 15): ALTER SYSTEM on archive_command runs commands."""
    rows = conn.execute(
        "SELECT DISTINCT parname, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END"
        " FROM pg_parameter_acl, aclexplode(paracl) WHERE grantee <> 10"
    ).fetchall()
    for name, grantee in rows:
        conn.execute(sql.SQL(f"REVOKE ALL ON PARAMETER {{}} FROM {grantee} CASCADE").format(_parameter(name)))


def _parameter(name: str) -> sql.Composable:
    return sql.SQL(".").join(sql.Identifier(part) for part in name.split("."))


def _reset_settings(work: BuildWork, conn: psycopg.Connection) -> None:
    """Reset all settings of the admin, and those of roles and databases that the reconciler decides.

    Also an application's own, with a dot in their names: keys and passwords stand there.
    """
    rows = conn.execute("SELECT setdatabase, setrole, setconfig FROM pg_db_role_setting").fetchall()
    for database, role, settings in rows:
        kept = [] if role == 10 else [s for s in settings if not refused(s.partition("=")[0])]  # noqa: PLR2004 - the bootstrap superuser's fixed oid
        if kept == settings:
            continue
        dropped = sorted(setting.partition("=")[0] for setting in settings if setting not in kept)
        work.progress(f"settings of a role or database are left behind: {', '.join(dropped)}")
        if kept:
            conn.execute(
                "UPDATE pg_db_role_setting SET setconfig = %s WHERE setdatabase = %s AND setrole = %s",
                [kept, database, role],
            )
        else:
            conn.execute("DELETE FROM pg_db_role_setting WHERE setdatabase = %s AND setrole = %s", [database, role])
