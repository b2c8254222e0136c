"""The reconciler is killed with SIGKILL at every side effect in turn, and a new pass puts everything right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import astuple
from itertools import takewhile
from typing import TYPE_CHECKING

import pytest

from reconciler import durable
from reconciler.engines.mysql.engine import MariaDbEngine
from reconciler.engines.postgres import server
from reconciler.state.observed import CloneManifest, SnapshotManifest
from tests.conftest import unmount
from tests.crash.killed import MAIN, Place, beyond, count, killed_at
from tests.crash.scenarios import (
    SCENARIOS,
    Scenario,
    beside_a_primary,
    let_in_by_address,
    masked,
    start_published,
    stopped_clone_of_mariadb,
    with_key,
    write_image_of_mariadb,
)
from tests.support import World, document, image, new_world, today

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.postgres

COPY = ("cp", "--archive", "--reflink=auto", "--sparse=always")
AROUND = ("build", "clone")
"""Where the pass around the work is killed; in later ones of these, and in all others, where it is not the same."""
CHAIN = 8
"""How many runs are killed in a row before one may converge; another one is the first of them every day."""
WAITING_SECONDS = 10
"""How long passes may have nothing to do but to come again: a mirror that was started follows a moment later."""
TRIES = 3
"""How often a run may fail to come to a place again that another one came to: where threads wait for each other."""


@pytest.fixture
def world() -> Iterator[World]:
    made = new_world()
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(saved_of(made), ignore_errors=True)


@pytest.fixture(scope="session")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Know the places that any process of this run of tests has seen."""
    directory = tmp_path_factory.getbasetemp()
    return Seen(directory.parent if "PYTEST_XDIST_WORKER" in os.environ else directory)


@pytest.fixture(scope="session", autouse=True)
def _empty_directories() -> None:
    """Have the empty data directories made that builds copy: the first build of a session has other side effects."""
    made = new_world()
    try:
        for major in {installed.major for installed in server.installed_servers()}:
            made.write(f"shop-{major}.yaml", image(f"shop-{major}", version=major))
        if MariaDbEngine().servers():
            made.write("other.yaml", document("Image", "other", {"engine": "mariadb", "source": {"empty": {}}}))
        made.converge()
    finally:
        made.close()


class Crashes:
    """One scenario: its start, saved; what there is at its end when nothing goes wrong; and runs that are killed."""

    def __init__(self, world: World, scenario: Scenario) -> None:
        self._world = world
        self._scenario = scenario
        self._follows = scenario.around is beside_a_primary
        scenario.prepare(world)
        world.stop_servers() if world.state.exists() else None
        unmount(world.pool_path)
        self._saved = saved_of(world)
        subprocess.run([*COPY, world.root, self._saved], check=True)
        self.begin()
        self.places = count(world.config_file, unwell=scenario.unwell)
        world.converge()
        self._expected = summary(world)
        scenario.check(world)

    def begin(self) -> None:
        """Go back to the start: the same files, the servers that run then, and the change that is to be applied."""
        self._world.end()
        unmount(self._world.pool_path)
        for entry in self._world.root.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        subprocess.run([*COPY, f"{self._saved}/.", self._world.root], check=True)
        if self._world.state.exists():
            self._world.apply().require()
        self._scenario.change(self._world)
        for verb, target in self._scenario.requests:
            self._world.request(verb, target)

    def kill_each(self, places: list[Place], *, chain: int = 1) -> list[Place]:
        """Kill runs at each place, several in a row before one may converge; return those that were not reached."""
        missed = []
        for first in range(-(today() % chain), len(places), chain):  # in turn, each is the first in its row
            link = places[max(first, 0) : first + chain]
            if not link:
                continue
            self.begin()
            missed += [place for place in link if not killed_at(self._world.config_file, place)]
            self.recover(link)
        return missed

    def recover(self, places: list[Place]) -> None:
        """Converge and look that everything is as if nothing had happened."""
        try:
            self._world.converge()
            deadline = time.monotonic() + WAITING_SECONDS
            while self._follows and summary(self._world) != self._expected and time.monotonic() < deadline:
                time.sleep(0.2)
                self._world.converge()
            assert summary(self._world) == self._expected
            assert self._world.leftovers() == []
            self._scenario.check(self._world)
        except BaseException as error:
            error.add_note(f"killed at {', '.join(map(str, places))}")
            raise


class Seen:
    """The places of scenarios that were seen, in files of their names."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def of(self, name: str) -> list[Place]:
        """Return the places of a scenario; where it was not seen yet, in a world of its own."""
        with suppress(FileNotFoundError):
            return [Place(*place) for place in json.loads(self._file(name).read_text())]
        other = new_world()
        try:
            with SCENARIOS[name].around(other):
                return self.note(name, Crashes(other, SCENARIOS[name]).places)
        finally:
            other.close()
            shutil.rmtree(saved_of(other), ignore_errors=True)

    def note(self, name: str, places: list[Place]) -> list[Place]:
        """Write down what was seen; return it."""
        durable.write(self._file(name), json.dumps([astuple(place) for place in places]).encode(), settle=False)
        return places

    def _file(self, name: str) -> Path:
        return self._directory / f"places-{name}.json"


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "part"),
    [
        pytest.param(name, part, marks=[pytest.mark.root] if scenario.root else [])
        for name, scenario in SCENARIOS.items()
        for part in range(scenario.parts)
    ],
)
def test_killed_at_every_side_effect_it_converges_and_nothing_is_orphaned_or_lost(
    world: World, seen: Seen, name: str, part: int
) -> None:
    scenario = SCENARIOS[name]
    known = [seen.of(other) for other in scenario.beyond]
    usual = [*known, *(seen.of(other) for other in takewhile(lambda other: other != name, AROUND))]
    with scenario.around(world):
        crashes = Crashes(world, scenario)
        places = seen.note(name, crashes.places)
        around = [place for place in beyond(places, usual, part=scenario.part) if place.thread == MAIN]
        within = [place for place in beyond(places, known, part=scenario.part) if place.thread != MAIN]
        assert within
        missed = crashes.kill_each(around[part :: scenario.parts], chain=CHAIN)
        missed += crashes.kill_each(within[part :: scenario.parts], chain=CHAIN)
        for _ in range(TRIES):
            missed = crashes.kill_each(missed)
        assert missed == [], "places that runs did not come to again, also alone"


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


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_build_of_mariadb_that_is_killed_on_its_way_into_a_fresh_directory_is_built_anew(world: World) -> None:
    if not MariaDbEngine().servers():
        pytest.skip("needs MariaDB on this host (packages mariadb-server-core, mariadb-client-core)")
    crashes = Crashes(world, Scenario(with_key, write_image_of_mariadb, masked))
    places = [place for place in crashes.places if "mysql/masking/fresh.py" in place.burst and place.index == 1]
    assert len(places) > 3
    assert crashes.kill_each(places[:: len(places) // 3], chain=4) == []


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_start_that_is_killed_before_users_are_let_in_as_the_host_says_now_is_gone_on_with(world: World) -> None:
    if not MariaDbEngine().servers():
        pytest.skip("needs MariaDB on this host (packages mariadb-server-core, mariadb-client-core)")
    crashes = Crashes(world, Scenario(stopped_clone_of_mariadb, start_published, let_in_by_address))
    places = [place for place in crashes.places if "mysql/users.py" in place.burst]
    assert len(places) > 3
    for place in places[:: len(places) // 3]:
        assert crashes.kill_each([place]) == []
        let_in_by_address(world)


def test_a_clone_that_is_being_made_when_the_reconciler_is_killed_is_made_by_the_next_pass(world: World) -> None:
    crashes = Crashes(world, SCENARIOS["clone"])
    manifests = [place for place in crashes.places if "storage/" in place.burst and "durable.py" in place.burst]
    servers = [place for place in crashes.places if "_popen" in place.burst]
    places = [*manifests[::4], *servers[::2]]
    assert len(places) > 3
    assert crashes.kill_each(places) == []
