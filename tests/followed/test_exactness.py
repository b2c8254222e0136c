"""Under the load of many clients each snapshot is of exactly one moment of its primary, and says which."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres.replication import lsn
from reconciler.state.observed import SnapshotManifest
from tests.conftest import require_root
from tests.followed.primary import CHAIN, primary
from tests.followed.traffic import TORN, WRITERS, commits, pgbench
from tests.followed.world import caught_up, follow, mirror_of, mirror_process, refresh
from tests.support import clone, new_world, pause, resume, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.followed.primary import Primary
    from tests.support import World

pytestmark = [pytest.mark.postgres, pytest.mark.root]

REFRESHES = 20


@pytest.fixture
def production() -> Iterator[Primary]:
    with primary() as made:
        made.configure(wal_keep_size="2GB", max_wal_size="1GB")
        made.sql("SELECT pg_reload_conf()")
        yield made


@pytest.fixture
def world(production: Primary) -> Iterator[World]:
    """An installation that cuts from a mirror while it runs."""
    require_root("mkfs.btrfs")
    made = new_world(driver="btrfs", pool={"size": "1500Mi"})
    try:
        follow(made, production, retention={"keep": REFRESHES + 5})
        yield made
    finally:
        made.write("shop.yaml", "")
        made.write("clones.yaml", "")
        made.apply()
        made.close()


def snapshots(world: World) -> dict[str, SnapshotManifest]:
    """Return the manifests of the snapshots, the oldest first."""
    found = [volume.manifest for volume in world.volumes() if isinstance(volume.manifest, SnapshotManifest)]
    return {str(manifest.snapshot): manifest for manifest in sorted(found, key=lambda one: one.snapshot)}


def served(world: World) -> dict[str, str]:
    """Have a clone of every snapshot; return their names by snapshot."""
    names = {snapshot: f"c{number}" for number, snapshot in enumerate(snapshots(world))}
    world.write("clones.yaml", *(clone(name, snapshot=snapshot) for snapshot, name in names.items()))
    world.apply().require()
    return names


def of_one_moment(world: World, names: dict[str, str]) -> None:
    """Insist that no clone has a part of a transaction."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: world.sql(name, TORN), names.values()))
    assert found == [[(0, 0, 0, 0)]] * len(names)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_twenty_refreshes_under_load_have_what_the_primary_had_and_nothing_newer(
    world: World, production: Primary
) -> None:
    """Each has what the primary's log has up to the commit that ``dataAsOf`` is the time of."""
    ((start,),) = production.sql("SELECT pg_current_wal_lsn()::text")
    with pgbench(production, rate=150):
        world.apply().require()
        for _ in range(REFRESHES):
            refresh(world)
        ended = commits(production, start)
        writers = {transaction for (transaction,) in production.sql(WRITERS)}
    names = served(world)
    assert len(names) == REFRESHES + 1
    of_one_moment(world, names)
    sizes = []
    for snapshot, manifest in snapshots(world).items():
        reached = lsn(manifest.input_id.rpartition(":")[2])
        before = [one for one in ended if one.position < reached]
        assert manifest.data_as_of == before[-1].at
        has = [transaction for (transaction,) in world.sql(names[snapshot], WRITERS)]
        assert sorted(has) == sorted(writers & {one.transaction for one in before})
        sizes.append(len(has))
    assert sizes == sorted(set(sizes)), "each has more than the one before"


@contextmanager
def paused(world: World) -> Iterator[None]:
    """Let the mirror replay nothing while the block runs; its WAL receiver goes on writing."""
    startup = mirror_process(world, "startup")
    pause(startup.pid)
    try:
        yield
    finally:
        resume(startup.pid)


def test_a_cut_of_a_paused_mirror_has_what_was_received_and_says_so(world: World, production: Primary) -> None:
    production.enter(1)
    world.apply().require()
    production.enter(1)
    caught_up(world, production)
    with paused(world):
        production.enter(3)
        ((position,),) = production.sql("SELECT pg_current_wal_flush_lsn()::text")
        until(lambda: _received(production, world, position), what="the receipt of the log")
        observed = world.look().observed
        assert observed is not None
        seen = observed.mirrors[mirror_of(world).image]
        assert seen.position is not None
        assert lsn(seen.position) < lsn(position), "it has not replayed it"
        refresh(world)
    newest = list(snapshots(world).values())[-1]
    name = served(world)[str(newest.snapshot)]
    assert newest.data_as_of is not None
    assert world.sql(name, CHAIN)[0] == production.ledger_at(newest.data_as_of)
    assert world.sql(name, CHAIN)[0][1] == 5


def _received(production: Primary, world: World, position: str) -> bool:
    query = f"SELECT restart_lsn >= '{position}' FROM pg_replication_slots WHERE slot_name = '{mirror_of(world).slot}'"
    return production.sql(query) == [(True,)]
