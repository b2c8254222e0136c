"""What cannot be seen is neither gone nor anybody's to delete, and what goes wrong is told."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.base import SourceIdentity
from reconciler.engines.memory import MemoryEngine
from reconciler.housekeeping import sweep
from reconciler.ids import CloneName, ImageName, PoolName, RuntimeName, VolumeId
from reconciler.runtimes.memory import MemoryHost, MemoryRuntime
from reconciler.state.conditions import PASSES, Kind
from reconciler.state.observed import VolumeState

from .conftest import CLONE, IMAGE, START

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.engines.base import LocalSource

    from .conftest import World


def test_a_pool_that_left_the_configuration_is_away_and_not_gone(world: World) -> None:
    world.state.known_pools.remember(PoolName("elsewhere"), "its-id")
    world.write(IMAGE, CLONE)
    world.apply()
    assert world.volumes() == []
    assert world.conditions(Kind.CLONE, "dev")["Ready"].status == "Unknown"
    assert "`pools:`" in world.conditions(Kind.POOL, "elsewhere")["Ready"].message


def test_a_pool_that_has_another_name_now_is_the_same_pool(world: World) -> None:
    world.reconciler.one_pass()
    world.state.known_pools.remember(PoolName("old-name"), world.state.known_pools.all()[PoolName("default")])
    world.write(IMAGE, CLONE)
    world.apply()
    assert world.running() == ["dev.1"]


def test_the_deletion_of_a_snapshot_goes_on_while_a_runtime_is_silent_that_never_served_it(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    (found,) = world.storage.volumes()
    world.storage.put(replace(found, state=VolumeState.DELETING), {})
    away = MemoryHost()
    away.unavailable = "the daemon does not answer"
    other = MemoryRuntime(
        RuntimeName("docker"),
        installation=world.state.installation,
        host=away,
        ports=range(6000, 6100),
        clock=world.clock,
    )
    world.host.runtimes = {**world.host.runtimes, other.name: other}
    world.apply()
    world.apply()
    assert found.id not in world.volumes()
    assert len(world.snapshots()) == 1


def test_sources_are_looked_at_at_the_same_time(world: World) -> None:
    together = threading.Barrier(2)

    class Slow(MemoryEngine):
        def identify(self, source: LocalSource) -> SourceIdentity:
            together.wait(5)  # else it is broken
            return super().identify(source)

    world.host.engines["postgres"] = Slow("postgres")
    world.secret("dsn", "memory://away/shop")
    source = "{primary: {url: {secret: dsn}, method: logical}}"
    other = IMAGE.replace("{empty: {}}", source) + "  unmasked: {reason: a test}\n"
    world.write(other, other.replace("name: shop", "name: store"))
    observed = world.reconciler.look().observed
    assert observed is not None
    assert observed.inputs.keys() == {"shop", "store"}
    assert not together.broken


def test_a_source_that_hangs_holds_up_no_pass_and_costs_one_thread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.observe._SOURCE_SECONDS", 0.2)
    asked, end = [], threading.Event()

    class Hanging(MemoryEngine):
        def identify(self, source: LocalSource) -> SourceIdentity:
            asked.append(source)
            end.wait()
            return SourceIdentity("came late", 0)

    world.host.engines["postgres"] = Hanging("postgres")
    world.secret("dsn", "memory://away/shop")
    world.write(
        IMAGE.replace("{empty: {}}", "{primary: {url: {secret: dsn}, method: logical}}")
        + "  unmasked: {reason: a test}\n"
    )
    try:
        for _ in range(3):
            observed = world.reconciler.look().observed
            assert observed is not None
            assert "has not answered" in str(observed.inputs[ImageName("shop")].problem)
        assert len(asked) == 1
    finally:
        end.set()
    until(world, lambda: _is_told(world))


def _is_told(world: World) -> bool:
    observed = world.reconciler.look().observed
    assert observed is not None
    return observed.inputs[ImageName("shop")].input_id == "came late"


def test_passwords_of_a_clone_whose_manifest_cannot_be_read_stay(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    lost = CloneName("lost")
    password = world.state.credentials.credential(lost, "app")
    observed = world.reconciler.look().observed
    assert observed is not None
    torn = {name: replace(pool, unknown=(VolumeId("lost.1"),)) for name, pool in observed.pools.items()}
    sweep(world.host, replace(observed, pools=torn))
    assert world.state.credentials.existing(lost, "app") == password
    sweep(world.host, observed)
    assert world.state.credentials.existing(lost, "app") is None


def test_answers_of_more_than_a_day_go_also_while_a_pool_is_away(world: World) -> None:
    world.state.known_pools.remember(PoolName("elsewhere"), "its-id")
    world.write(IMAGE)
    world.ask("apply")
    world.apply()
    (answer,) = (world.state.path / "outcomes").iterdir()
    assert world.host.lost_pools
    world.clock.advance(days=3)
    os.utime(answer, (START.timestamp(), START.timestamp()))
    world.apply()
    assert not answer.exists()


def test_a_pass_that_fails_says_so_until_one_succeeds(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    pools = world.state.path / "pools.json"
    good = pools.read_bytes()
    pools.write_text("torn")
    thread = threading.Thread(target=world.reconciler.run)
    thread.start()
    try:
        until(world, lambda: "Stalled" in {c.type for c in world.store.conditions().get(PASSES, ())})
        assert world.conditions(Kind.IMAGE, "shop")["Ready"].status == "True"
        pools.write_bytes(good)
        until(world, lambda: PASSES not in world.store.conditions())
    finally:
        world.reconciler.stop()
        thread.join(30)
    assert not thread.is_alive()


def until(world: World, condition: Callable[[], bool]) -> None:
    never = threading.Event()
    for _ in range(3000):
        if condition():
            return
        world.clock.wait(never, 0.01)
    pytest.fail("it did not come to pass within 30 seconds")


def test_a_running_clone_gets_no_superuser_under_the_account_that_clones_share(world: World) -> None:
    runtime = world.host.runtimes[RuntimeName("process")]
    runtime.traits = replace(runtime.traits, own_accounts=True)
    world.write(IMAGE, CLONE)
    world.apply()
    world.write(IMAGE, CLONE.replace("{name: app}", "{name: app, role: superuser}"))
    world.apply()
    assert world.conditions(Kind.CLONE, "dev")["Stalled"].reason == "SuperuserUnsupported"
    assert "reconciler reset dev" in world.conditions(Kind.CLONE, "dev")["Stalled"].message
    assert world.engine.users(world.storage.path(world.current().id)) == {"app": "owner"}
