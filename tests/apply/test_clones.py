"""What becomes of the servers of clones when these are changed and removed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.loop.conftest import CLONE, IMAGE, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWN = 70_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A clone with an account of its own, under which something else runs besides its server."""
    with ExitStack() as stack:
        made = World(tmp_path, stack)
        made.write(IMAGE, CLONE)
        made.apply()
        made.storage.update(made.current().id, replace(made.clone(), account=OWN))
        made.servers.strays.add(OWN)
        yield made
        made.reconciler.close(abandon=True)


def test_nothing_runs_on_under_the_account_of_a_deleted_clone(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    assert (world.running(), world.servers.strays) == ([], set())


def test_nothing_runs_on_under_the_account_of_a_stopped_clone(world: World) -> None:
    world.write(IMAGE, CLONE + "  state: stopped\n")
    world.apply()
    assert (world.running(), world.servers.strays) == ([], set())


def test_nothing_runs_on_under_the_account_of_a_generation_that_a_reset_retired(world: World) -> None:
    world.ask("reset", "dev")
    assert (world.running(), world.servers.strays) == (["dev.2"], set())
