"""Builds in containers, and daemons and containers that end in the middle of something."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pymysql
import pytest

from tests.containers import USER, host_major
from tests.runtimes.docker.conftest import both
from tests.runtimes.docker.test_clones import container, owner
from tests.support import PRODUCTS, PROGRAM, clone, image, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.containers import ContainerDaemon
    from tests.runtimes.docker.conftest import Product
    from tests.support import World

pytestmark = [pytest.mark.root, pytest.mark.postgres, pytest.mark.long]

LOST = (psycopg.OperationalError, pymysql.OperationalError)
_TRIES = 8
"""Of what has to fall into the short time that a pass takes to stop a server."""


@both
def test_an_image_that_is_built_in_a_container_belongs_to_the_images_own_user(
    shop: World, daemon: ContainerDaemon, product: Product
) -> None:
    shop.write("boxed.yaml", product.image("boxed", runtime="docker"))
    shop.write(
        "dev.yaml",
        clone("dev", image="boxed", runtime="docker"),
        clone("copy", runtime="docker", image={"clone": "dev"}),
    )
    shop.converge()
    (snapshot,) = (name for name in shop.snapshots() if name.startswith("boxed"))
    data = shop.pool_path / "volumes" / snapshot / "data"
    assert {owner(data), *map(owner, data.iterdir())} == {(USER, USER)}
    assert daemon.inspect(container(daemon, "dev"))["Config"]["User"] == f"{USER}:{USER}"
    assert daemon.docker("exec", f"--user={product.user}", container(daemon, "dev"), "ls", product.files)
    for name in ("dev", "copy"):
        assert product.rows(shop, name, "SELECT count(*) FROM product") == [(3,)]


def build_servers(daemon: ContainerDaemon) -> list[str]:
    return [name for name in daemon.names() if "boxed" in name]


def test_a_build_server_in_a_container_has_no_network_and_gives_way(shop: World, daemon: ContainerDaemon) -> None:
    slow = [{"inline": PRODUCTS, "database": "shop"}, {"inline": "SELECT pg_sleep(10)", "database": "shop"}]
    shop.write("boxed.yaml", image("boxed", version=host_major(), runtime="docker", scripts=slow))
    with working(shop):
        until(lambda: build_servers(daemon), what="the server of the build")
        (name,) = build_servers(daemon)
        settings = daemon.inspect(name)["HostConfig"]
        assert (settings["NetworkMode"], settings["CpuShares"]) == ("none", 102)


@both
def test_a_daemon_that_is_killed_during_a_build_costs_that_build_only(
    shop: World, daemon: ContainerDaemon, product: Product
) -> None:
    slow = [*product.image()["spec"]["scripts"], {"inline": product.pause, "database": "shop"}]
    shop.write("boxed.yaml", product.image("boxed", runtime="docker", scripts=slow))
    assert with_killed_daemon(shop, daemon, lambda: bool(daemon.names()))
    until(lambda: settled(shop) and any(name.startswith("boxed") for name in shop.snapshots()), what="the snapshot")
    shop.apply_until(lambda _: daemon.names() == set(), what="the end of what the daemon started again")


def test_a_daemon_that_is_killed_during_a_start_leaves_one_container_at_most(
    shop: World, daemon: ContainerDaemon
) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    assert with_killed_daemon(shop, daemon, lambda: bool(daemon.names()))
    until(lambda: settled(shop) and shop.generations("dev"), what="the clone")
    assert shop.sql("dev", "SELECT count(*) FROM product") == [(3,)]
    assert len(daemon.names()) == 1


def test_a_daemon_that_is_killed_during_a_stop_keeps_nothing_from_going(shop: World, daemon: ContainerDaemon) -> None:
    assert any(killed_during_a_stop(shop, daemon) for _ in range(_TRIES))


def killed_during_a_stop(shop: World, daemon: ContainerDaemon) -> bool:
    """Remove a clone and kill the daemon once its server does not run; return whether the pass was not over yet."""
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    until(lambda: settled(shop) and shop.generations("dev"), what="the clone")
    name = container(daemon, "dev")
    shop.remove("dev.yaml")
    hit = with_killed_daemon(shop, daemon, lambda: not running(daemon, name))
    shop.apply_until(
        lambda done: done.actions == [] and not shop.generations("dev"),
        what="the end of the clone",
        fails=("Clone/dev",),
    )
    assert daemon.names() == set()
    return hit


def test_a_container_that_is_removed_while_its_clone_is_made_costs_that_try_only(
    shop: World, daemon: ContainerDaemon
) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    assert removed_meanwhile(shop, daemon, "dev.")
    until(lambda: settled(shop) and shop.generations("dev"), what="the clone")
    assert shop.sql("dev", "SELECT count(*) FROM product") == [(3,)]
    assert len(daemon.names()) == 1


@both
def test_a_container_that_is_removed_during_a_build_costs_that_build_only(
    shop: World, daemon: ContainerDaemon, product: Product
) -> None:
    slow = [*product.image()["spec"]["scripts"], {"inline": product.pause, "database": "shop"}]
    shop.write("boxed.yaml", product.image("boxed", runtime="docker", scripts=slow))
    assert removed_meanwhile(shop, daemon, "boxed")
    until(lambda: settled(shop) and any(name.startswith("boxed") for name in shop.snapshots()), what="the snapshot")
    assert daemon.names() == set()


def removed_meanwhile(world: World, daemon: ContainerDaemon, word: str) -> bool:
    """Remove the container of a name like this once it runs; return whether the pass was in the middle of it."""
    with working(world) as process:
        until(lambda: process.poll() is not None or named(daemon, word), what="the moment")
        hit = process.poll() is None
        for name in named(daemon, word):
            daemon.docker("rm", "--force", name)
    return hit


def named(daemon: ContainerDaemon, word: str) -> list[str]:
    return [name for name in running_names(daemon) if word in name]


@both
def test_a_clone_that_runs_out_of_memory_comes_back_with_what_was_committed(
    shop: World, daemon: ContainerDaemon, product: Product
) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker", resources={"memory": product.little}))
    shop.converge()
    product.rows(shop, "dev", "INSERT INTO product VALUES (4, 'somebody''s work')")
    limit = daemon.inspect(container(daemon, "dev"))["HostConfig"]["Memory"]
    with pytest.raises(LOST, match=r"closed the connection|terminating connection|Lost connection"):
        product.rows(shop, "dev", product.hungry)
    until(lambda: settled(shop) and "dev.1" in shop.servers(), what="the clone")
    until(lambda: answers(shop, product), what="an answer")
    assert f"{limit >> 20}Mi" == product.little
    assert daemon.inspect(container(daemon, "dev"))["HostConfig"]["Memory"] == limit


def settled(world: World) -> bool:
    """Whether a pass has nothing to do now; what failed for a passing reason is tried again after a while."""
    return world.apply().actions == []


def answers(world: World, product: Product) -> bool:
    try:
        return product.rows(world, "dev", "SELECT count(*) FROM product") == [(4,)]
    except LOST:  # it recovers still
        return False


def running(daemon: ContainerDaemon, name: str) -> bool:
    return name in running_names(daemon)


def running_names(daemon: ContainerDaemon) -> set[str]:
    return set(daemon.docker("ps", "--format", "{{.Names}}").split())


@contextmanager
def working(world: World) -> Iterator[subprocess.Popen[bytes]]:
    """One pass of the program, in a process of its own, which has ended when the block has."""
    argv = [str(PROGRAM), "--config", str(world.config_file), "apply"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
        process.wait(120)
    finally:
        process.kill()
        process.wait()


def with_killed_daemon(world: World, daemon: ContainerDaemon, when: Callable[[], bool]) -> bool:
    """Kill the daemon in a pass, and start it again once that has ended; return whether it was in the middle of it."""
    with working(world) as process:
        until(lambda: process.poll() is not None or when(), what="the moment")
        daemon.stop(kill=True)
        hit = process.poll() is None
    daemon.start()
    return hit
