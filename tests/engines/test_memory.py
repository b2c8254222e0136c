"""The in-memory engine keeps the contract that planning and the loop rely on."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.base import LiveServer, LocalSource
from reconciler.engines.memory import MemoryEngine
from reconciler.errors import PermanentError, SourceError
from reconciler.testing.engine import EngineHarness, EngineSuite, Primary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.state.servers import Endpoint, ServerSpec


class MemoryHarness(EngineHarness):
    """Servers of this engine are no processes: starting one takes its word."""

    create_database = "database shop"
    create_table = "row"
    broken_script = "row\nfail"
    true_check = "true"
    false_check = "false"
    count_items = "expect 2"
    add_item = "row"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.engine: MemoryEngine = MemoryEngine()
        self._ports = count(6000)
        self._listening: dict[int | None, Path] = {}

    def run_directory(self) -> Path:
        return self.root

    def start(self, spec: ServerSpec) -> None:
        assert spec.ready()
        self._listening[spec.port] = spec.directory

    def stop(self, spec: ServerSpec) -> None:
        del self._listening[spec.port]

    def free_port(self) -> int:
        return next(self._ports)

    def execute(self, endpoint: Endpoint, password: str, statement: str) -> None:
        self.engine.execute(self._listening[endpoint.port], endpoint.user, password, statement)

    @contextmanager
    def primary(self) -> Iterator[Primary]:
        self.engine.put_source(Path("memory://shop"), ("shop",))
        source = LocalSource("primary", primary=LiveServer("memory://shop", "shop-dsn", "logical"))
        yield Primary(source, lambda: self.engine.put_source(Path("memory://shop"), ("shop", "more")))

    @contextmanager
    def connected(self, endpoint: Endpoint, password: str, application: str) -> Iterator[None]:
        directory = self._listening[endpoint.port]
        self.engine.execute(directory, endpoint.user, password, "expect 1")
        self.engine.connect(directory, application, datetime(2026, 11, 22, tzinfo=UTC))
        yield
        self.engine.disconnect(directory, application)

    def close(self) -> None:
        assert self._listening == {}


class TestMemory(EngineSuite):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> EngineHarness:
        return MemoryHarness(tmp_path)


def test_a_source_is_what_was_put_there(tmp_path: Path) -> None:
    harness = MemoryHarness(tmp_path)
    source = LocalSource("dump", Path("/dumps/shop"))
    with pytest.raises(SourceError):
        harness.engine.identify(source)
    harness.engine.put_source(Path("/dumps/shop"), ("shop", "stock"))
    first = harness.engine.identify(source)
    assert harness.build(harness.build_work(source=source, databases=("shop",))).databases == ("shop",)
    harness.engine.put_source(Path("/dumps/shop"), ("shop",))
    assert harness.engine.identify(source) != first


def test_a_build_that_was_not_isolated_is_not_sealed(tmp_path: Path) -> None:
    harness = MemoryHarness(tmp_path)
    work = harness.build_work()
    harness.engine.prepare(work)
    with pytest.raises(PermanentError):
        harness.engine.finish(work)
