"""Databases on an instance: made of templates, served under their clones' names, refused, removed.

Called by :mod:`.front`. What it does is found again by marks: a kill at any point leaves what
the same call, or the removal of the same thing, puts right. Statements about one database are
made from another one, so that it need not be connected to.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from reconciler.engines.postgres.instance import catalog, marks, roles
from reconciler.engines.postgres.instance.link import at_once
from reconciler.engines.postgres.instance.marks import CloneMark, TemplateMark
from reconciler.errors import BusyError, PermanentError
from reconciler.state.hosted import private_name, public_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from reconciler.engines.base import UserWish
    from reconciler.engines.postgres.instance.catalog import Database, Groups
    from reconciler.engines.postgres.instance.link import Link
    from reconciler.ids import CloneName, VolumeId
    from reconciler.state.servers import Hosted

FILE_COPY_METHOD = 180000
"""Since this version a server can be told to share blocks when it copies files."""
_STRATEGY = 150000
_SECONDS = 30
"""How long a session may take to end; its transaction is rolled back by then."""
_END = """
SELECT pg_terminate_backend(pid, %(milliseconds)s), pid FROM pg_stat_activity
WHERE datname = ANY(%(names)s) AND pid <> pg_backend_pid()
"""
_CANNOT_SHARE = (psycopg.errors.FeatureNotSupported, psycopg.errors.InternalError_, psycopg.errors.SystemError)
"""What copy_file_range(2) says of a file system is an internal error to the server, if it says anything."""
_PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = %s"


class Making:
    """Names of databases that are being made by this process: they bear no mark yet, and nobody wipes them up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        with self._lock:
            self._names.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._names.discard(name)

    def __contains__(self, name: object) -> bool:
        with self._lock:
            return name in self._names

    def names(self) -> frozenset[str]:
        """Return all of them."""
        with self._lock:
            return frozenset(self._names)


def create(
    link: Link,
    conn: psycopg.Connection,
    groups: Groups,
    making: Making,
    hosted: Hosted,
    users: Sequence[UserWish],
    changing: AbstractContextManager[object],
) -> None:
    """Make the databases of a generation and logins; see :meth:`~reconciler.engines.base.Instance.create`.

    Logins come after the copies: the server ends each with a checkpoint, which would have to write
    what is new of them. That it all is on the disk is waited for when users are let in (``serve``):
    the server's log is in order, so what is written here is there as well by then.
    """
    found = wipe_up(link, conn, groups, making)
    for left in catalog.of_volume(found, hosted.volume).values():
        drop(link, conn, left.name)
    templates = catalog.of_snapshot(found, hosted.snapshot)
    made: dict[str, CloneMark] = {}
    with ExitStack() as until_marked:
        for name in hosted.databases:
            template = templates.get(name)
            if template is None or not is_complete(template):
                raise BusyError(
                    f"snapshot {hosted.snapshot} is not, or no longer, loaded into {link.where}", reason="TemplateGone"
                )
            target = private_name(hosted.volume, name, hosted.databases)
            catalog.require_free(found, target, link.where)
            until_marked.enter_context(making.of(target))
            _copy(conn, template, target, groups, link.reach.connections)
            made[target] = CloneMark(
                installation=link.reach.installation,
                volume=hosted.volume,
                clone=hosted.clone,
                snapshot=hosted.snapshot,
                database=name,
            )
        with changing, at_once(conn):
            conn.execute("SET LOCAL synchronous_commit = off")
            for target, mark in made.items():
                marks.put(conn, "DATABASE", target, mark)
                close_to_others(conn, target, groups)
            roles.make(link, conn, groups, hosted.clone, users)


def is_complete(template: Database) -> bool:
    """Whether clones can be copied from a database."""
    return isinstance(template.mark, TemplateMark) and template.mark.complete and template.whole


def serve(link: Link, conn: psycopg.Connection, logins: Sequence[str], hosted: Hosted) -> None:
    """Let a clone's users in under its own names; see :meth:`~reconciler.engines.base.Instance.serve`.

    Sessions end first, then one transaction changes everything: nobody ever finds another
    generation under the clone's name than the one before or this one.
    """
    found = catalog.databases(conn, link.reach.installation)
    mine = {name: d for name, d in catalog.of_volume(found, hosted.volume).items() if d.whole}
    missing = sorted(set(hosted.databases) - mine.keys())
    if missing:
        raise PermanentError(
            f"the database {missing[0]} of clone {hosted.clone} is not on {link.where} any more",
            reason="DatabaseGone",
            hint=f"reconciler reset {hosted.clone} makes it anew",
        )
    if hosted.private:
        with at_once(conn):
            for database in mine.values():
                _connecting(conn, database.name, logins, allowed=False)
                allow(conn, database.name, allowed=True)
        return
    wanted = {d.name: public_name(hosted.clone, name, hosted.databases) for name, d in mine.items()}
    in_the_way = _in_the_way(link, found, hosted, wanted)
    moved = {*in_the_way, *(name for name, new in wanted.items() if name != new)}
    shut(conn, [database.name for database in found if database.open and database.name in moved])
    with at_once(conn):
        for name, new in in_the_way.items():
            _rename(conn, name, new)
        for name, new in wanted.items():
            if name != new:
                _rename(conn, name, new)
            _connecting(conn, new, logins, allowed=True)
            allow(conn, new, allowed=True)


def refuse(link: Link, conn: psycopg.Connection, volume: VolumeId) -> None:
    """Let nobody into a generation any more."""
    found = catalog.of_volume(catalog.databases(conn, link.reach.installation), volume)
    shut(conn, [database.name for database in found.values() if database.whole])


def remove(link: Link, conn: psycopg.Connection, volume: VolumeId) -> None:
    """Drop the databases of a generation."""
    for database in catalog.of_volume(catalog.databases(conn, link.reach.installation), volume).values():
        drop(link, conn, database.name)


def rename(link: Link, conn: psycopg.Connection, formerly: CloneName, clone: CloneName) -> None:
    """Give the databases and logins of a clone its new name, in one transaction; sessions in them end.

    Raises:
        BusyError: somebody else's database has the name.

    """
    found = catalog.databases(conn, link.reach.installation)
    mine = [d for d in catalog.of_clone(found, formerly) if d.whole]
    new_names: dict[str, str] = {}
    for database in mine:
        mark = database.mark
        if isinstance(mark, CloneMark):
            siblings = list(catalog.of_volume(found, mark.volume))
            if database.name == public_name(formerly, mark.database, siblings):
                new_names[database.name] = public_name(clone, mark.database, siblings)
    for new in new_names.values():
        catalog.require_free(found, new, link.where)
    served = [d.name for d in mine if d.open and d.name in new_names]
    shut(conn, new_names)
    with conn.transaction():
        for database in mine:
            if isinstance(database.mark, CloneMark):
                marks.put(conn, "DATABASE", database.name, replace(database.mark, clone=clone))
        roles.rename(link, conn, formerly, clone)
        for name, new in new_names.items():
            _rename(conn, name, new)
            allow(conn, new, allowed=name in served)


def forget_template(conn: psycopg.Connection, database: Database) -> None:
    """Say that nothing can be copied from a database any more, before it is dropped."""
    if isinstance(database.mark, TemplateMark) and database.whole:
        with conn.transaction():
            marks.put(conn, "DATABASE", database.name, replace(database.mark, complete=False))
            conn.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(database.name)))


def wipe_up(link: Link, conn: psycopg.Connection, groups: Groups, making: Making) -> tuple[Database, ...]:
    """Drop databases that a killed reconciler made and did not come to mark; return all that there are then.

    Nobody could have used them: what is made is closed until it is marked. So one that is
    open is not of ours, whoever owns it.
    """
    made = making.names()  # what is marked, and made no more, after the look is unmarked in it
    found = catalog.databases(conn, link.reach.installation)
    unmarked = [d for d in found if d.mark is None and not d.open and d.owner == groups.databases]
    left = [d for d in unmarked if d.name not in made and d.name not in making]
    if not left or groups.databases not in catalog.roles(conn, link.reach.installation):
        return found
    for database in left:
        drop(link, conn, database.name)
    return tuple(d for d in found if d not in left)


def drop(link: Link, conn: psycopg.Connection, name: str) -> None:
    """Drop a database of ours, with the sessions in it and the transactions that were prepared in it."""
    identifier = sql.Identifier(name)
    broken = conn.execute("SELECT datconnlimit = -2 FROM pg_database WHERE datname = %s", [name]).fetchone()
    if broken is None:
        return
    if not broken[0]:
        conn.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(identifier))
        _roll_back_prepared(link, conn, name)
        shut(conn, [name])
    conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier))


def shut(conn: psycopg.Connection, names: Iterable[str]) -> None:
    """Let nobody into databases any more, and end the sessions that there are."""
    wanted = list(names)
    if not wanted:
        return
    with conn.transaction():
        for name in wanted:
            allow(conn, name, allowed=False)
    end_sessions(conn, wanted)


def end_sessions(conn: psycopg.Connection, names: Sequence[str]) -> None:
    """End all sessions in databases, and wait for that.

    Raises:
        BusyError: one does not end.

    """
    rows = conn.execute(_END, {"milliseconds": _SECONDS * 1000, "names": list(names)}).fetchall()
    staying = [pid for ended, pid in rows if not ended]
    if (
        staying
        and conn.execute(
            "SELECT FROM pg_stat_activity WHERE pid = ANY(%s) AND datname = ANY(%s)", [staying, list(names)]
        ).fetchone()
    ):
        raise BusyError(f"a session in database {', '.join(names)} does not end", reason="InUse")


def allow(conn: psycopg.Connection, name: str, *, allowed: bool) -> None:
    """Let anybody connect to a database at all, or nobody."""
    words = f"ALTER DATABASE {{}} ALLOW_CONNECTIONS {'true' if allowed else 'false'}"
    conn.execute(sql.SQL(words).format(sql.Identifier(name)))


def close_to_others(conn: psycopg.Connection, name: str, groups: Groups) -> None:
    """Leave a new database to our groups: everybody may connect to what CREATE DATABASE makes."""
    names = {
        "database": sql.Identifier(name),
        "owners": sql.Identifier(groups.owners),
        "workers": sql.Identifier(groups.workers),
    }
    conn.execute(sql.SQL("REVOKE ALL ON DATABASE {database} FROM PUBLIC").format(**names))
    conn.execute(sql.SQL("GRANT CREATE, TEMPORARY ON DATABASE {database} TO {owners}").format(**names))
    conn.execute(sql.SQL("GRANT CONNECT ON DATABASE {database} TO {workers}").format(**names))


def _copy(conn: psycopg.Connection, template: Database, target: str, groups: Groups, connections: int) -> None:
    """Copy a database file by file; where blocks cannot be shared, their content is copied."""
    mark = template.mark
    statement = copying(conn, template.name, target, groups, connections=connections)
    if isinstance(mark, TemplateMark) and mark.instant is not False and share_blocks(conn):
        try:
            conn.execute(statement)
        except _CANNOT_SHARE:
            conn.execute("SET file_copy_method = copy")
        else:
            return
    conn.execute(statement)


def share_blocks(conn: psycopg.Connection) -> bool:
    """Ask for copies that share blocks; return whether the server knows such a thing. Its file system may not."""
    if conn.info.server_version < FILE_COPY_METHOD:
        return False
    try:
        conn.execute("SET file_copy_method = clone")
    except psycopg.errors.InvalidParameterValue:  # built for a system that has no call for it
        return False
    return True


def copying(
    conn: psycopg.Connection, template: str, target: str, groups: Groups, *, connections: int = -1
) -> sql.Composed:
    """Return the statement that copies a database, for nobody to connect to yet."""
    strategy = " STRATEGY FILE_COPY" if conn.info.server_version >= _STRATEGY else ""
    words = f"CREATE DATABASE {{target}} TEMPLATE {{template}}{strategy} OWNER {{owner}} ALLOW_CONNECTIONS false"
    return sql.SQL(f"{words} CONNECTION LIMIT {connections}").format(
        target=sql.Identifier(target),
        template=sql.Identifier(template),
        owner=sql.Identifier(groups.databases),
    )


def _in_the_way(link: Link, found: tuple[Database, ...], hosted: Hosted, wanted: dict[str, str]) -> dict[str, str]:
    """Return the databases of other generations that have a clone's names, and what to call them.

    Raises:
        BusyError: somebody else's database has one.

    """
    renamed: dict[str, str] = {}
    for database in found:
        if database.name not in wanted.values() or database.name in wanted:
            continue
        mark = database.mark
        if not isinstance(mark, CloneMark) or mark.clone != hosted.clone:
            raise BusyError(
                f"{link.where} has a database {database.name} that is not of clone {hosted.clone}; it is left alone",
                reason="NameTaken",
                hint="rename the clone, or that database",
            )
        siblings = list(catalog.of_volume(found, mark.volume))
        renamed[database.name] = private_name(mark.volume, mark.database, siblings)
    return renamed


def _connecting(conn: psycopg.Connection, database: str, logins: Iterable[str], *, allowed: bool) -> None:
    words = "GRANT CONNECT ON DATABASE {} TO {}" if allowed else "REVOKE CONNECT ON DATABASE {} FROM {}"
    for login in logins:
        conn.execute(sql.SQL(words).format(sql.Identifier(database), sql.Identifier(login)))


def _rename(conn: psycopg.Connection, name: str, new: str) -> None:
    conn.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(new)))


def _roll_back_prepared(link: Link, conn: psycopg.Connection, name: str) -> None:
    """Roll back what was prepared in a database: only from inside it can that be done."""
    prepared = [row[0] for row in conn.execute(_PREPARED, [name]).fetchall()]
    if not prepared:
        return
    allow(conn, name, allowed=True)
    with link.session(name) as inside:
        for gid in prepared:
            inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
