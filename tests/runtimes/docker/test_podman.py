"""The same by Podman's service: the contract of runtimes, and the life of a clone of each product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.containers import PodmanService, contained, container_daemon, import_mariadb
from tests.runtimes.docker.conftest import PRODUCTS_OF_BOTH, ContainerSuite, DockerHarness
from tests.runtimes.docker.test_clones import container
from tests.support import clone, free_block, new_world, release_block

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.runtimes.accounts import AccountSettings
    from tests.containers import ContainerDaemon

pytestmark = [pytest.mark.root, pytest.mark.postgres, pytest.mark.long]


@pytest.fixture(scope="module")
def podman() -> Iterator[ContainerDaemon]:
    with container_daemon(PodmanService) as service:
        yield service


class TestPodman(ContainerSuite):
    @pytest.fixture
    def harness(
        self, podman: ContainerDaemon, short_path: Path, account_settings: AccountSettings
    ) -> Iterator[DockerHarness]:
        ports = free_block()
        harness = DockerHarness(podman, short_path, account_settings, ports[:20])
        try:
            yield harness
        finally:
            harness.close()
            release_block(ports)


@pytest.mark.parametrize("engine", list(PRODUCTS_OF_BOTH))
def test_a_clone_lives_in_a_container_of_podman(podman: ContainerDaemon, engine: str) -> None:
    product = PRODUCTS_OF_BOTH[engine]()
    if engine == "mariadb":
        import_mariadb(podman)
    world = new_world()
    world.ends.append(podman.remove_all)
    try:
        world.configure(runtimes=contained(world, podman))
        dev = clone("dev", runtime="docker", resources={"memory": "256Mi"})
        world.write("shop.yaml", product.image(runtime="docker"), dev)
        world.converge()
        assert product.rows(world, "dev", "INSERT INTO product VALUES (4, 'somebody''s work')") == []
        before = podman.inspect(container(podman, "dev"))
        assert before["HostConfig"]["Memory"] == 256 << 20
        assert world.apply().require().actions == []
        podman.docker("pause", before["Id"])
        assert world.apply().require().actions == ["start Clone/dev"]
        podman.docker("rm", "--force", before["Id"])
        assert world.apply().require().actions == ["start Clone/dev"]
        assert product.rows(world, "dev", "SELECT count(*) FROM product") == [(4,)]
        podman.stop()
        silent = world.apply()
        assert (silent.errors, silent.actions) == ({}, [])
        assert (silent.condition("Clone/dev", "Ready") or ())[:2] == ("Unknown", "RuntimeUnavailable")
        podman.start()
        assert world.apply().require().actions == []
        world.apply(("reset", "dev")).require()
        assert product.rows(world, "dev", "SELECT count(*) FROM product") == [(3,)]
        world.remove("shop.yaml")
        world.apply(("approve", "")).require()
        world.converge()
        assert podman.names() == set()
    finally:
        if not podman.running:
            podman.start()
        world.close()
