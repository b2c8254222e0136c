from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import UnavailableError
from reconciler.ids import InstallationId, RuntimeName, ServerName
from reconciler.runtimes.memory import MemoryHost, MemoryRuntime
from reconciler.state.servers import ServerSpec
from reconciler.testing.runtime import RuntimeHarness, RuntimeSuite

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.proc import Account


class MemoryHarness(RuntimeHarness):
    def __init__(self, *, own_accounts: bool) -> None:
        self.host = MemoryHost()
        self._own_accounts = own_accounts

    def runtime(self, installation: InstallationId, ports: range | None = None) -> MemoryRuntime:
        return MemoryRuntime(
            RuntimeName("memory"),
            installation=installation,
            host=self.host,
            ports=ports or range(5600, 5700),
            own_accounts=self._own_accounts,
        )

    def server(self, name: ServerName, port: int | None = None, directory: Path | None = None) -> ServerSpec:
        place = directory or Path("/pool/volumes") / name
        return ServerSpec(name=name, argv=("server",), directory=place, port=port, ready=lambda: True)

    def stray(self, own: Account) -> Callable[[], bool]:
        self.host.strays.add(own.uid)
        return lambda: own.uid in self.host.strays

    def close(self) -> None:
        self.host.running.clear()


class TestMemoryRuntime(RuntimeSuite):
    @pytest.fixture(params=[False, True], ids=["shared accounts", "own accounts"])
    def harness(self, request: pytest.FixtureRequest) -> RuntimeHarness:
        return MemoryHarness(own_accounts=request.param)


def test_a_crashed_server_is_no_longer_listed_and_can_be_started_again() -> None:
    harness = MemoryHarness(own_accounts=False)
    runtime = harness.runtime(InstallationId("one"))
    spec = harness.server(ServerName("shop.1"), 5600)
    runtime.start(spec)
    harness.host.crash(spec.name)
    assert runtime.servers() == {}
    runtime.start(replace(spec, port=5601))
    assert runtime.servers()[spec.name].port == 5601
    assert runtime.logs(spec.name) == ["started", "crashed", "started"]


def test_an_unavailable_host_says_so_instead_of_listing_nothing() -> None:
    harness = MemoryHarness(own_accounts=False)
    runtime = harness.runtime(InstallationId("one"))
    harness.host.unavailable = "the daemon is down"
    with pytest.raises(UnavailableError, match="the daemon is down"):
        runtime.servers()
