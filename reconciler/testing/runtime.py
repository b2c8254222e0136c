"""Conformance suite of runtimes: the contract of ``runtimes/base.py`` as tests.

For authors of runtimes. Inherit :class:`RuntimeSuite` in a test module and give it a
:class:`RuntimeHarness`; pytest (a development dependency) then runs every promise::

    class TestDocker(RuntimeSuite):
        @pytest.fixture
        def harness(self, tmp_path: Path) -> Iterator[RuntimeHarness]:
            harness = DockerHarness(tmp_path)
            yield harness
            harness.close()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import BusyError, CancelledError, RefusedError, TimeoutExceededError, UnsupportedError
from reconciler.ids import InstallationId, ServerName, VolumeId
from reconciler.proc import CancelToken
from reconciler.state.observed import ServerState
from reconciler.state.servers import ProductImage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reconciler.proc import Account
    from reconciler.runtimes.base import Runtime
    from reconciler.state.servers import ServerSpec

_ONE = InstallationId("one")
_OTHER = InstallationId("other")
_SHOP = ServerName("shop.1")
_DEPOT = ServerName("depot.1")


class RuntimeHarness(ABC):
    """What the suite needs to know of a runtime: how to make one, and something to run on it."""

    @abstractmethod
    def runtime(self, installation: InstallationId, ports: range | None = None) -> Runtime:
        """Return a new runtime object on the same host, as a restarted reconciler would make it."""

    @abstractmethod
    def server(self, name: ServerName, port: int | None = None, directory: Path | None = None) -> ServerSpec:
        """Return a small real server that answers soon, with a directory of its own unless one is given."""

    def stray(self, own: Account) -> Callable[[], bool]:
        """Start something under an own account that no mark leads to; return what tells whether it still runs.

        Asked of runtimes with the trait ``own_accounts`` only.
        """
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """Stop whatever is still running and remove what was made."""


class RuntimeSuite:
    """Every promise of the contract, once."""

    @pytest.fixture
    def harness(self) -> RuntimeHarness:
        raise NotImplementedError

    @pytest.fixture
    def runtime(self, harness: RuntimeHarness) -> Runtime:
        return harness.runtime(_ONE)

    def test_a_started_server_is_listed_as_running_with_its_port(
        self, harness: RuntimeHarness, runtime: Runtime
    ) -> None:
        port = runtime.free_port(frozenset())
        runtime.start(harness.server(_SHOP, port))
        found = runtime.servers()[_SHOP]
        assert (found.name, found.runtime, found.state, found.port) == (
            _SHOP,
            runtime.name,
            ServerState.RUNNING,
            port,
        )
        assert found.started_at is not None

    def test_a_private_server_has_no_port(self, harness: RuntimeHarness, runtime: Runtime) -> None:
        runtime.start(harness.server(_SHOP))
        assert runtime.servers()[_SHOP].port is None

    def test_a_server_in_a_fresh_directory_is_listed_as_any_other(
        self, harness: RuntimeHarness, runtime: Runtime
    ) -> None:
        runtime.start(harness.server(_SHOP), fresh=True)
        assert set(runtime.servers()) == {_SHOP}

    def test_programs_come_with_the_runtime_exactly_where_servers_run_in_containers(self, runtime: Runtime) -> None:
        found = runtime.software("memory", None, ProductImage("memory:1", "memory"))
        assert (found is not None) == runtime.traits.containers

    def test_a_server_of_the_other_kind_is_refused(self, harness: RuntimeHarness, runtime: Runtime) -> None:
        if runtime.traits.containers:
            with pytest.raises(UnsupportedError, match=_SHOP):
                runtime.start(replace(harness.server(_SHOP), contained=None))
        assert runtime.servers() == {}

    def test_starting_a_running_server_does_nothing(self, harness: RuntimeHarness, runtime: Runtime) -> None:
        spec = harness.server(_SHOP, runtime.free_port(frozenset()))
        runtime.start(spec)
        before = runtime.servers()
        runtime.start(spec)
        assert runtime.servers() == before

    def test_stopping_an_absent_server_does_nothing(self, harness: RuntimeHarness, runtime: Runtime) -> None:
        runtime.start(harness.server(_DEPOT))
        runtime.stop(_SHOP)
        runtime.stop(_SHOP, spec=harness.server(_SHOP))
        assert set(runtime.servers()) == {_DEPOT}

    def test_a_stopped_server_is_gone_and_can_be_started_again(self, harness: RuntimeHarness, runtime: Runtime) -> None:
        spec = harness.server(_SHOP, runtime.free_port(frozenset()))
        for _ in range(2):
            runtime.start(spec)
            runtime.stop(_SHOP, spec=spec)
            assert runtime.servers() == {}

    def test_a_server_can_be_stopped_without_its_spec(self, harness: RuntimeHarness, runtime: Runtime) -> None:
        runtime.start(harness.server(_SHOP))
        runtime.stop(_SHOP)
        assert runtime.servers() == {}

    def test_a_server_whose_data_is_thrown_away_is_stopped_at_once(
        self, harness: RuntimeHarness, runtime: Runtime
    ) -> None:
        spec = harness.server(_SHOP)
        runtime.start(spec)
        runtime.stop(_SHOP, at_once=True)
        assert runtime.servers() == {}
        runtime.stop(_SHOP, spec=spec, at_once=True)

    def test_a_later_reconciler_finds_and_stops_servers_of_an_earlier_one(self, harness: RuntimeHarness) -> None:
        harness.runtime(_ONE).start(harness.server(_SHOP))
        later = harness.runtime(_ONE)
        assert set(later.servers()) == {_SHOP}
        later.stop(_SHOP)
        assert later.servers() == {}

    def test_installations_do_not_see_or_stop_each_others_servers(
        self, harness: RuntimeHarness, runtime: Runtime
    ) -> None:
        runtime.start(harness.server(_SHOP))
        other = harness.runtime(_OTHER)
        other.stop(_SHOP)
        assert other.servers() == {}
        assert set(runtime.servers()) == {_SHOP}

    def test_a_port_in_use_is_refused_and_nothing_is_left_running(
        self, harness: RuntimeHarness, runtime: Runtime
    ) -> None:
        port = runtime.free_port(frozenset())
        runtime.start(harness.server(_SHOP, port))
        with pytest.raises(BusyError, match=str(port)):
            runtime.start(harness.server(_DEPOT, port))
        assert set(runtime.servers()) == {_SHOP}

    def test_a_directory_in_use_is_refused_and_nothing_is_left_running(
        self, harness: RuntimeHarness, runtime: Runtime
    ) -> None:
        first = harness.server(_SHOP)
        runtime.start(first)
        with pytest.raises(BusyError, match=str(first.directory)):
            runtime.start(harness.server(_DEPOT, directory=first.directory))
        assert set(runtime.servers()) == {_SHOP}

    def test_a_server_that_does_not_answer_in_time_is_stopped_again(
        self, harness: RuntimeHarness, runtime: Runtime
    ) -> None:
        mute = replace(harness.server(_SHOP), ready=lambda: False, ready_timeout=0.1)
        with pytest.raises(TimeoutExceededError, match=_SHOP):
            runtime.start(mute)
        assert runtime.servers() == {}

    def test_a_cancelled_start_leaves_nothing_running(self, harness: RuntimeHarness, runtime: Runtime) -> None:
        token = CancelToken()
        token.cancel()
        with pytest.raises(CancelledError):
            runtime.start(replace(harness.server(_SHOP), ready=lambda: False), cancel=token)
        assert runtime.servers() == {}

    def test_different_servers_can_be_started_and_stopped_at_the_same_time(
        self, harness: RuntimeHarness, runtime: Runtime
    ) -> None:
        ports = [runtime.free_port(frozenset()) for _ in range(4)]
        specs = [harness.server(ServerName(f"shop-{port}.1"), port) for port in ports]
        with ThreadPoolExecutor() as pool:
            list(pool.map(runtime.start, specs))
            assert {found.port for found in runtime.servers().values()} == set(ports)
            list(pool.map(runtime.stop, [spec.name for spec in specs]))
        assert runtime.servers() == {}

    def test_a_free_port_is_in_range_not_taken_and_not_in_use(self, harness: RuntimeHarness, runtime: Runtime) -> None:
        used, last = (runtime.free_port(frozenset()) for _ in range(2))
        narrow = harness.runtime(_ONE, range(used, last + 1))
        narrow.start(harness.server(_SHOP, used))
        assert narrow.free_port(set(range(used + 1, last))) == last

    def test_ports_asked_for_at_the_same_time_differ(self, runtime: Runtime) -> None:
        with ThreadPoolExecutor() as pool:
            ports = list(pool.map(lambda _: runtime.free_port(frozenset()), range(8)))
        assert len(set(ports)) == len(ports)

    def test_an_exhausted_range_is_refused_with_figures(self, harness: RuntimeHarness, runtime: Runtime) -> None:
        port = runtime.free_port(frozenset())
        with pytest.raises(RefusedError, match="1"):
            harness.runtime(_ONE, range(port, port + 1)).free_port({port})

    def test_logs_outlive_the_server_until_they_are_forgotten(self, harness: RuntimeHarness, runtime: Runtime) -> None:
        runtime.start(harness.server(_SHOP))
        runtime.stop(_SHOP)
        runtime.rotate_logs()
        assert len(runtime.logs(_SHOP, lines=1)) == 1
        assert runtime.logs(_SHOP, lines=0) == []
        runtime.forget(_SHOP)
        runtime.forget(_SHOP)
        assert runtime.logs(_SHOP) == []

    def test_logs_of_an_unknown_server_are_empty(self, runtime: Runtime) -> None:
        assert runtime.logs(ServerName("nobody.1")) == []

    def test_builds_and_clones_never_share_an_account_that_is_not_our_own(self, runtime: Runtime) -> None:
        build = runtime.account("build", VolumeId("shop-1"), frozenset())
        clone = runtime.account("clone", VolumeId("shop.1"), frozenset())
        assert clone == runtime.account("clone", VolumeId("depot.1"), frozenset())
        assert (build is None) == (clone is None)
        assert build is None or build != clone

    def test_an_own_account_is_nobody_elses_or_refused(self, runtime: Runtime) -> None:
        if not runtime.traits.own_accounts:
            with pytest.raises(UnsupportedError, match=r"shop\.1"):
                runtime.account("own", VolumeId("shop.1"), frozenset())
            return
        first = runtime.account("own", VolumeId("shop.1"), frozenset())
        assert first is not None
        second = runtime.account("own", VolumeId("depot.1"), {first.uid})
        shared = {runtime.account("build", VolumeId("a"), frozenset()), runtime.account("clone", VolumeId("a"), set())}
        assert second is not None
        assert len({first, second} | shared) == len(shared) + 2

    def test_with_a_server_ends_all_that_runs_under_an_account_of_its_own(
        self, harness: RuntimeHarness, runtime: Runtime
    ) -> None:
        if not runtime.traits.own_accounts:
            return
        own, other = (_own_account(runtime, name) for name in ("shop.1", "depot.1"))
        stray, others = harness.stray(own), harness.stray(other)
        runtime.start(harness.server(_SHOP))
        runtime.stop(_SHOP, own=own)
        assert (runtime.servers(), stray(), others()) == ({}, False, True)
        runtime.stop(_DEPOT, own=other)  # its server is gone already, not what it left running
        assert not others()

    def test_an_own_account_under_which_something_runs_is_not_given_to_another_volume(
        self, harness: RuntimeHarness, runtime: Runtime
    ) -> None:
        if not runtime.traits.own_accounts:
            return
        own = _own_account(runtime, "shop.1")
        harness.stray(own)
        assert own not in {_own_account(harness.runtime(_ONE), "depot.1") for _ in range(3)}


def _own_account(runtime: Runtime, volume: str) -> Account:
    own = runtime.account("own", VolumeId(volume), frozenset())
    assert own is not None
    return own
