"""The contract of runtimes, kept by containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.ids import InstallationId, ServerName
from tests.runtimes.docker.conftest import ContainerSuite

if TYPE_CHECKING:
    from tests.runtimes.docker.conftest import DockerHarness

pytestmark = pytest.mark.root


def test_what_was_left_of_a_generation_before_goes_with_the_start_of_the_next(harness: DockerHarness) -> None:
    runtime = harness.runtime(InstallationId("one"))
    for name in ("shop.1", "other.1"):
        runtime.start(harness.server(ServerName(name)))
    for name in harness.daemon.names():
        harness.daemon.docker("stop", name)
    runtime.start(harness.server(ServerName("shop.2")))
    assert sorted(name.rpartition("-")[2] for name in harness.daemon.names()) == ["other.1", "shop.2"]
    assert runtime.logs(ServerName("shop.1")) == ["starting", "stopping as asked"]


class TestDocker(ContainerSuite):
    @pytest.fixture
    def harness(self, harness: DockerHarness) -> DockerHarness:
        return harness
