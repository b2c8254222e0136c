"""A world for every test of the program; what it started is gone afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest
import yaml

from tests.support import new_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


def end_installations(root: Path) -> None:
    """Kill the servers of every installation below a directory, also of those that commands made."""
    marks = {yaml.safe_load(path.read_text())["installation"] for path in root.rglob("installation.json")}
    victims = [process for process in psutil.process_iter() if _installation(process) in marks]
    for victim in victims:
        victim.kill()
    psutil.wait_procs(victims, timeout=30)


def _installation(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("RECONCILER_SERVER", "").partition("/")[0]
    except psutil.Error:
        return None
