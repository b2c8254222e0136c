"""The accounts of a server: ours, those of a clone's users, and what production left.

Called by the other modules of this package. Rights are given on databases by the
pattern ``%``, which would be the databases of the server itself, too, did not a row for
exactly these stand before it: the server takes the first row that fits, the most exact
name first (MariaDB's ``acl_get``; MySQL's manual, "Access Control, Stage 2").
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

from reconciler.engines.mysql import server
from reconciler.engines.mysql.failures import SqlError
from reconciler.engines.mysql.link import quoted
from reconciler.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.product import Product

Role = Literal["owner", "readonly", "superuser"]

_READER_RIGHTS = "SELECT, SHOW VIEW"
_FENCES = ("GRANT SHOW VIEW ON mysql.* TO {}", "GRANT SELECT, SHOW VIEW, EXECUTE ON sys.* TO {}")
_DEFINERS = """
SELECT definer FROM information_schema.views WHERE table_schema NOT IN ('mysql', 'sys')
UNION SELECT definer FROM information_schema.routines WHERE routine_schema NOT IN ('mysql', 'sys')
UNION SELECT definer FROM information_schema.triggers WHERE trigger_schema NOT IN ('mysql', 'sys')
UNION SELECT definer FROM information_schema.events WHERE event_schema NOT IN ('mysql', 'sys')
"""


def account(name: str, host: str) -> str:
    """Return an account as SQL names it."""
    return f"{quoted(name)}@{quoted(host)}"


def rights(product: Product, role: Role, who: str) -> tuple[str, ...]:
    """Return the statements that give a role's rights to an account that has none."""
    if role == "superuser":
        return (f"GRANT ALL PRIVILEGES ON *.* TO {who} WITH GRANT OPTION",)
    given = product.owner_rights if role == "owner" else _READER_RIGHTS
    return (*(fence.format(who) for fence in _FENCES), f"GRANT {given} ON `%`.* TO {who}")


def hosts_of(admin: Link, name: str) -> tuple[str, ...]:
    """Return the hosts that accounts of a name are for."""
    rows = admin.rows("SELECT host FROM mysql.user WHERE user = %s AND host <> '' ORDER BY host", name)
    return tuple(str(row[0]) for row in rows)


def definers(admin: Link) -> frozenset[str]:
    """Return the accounts, as ``name@host``, with whose rights views, routines, triggers and events work."""
    return frozenset(str(row[0]) for row in admin.rows(_DEFINERS))


def ensure_owner(admin: Link, product: Product) -> None:
    """Make the account that SQL of specs and dumps runs as; it has the rights of an owner and cannot log in."""
    who = account(server.OWNER, server.HOST)
    if not hosts_of(admin, server.OWNER):
        admin.rows(f"CREATE USER {who} {product.nobody()} ACCOUNT LOCK")
        for statement in rights(product, "owner", who):
            admin.rows(statement)


@contextmanager
def opened_owner(work: server.Work, product: Product) -> Iterator[str]:
    """Let the owner's account log in while the block runs; return its password, which nobody else ever has."""
    password = secrets.token_urlsafe(24)
    who = account(server.OWNER, server.HOST)
    with server.connect(work) as admin:
        ensure_owner(admin, product)
        admin.rows(f"ALTER USER {who} {product.identified(password)} ACCOUNT UNLOCK")
    try:
        yield password
    finally:
        with server.connect(work) as admin:
            lock(admin, product, who)


def lock(admin: Link, product: Product, who: str) -> None:
    """Keep an account, without a way to log in."""
    admin.rows(f"ALTER USER {who} {product.nobody()} ACCOUNT LOCK")


def is_locked(admin: Link, who: str) -> bool:
    """Whether nobody can log in to an account at present."""
    return " ACCOUNT LOCK" in str(admin.value(f"SHOW CREATE USER {who}"))


def end_sessions(admin: Link, names: Sequence[str]) -> None:
    """End the sessions of users."""
    for name in names:
        for (thread,) in admin.rows("SELECT id FROM information_schema.processlist WHERE user = %s", name):
            with suppress(SqlError):  # one that ended by itself meanwhile
                admin.rows(f"KILL {int(thread)}")


def check_names(names: Sequence[str]) -> None:
    """Refuse names that are the server's own or ours.

    Raises:
        PermanentError: one is.

    """
    for name in names:
        if name in server.RESERVED:
            raise PermanentError(f"a user of a clone cannot be named {name}: the name is taken by the server itself")
