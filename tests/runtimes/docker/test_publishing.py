"""Clones whose ports are published beyond this host: who comes in, and who does not."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg
import pymysql
import pytest

from tests.runtimes.docker.conftest import both, configure
from tests.runtimes.docker.test_clones import container
from tests.support import clone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.containers import ContainerDaemon
    from tests.runtimes.docker.conftest import Product
    from tests.support import World

pytestmark = [pytest.mark.root, pytest.mark.postgres, pytest.mark.long]

FAR = "elsewhere"
"""A network whose address on this host is none of the network that clones are in."""
_PATIENCE_SECONDS = 30.0
REFUSED = r"no pg_hba.conf entry|is not allowed to connect|Access denied for user"


@pytest.fixture
def far(daemon: ContainerDaemon, shop: World) -> Iterator[str]:  # noqa: ARG001 - whose containers go first
    """An address from which nobody comes who is let in without being named."""
    daemon.docker("network", "create", FAR)
    try:
        yield daemon.docker("network", "inspect", FAR, "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()
    finally:
        daemon.docker("network", "rm", FAR)


@both
def test_a_clone_lets_in_this_host_its_neighbours_and_who_is_named(
    shop: World, daemon: ContainerDaemon, product: Product, far: str
) -> None:
    configure(shop, daemon, product, host="0.0.0.0")
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    shop.converge()
    assert product.rows(shop, "dev", "SELECT count(*) FROM product") == [(3,)]
    assert as_neighbour(shop, daemon, product) == "7\n"
    assert from_inside(shop, daemon, product) == "7\n"
    with pytest.raises((psycopg.OperationalError, pymysql.OperationalError), match=REFUSED):
        rows_from(far, shop, daemon, product)
    for allowed, known in ((f"{far}/32", "7"), ("198.51.100.0/24", None)):
        configure(shop, daemon, product, host="0.0.0.0", allow=[allowed])
        restart(shop, allowed)
        if known is None:
            with pytest.raises((psycopg.OperationalError, pymysql.OperationalError), match=REFUSED):
                rows_from(far, shop, daemon, product)
        else:
            assert rows_from(far, shop, daemon, product) == [(3,)]
        assert as_neighbour(shop, daemon, product) == "7\n"


@both
def test_a_clone_that_was_for_this_host_only_is_no_more_open_than_others_once_it_is_published(
    shop: World, daemon: ContainerDaemon, product: Product, far: str
) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    shop.converge()
    configure(shop, daemon, product, host="0.0.0.0")
    restart(shop, "published")
    assert as_neighbour(shop, daemon, product) == "7\n"
    with pytest.raises((psycopg.OperationalError, pymysql.OperationalError), match=REFUSED):
        rows_from(far, shop, daemon, product)


@both
def test_a_network_that_was_made_anew_with_other_addresses_has_the_same_neighbours(
    shop: World, daemon: ContainerDaemon, product: Product
) -> None:
    configure(shop, daemon, product, host="0.0.0.0")
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    shop.converge()
    shop.write("dev.yaml", clone("dev", runtime="docker", state="stopped"))
    shop.converge()
    daemon.docker("network", "rm", "compose")
    daemon.docker("network", "create", "--subnet=198.51.100.0/24", "compose")
    try:
        shop.write("dev.yaml", clone("dev", runtime="docker"))
        shop.converge()
        assert as_neighbour(shop, daemon, product) == "7\n"
        assert product.rows(shop, "dev", "SELECT count(*) FROM product") == [(3,)]
    finally:
        shop.remove("dev.yaml")
        shop.converge()
        daemon.docker("network", "rm", "compose")


def restart(world: World, reason: str) -> None:
    """Have the clone started anew, by a change that takes that."""
    bytes_more = sum(map(ord, reason))
    world.write("dev.yaml", clone("dev", runtime="docker", resources={"memory": (256 << 20) + (bytes_more << 12)}))
    assert world.apply().require().actions == ["restart Clone/dev"]


def as_neighbour(world: World, daemon: ContainerDaemon, product: Product) -> str:
    """Ask the clone from another container, by its name."""
    words = ("run", "--rm", "--network=compose", "--env", f"{product.password}={world.password('dev')}")
    return daemon.docker(*words, product.reference, *product.client)


def from_inside(world: World, daemon: ContainerDaemon, product: Product) -> str:
    """Ask the clone by a program of its own container, over the socket that this knows."""
    here = [word for word in product.client if word not in ("-h", "dev", "--host=dev")]
    secret = f"{product.password}={world.password('dev')}"
    if product.engine == "postgres":  # over its socket it knows people by the accounts of the host
        here[1:1] = ["-h", "127.0.0.1"]
    return daemon.docker("exec", "--env", secret, container(daemon, "dev"), *here)


def rows_from(address: str, world: World, daemon: ContainerDaemon, product: Product) -> list[tuple[object, ...]]:
    """Ask the clone as somebody with this address."""
    networks = daemon.inspect(container(daemon, "dev"))["NetworkSettings"]["Networks"]
    with forwarded(address, (networks["compose"]["IPAddress"], product.port)) as port:
        return product.rows(world, "dev", "SELECT count(*) FROM product", port=port)


@contextmanager
def forwarded(source: str, target: tuple[str, int]) -> Iterator[int]:
    """A port of this host that leads to a target, to which one connection comes from an address that is asked for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(_PATIENCE_SECONDS)
        worker = threading.Thread(target=_hand_on, args=(listener, source, target))
        worker.start()
        try:
            yield listener.getsockname()[1]
        finally:
            worker.join()


def _hand_on(listener: socket.socket, source: str, target: tuple[str, int]) -> None:
    near, _ = listener.accept()
    with near, socket.create_connection(target, source_address=(source, 0)) as far:
        back = threading.Thread(target=_pump, args=(far, near))
        back.start()
        _pump(near, far)
        back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while read := source.recv(1 << 16):
            target.sendall(read)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
