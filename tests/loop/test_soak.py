"""A long life in memory: random edits, crashes, requests and passing time; the promises hold at every step."""

from __future__ import annotations

import gc
import random
from typing import TYPE_CHECKING

import psutil
import pytest

from reconciler.ids import ServerName
from reconciler.state.observed import CloneManifest, ClonePhase, SnapshotManifest, VolumeState

if TYPE_CHECKING:
    from reconciler.state.observed import Verb

    from .conftest import World

NAMES = tuple("abcdefgh")


def image(name: str, variant: int, keep: int) -> str:
    return (
        f"apiVersion: reconciler/v1\nkind: Image\nmetadata: {{name: {name}}}\n"
        f"spec:\n  engine: postgres\n  source: {{empty: {{}}}}\n"
        f"  scripts: [{{inline: 'database d{variant}'}}]\n  retention: {{keep: {keep}}}\n"
    )


def clone(name: str, chance: random.Random) -> str:
    lines = [f"  image: {chance.choice(('shop', 'store'))}", "  users: [{name: app}]"]
    if chance.random() < 0.2:
        lines.append("  state: stopped")
    if chance.random() < 0.3:
        lines.append("  onRefresh: recreate")
    if chance.random() < 0.2:
        lines.append("  ttl: 3h")
    if chance.random() < 0.2:
        lines.append("  parameters: {work_mem: 8MB}")
    if chance.random() < 0.1:
        lines.append("  suspend: true")
    if chance.random() < 0.05:
        lines.append("  unknown: field")
    return f"apiVersion: reconciler/v1\nkind: Clone\nmetadata: {{name: {name}}}\nspec:\n" + "\n".join(lines) + "\n"


def edit(world: World, chance: random.Random) -> None:
    chosen = [name for name in NAMES if chance.random() < 0.7]
    documents = [image("shop", chance.randint(0, 2), chance.randint(1, 3)), image("store", 0, 2)]
    world.write(*documents, *(clone(name, chance) for name in chosen))


def disturb(world: World, chance: random.Random) -> None:
    """Let something happen that nobody asked for."""
    what = chance.random()
    running = world.running()
    if what < 0.3 and running:
        world.servers.crash(ServerName(chance.choice(running)))
    elif what < 0.5:
        world.clock.advance(hours=chance.choice((1, 2, 5)))
    elif what < 0.7:
        wishes: tuple[Verb, ...] = ("reset", "undo")
        world.state.requests.submit(chance.choice(wishes), chance.choice(NAMES), now=world.clock.now())
    elif what < 0.8:
        world.state.requests.submit("approve", now=world.clock.now())
    elif what < 0.85:
        world.servers.unavailable = "away for a moment"
    else:
        edit(world, chance)


def check(world: World) -> None:
    """Hold what must hold after every settled pass."""
    volumes = {volume.id: volume for volume in world.storage.volumes()}
    assert all(volume.state is VolumeState.COMPLETE for volume in volumes.values())
    clones = [v for v in volumes.values() if isinstance(v.manifest, CloneManifest)]
    assert all(v.manifest.phase is ClonePhase.READY for v in clones if isinstance(v.manifest, CloneManifest))
    snapshots = {v.id for v in volumes.values() if isinstance(v.manifest, SnapshotManifest)}
    assert {v.manifest.snapshot for v in clones if isinstance(v.manifest, CloneManifest)} <= snapshots
    if world.servers.unavailable is None:
        running = world.running()
        assert set(running) <= set(volumes), "a server without a volume"
        current = {
            str(world.current(name).id) for name in {m.manifest.clone for m in clones if m.manifest.kind == "clone"}
        }
        assert set(running) <= current, "a retired generation is served"


def settle(world: World) -> None:
    for _ in range(8):
        view = world.apply()
        if view.plan is None or not view.plan.actions:
            return
    assert view.plan is not None
    raise AssertionError(f"did not converge: {[str(action) for action in view.plan.actions]}")


def live(world: World, steps: int, seed: int) -> None:
    chance = random.Random(seed)
    edit(world, chance)
    for _ in range(steps):
        disturb(world, chance)
        settle(world)
        check(world)
        world.servers.unavailable = None


def test_a_short_life_keeps_every_promise(world: World) -> None:
    live(world, steps=12, seed=1)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_long_life_keeps_every_promise_and_its_size(world: World) -> None:
    live(world, steps=150, seed=2)
    gc.collect()
    before = psutil.Process().memory_info().rss
    live(world, steps=450, seed=3)
    gc.collect()
    grown = psutil.Process().memory_info().rss - before
    assert grown < 30 * 2**20, f"the loop grew by {grown / 2**20:.0f} MiB in 450 steps"
