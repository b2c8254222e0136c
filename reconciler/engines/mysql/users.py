"""Users of a running clone, brought to exactly what its document asks for.

Called by ``engine`` for every delivery and change. A name is a user: accounts that
production had of it, for whatever hosts, become the user's as well, or the server would
let them in instead. They cannot go where views and routines work with their rights.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from reconciler.engines.mysql import accounts, server
from reconciler.engines.mysql.failures import SqlError
from reconciler.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.base import CloneWork, UserWish
    from reconciler.engines.mysql.accounts import Role
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.product import Product

    Held = Role | Literal["other"]

_HELD = """
SELECT u.super_priv, d.insert_priv, d.select_priv FROM mysql.user u
LEFT JOIN mysql.db d ON d.user = u.user AND d.host = u.host AND d.db = '%%' WHERE u.user = %s AND u.host = %s
"""
_EVERYWHERE = "%"


def deliver_users(work: CloneWork, product: Product, users: Sequence[UserWish], drop: Sequence[str]) -> None:
    """Create, change and drop users; repeatable.

    Raises:
        PermanentError: a name belongs to the reconciler or to the server.
        UnsupportedError: the host lets in clients that this product cannot tell from others.

    """
    accounts.check_names([*(user.name for user in users), *drop])
    wanted = _hosts(work)
    with server.connect(work) as admin:
        for name in drop:
            leave(admin, product, name)
        for user in users:
            present = accounts.hosts_of(admin, user.name)
            for host in dict.fromkeys((*wanted, *present)):
                secured = work.tls is not None and wanted.get(host, False)
                _bring(admin, product, user, host, exists=host in present, secured=secured)


def leave(admin: Link, product: Product, name: str) -> None:
    """Drop a user, and end its sessions; what works with its rights goes on doing so."""
    defining = accounts.definers(admin)
    for host in accounts.hosts_of(admin, name):
        who = accounts.account(name, host)
        if f"{name}@{host}" in defining:
            accounts.lock(admin, product, who)
            _give(admin, product, who, _role_of(admin, name, host), "owner")
        else:
            admin.rows(f"DROP USER {who}")
    with suppress(SqlError):  # a session that ended by itself meanwhile
        accounts.end_sessions(admin, [name])


def _bring(admin: Link, product: Product, user: UserWish, host: str, *, exists: bool, secured: bool) -> None:
    who = accounts.account(user.name, host)
    known = f"{product.identified(user.password)} REQUIRE {'SSL' if secured else 'NONE'}"
    held = _role_of(admin, user.name, host) if exists else None
    if not exists:
        admin.rows(f"CREATE USER {who} {known}")
    _give(admin, product, who, held, user.role)
    if exists:
        limits = "MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0 MAX_CONNECTIONS_PER_HOUR 0 MAX_USER_CONNECTIONS 0"
        admin.rows(f"ALTER USER {who} {known} WITH {limits} PASSWORD EXPIRE NEVER ACCOUNT UNLOCK")


def _give(admin: Link, product: Product, who: str, held: Held | None, role: Role) -> None:
    if held == role:
        return
    if held is not None:
        admin.rows(f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM {who}")
    for statement in accounts.rights(product, role, who):
        admin.rows(statement)


def _role_of(admin: Link, name: str, host: str) -> Held | None:
    """Return the role whose rights an account has; None: there is no such account."""
    found = admin.rows(_HELD, name, host)
    if not found:
        return None
    powerful, writes, reads = (value == "Y" for value in found[0])
    if powerful or not reads:
        return "superuser" if powerful else "other"
    return "owner" if writes else "readonly"


def _hosts(work: CloneWork) -> dict[str, bool]:
    """Return the hosts that users come from, and whether TLS is asked of them.

    Nobody but this host reaches a server on loopback; elsewhere the accounts say who may come.
    """
    try:
        address = ipaddress.ip_address(work.host)
    except ValueError:
        address = None
    if address is not None and address.is_loopback:
        return {_EVERYWHERE: False}
    hosts = {"127.0.0.0/255.0.0.0": False, "::1": False}
    if address is not None and not address.is_unspecified:
        hosts[str(address)] = False
    for network in work.allow:
        known = ipaddress.ip_network(network)
        if known.version != 4 and known.num_addresses > 1:  # noqa: PLR2004 - IPv4
            raise UnsupportedError(
                f"the network {network} cannot be let in: accounts are for IPv4 networks or single addresses",
                hint="allow IPv4 networks, or write every address with /128",
            )
        hosts[_account_host(known)] = True
    return hosts


def _account_host(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    if network.num_addresses == 1:
        return str(network.network_address)
    return f"{network.network_address}/{network.netmask}"
