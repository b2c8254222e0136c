"""Roles on an instance: logins of clones' users, and workers that exist for one piece of work.

Called by :mod:`.front`, :mod:`.loading` and :mod:`.scripts`. Roles belong to the whole server:
each has the name of its clone in front, and our mark, or it is somebody else's. What owners make
belongs to a group, as which they act from their first moment on; so a login that goes leaves
nothing behind. No password reaches the server: verifiers are computed here (SCRAM-SHA-256).
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, LiteralString

import psycopg
from psycopg import sql

from reconciler.engines.postgres import readers
from reconciler.engines.postgres.instance import catalog, marks
from reconciler.engines.postgres.instance.link import at_once
from reconciler.engines.postgres.instance.marks import RoleMark
from reconciler.errors import BusyError
from reconciler.state.hosted import login_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reconciler.engines.base import UserWish
    from reconciler.engines.postgres.instance.catalog import Groups
    from reconciler.engines.postgres.instance.databases import Making
    from reconciler.engines.postgres.instance.link import Link
    from reconciler.ids import CloneName
    from reconciler.state.servers import Hosted

_GRANTS_BYPASS = 160000
"""Before, only superusers let roles pass by row security; since then, whoever may do so and make roles."""
_MAY_BYPASS = "SELECT rolsuper OR rolbypassrls AND %(since)s FROM pg_roles WHERE rolname = current_user"
_END = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s"
_POWERLESS: LiteralString = "NOLOGIN NOCREATEROLE NOCREATEDB PASSWORD NULL"


@dataclass(frozen=True, slots=True)
class Worker:
    """A login of ours for one piece of work, without any right of a superuser."""

    name: str
    password: str = field(repr=False)


def logins_of(conn: psycopg.Connection, link: Link, clone: CloneName) -> dict[str, str]:
    """Return the logins of a clone, by their users."""
    known = catalog.roles(conn, link.reach.installation)
    return {mark.user: name for name, mark in known.items() if mark.kind == "user" and mark.clone == clone}


def make(link: Link, conn: psycopg.Connection, groups: Groups, clone: CloneName, users: Sequence[UserWish]) -> None:
    """Make the logins of a clone, or bring those that there are to what is wished; in a transaction of the caller."""
    known, bypass = catalog.roles(conn, link.reach.installation), _may_bypass(conn)
    for user in users:
        _make(link, conn, groups, clone, user, known, bypass=bypass)


def deliver(
    link: Link,
    conn: psycopg.Connection,
    groups: Groups,
    hosted: Hosted,
    users: Sequence[UserWish],
    drop: Sequence[str],
) -> None:
    """Bring a clone's logins to what is wished; see :meth:`~reconciler.engines.base.Instance.deliver`."""
    logins = logins_of(conn, link, hosted.clone)
    for gone in drop:
        if gone in logins:
            _retire(link, conn, groups, hosted, logins[gone])
    with at_once(conn):
        make(link, conn, groups, hosted.clone, users)
        if not hosted.private:
            _let_in(link, conn, hosted, [login_name(hosted.clone, user.name) for user in users])


def drop_unused(link: Link, conn: psycopg.Connection) -> None:
    """Drop the logins of clones that have no database here any more, and workers that nobody works as."""
    found = catalog.databases(conn, link.reach.installation)
    for name, mark in catalog.roles(conn, link.reach.installation).items():
        if mark.clone is not None and not catalog.of_clone(found, mark.clone):
            _drop(conn, name)


def rename(link: Link, conn: psycopg.Connection, formerly: CloneName, clone: CloneName) -> None:
    """Give the logins of a clone its new name, within a transaction of the caller."""
    for user, name in logins_of(conn, link, formerly).items():
        new = login_name(clone, user)
        conn.execute(sql.SQL("ALTER ROLE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(new)))
        mark = RoleMark(installation=link.reach.installation, kind="user", clone=clone, user=user)
        marks.put(conn, "ROLE", new, mark)


@contextmanager
def worker(link: Link, conn: psycopg.Connection, groups: Groups, purpose: str, working: Making) -> Iterator[Worker]:
    """Have a login that may do in our databases what their owners may, until the end of the block."""
    _drop_idle_workers(link, conn, working)
    made = Worker(f"{groups.workers}_{secrets.token_hex(4)}", secrets.token_urlsafe(24))
    with working.of(made.name):
        attributes = sql.SQL("LOGIN INHERIT CONNECTION LIMIT 100 PASSWORD {}").format(_verifier(conn, made))
        with conn.transaction():
            conn.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(made.name), attributes))
            mark = RoleMark(installation=link.reach.installation, kind="worker", purpose=purpose)
            marks.put(conn, "ROLE", made.name, mark)
            _be_member(conn, made.name)
            for group in (groups.owners, groups.workers):
                conn.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(made.name)))
            _act_as(conn, made.name, groups.owners)
        try:
            yield made
        finally:
            with link.session() as later:  # the first one may have been waiting for hours, and be gone
                _drop(later, made.name)


def leave_to_owners(inside: psycopg.Connection, groups: Groups, name: str) -> None:
    """Give what a role owns in a database to the group, whatever it acted as when it made it."""
    names = {"role": sql.Identifier(name), "owners": sql.Identifier(groups.owners)}
    inside.execute(sql.SQL("REASSIGN OWNED BY {role} TO {owners}; DROP OWNED BY {role}").format(**names))


def open_to_readers(inside: psycopg.Connection, groups: Groups) -> None:
    """Let readers read what is in a database, and what owners make there from now on."""
    is_superuser = inside.info.parameter_status("is_superuser") == "on"
    readers.grant_missing(inside, groups.readers, large_objects=is_superuser)
    readers.grant_later(inside, groups.owners, groups.readers)


def _make(
    link: Link,
    conn: psycopg.Connection,
    groups: Groups,
    clone: CloneName,
    user: UserWish,
    known: Mapping[str, RoleMark],
    *,
    bypass: bool,
) -> None:
    """Make or change the login of a user; ``known`` are the roles that bear our marks."""
    name = login_name(clone, user.name)
    mark = known.get(name)
    exists = mark is not None or conn.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone() is not None
    if exists and (mark is None or mark.kind != "user" or mark.clone != clone):
        raise BusyError(
            f"{link.where} has a role {name} that is not of clone {clone}; it is left alone",
            reason="NameTaken",
            hint="rename the user or the clone, or that role",
        )
    attributes = sql.SQL("LOGIN INHERIT NOCREATEROLE NOCREATEDB PASSWORD {}").format(
        _verifier(conn, Worker(name, user.password))
    )
    if bypass:  # row security is for production's roles, and none of these is here
        attributes += sql.SQL(" BYPASSRLS")
    is_owner = user.role == "owner"
    group, other = (groups.owners, groups.readers) if is_owner else (groups.readers, groups.owners)
    role = sql.Identifier(name)
    conn.execute(sql.SQL("ALTER ROLE {} {}" if exists else "CREATE ROLE {} {}").format(role, attributes))
    if not exists:
        made = RoleMark(installation=link.reach.installation, kind="user", clone=clone, user=user.name)
        marks.put(conn, "ROLE", name, made)
        _be_member(conn, name)
    else:
        conn.execute(sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(other), role))
        conn.execute(sql.SQL("ALTER ROLE {} RESET ALL").format(role))
    conn.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), role))
    if is_owner:
        _act_as(conn, name, groups.owners)
    else:
        conn.execute(sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(role))


def _be_member(conn: psycopg.Connection, name: str) -> None:
    """Let the administrator end a role's sessions and give away what it owns, also one that is no superuser."""
    conn.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(name)))


def _act_as(conn: psycopg.Connection, name: str, group: str) -> None:
    """Let sessions of a role begin as the group: what they make belongs to that, and its members may change it."""
    words = sql.SQL("ALTER ROLE {} SET role = {}")
    conn.execute(words.format(sql.Identifier(name), sql.Literal(group)))


def _let_in(link: Link, conn: psycopg.Connection, hosted: Hosted, logins: Sequence[str]) -> None:
    found = catalog.of_volume(catalog.databases(conn, link.reach.installation), hosted.volume)
    for database in found.values():
        for login in logins:
            words = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}")
            conn.execute(words.format(sql.Identifier(database.name), sql.Identifier(login)))


def _retire(link: Link, conn: psycopg.Connection, groups: Groups, hosted: Hosted, login: str) -> None:
    """Drop a login of a clone that goes on; what it owns where we can look stays, as the group's."""
    conn.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(login)))
    conn.execute(_END, [login])
    found = catalog.of_clone(catalog.databases(conn, link.reach.installation), hosted.clone)
    for database in found:
        words = sql.SQL("REVOKE ALL ON DATABASE {} FROM {}")
        conn.execute(words.format(sql.Identifier(database.name), sql.Identifier(login)))
        if database.open and database.whole:
            with link.session(database.name) as inside:
                leave_to_owners(inside, groups, login)
    _drop(conn, login)


def _drop(conn: psycopg.Connection, name: str) -> None:
    """Drop a role of ours, whose sessions end; one that owns something where nobody looks loses its way in."""
    conn.execute(_END, [name])
    try:
        conn.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))
    except psycopg.errors.DependentObjectsStillExist:
        conn.execute(sql.SQL(f"ALTER ROLE {{}} {_POWERLESS}").format(sql.Identifier(name)))


def _drop_idle_workers(link: Link, conn: psycopg.Connection, working: Making) -> None:
    """Drop workers of a reconciler that was killed."""
    for name, mark in catalog.roles(conn, link.reach.installation).items():
        if mark.kind == "worker" and name not in working:
            _drop(conn, name)


def _may_bypass(conn: psycopg.Connection) -> bool:
    since = conn.info.server_version >= _GRANTS_BYPASS
    row = conn.execute(_MAY_BYPASS, {"since": since}).fetchone()
    return row is not None and bool(row[0])


def _verifier(conn: psycopg.Connection, role: Worker) -> sql.Literal:
    made = conn.pgconn.encrypt_password(role.password.encode(), role.name.encode(), b"scram-sha-256")
    return sql.Literal(made.decode())
