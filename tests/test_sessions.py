"""A session of tests removes what killed ones left, and nothing of those that go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import remove_leftovers
from tests.support import MEMORY, WORLDS, free_port, in_memory, new_world, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[[int], tuple[Path, subprocess.Popen[bytes]]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Return a maker of worlds in memory, each of a process of tests, with a server."""
    if in_memory() is None:
        pytest.skip("needs 4 GiB of memory in /dev/shm")
    made: list[tuple[Path, subprocess.Popen[bytes]]] = []

    def world_of(pid: int) -> tuple[Path, subprocess.Popen[bytes]]:
        root = Path(tempfile.mkdtemp(prefix=f"{WORLDS}{pid}-", dir=MEMORY))
        (root / "state").mkdir()
        (root / "state" / "installation.json").write_text(json.dumps({"installation": root.name}))
        server = subprocess.Popen(["sleep", "600"], env={**os.environ, "RECONCILER_SERVER": f"{root.name}/dev.1"})
        made.append((root, server))
        return made[-1]

    yield world_of
    for root, server in made:
        server.kill()
        server.wait()
        shutil.rmtree(root, ignore_errors=True)


def test_worlds_of_a_killed_session_go_with_their_servers_and_those_of_others_stay(make: Make) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    left, server = make(gone.pid)
    kept, serving = make(os.getpid())
    until(lambda: Path(f"/proc/{server.pid}/comm").read_text() == "sleep\n", what="the server")
    remove_leftovers()
    assert not left.exists()
    assert server.poll() is not None
    assert kept.exists()
    assert serving.poll() is None


def test_a_world_in_memory_says_whose_it_is() -> None:
    world = new_world()
    try:
        assert world.root.parent != MEMORY or world.root.name.startswith(f"{WORLDS}{os.getpid()}-")
    finally:
        world.close()


def test_a_port_that_was_given_is_not_given_again_soon() -> None:
    given = [free_port() for _ in range(30)]
    assert len(set(given)) == 30
    assert all(port < 32_768 for port in given)
