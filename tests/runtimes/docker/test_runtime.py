"""The contract of runtimes, kept by containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.testing.runtime import RuntimeSuite

if TYPE_CHECKING:
    from tests.runtimes.docker.conftest import DockerHarness

pytestmark = pytest.mark.root


class TestDocker(RuntimeSuite):
    @pytest.fixture
    def harness(self, harness: DockerHarness) -> DockerHarness:
        return harness
