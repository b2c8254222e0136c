"""A daemon of the session's own, a small server in a container, and a whole installation that uses it."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.ids import InstallationId, RuntimeName, ServerName
from reconciler.runtimes.docker.runtime import DockerRuntime
from reconciler.runtimes.docker.settings import DockerSettings
from reconciler.state.servers import Contained, ProductImage, ServerSpec
from reconciler.testing.runtime import RuntimeHarness
from tests.containers import IMAGE, USER, container_daemon, host_major
from tests.runtimes.conftest import answers
from tests.support import World, free_block, image, new_world, release_block

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.runtimes.accounts import AccountSettings
    from tests.containers import ContainerDaemon

_SERVER = """
use Socket; $| = 1; $SIG{TERM} = sub { print "stopping as asked\\n"; exit 0 };
socket(T, PF_INET, SOCK_STREAM, 0); setsockopt(T, SOL_SOCKET, SO_REUSEADDR, 1);
bind(T, sockaddr_in(5432, INADDR_ANY)); listen(T, 9);
socket(U, PF_UNIX, SOCK_STREAM, 0); bind(U, sockaddr_un("/srv/socket")) or die "bind: $!"; listen(U, 9);
print "starting\\n"; while (1) { accept(C, U); close C; }
"""


class DockerHarness(RuntimeHarness):
    """Runtimes on the session's daemon whose servers, logs and ports lie in one directory and port range."""

    def __init__(self, daemon: ContainerDaemon, directory: Path, accounts: AccountSettings, ports: range) -> None:
        self.daemon = daemon
        self.directory = directory
        self._accounts = accounts
        self._ports = ports

    def runtime(self, installation: InstallationId, ports: range | None = None, **settings: str) -> DockerRuntime:
        state = self.directory / f"state-{installation}"
        state.mkdir(exist_ok=True)
        images = {"memory": f"{IMAGE}:{host_major()}"}
        return DockerRuntime(
            RuntimeName("docker"),
            installation=InstallationId(f"{installation}-{self.directory.name}"),
            state=state,
            settings=DockerSettings(
                socket=self.daemon.socket,
                images=images | settings,
                pull="never",
                networks=("tests",),
                ports=ports or self._ports,
                host="127.0.0.1",
            ),
            accounts=self._accounts,
        )

    def server(
        self,
        name: ServerName,
        port: int | None = None,
        directory: Path | None = None,
        argv: tuple[str, ...] = ("perl", "-e", _SERVER),
    ) -> ServerSpec:
        place = directory or self.directory / name
        place.mkdir(exist_ok=True)
        os.chown(place, USER, USER)
        software = self.runtime(InstallationId("one")).software("memory", None, ProductImage("", "postgres"))
        assert software is not None
        return ServerSpec(
            name=name,
            argv=argv,
            directory=place,
            account=software.account,
            port=port,
            ready=lambda: answers(place / "socket"),
            ready_timeout=60.0,
            stale_files=(place / "socket",),
            contained=Contained(software=software, mounts={place: PurePosixPath("/srv")}, port=5432, health=("true",)),
            subject={"clone": name.partition(".")[0]},
        )

    def close(self) -> None:
        self.daemon.remove_all()


@pytest.fixture(scope="session")
def daemon() -> Iterator[ContainerDaemon]:
    with container_daemon() as daemon:
        yield daemon


@pytest.fixture
def harness(daemon: ContainerDaemon, short_path: Path, account_settings: AccountSettings) -> Iterator[DockerHarness]:
    ports = free_block()
    harness = DockerHarness(daemon, short_path, account_settings, ports[:20])
    try:
        yield harness
    finally:
        harness.close()
        release_block(ports)


@pytest.fixture(scope="session")
def built(daemon: ContainerDaemon) -> Iterator[World]:
    """An installation with an image that was built by processes of the host."""
    world = new_world()
    try:
        configure(world, daemon)
        world.write("shop.yaml", image("shop", version=host_major()))
        world.converge()
        yield world
    finally:
        world.close()


@pytest.fixture
def shop(built: World, daemon: ContainerDaemon) -> Iterator[World]:
    """The installation, without clones before and after the test."""
    try:
        yield built
    finally:
        if not daemon.running:
            daemon.start()
        configure(built, daemon)
        for path in (built.root / "specs").glob("*.yaml"):
            if path.name != "shop.yaml":
                path.unlink()
        daemon.remove_all()
        built.converge()
        assert built.leftovers() == []
        assert daemon.names() == set()


def configure(world: World, daemon: ContainerDaemon, **docker: Any) -> None:  # noqa: ANN401 - as YAML
    """Write the configuration of a world whose clones can be in containers; ``docker`` are changes of that section."""
    first, last = world.ports.start, world.ports.stop - 1
    settings = {
        "socket": str(daemon.socket),
        "ports": f"{first + 20}-{last}",
        "images": {"postgres": f"{IMAGE}:{host_major()}"},
        "pull": "never",
        "networks": ["compose"],
    }
    world.configure(
        runtimes={"process": {"ports": f"{first}-{first + 19}"}, "docker": settings | docker},
        prune={"maxDelete": 1000},
    )
