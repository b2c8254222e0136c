"""Users of a running clone, brought to exactly what its document asks for.

Called by ``engine`` for every delivery and change. The groups that give rights were
prepared in every database by the build, so a new owner costs two round trips; readers
need a look into every database. The
server never sees a password: verifiers are computed here (SCRAM-SHA-256, RFC 7677).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from reconciler.engines.postgres import ownership, readers, server
from reconciler.errors import PermanentError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from reconciler.engines.base import BuildWork, CloneWork, UserWish

_ATTRIBUTES = {
    "owner": "NOSUPERUSER CREATEDB",
    "readonly": "NOSUPERUSER NOCREATEDB",
    "superuser": "SUPERUSER CREATEDB",
}
_POWERFUL = """
SELECT rolname FROM pg_authid WHERE (rolcanlogin OR rolcreaterole OR rolcreatedb OR rolpassword IS NOT NULL)
    AND oid <> 10 AND rolname !~ '^pg_' AND rolname <> ALL(%s)
"""
_POWERLESS = "NOLOGIN NOCREATEROLE NOCREATEDB PASSWORD NULL"
_HAS_MEMBERS = "SELECT count(*) FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid WHERE g.rolname = %s"
_GROUP = {"owner": server.OWNER, "readonly": server.READONLY}


def deliver_users(work: CloneWork, users: Sequence[UserWish], drop: Sequence[str]) -> None:
    """Create, change and drop users; repeatable.

    Raises:
        PermanentError: a name belongs to the reconciler or to the cluster's admin.

    """
    names = [user.name for user in users]
    _check_names(work, [*names, *drop])
    with _connect(work) as conn:
        present = _existing(conn, [*names, *drop])
        gone = [name for name in drop if name in present] + _to_be_made_anew(users, present)
        if gone:
            _drop(work, gone)
            present = {name: groups for name, groups in present.items() if name not in gone}
        statements = [part for user in users for part in _statements(conn, user, present.get(user.name))]
        if statements:
            conn.execute(sql.SQL("; ").join(statements))
    if any(user.role == "readonly" for user in users):
        _open_to_readers(work)


def logins(conn: psycopg.Connection) -> tuple[str, ...]:
    """Return the roles that can log in."""
    return tuple(row[0] for row in conn.execute("SELECT rolname FROM pg_roles WHERE rolcanlogin").fetchall())


def leave_behind(work: BuildWork, names: Sequence[str]) -> None:
    """Drop the users of a clone in a copy of it; what they own becomes the group's."""
    with server.connect(work, "template1") as conn:
        present = _existing(conn, names)
    if present:
        _drop(work, sorted(present))


def settle_after_scripts(work: CloneWork, kept: Collection[str]) -> None:
    """Bring a clone's users to what they were: ``kept`` are the roles that could log in before its scripts.

    What scripts made is opened to readers; a role that they made stays, without a way to log in or to make others.
    """
    with server.connect(work, "template1") as conn:
        for (name,) in conn.execute(_POWERFUL, [[*kept, *server.OUR_ROLES]]).fetchall():
            conn.execute(sql.SQL(f"ALTER ROLE {{}} {_POWERLESS}").format(sql.Identifier(name)))
        has_readers = conn.execute(_HAS_MEMBERS, [server.READONLY]).fetchone() != (0,)
    if has_readers:
        _open_to_readers(work)


def _open_to_readers(work: CloneWork) -> None:
    """Let readers see what was made since the build, and what these users will make."""
    with server.connect(work, "template1") as conn:
        databases = server.connectable_databases(conn)
    for database in databases:
        with server.connect(work, database) as conn:
            readers.open_to_readers(conn)


def _connect(work: CloneWork) -> psycopg.Connection:
    """Connect to a database that the clone's users will use anyway, or to the one that is always there."""
    if work.snapshot.databases:
        try:
            return server.connect(work, work.snapshot.databases[0])
        except UnavailableError:
            pass  # the clone's users may have dropped it
    return server.connect(work, "template1")


def _check_names(work: CloneWork, names: Sequence[str]) -> None:
    for name in names:
        if name in server.OUR_ROLES or name == server.admin_role(work) or name.startswith("pg_"):
            raise PermanentError(f"a user of a clone cannot be named {name}: the name is taken by the server itself")


def _to_be_made_anew(users: Sequence[UserWish], present: Mapping[str, frozenset[str]]) -> list[str]:
    """Return readers that were something else before: a role of production with its grants, or an owner of tables."""
    names = [user.name for user in users if user.role == "readonly" and user.name in present]
    return [name for name in names if server.READONLY not in present[name]]


def _existing(conn: psycopg.Connection, names: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the users that exist, each with those of our groups that it is a member of."""
    rows = conn.execute(
        "SELECT r.rolname, array(SELECT g.rolname::text FROM pg_auth_members a JOIN pg_authid g ON g.oid = a.roleid"
        " WHERE a.member = r.oid AND g.rolname = ANY(%s)) FROM pg_authid r WHERE r.rolname = ANY(%s)",
        [list(_GROUP.values()), list(names)],
    ).fetchall()
    return {row[0]: frozenset(row[1]) for row in rows}


def _statements(conn: psycopg.Connection, user: UserWish, groups: frozenset[str] | None) -> list[sql.Composable]:
    """Return what brings a user from its present groups (None: it does not exist) to what is wished."""
    name = sql.Identifier(user.name)
    group = _GROUP.get(user.role)
    # Row security is for production's roles: readers read all rows, and pg_dump of an owner would fail.
    verifier = conn.pgconn.encrypt_password(user.password.encode(), user.name.encode(), b"scram-sha-256").decode()
    attributes = sql.SQL(
        f"LOGIN INHERIT NOCREATEROLE NOREPLICATION BYPASSRLS {_ATTRIBUTES[user.role]} PASSWORD {{}}"
    ).format(sql.Literal(verifier))
    exists = groups is not None
    statements: list[sql.Composable] = [
        sql.SQL("ALTER ROLE {} {}" if exists else "CREATE ROLE {} {}").format(name, attributes)
    ]
    for other in _GROUP.values():
        if other == group and other not in (groups or ()):
            statements.append(sql.SQL("GRANT {} TO {}").format(sql.Identifier(other), name))
        if other != group and other in (groups or ()):
            statements.append(sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(other), name))
    if user.role == "readonly":
        statements.append(sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(name))
    elif exists:
        statements.append(sql.SQL("ALTER ROLE {} RESET default_transaction_read_only").format(name))
    return statements


def _drop(work: BuildWork | CloneWork, names: Sequence[str]) -> None:
    """Drop users; what they own stays, as the group's or the admin's. Their sessions end."""
    roles = {"users": sql.SQL(", ").join(map(sql.Identifier, names)), "owner": sql.Identifier(server.OWNER)}
    with server.connect(work, "template1") as conn:
        databases = server.connectable_databases(conn)
        conn.execute(sql.SQL("; ").join(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(n)) for n in names))
        conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ANY(%s)", [list(names)])
    for database in databases:
        with server.connect(work, database) as conn:
            ownership.keep_with_admin(conn, names)
            conn.execute(sql.SQL("REASSIGN OWNED BY {users} TO {owner}; DROP OWNED BY {users}").format(**roles))
    with server.connect(work, "template1") as conn:
        conn.execute(sql.SQL("DROP ROLE {users}").format(**roles))
