"""Two hundred passes of one process over specs that somebody edits all the time, on PostgreSQL and btrfs.

No faults: after every edit the world is what the specs ask for, and the process and its
state directory are no larger at the end than after the first passes. The edits are those of
the day.
"""

from __future__ import annotations

import gc
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from reconciler.host import open_host
from reconciler.loop import Reconciler
from reconciler.spec.loader import load_config
from tests.support import World, clone, image, new_world, today

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSES = 200
SETTLING = 8
"""Passes after an edit, at most, until one has nothing to do: builds, their clones, what was replaced a second ago."""
WARM = 60
"""Passes after which nothing may grow any more."""
NAMES = ("ada", "bob", "cyd", "dan", "eve")
THREADS = 1 + 1 + len(NAMES)
"""Ours, and those that wait for work: as many as there were ever objects at work at once."""
MEMORY_BYTES = 16 << 20
STATE_BYTES = 64 << 10
"""Passwords of more clones, and the deletions of an hour."""
EVENTS_BYTES = 2 << 20
"""What two hundred passes may write of events and history, which are kept up to a number that is tested elsewhere."""


@dataclass
class Wanted:
    """What the specs ask for, as the test knows it."""

    products: int = 3
    clones: dict[str, dict[str, Any]] = field(default_factory=dict)

    def edit(self, chance: random.Random) -> None:
        """Change something, as people do."""
        name = chance.choice(NAMES)
        known = self.clones.get(name)
        match chance.randrange(12):
            case 0 if known is not None:
                del self.clones[name]
            case 1:
                self.products += 1
            case 2 | 3 if known is not None:
                known["state"] = "stopped" if known.get("state") != "stopped" else "running"
            case 4 | 5 if known is not None:
                known["parameters"] = {"work_mem": f"{chance.randint(4, 64)}MB"}
            case 6 | 7 if known is not None:
                users = chance.sample(("report", "batch", "web"), chance.randint(0, 3))
                known["users"] = [{"name": "app", "role": "owner"}, *({"name": one} for one in users)]
            case 8 if known is not None:
                known["onRefresh"] = "recreate" if known.get("onRefresh") != "recreate" else "keep"
            case 9 if known is not None:
                known["owner"] = chance.choice(("payments", "search", "stock"))
            case _:
                self.clones.setdefault(name, {"users": [{"name": "app", "role": "owner"}]})

    def write(self, world: World) -> None:
        products = f"CREATE TABLE product AS SELECT number AS id FROM generate_series(1, {self.products}) AS number"
        scripts = [{"inline": products, "database": "shop"}]
        documents = [clone(name, **spec) for name, spec in sorted(self.clones.items())]
        world.write("specs.yaml", image("shop", scripts=scripts, retention={"keep": 1}), *documents)


@dataclass(frozen=True)
class Size:
    """How large the process and its state are; without the log of the status file, which SQLite writes over again."""

    files: int
    threads: int
    memory: int
    state: int
    events: int

    @classmethod
    def of(cls, world: World) -> Size:
        gc.collect()
        process = psutil.Process()
        status = world.state / "status.sqlite3"
        kept = (path for path in world.state.rglob("*") if path.is_file() and not path.name.startswith(status.name))
        return cls(
            process.num_fds(),
            process.num_threads(),
            process.memory_info().rss,
            sum(path.stat().st_size for path in kept if path.parent.name != "logs"),
            status.stat().st_size,
        )


@pytest.fixture
def world(btrfs_path: Path) -> Iterator[World]:
    btrfs_path.chmod(0o711)
    made = new_world(driver="btrfs", pool={"path": str(btrfs_path / "pool")})
    made.configure(prune={"maxDelete": 1000, "maxDeletePercent": 100}, undo={"grace": "1s"})
    try:
        yield made
    finally:
        made.close()


@pytest.mark.root
@pytest.mark.postgres
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_world_follows_every_edit_and_nothing_grows(world: World) -> None:
    chance, wanted, sizes = random.Random(today()), Wanted(), []
    with open_host(load_config(world.config_file), writes=True, command="test") as host:
        reconciler = Reconciler(host, host.commits())
        try:
            passes = 0
            while passes < PASSES:
                wanted.edit(chance)
                wanted.write(world)
                passes += settled(reconciler)
                check(world, wanted, chance)
                sizes.append((passes, Size.of(world)))
            for name in wanted.clones:
                check_clone(world, wanted, name)
            assert world.leftovers() == []
        finally:
            reconciler.close(abandon=True)
    warm = [size for done, size in sizes if done <= WARM]
    last = [size for done, size in sizes if done > PASSES - WARM]
    assert max(size.files for size in last) <= max(size.files for size in warm)
    assert max(size.threads for size in last) <= THREADS
    assert max(size.memory for size in last) - max(size.memory for size in warm) < MEMORY_BYTES
    assert max(size.state for size in last) - max(size.state for size in warm) < STATE_BYTES
    assert last[-1].events < EVENTS_BYTES


def settled(reconciler: Reconciler) -> int:
    """Run passes until one has nothing to do; return how many."""
    done = []
    for number in range(1, SETTLING + 1):
        view = reconciler.one_pass()
        tasks = reconciler.in_flight
        reconciler.settle(view)
        assert view.plan is not None, view.commit
        assert {str(task.key): str(task.error) for task in tasks if task.error is not None} == {}
        if not view.plan.actions:
            return number
        done.append([f"{action.verb} {action.key}" for action in view.plan.actions])
    raise AssertionError(f"it did not converge: {done}")


def check(world: World, wanted: Wanted, chance: random.Random) -> None:
    """The volumes and servers are those of the specs, and a clone is as its document says."""
    current = {f"{name}.{world.current(name).generation}": name for name in wanted.clones}
    running = {volume for volume, name in current.items() if wanted.clones[name].get("state") != "stopped"}
    assert world.servers() == running
    assert len(world.snapshots()) >= 1
    clones = {name for name in NAMES if world.generations(name)}
    assert clones == set(wanted.clones)
    if wanted.clones:
        check_clone(world, wanted, chance.choice(sorted(wanted.clones)))


def check_clone(world: World, wanted: Wanted, name: str) -> None:
    spec, manifest = wanted.clones[name], world.current(name)
    assert manifest.owner == spec.get("owner")
    if spec.get("state") == "stopped":
        return
    ((memory,),) = world.sql(name, "SHOW work_mem")
    assert memory == spec.get("parameters", {}).get("work_mem", "4MB")
    users = "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname IN ('app', 'report', 'batch', 'web')"
    assert {row[0] for row in world.sql(name, users)} == {user["name"] for user in spec["users"]}
    if spec.get("onRefresh") == "recreate":
        assert world.sql(name, "SELECT count(*) FROM product") == [(wanted.products,)]
