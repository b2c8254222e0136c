"""A world for every test of the program; what it started is gone afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import end_installations, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World


@pytest.fixture
def world() -> Iterator[World]:
    """An empty spec directory and a configuration with ports of its own."""
    made = new_world()
    try:
        yield made
    finally:
        end_installations(made.root)
        made.close()
