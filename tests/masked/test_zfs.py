"""PostgreSQL on ZFS, from the image to the clones; what was there before masking is in no snapshot of any volume."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.masked.test_fails_closed import KEY, RULES, people, policy
from tests.support import clone, new_world
from tests.zfs import below, dataset_at, shown_states, zfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import World

pytestmark = [pytest.mark.postgres, pytest.mark.root, pytest.mark.long]

ORIGINAL = b"secretive"


@pytest.fixture
def world(zfs_path: Path) -> Iterator[World]:
    zfs_path.chmod(0o755)
    made = new_world(driver="zfs", pool={"path": str(zfs_path / "pool")})
    try:
        (made.root / "secrets" / "masking-key").write_text(KEY)
        made.write("pii.yaml", policy(RULES))
        made.write("people.yaml", people())
        yield made
    finally:
        made.close()


@contextmanager
def snapshots_of_everything(dataset: str) -> Iterator[None]:
    """Take snapshots of all that there is, again and again, as a host's cron does."""
    stop = threading.Event()

    def take() -> None:
        number = 0
        while not stop.wait(1):
            number += 1
            zfs("snapshot", "-r", f"{dataset}@zfs-auto-snap-{number}")

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_masked_clones_are_served_and_nothing_shows_an_original(world: World) -> None:
    with world.host(writes=True):
        dataset = dataset_at(world.pool_path)
    with snapshots_of_everything(dataset):
        world.apply().require()
    world.write("dev.yaml", clone("dev", image="people"))
    world.converge()
    world.sql("dev", "UPDATE person SET name = 'mine'")
    world.write("copy.yaml", clone("copy", image={"clone": "dev"}))
    world.apply().require()
    assert world.sql("copy", "SELECT DISTINCT name FROM person") == [("mine",)]
    assert world.sql("copy", "SELECT count(*) FROM person WHERE email LIKE '%@example.com'") == [(40,)]
    assert files_with_originals(world) == []
    world.remove("dev.yaml")
    world.remove("copy.yaml")
    world.converge()
    left = [name.removeprefix(f"{dataset}/") for name in below(dataset) if "@" not in name]
    assert [name for name in left if "/" in name] == [f"volumes/{world.snapshots()[0]}"]


def files_with_originals(world: World) -> list[Path]:
    """Return the files that hold an original, in the volumes as they are and in all that their snapshots show."""
    found = []
    for volume in world.volumes():
        path = world.pool_path / "volumes" / volume.id
        found += _searched(path)
        for state in shown_states(path):
            found += _searched(state)
    return found


def _searched(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and ORIGINAL in path.read_bytes()]
