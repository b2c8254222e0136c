from __future__ import annotations

import os
import socket

import pytest

from reconciler.errors import BusyError, PermanentError, UnavailableError
from reconciler.runtimes import ports


def test_a_port_that_somebody_listens_on_is_busy_and_its_owner_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(BusyError, match=rf"port {port} of 127.0.0.1 is in use by process {os.getpid()} \("):
            ports.require_free("127.0.0.1", port)
    ports.require_free("127.0.0.1", port)


def test_a_listener_on_all_addresses_occupies_each() -> None:
    with socket.create_server(("", 0)) as server:
        assert not ports.is_free("127.0.0.1", server.getsockname()[1])


def test_a_connection_in_time_wait_does_not_occupy_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        client = socket.create_connection(address)
        connection, _ = server.accept()
        connection.close()  # the side that closes first keeps the connection in TIME_WAIT
        client.close()
    assert ports.is_free(*address)


def test_an_address_of_another_machine_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match=r"192\.0\.2\.1"):
        ports.is_free("192.0.2.1", 5600)  # documentation address, RFC 5737


def test_a_host_name_that_does_not_resolve_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match=r"no\.such\.invalid"):
        ports.is_free("no.such.invalid", 5600)


def test_ipv6_addresses_work_as_well() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this host has no IPv6")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert not ports.is_free("::1", server.getsockname()[1])


def test_a_port_that_must_not_be_used_is_a_permanent_error() -> None:
    if os.geteuid() == 0:
        pytest.skip("root may use every port")
    with pytest.raises(PermanentError, match="cannot listen"):
        ports.is_free("127.0.0.1", 1)
