"""The conformance suite of engines on real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.testing.engine import EngineSuite
from tests.support import OLDER_MAJOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.testing.engine import EngineHarness

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module", params=[OLDER_MAJOR, "18"])
def harness(request: pytest.FixtureRequest, make_harness: Callable[[str], EngineHarness]) -> EngineHarness:
    return make_harness(request.param)


class TestPostgres(EngineSuite):
    """An older version of the host and the embedded one."""
