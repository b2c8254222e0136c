"""The conformance suite of engines on servers of MySQL, where somebody has installed one.

No package of Debian has it, so where this is tested it is a gap of the host, not of the suite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.engines.mysql.engine import MysqlEngine
from reconciler.testing.engine import EngineSuite
from tests.engines.mysql.conftest import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.engines.mysql.conftest import MariaDbHarness

if not MysqlEngine().servers():
    pytest.skip("needs a server of MySQL, which no package of Debian has", allow_module_level=True)


@pytest.fixture(scope="module")
def harness() -> Iterator[MariaDbHarness]:
    with running(MysqlEngine()) as made:
        yield made


class TestMySql(EngineSuite):
    """The host's version."""
