"""The conformance suite of engines on real servers of MariaDB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.testing.engine import EngineSuite

if TYPE_CHECKING:
    from tests.engines.mysql.conftest import MariaDbHarness


@pytest.fixture(scope="module")
def harness(mariadb: MariaDbHarness) -> MariaDbHarness:
    return mariadb


class TestMariaDb(EngineSuite):
    """The host's version."""
