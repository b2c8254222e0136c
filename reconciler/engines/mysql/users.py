"""Users of a running clone, brought to exactly what its document asks for.

Called by ``engine`` for every delivery and change, and at every start. A name is a user:
accounts that production had of it become the user's as well, or the server would let them
in instead. They cannot go where views and routines work with their rights. Accounts say by
hosts who may come, so those that let in others than the host's configuration does go, too,
or are locked.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from reconciler.engines.mysql import accounts, contained, server
from reconciler.errors import UnavailableError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from reconciler.engines.base import CloneWork, UserWish
    from reconciler.engines.mysql.accounts import Role
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.product import Login, Product

    Held = Role | Literal["other"]
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HELD = """
SELECT u.super_priv, d.insert_priv, d.select_priv FROM mysql.user u
LEFT JOIN mysql.db d ON d.user = u.user AND d.host = u.host AND d.db = '%%' WHERE u.user = %s AND u.host = %s
"""
_EVERYWHERE = "%"


def check_hosts(work: CloneWork) -> None:
    """Refuse hosts that accounts cannot be for; before a server is stopped or started for that.

    Raises:
        UnsupportedError: the host lets in clients that this product cannot tell from others.

    """
    _hosts(work)


def deliver_users(work: CloneWork, product: Product, users: Sequence[UserWish], drop: Sequence[str]) -> None:
    """Create, change and drop users; repeatable.

    Raises:
        PermanentError: a name belongs to the reconciler or to the server.
        UnsupportedError: the host lets in clients that this product cannot tell from others.

    """
    accounts.check_names([*(user.name for user in users), *drop])
    with server.connect(work) as admin:
        wanted = _hosts(work, _neighbours(work, admin))
        for name in drop:
            leave(admin, product, name)
        for user in users:
            present = accounts.hosts_of(admin, user.name)
            _close_others(admin, product, user.name, present, wanted)
            for host, secured in _opened(work, present, wanted).items():
                known = f"{product.identified(user.password)} {_require(secured=secured)}"
                _bring(admin, product, user.name, host, known, user.role, exists=host in present)


def admitted(work: CloneWork, product: Product) -> bool:
    """Let the users of a clone in from where the host does now; return False while its server does not answer.

    Since they were delivered, the host's configuration may have changed, and a container's networks with it.
    """
    try:
        with server.connect(work) as admin:
            wanted = _hosts(work, _neighbours(work, admin))
            logins = [login for login in product.logins(admin) if login.name in work.users]
            for name, of_user in groupby(logins, key=lambda login: login.name):
                _move(work, admin, product, name, {login.host: login for login in of_user}, wanted)
    except UnavailableError:
        return False
    return True


def _move(
    work: CloneWork, admin: Link, product: Product, name: str, logins: Mapping[str, Login], wanted: Mapping[str, bool]
) -> None:
    """Bring a user's accounts to the hosts that are wanted, with the password and the rights that it has.

    Accounts that were closed and stayed, as something works with their rights, are opened again. Those that let in
    others are closed last: until then, what was interrupted can be gone on with.
    """
    roles: dict[str, Held] = {host: _role_of(admin, name, host) or "other" for host in logins}
    role: Held = next((role for role in roles.values() if role != "other"), "other")
    identified = next(iter(logins.values())).identified
    present = accounts.hosts_of(admin, name)
    for host, secured in _opened(work, present, wanted).items():
        if host not in logins or logins[host].secured != secured or roles[host] != role:
            known = f"{identified} {_require(secured=secured)}"
            _bring(admin, product, name, host, known, role, exists=host in present)
    _close_others(admin, product, name, logins, wanted)


def _opened(work: CloneWork, present: Iterable[str], wanted: Mapping[str, bool]) -> dict[str, bool]:
    """Return the hosts that a user's accounts are open for, and whether over TLS only."""
    places = {host: _place(host, wanted) for host in (*wanted, *present)}
    return {host: _secured(work, wanted[place]) for host, place in places.items() if place is not None}


def leave(admin: Link, product: Product, name: str) -> None:
    """Drop a user, and end its sessions; what works with its rights goes on doing so."""
    for host in accounts.hosts_of(admin, name):
        _close(admin, product, name, host)
    accounts.end_sessions(admin, [name])


def _close_others(admin: Link, product: Product, name: str, hosts: Iterable[str], wanted: Mapping[str, bool]) -> None:
    """Close a user's accounts that let in others than is wanted; if one was open, the user's sessions end."""
    others = [host for host in hosts if _place(host, wanted) is None]
    opened = [host for host in others if not accounts.is_locked(admin, accounts.account(name, host))]
    for host in others:
        _close(admin, product, name, host)
    if opened:
        accounts.end_sessions(admin, [name])


def _close(admin: Link, product: Product, name: str, host: str) -> None:
    """Let nobody in as an account; it stays if something works with its rights."""
    who = accounts.account(name, host)
    if f"{name}@{host}" in accounts.definers(admin):
        accounts.lock(admin, product, who)
        _give(admin, product, who, _role_of(admin, name, host), "owner")
    else:
        admin.rows(f"DROP USER {who}")


def _bring(admin: Link, product: Product, name: str, host: str, known: str, role: Held, *, exists: bool) -> None:
    """Make or change an account, and open it; ``known`` is what it asks of whoever comes."""
    who = accounts.account(name, host)
    held = _role_of(admin, name, host) if exists else None
    if not exists:
        admin.rows(f"CREATE USER {who} {known}")
    if role != "other":
        _give(admin, product, who, held, role)
    if exists:
        limits = "MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0 MAX_CONNECTIONS_PER_HOUR 0 MAX_USER_CONNECTIONS 0"
        admin.rows(f"ALTER USER {who} {known} WITH {limits} PASSWORD EXPIRE NEVER ACCOUNT UNLOCK")


def _require(*, secured: bool) -> str:
    return f"REQUIRE {'SSL' if secured else 'NONE'}"


def _secured(work: CloneWork, far: bool) -> bool:  # noqa: FBT001 - a value of the hosts
    return far and work.tls is not None


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


def _neighbours(work: CloneWork, admin: Link) -> tuple[str, ...]:
    """Return the networks in which a clone's container has neighbours, where accounts have to say so."""
    if not work.contained or contained.is_local(work.host):
        return ()
    return contained.neighbours(admin.process)


def _hosts(work: CloneWork, neighbours: tuple[str, ...] = ()) -> dict[str, bool]:
    """Return the hosts that users come from, and whether they are far, so that TLS is asked of them.

    Nobody but this host, and a container's neighbours, reaches a server on loopback; elsewhere the
    accounts say who may come. Into a container this host comes from the networks that it is in.
    """
    if contained.is_local(work.host):
        return {_EVERYWHERE: False}
    hosts = {"127.0.0.0/255.0.0.0": False, "::1": False}
    if work.contained:
        hosts["localhost"] = False  # programs of the image, by the socket that they know
    hosts |= {_account_host(ipaddress.ip_network(network)): False for network in neighbours}
    with suppress(ValueError):  # a name
        address = ipaddress.ip_address(work.host)
        if not address.is_unspecified:
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


def _account_host(network: Network) -> str:
    if network.num_addresses == 1:
        return str(network.network_address)
    return f"{network.network_address}/{network.netmask}"


def _place(host: str, wanted: Mapping[str, bool]) -> str | None:
    """Return which of the wanted hosts an account's host lies in; None: it lets in others, too."""
    if host in wanted or _EVERYWHERE in wanted:
        return host if host in wanted else _EVERYWHERE
    network = _network(host)
    return next((one for one in wanted if network is not None and _lies_in(network, _network(one))), None)


def _lies_in(inner: Network, outer: Network | None) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)


def _network(host: str) -> Network | None:
    """Return the network that an account is for (an address, one with a mask, ``10.1.%``); None: it is no such."""
    given = host.split(".")
    while given and given[-1] == _EVERYWHERE:
        given.pop()
    if host.endswith(_EVERYWHERE):
        host = f"{'.'.join([*given, '0', '0', '0', '0'][:4])}/{8 * len(given)}"
    try:
        return ipaddress.ip_network(host)
    except ValueError:
        return None
