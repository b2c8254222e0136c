"""Accounts on an instance: logins of clones' users, and workers, which own what is in our databases.

Called by the other modules of this package. Accounts belong to the whole server: a login has the
name of its clone in front, and our token, or it is somebody else's. It has rights in the
databases of its clone by the names that users know, so nobody but us gets at any other
generation, and it is locked while nobody is to be let in.

A worker makes what is in the databases of a generation, or in what clones are copied from: the
SQL of snapshots and of scripts runs as it, with an owner's rights there and none beyond. Views and
code work with its rights. It can log in only while we work, with a password of that moment.
"""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from reconciler.engines.mysql.accounts import account
from reconciler.engines.mysql.failures import SqlError
from reconciler.engines.mysql.instance import marks
from reconciler.engines.mysql.instance.marks import LoginMark, Row, WorkerMark
from reconciler.engines.mysql.link import quoted
from reconciler.engines.mysql.product import MARIADB
from reconciler.errors import BusyError, UnsupportedError
from reconciler.state.hosted import login_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from reconciler.engines.base import UserWish
    from reconciler.engines.mysql.instance.link import InstanceLink
    from reconciler.engines.mysql.instance.marks import Registry
    from reconciler.engines.mysql.link import Link
    from reconciler.ids import CloneName, SnapshotId, VolumeId

EVERYWHERE = "%"
"""The host of our accounts: from where an instance is reached is up to it."""
Role = Literal["owner", "readonly"]
_RIGHTS: Mapping[Role, str] = {
    "owner": ", ".join(right for right in MARIADB.owner_rights.split(", ") if right != "EVENT"),
    "readonly": "SELECT, SHOW VIEW",
}
"""By role. Nothing is scheduled: an event would go on while nobody is let in."""
_SECONDS = 30.0
"""How long a session may take to end; its transaction is rolled back by then."""
_POLL_SECONDS = 0.02
_LONGEST_PATTERN = 64
"""Characters that a right has for the name of its databases, with what escapes them."""
_ACCOUNTS = "SELECT user, host, max_questions FROM mysql.user WHERE user IN %s AND host <> ''"
_GRANTED = """
SELECT user, host FROM mysql.db WHERE %s LIKE db AND db <> '%%'
UNION SELECT user, host FROM mysql.tables_priv WHERE db = %s
UNION SELECT user, host FROM mysql.columns_priv WHERE db = %s
UNION SELECT user, host FROM mysql.procs_priv WHERE db = %s
ORDER BY user, host
"""
"""Rights in all databases, by the pattern ``%``, are as good as an administrator's: nobody has them by chance."""
_GIVEN = "SELECT db, insert_priv FROM mysql.db WHERE user = %s AND host = %s"
_SESSIONS = "SELECT id FROM information_schema.processlist WHERE BINARY user IN %s"
_NO_THREAD = 1094


@dataclass(frozen=True, slots=True)
class Worker:
    """An account of ours that works."""

    name: str
    password: str = field(repr=False)


def pattern(name: str) -> str:
    """Return what a right names one database by: a pattern, in which no character stands for another.

    Raises:
        UnsupportedError: that is too long.

    """
    found = name.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%")
    if len(found) > _LONGEST_PATTERN:
        raise UnsupportedError(
            f"the database {name} would have a name that no right can be given for",
            reason="NameTooLong",
            hint="rename the clone, or the database in a script of the image, to something shorter",
        )
    return found


def require_ungranted(link: Link, registry: Registry, name: str) -> None:
    """Insist that nobody but accounts of ours has rights in a database that is to be made.

    Rights outlive their databases, and are given for patterns of names that nothing has yet.

    Raises:
        BusyError: somebody has.

    """
    ours = {(one, EVERYWHERE) for one in (*registry.rows(link, "login"), *registry.rows(link, "worker"))}
    for user, host in link.rows(_GRANTED, name, name, name, name):
        if (user, host) not in ours:
            raise BusyError(
                f"{registry.where} gives {account(user, host)} rights in a database {name}, which is still to be made",
                reason="NameGranted",
                hint="revoke them, or rename the clone",
            )


def worker_of(link: Link, registry: Registry, subject: VolumeId | SnapshotId) -> str | None:
    """Return the name of the worker of a generation or snapshot; None: there is none."""
    rows = registry.rows(link, "worker").values()
    return next((row.name for row in rows if isinstance(row.mark, WorkerMark) and row.mark.subject == subject), None)


def ensure_worker(link: Link, registry: Registry, subject: VolumeId | SnapshotId) -> str:
    """Return the name of the worker of a generation or snapshot, which is made if it is missing."""
    name = worker_of(link, registry, subject)
    if name is None:
        token = marks.token()
        name = f"{registry.name}_{token}"
        registry.put(link, "worker", [Row(name, token, WorkerMark(subject=subject))])
    link.rows(f"CREATE USER IF NOT EXISTS {account(name, EVERYWHERE)} {MARIADB.nobody()} ACCOUNT LOCK")
    return name


@contextmanager
def working(
    access: InstanceLink,
    link: Link,
    registry: Registry,
    subject: VolumeId | SnapshotId,
    names: Iterable[str],
    *,
    reads: Iterable[str] = (),
) -> Iterator[Worker]:
    """Let the worker of a generation or snapshot log in while the block runs, to work in ``names``.

    It has a reader's rights in what it ``reads``, and no rights anywhere else.
    """
    name = ensure_worker(link, registry, subject)
    own(link, registry, subject, names, reads=reads)
    worker = Worker(name, secrets.token_urlsafe(24))
    who = account(name, EVERYWHERE)
    link.rows(f"ALTER USER {who} {MARIADB.identified(worker.password)} ACCOUNT UNLOCK")
    try:
        yield worker
    finally:
        with access.session() as later:  # the first one may have been waiting for hours, and be gone
            later.rows(f"ALTER USER {who} {MARIADB.nobody()} ACCOUNT LOCK")
            end_sessions(later, [name])


def own(
    link: Link,
    registry: Registry,
    subject: VolumeId | SnapshotId,
    names: Iterable[str],
    *,
    reads: Iterable[str] = (),
) -> None:
    """Give the worker of a generation or snapshot an owner's rights in ``names``, a reader's in others, and no more."""
    roles: dict[str, Role] = dict.fromkeys(names, "owner")
    bring_rights(link, ensure_worker(link, registry, subject), roles | dict.fromkeys(reads, "readonly"))


def drop_worker(link: Link, registry: Registry, subject: VolumeId | SnapshotId) -> None:
    """Drop the worker of a generation or snapshot; absent is fine."""
    name = worker_of(link, registry, subject)
    if name is not None:
        link.rows(f"DROP USER IF EXISTS {account(name, EVERYWHERE)}")
        end_sessions(link, [name])
        registry.forget(link, "worker", name)


def logins_of(link: Link, registry: Registry, clone: CloneName) -> dict[str, LoginMark]:
    """Return the logins of a clone that are there and ours."""
    noted = _noted(link, registry, clone)
    known = _known(link, [row.name for row, _mark in noted])
    return {row.name: mark for row, mark in noted if _is_ours(known, row)}


def noted_logins(link: Link, registry: Registry, clone: CloneName) -> list[str]:
    """Return the logins of a clone, be they there or not."""
    return [row.name for row, _mark in _noted(link, registry, clone)]


def let_in(link: Link, registry: Registry, clone: CloneName, names: Collection[str]) -> None:
    """Let the logins of a clone into exactly these databases; none: they are locked, and their sessions end.

    Raises:
        BusyError: one lost its mark, so nobody knows who it lets in.

    """
    noted = _noted(link, registry, clone)
    known = _known(link, [row.name for row, _mark in noted])
    logins = {row.name: mark for row, mark in noted if _is_ours(known, row)}
    if not names:
        lock(link, logins)
    for row, _mark in noted:
        _require_no_strangers(registry, known, row)
    for login, mark in logins.items() if names else ():
        bring_rights(link, login, dict.fromkeys(names, mark.role))
        link.rows(f"ALTER USER {account(login, EVERYWHERE)} ACCOUNT UNLOCK")


def lock(link: Link, names: Iterable[str]) -> None:
    """Keep accounts of ours out, and end their sessions."""
    wanted = list(names)
    for name in wanted:
        link.rows(f"ALTER USER {account(name, EVERYWHERE)} ACCOUNT LOCK")
    end_sessions(link, wanted)


def bring_rights(link: Link, name: str, roles: Mapping[str, Role]) -> None:
    """Give an account of ours the rights of roles in databases, by their names, and in no other."""
    who = account(name, EVERYWHERE)
    wanted = {pattern(database): role for database, role in roles.items()}
    given = link.rows(_GIVEN, name, EVERYWHERE)
    held: dict[str, Role] = {str(one): "owner" if writes == "Y" else "readonly" for one, writes in given}
    for one, role in held.items():
        if wanted.get(one) != role:  # to revoke all takes more than we may have
            link.rows(f"REVOKE {_RIGHTS[role]} ON {quoted(one)}.* FROM {who}")
    for one, role in wanted.items():
        if held.get(one) != role:
            link.rows(f"GRANT {_RIGHTS[role]} ON {quoted(one)}.* TO {who}")


def drop_login(link: Link, registry: Registry, name: str) -> None:
    """Drop a login, and end its sessions; absent is fine.

    Raises:
        BusyError: it lost its mark; it is left alone, and still noted.

    """
    row = registry.rows(link, "login").get(name)
    if row is None:
        return
    known = _known(link, [name])
    _require_no_strangers(registry, known, row)
    if _is_ours(known, row):
        lock(link, [name])  # before it goes: sessions would go on, and nobody would know whose they are
        link.rows(f"DROP USER {account(name, EVERYWHERE)}")
    registry.forget(link, "login", name)


def require_renamable(link: Link, registry: Registry, formerly: CloneName, clone: CloneName) -> None:
    """Insist that the logins of a clone can have its new name.

    Raises:
        BusyError: somebody else has an account of the name.

    """
    for row, mark in _noted(link, registry, formerly):
        new = login_name(clone, mark.user)
        known = _known(link, [row.name, new])
        _require_no_strangers(registry, known, row)
        if _is_ours(known, row) and new in known:
            raise _taken(registry.where, new, clone)


def rename(link: Link, registry: Registry, formerly: CloneName, clone: CloneName) -> None:
    """Give the logins of a clone its new name.

    Raises:
        BusyError: somebody else has an account of the name.

    """
    require_renamable(link, registry, formerly, clone)
    for row, mark in _noted(link, registry, formerly):
        new = Row(login_name(clone, mark.user), row.token, replace(mark, clone=clone))
        if _is_ours(_known(link, [row.name]), row):
            registry.put(link, "login", [new])
            link.rows(f"RENAME USER {account(row.name, EVERYWHERE)} TO {account(new.name, EVERYWHERE)}")
        registry.forget(link, "login", row.name)


def end_sessions(link: Link, names: Iterable[str]) -> None:
    """End all sessions of accounts, and wait for that.

    Raises:
        BusyError: one does not end.

    """
    wanted = tuple(names)
    if not wanted:
        return
    deadline = time.monotonic() + _SECONDS
    while threads := [int(row[0]) for row in link.rows(_SESSIONS, wanted)]:
        if time.monotonic() > deadline:
            raise BusyError(f"a session of {', '.join(wanted)} does not end", reason="InUse")
        for thread in threads:
            try:
                link.rows(f"KILL {thread}")
            except SqlError as error:
                if error.code != _NO_THREAD:
                    raise
        time.sleep(_POLL_SECONDS)


def bring(access: InstanceLink, link: Link, registry: Registry, clone: CloneName, user: UserWish) -> None:
    """Make or change the login of a user; a new one is locked.

    Raises:
        BusyError: somebody else has an account of the name.

    """
    name = login_name(clone, user.name)
    row, known = registry.rows(link, "login").get(name), _known(link, [name])
    mark = LoginMark(clone=clone, user=user.name, role="owner" if user.role == "owner" else "readonly")
    ours = row is not None and _is_ours(known, row) and isinstance(row.mark, LoginMark) and row.mark.clone == clone
    if name in known and not ours:
        raise _taken(registry.where, name, clone)
    who, identified = account(name, EVERYWHERE), f"{MARIADB.identified(user.password)} REQUIRE NONE"
    sessions = f"MAX_USER_CONNECTIONS {access.reach.connections}"
    if row is not None and ours:
        registry.put(link, "login", [Row(name, row.token, mark)])
        link.rows(f"ALTER USER {who} {identified} WITH {sessions} PASSWORD EXPIRE NEVER")
        return
    token = marks.login_token()
    registry.put(link, "login", [Row(name, token, mark)])
    limits = f"MAX_QUERIES_PER_HOUR {token} {sessions}"
    link.rows(f"CREATE USER {who} {identified} WITH {limits} PASSWORD EXPIRE NEVER ACCOUNT LOCK")


def _taken(where: str, name: str, clone: CloneName) -> BusyError:
    return BusyError(
        f"{where} has an account {name} that is not of clone {clone}; it is left alone",
        reason="NameTaken",
        hint="rename the user or the clone, or that account",
    )


def _noted(link: Link, registry: Registry, clone: CloneName) -> list[tuple[Row, LoginMark]]:
    """Return what is noted of the logins of a clone."""
    rows = registry.rows(link, "login").values()
    return [(row, row.mark) for row in rows if isinstance(row.mark, LoginMark) and row.mark.clone == clone]


def _known(link: Link, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the accounts of these names: their limits of queries, by the hosts that they are for."""
    found: dict[str, dict[str, str]] = {}
    for user, host, limit in link.rows(_ACCOUNTS, tuple(names)) if names else ():
        found.setdefault(str(user), {})[str(host)] = str(limit)
    return found


def _is_ours(known: Mapping[str, Mapping[str, str]], row: Row) -> bool:
    """Whether our account of a login is there; somebody else may have one of its name for some host."""
    return known.get(row.name, {}).get(EVERYWHERE) == row.token


def _require_no_strangers(registry: Registry, known: Mapping[str, Mapping[str, str]], row: Row) -> None:
    if EVERYWHERE in known.get(row.name, {}) and not _is_ours(known, row):
        raise BusyError(
            f"the account {row.name}@{EVERYWHERE} of {registry.where} is not, or no longer, ours; it is left alone",
            reason="NameTaken",
            hint="drop or rename that account: ours has the limit of queries that we gave it",
        )
