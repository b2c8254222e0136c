"""The host loses power and boots again, in any order: everything comes back, nothing is built anew, nothing is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING

import psycopg
import pytest

from reconciler.errors import UnavailableError
from reconciler.storage.loopback import SMALLEST
from tests.conftest import require_root
from tests.faults.test_commits import commit, git
from tests.support import World, clone, image, new_world, today, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import LoopMounts

pytestmark = [pytest.mark.root, pytest.mark.postgres, pytest.mark.long]

POOLS = ("plain", "native", "own")
STEPS = ("the disk is mounted", "the btrfs is mounted", "the repository answers", "the loop starts")
ORDERS_A_DAY = 4
ROWS = "SELECT count(*) FROM product"


@dataclass(frozen=True)
class Machine:
    """A host with an image and two clones on each of three pools: of one, the file lies on a disk of its own."""

    world: World
    disk: Path
    btrfs: Path

    @property
    def own(self) -> Path:
        return self.disk / "pool"

    def lose_power(self) -> None:
        """End everything at once, and have nothing mounted."""
        self.world.kill()
        for mountpoint in (self.own, self.btrfs, self.disk):
            until(partial(_unmounted, mountpoint), what=f"the end of the mount {mountpoint}")
        until(lambda: not _attached(self.disk), what="the end of the loop devices")
        (self.world.root / "specs").rename(self.world.root / "away")

    def do(self, step: str) -> None:
        """Do one step of booting; what the loop makes of it is waited for nowhere."""
        match step:
            case "the disk is mounted":
                subprocess.run(["mount", "-o", "loop", f"{self.disk}.img", self.disk], check=True)
            case "the btrfs is mounted":
                subprocess.run(["mount", "-o", "loop", f"{self.btrfs}.img", self.btrfs], check=True)
            case "the repository answers":
                (self.world.root / "away").rename(self.world.root / "specs")
            case _:
                raise AssertionError(step)

    def all_answer(self) -> bool:
        """Whether every clone serves what was written to it."""
        try:
            return all(self.world.sql(f"{name}-dev", ROWS) == [(4,)] for name in POOLS)
        except (AssertionError, UnavailableError, psycopg.OperationalError):
            return False  # a pass that had begun before the last step mounted nothing; the next one does

    def made(self) -> dict[str, list[str]]:
        """Return what was ever done to each object, but for starts."""
        names = [f"Image/{name}" for name in POOLS] + [f"Clone/{name}-dev" for name in POOLS] + ["Clone/at-rest"]
        told = {name: json.loads(self.world.run("history", name, "-o", "json").stdout) for name in names}
        return {name: [e["action"] for e in entries if e["action"] != "start"] for name, entries in told.items()}


def _unmounted(mountpoint: Path) -> bool:
    """Unmount; busy for a moment, in which a killed process that cannot be found any more still has its files open."""
    return subprocess.run(["umount", mountpoint], capture_output=True, check=False).returncode == 0


def _attached(disk: Path) -> str:
    argv = ["losetup", "--list", "--noheadings", "--output", "BACK-FILE"]
    listed = subprocess.run(argv, capture_output=True, check=True, text=True).stdout.split("\n")
    return "\n".join(line for line in listed if line.strip().startswith(f"{disk}/"))


@pytest.fixture(scope="module")
def machine(loop_mounts: LoopMounts) -> Iterator[Machine]:
    require_root("mkfs.ext4", "mkfs.btrfs", "losetup")
    disk = loop_mounts.make("disk", 800, "mkfs.ext4", "-q")
    btrfs = loop_mounts.make("native", 512, "mkfs.btrfs", "--quiet")
    world = new_world()
    machine = Machine(world, disk, btrfs)
    pools = {
        "default": {"driver": "copy", "path": "./pool", "reserve": "1Mi"},
        "native": {"driver": "btrfs", "path": str(btrfs / "pool"), "reserve": "1Mi"},
        "own": {"driver": "btrfs", "path": str(machine.own), "size": str(SMALLEST + (64 << 20)), "reserve": "1Mi"},
    }
    try:
        for name, pool in zip(POOLS, pools, strict=True):
            world.write(f"{name}.yaml", image(name, pool=pool), clone(f"{name}-dev", image=name))
        world.write("rest.yaml", clone("at-rest", image="own", state="stopped"))
        git(world.root / "specs", "init", "--quiet", "--initial-branch", "main")
        commit(world, "Ask for everything")
        world.configure(pools=pools, repository={"url": "./specs", "branch": "main", "interval": "1h"})
        world.converge()
        for name in POOLS:
            world.sql(f"{name}-dev", "INSERT INTO product VALUES (4, 'somebody''s work')")
        yield machine
    finally:
        world.end()
        if os.path.ismount(machine.own):
            loop_mounts.unmount(machine.own)
        world.close()


def todays_orders() -> list[tuple[str, ...]]:
    """Return the orders whose turn it is: the loop before all else, and some of the others."""
    every = list(permutations(STEPS))
    first = [order for order in every if order[0] == "the loop starts"]
    chance = random.Random(today())
    return [chance.choice(first), *chance.sample([order for order in every if order not in first], ORDERS_A_DAY - 1)]


def test_after_a_power_cut_everything_comes_back_whatever_is_there_first(machine: Machine) -> None:
    world = machine.world
    with world.loop():
        until(machine.all_answer, what="the first start")
        volumes, made = world.volumes(), machine.made()
        machine.lose_power()
    for order in todays_orders():
        loop_starts = order.index("the loop starts")
        for step in order[:loop_starts]:
            machine.do(step)
        with world.loop() as loop:
            for step in order[loop_starts + 1 :]:
                one_pass(world, loop)
                machine.do(step)
            one_pass(world, loop)
            until(machine.all_answer, what=f"the return of every clone after {order}")
            assert world.volumes() == volumes, order
            assert machine.made() == made, order
            assert f"at-rest.{world.current('at-rest').generation}" not in world.servers(), order
            assert world.leftovers() == [], order
            machine.lose_power()
    for step in STEPS[:-1]:
        machine.do(step)


def one_pass(world: World, loop: subprocess.Popen[str]) -> None:
    """Have the loop look at what there is by now."""
    last = world.state / "last-pass"
    before = last.stat().st_mtime_ns if last.exists() else None
    loop.send_signal(signal.SIGHUP)
    until(lambda: last.exists() and last.stat().st_mtime_ns != before, what="a pass")
