"""The contract of runtimes, kept by containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.runtimes.docker.conftest import ContainerSuite

if TYPE_CHECKING:
    from tests.runtimes.docker.conftest import DockerHarness

pytestmark = pytest.mark.root


class TestDocker(ContainerSuite):
    @pytest.fixture
    def harness(self, harness: DockerHarness) -> DockerHarness:
        return harness
