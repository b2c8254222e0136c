"""An installation with an image and two clones in which somebody worked: built once, copied for each test."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import clone, image, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import World


@pytest.fixture(scope="session")
def built() -> Iterator[tuple[World, Path]]:
    """The installation, its servers stopped, and a copy of its directory."""
    world = new_world()
    saved = world.root.with_name(f"{world.root.name}.saved")
    try:
        world.write("shop.yaml", image("shop"))
        world.write("dev.yaml", clone("dev"))
        world.write("test.yaml", clone("test"))
        world.converge()
        for name in ("dev", "test"):
            world.sql(name, "INSERT INTO product VALUES (4, 'somebody''s work')")
        world.stop_servers()
        subprocess.run(["cp", "-a", "--reflink=auto", world.root, saved], check=True)
        yield world, saved
    finally:
        world.close()
        shutil.rmtree(saved, ignore_errors=True)


@pytest.fixture
def shop(built: tuple[World, Path]) -> Iterator[World]:
    """The installation as it was built, with its servers running."""
    world, saved = built
    shutil.rmtree(world.root, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", saved, world.root], check=True)
    world.settings.clear()
    world.pool.clear()
    world.configure()
    world.apply().require()
    try:
        yield world
    finally:
        world.kill()
