"""Servers in containers: what an image of containers holds, and how a server finds its files there.

Called by ``engine``, ``server``, ``settings`` and ``users``. A volume is mounted where it lies on the host,
so that settings name one place for the server in the container and for programs of the host,
which work on the same files; and also where the image keeps its data, which would be given a
volume of the daemon's otherwise. The private socket is where the image's programs look for one.
The image's entry point is passed over: it would initialise, change owners, or ask for passwords.
"""

from __future__ import annotations

import hashlib
import ipaddress
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from reconciler.engines import files
from reconciler.engines.base import BuildWork, CloneWork, InstalledServer
from reconciler.errors import UnavailableError, UnsupportedError
from reconciler.state.servers import Contained

if TYPE_CHECKING:
    from reconciler.engines.base import MirrorWork
    from reconciler.engines.mysql.product import Product
    from reconciler.state.servers import Software

    Work = BuildWork | CloneWork

PORT = 3306
RUN = PurePosixPath("/run/mysqld")
"""Where the official images, and Debian's packages, have their socket by default, called :data:`SOCKET`."""
SOCKET = "mysqld.sock"
NEWEST_MAJOR = "11.8"
"""Of the official image, for builds that ask for no version on a host that has none."""
HEALTH = "reconciler_health"
"""Account without any right, as which the probe of a container's health comes; only over the socket."""

_DATA = PurePosixPath("/var/lib/mysql")  # VOLUME of the official images
_PROBE = "health.cnf"
_LOCAL = "localhost"
_NOWHERE = "00000000"


def is_contained(work: Work | MirrorWork) -> bool:
    """Whether a server is in a container; mirrors are on the host."""
    if isinstance(work, BuildWork):
        return work.software is not None
    return isinstance(work, CloneWork) and work.contained


def installed(software: Software, product: Product, major: str) -> InstalledServer:
    """Return what an image serves.

    Raises:
        UnsupportedError: it is another product, or not of the version ``major``.

    """
    try:
        told = software.ask((product.servers[0], "--no-defaults", "--version"))
    except UnsupportedError as error:
        message = f"the container image {software.reference} does not run {product.title}: {error.message}"
        raise UnsupportedError(message) from error
    known = product.version(told)
    if known is None:
        raise UnsupportedError(f"the container image {software.reference} does not run {product.title}: {told[:200]!r}")
    if known[1] != major:
        raise UnsupportedError(
            f"the container image {software.reference} runs {product.title} {known[0]},"
            f" and the data is of version {major}",
            hint=f"name an image of version {major} under runtimes.docker.images",
        )
    return InstalledServer(*known, "container", Path("/"), software)


def is_local(host: str) -> bool:
    """Whether a clone is served on a loopback address, where nobody but this host reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address(host: str) -> str:
    """Return where a server listens in its container.

    Elsewhere than on loopback, neighbours are let in by their IPv4 addresses only (:func:`neighbours`); those
    that try the other one first go on to it where nobody listens.
    """
    return "*" if is_local(host) else "0.0.0.0"  # noqa: S104 - of the container


def neighbours(process: int) -> tuple[str, ...]:
    """Return the IPv4 networks that a server's container is in: of its other containers, and of this host for it.

    Accounts of this product say by addresses who may come, and what they would have to say is known once the
    server runs. ``process`` is its number on this host.

    Raises:
        UnavailableError: it cannot be seen from here.

    """
    try:
        table = Path(f"/proc/{process}/net/route").read_text(encoding="ascii")
    except OSError as error:
        raise UnavailableError(
            f"the networks of the server's container cannot be seen: {error.strerror}",
            hint="run the reconciler on the host of the daemon, not in a container",
        ) from error
    return attached(table)


def attached(table: str) -> tuple[str, ...]:
    """Return the networks that are reached without a gateway, of a kernel's table of routes (proc(5))."""
    routes = (line.split() for line in table.splitlines()[1:])
    return tuple(
        str(ipaddress.ip_network(f"{_address(destination)}/{_address(mask)}"))
        for _interface, destination, gateway, _flags, _uses, _users, _metric, mask, *_ in routes
        if _NOWHERE not in (destination, mask) and gateway == _NOWHERE
    )


def _address(digits: str) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int(digits, 16).to_bytes(4, sys.byteorder))


def probe(work: Work, product: Product, key: str) -> str:
    """Give the probe of a container's health its way in; return the statements for the server's start.

    An account that exists: each attempt of one that does not would be a line in the server's log. Its password
    comes from ``key``, the administrator's, so that a server that runs already goes on knowing it.
    """
    password = hashlib.sha256(f"{HEALTH} {key}".encode()).hexdigest()
    lines = ("[client]", f"user = {HEALTH}", f"password = {password}", f"socket = {RUN / SOCKET}")
    files.write_file(work.run_directory, _PROBE, "\n".join(lines) + "\n", work.account)
    if isinstance(work, BuildWork):  # nobody reads its log, and none of this belongs into what it makes
        return ""
    who = f"{HEALTH}@{_LOCAL}"
    return f"CREATE USER IF NOT EXISTS {who};\nALTER USER {who} {product.identified(password)} ACCOUNT UNLOCK;\n"


def place(work: Work, software: Software) -> Contained:
    """Return where the container of a build or clone has its files."""
    return Contained(
        software=software,
        mounts={
            PurePosixPath(work.directory): work.directory,
            _DATA: work.directory,
            RUN: work.run_directory,
        },
        port=PORT,
        health=("mariadb-admin", f"--defaults-file={RUN / _PROBE}", "ping"),
    )
