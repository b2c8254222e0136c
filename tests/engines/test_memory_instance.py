"""The in-memory instance keeps the contract that planning and the loop rely on."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.memory_instance import MemoryInstance, MemoryServer
from reconciler.testing.instance import InstanceHarness, InstanceSuite
from tests.engines.test_memory import MemoryHarness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from reconciler.engines.base import CloneWork, Instance
    from reconciler.ids import InstallationId


class MemoryInstances(InstanceHarness):
    count_one = "expect 1"
    count_two = "expect 2"

    def __init__(self, engine: MemoryHarness) -> None:
        super().__init__()
        self.engine = engine
        self._memory = engine.engine
        self._server = MemoryServer()

    def instance(self, installation: InstallationId) -> Instance:
        return MemoryInstance(self._memory, self._server, installation)

    @contextmanager
    def foreign(self, name: str) -> Iterator[None]:
        self._server.foreign.add(name)
        yield
        self._server.foreign.remove(name)

    def execute(self, database: str, login: str, password: str, statement: str) -> None:
        self._server.execute(database, login, password, statement)

    def serving(self, work: CloneWork) -> AbstractContextManager[object]:
        del work
        return nullcontext()


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> InstanceHarness:
    return MemoryInstances(MemoryHarness(tmp_path_factory.mktemp("memory")))


class TestMemoryInstances(InstanceSuite):
    pass
