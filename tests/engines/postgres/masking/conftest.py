"""The build servers that masking is tested on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import OLDER_MAJOR

if TYPE_CHECKING:
    from tests.engines.postgres.conftest import Cluster


@pytest.fixture(params=["build_older", "build"], ids=[OLDER_MAJOR, "18"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """A running, empty build server of each version."""
    found: Cluster = request.getfixturevalue(request.param)
    return found
