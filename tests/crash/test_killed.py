"""The reconciler is killed with SIGKILL at every side effect in turn, and a new pass puts everything right."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from reconciler.state.observed import CloneManifest, SnapshotManifest
from tests.crash.killed import Place, count, killed_at
from tests.crash.scenarios import SCENARIOS, Scenario
from tests.support import World, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.postgres


@pytest.fixture
def world() -> Iterator[World]:
    made = new_world()
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(saved_of(made), ignore_errors=True)


class Crashes:
    """One scenario: its start, saved; what there is at its end when nothing goes wrong; and runs that are killed."""

    def __init__(self, world: World, scenario: Scenario) -> None:
        self._world = world
        self._scenario = scenario
        scenario.prepare(world)
        world.stop_servers() if world.state.exists() else None
        self._saved = saved_of(world)
        subprocess.run(["cp", "-a", "--reflink=auto", world.root, self._saved], check=True)
        self.begin()
        places = count(world.config_file)
        self.places = [place for place in places if scenario.everywhere or not place.burst.startswith("MainThread ")]
        world.converge()
        self._expected = summary(world)
        scenario.check(world)

    def begin(self) -> None:
        """Go back to the start: the same files, the servers that run then, and the change that is to be applied."""
        self._world.kill()
        for entry in self._world.root.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        subprocess.run(["cp", "-a", "--reflink=auto", f"{self._saved}/.", self._world.root], check=True)
        if self._world.state.exists():
            self._world.converge()
        self._scenario.change(self._world)
        for verb, target in self._scenario.requests:
            self._world.request(verb, target)

    def kill_each(self, places: list[Place]) -> list[Place]:
        """Kill runs at each place; return those that were not reached."""
        missed = []
        for first in range(0, len(places), self._scenario.chain):
            self.begin()
            link = places[first : first + self._scenario.chain]
            missed += [place for place in link if not killed_at(self._world.config_file, place)]
            self.recover(link)
        return missed

    def recover(self, places: list[Place]) -> None:
        """Converge and look that everything is as if nothing had happened."""
        try:
            self._world.converge()
            assert summary(self._world) == self._expected
            assert self._world.leftovers() == []
            self._scenario.check(self._world)
        except BaseException as error:
            error.add_note(f"killed at {', '.join(map(str, places))}")
            raise


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "part"), [(name, part) for name, scenario in SCENARIOS.items() for part in range(scenario.parts)]
)
def test_killed_at_every_side_effect_it_converges_and_nothing_is_orphaned_or_lost(
    world: World, name: str, part: int
) -> None:
    crashes = Crashes(world, SCENARIOS[name])
    places = crashes.places[part :: SCENARIOS[name].parts]
    assert len(places) > 3
    missed = crashes.kill_each(places)
    missed = [place for place in missed if place in crashes.kill_each([place])]
    assert len(missed) <= len(places) // 20, "places that runs did not come to again"


def summary(world: World) -> dict[str, object]:
    """Return what exists, without ids, times and numbers that differ from run to run."""
    volumes = world.volumes()
    images = sorted(volume.manifest.image for volume in volumes if isinstance(volume.manifest, SnapshotManifest))
    clones = sorted({volume.manifest.clone for volume in volumes if isinstance(volume.manifest, CloneManifest)})
    return {
        "snapshots of": images,
        "clones": {name: [_summary(v.manifest) for v in world.generations(name).values()] for name in clones},
        "volumes": len(volumes),
        "served": sorted(name.partition(".")[0] for name in world.servers()),
        "tombstones": sorted(path.name for path in (world.state / "tombstones").iterdir()),
    }


def _summary(manifest: object) -> tuple[object, ...]:
    assert isinstance(manifest, CloneManifest)
    users = tuple((user.name, user.role) for user in manifest.users)
    return manifest.image, manifest.runtime, manifest.owner, manifest.protected, users


def saved_of(world: World) -> Path:
    return world.root.with_name(f"{world.root.name}.saved")


def test_a_clone_that_is_being_made_when_the_reconciler_is_killed_is_made_by_the_next_pass(world: World) -> None:
    crashes = Crashes(world, SCENARIOS["clone"])
    manifests = [place for place in crashes.places if "manifests.py" in place.burst and "clone" in place.burst]
    servers = [place for place in crashes.places if "_popen" in place.burst]
    places = [*manifests[::3], *servers[::2]]
    assert len(places) > 3
    assert crashes.kill_each(places) == []
