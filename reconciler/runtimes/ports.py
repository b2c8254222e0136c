"""TCP ports: whether one can be listened on, and who does.

Called by the process runtime. It opens a socket for a moment and never serves anything.
"""

from __future__ import annotations

import errno
import socket

import psutil

from reconciler.errors import BusyError, PermanentError, UnavailableError

LOOPBACK = "127.0.0.1"


def require_free(host: str, port: int) -> None:
    """Make sure that a server can listen on ``host`` and ``port``.

    Raises:
        BusyError: somebody listens there already; the message names who, where it can be told.
        UnavailableError: the host is no address of this machine (now).
        PermanentError: the port must not be used by this user.

    """
    if not is_free(host, port):
        raise BusyError(f"port {port} of {host} is in use by {_listener(port)}", reason="PortInUse")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now; raises as :func:`require_free` does for hosts and rights."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UnavailableError(f"the host name {host} cannot be resolved") from error
    return all(_can_bind(family, address) for family, _type, _protocol, _name, address in addresses)


def _can_bind(family: int, address: tuple[object, ...]) -> bool:
    """Bind as servers do: SO_REUSEADDR passes over connections in TIME_WAIT, not over a listener (socket(7))."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return _refused(error, address)
    return True


def _refused(error: OSError, address: object) -> bool:
    if error.errno == errno.EADDRINUSE:
        return False
    if error.errno == errno.EADDRNOTAVAIL:
        raise UnavailableError(f"{address} is no address of this host") from error
    raise PermanentError(f"cannot listen on {address}: {error.strerror}") from error


def _listener(port: int) -> str:
    """Name the process that listens; through psutil, since only a failure pays for looking at all sockets."""
    try:
        listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        pid = next((c.pid for c in listening if c.laddr and c.laddr.port == port and c.pid), None)
        return f"process {pid} ({psutil.Process(pid).name()})" if pid else "another process"
    except (psutil.Error, OSError):
        return "another process"
