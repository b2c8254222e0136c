"""Small real servers, and accounts that are gone after the tests."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler import proc
from reconciler.ids import InstallationId, RuntimeName, ServerName
from reconciler.runtimes.accounts import AccountSettings
from reconciler.runtimes.process import ProcessRuntime
from reconciler.state.servers import ServerSpec
from reconciler.testing.runtime import RuntimeHarness
from tests.support import free_block, release_block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PROGRAM = Path(__file__).with_name("small_server.py")


class ProcessHarness(RuntimeHarness):
    """Process runtimes whose servers, logs and ports lie in one temporary directory and port range."""

    def __init__(self, directory: Path, accounts: AccountSettings, ports: range) -> None:
        self.directory = directory
        self.logs = directory / "logs"
        self._accounts = accounts
        self._ports = ports
        self._made: list[tuple[ProcessRuntime, list[ServerName]]] = []
        self._names: list[ServerName] = []
        self._strays: list[subprocess.Popen[bytes]] = []

    def runtime(
        self, installation: InstallationId, ports: range | None = None, name: str = "process"
    ) -> ProcessRuntime:
        runtime = ProcessRuntime(
            RuntimeName(name),
            installation=InstallationId(f"{installation}-{self.directory.name}"),
            key=f"key of {installation}".encode(),
            logs=self.logs / installation,
            ports=ports or self._ports,
            accounts=self._accounts,
        )
        self._made.append((runtime, self._names))
        return runtime

    def server(
        self, name: ServerName, port: int | None = None, directory: Path | None = None, options: tuple[str, ...] = ()
    ) -> ServerSpec:
        place = directory or self.directory / name
        place.mkdir(exist_ok=True)
        self._names.append(name)
        listen = () if port is None else ("--port", str(port))
        return ServerSpec(
            name=name,
            argv=(sys.executable, "-I", "-S", str(_PROGRAM), *listen, *options),
            directory=place,
            port=port,
            ready=lambda: answers(place / "socket" if port is None else ("127.0.0.1", port)),
            ready_timeout=30.0,
            stale_files=(place / "socket",),
        )

    def stray(self, own: proc.Account) -> Callable[[], bool]:
        process = subprocess.Popen(
            ["sleep", "300"],
            env={},
            cwd="/",
            start_new_session=True,
            user=own.uid,
            group=own.gid,
            extra_groups=[],
        )
        self._strays.append(process)
        return lambda: process.poll() is None

    def close(self) -> None:
        for stray in self._strays:
            stray.kill()
            stray.wait()
        for runtime, names in self._made:
            for name in sorted({*names, *runtime.servers()}):
                runtime.stop(name)


def answers(address: Path | tuple[str, int]) -> bool:
    """Whether somebody accepts connections there."""
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family) as client:
        try:
            client.connect(str(address) if isinstance(address, Path) else address)
        except OSError:
            return False
    return True


@pytest.fixture(scope="session")
def account_settings() -> Iterator[AccountSettings]:
    first = 1_000_000 + 10 * os.getpid()  # nobody else's: all that runs under own accounts is killed
    settings = AccountSettings(
        build=f"rec-test-b{os.getpid()}", clone=f"rec-test-c{os.getpid()}", own=range(first, first + 10)
    )
    yield settings
    for name in (settings.build, settings.clone):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            proc.run(["userdel", name])


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Give a directory whose path fits into the address of a unix socket, and that other accounts can enter."""
    directory = Path(tempfile.mkdtemp(prefix="rec-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def harness(short_path: Path, account_settings: AccountSettings) -> Iterator[ProcessHarness]:
    ports = free_block()
    harness = ProcessHarness(short_path, account_settings, ports[:20])
    try:
        yield harness
    finally:
        harness.close()
        release_block(ports)
