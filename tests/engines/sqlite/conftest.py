"""A harness for each test: nothing of it is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engines.sqlite.harness import SqliteHarness

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def sqlite(tmp_path: Path) -> SqliteHarness:
    """SQLite in a directory of its own."""
    return SqliteHarness(tmp_path)
