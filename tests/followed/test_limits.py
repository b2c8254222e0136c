"""The log that a primary keeps for a mirror has a limit, whatever has become of the mirror."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.base import LiveServer, MirrorWork
from reconciler.engines.postgres.mirror import PostgresMirrors
from reconciler.engines.postgres.replication import lsn
from reconciler.ids import DEFAULT_RUNTIME, ImageName, SecretName, ServerName, VolumeId
from reconciler.state.conditions import Kind, ObjectKey
from tests.followed.network import network
from tests.followed.primary import primary
from tests.followed.world import caught_up, follow, kill_mirror, mirror_process, mirror_servers
from tests.support import new_world, pause, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from reconciler.proc import Account
    from tests.followed.primary import Primary
    from tests.support import World

pytestmark = pytest.mark.postgres

SOURCE = {"primary": {"url": {"secret": "dsn"}, "walLimit": "32Mi"}}
SEGMENT = 16 << 20
"""Bytes of log in a file."""


@pytest.fixture(scope="module")
def production() -> Iterator[Primary]:
    with primary() as made:
        made.enter(5)
        yield made


@pytest.fixture
def world(production: Primary) -> Iterator[World]:
    made = new_world()
    try:
        follow(made, production, source=SOURCE)
        made.apply().require()
        caught_up(made, production)
        yield made
    finally:
        made.close()
        production.drop_slots()


def write_log(production: Primary, files: int) -> None:
    """Have the primary write whole files of log, of 16 MiB each."""
    for _ in range(files):
        production.enter(1)
        production.sql("SELECT pg_switch_wal()")


def conditions(world: World) -> dict[str, str]:
    plan = world.look().plan
    assert plan is not None
    return {one.type: one.message for one in plan.conditions[ObjectKey(Kind.MIRROR, "shop")]}


def goes_at_its_limit(world: World, production: Primary) -> None:
    """Insist that a mirror which does not get on is told before its limit, and leaves nothing at the primary beyond."""
    write_log(production, 1)
    until(lambda: "HoldsLog" in conditions(world), what="the warning")
    assert "at 32.0 MiB its slot is dropped" in conditions(world)["HoldsLog"]
    assert list(production.slots()), "not before the limit"
    write_log(production, 2)
    until(lambda: _left(world, production), what="the end of the slot")
    assert mirror_servers(world) == []
    assert world.leftovers() == []


def _left(world: World, production: Primary) -> bool:
    world.apply()
    return not production.slots()


@pytest.mark.long
def test_a_mirror_that_rests_because_its_pool_is_full_is_given_up_at_the_limit(
    world: World, production: Primary
) -> None:
    world.pool = {"reserve": "900Ti"}
    world.configure()
    until(lambda: _rests(world), what="the rest of the mirror")
    goes_at_its_limit(world, production)


def _rests(world: World) -> bool:
    world.apply()
    return not mirror_servers(world)


@pytest.mark.long
def test_a_mirror_of_a_suspended_image_whose_server_died_is_given_up_at_the_limit(
    world: World, production: Primary
) -> None:
    follow(world, production, source=SOURCE, suspend=True)
    kill_mirror(world)
    world.apply()
    goes_at_its_limit(world, production)


def test_a_mirror_that_is_connected_and_receives_nothing_is_given_up_at_the_limit(
    world: World, production: Primary
) -> None:
    pause(mirror_process(world, "walreceiver").pid)
    goes_at_its_limit(world, production)


def test_the_first_copy_tells_how_much_of_how_much_there_is_and_for_how_long_still(
    production: Primary, tmp_path: Path
) -> None:
    told: list[str] = []
    with network(production.port) as line:
        line.pause = 0.004
        url = production.url.replace(f":{production.port}/", f":{line.port}/")
        PostgresMirrors().copy(copying(url, tmp_path, slot="", progress=told.append))
    found = [match for one in told if (match := re.fullmatch(r".*: (.* MiB) of (.* MiB), about (\d+ s) left", one))]
    assert found, told
    assert len({match[2] for match in found}) == 1, "the total stays"
    assert not any("nobody" in one for one in told)


def test_a_copy_keeps_no_log_at_the_primary_before_it_begins_and_all_of_it_from_then_on(tmp_path: Path) -> None:
    kept = "SELECT restart_lsn::text FROM pg_replication_slots"
    with primary() as production, ThreadPoolExecutor(1) as beside:
        for setting in (
            "checkpoint_timeout = '30s'",
            "checkpoint_completion_target = 0.1",
        ):  # so that it takes 3 seconds
            production.sql(f"ALTER SYSTEM SET {setting}")
        production.sql("SELECT pg_reload_conf()")
        production.sql("CREATE TABLE ballast AS SELECT generate_series(1, 200000) AS a")
        copy = beside.submit(PostgresMirrors().copy, copying(production.url, tmp_path, slot="ours", copy_rate=1 << 30))
        until(lambda: copy.done() or production.sql(kept), what="the slot")
        early = production.sql(kept)
        copy.result()
        assert early == [(None,)], "nobody needs yet what it would keep"
        production.forget_log()
        begun = re.search(r"START WAL LOCATION: (\S+)", (tmp_path / "data" / "backup_label").read_text())
        assert begun
        ((since,),) = production.sql(kept)
        assert lsn(begun[1]) // SEGMENT <= lsn(since) // SEGMENT, "nothing from before"
        assert production.sql("SELECT wal_status FROM pg_replication_slots") == [("reserved",)], "all since then"


def copying(
    url: str, directory: Path, *, slot: str, copy_rate: int | None = None, progress: Callable[[str], None] = print
) -> MirrorWork:
    return MirrorWork(
        image=ImageName("shop"),
        server=ServerName("shop.mirror"),
        directory=directory,
        run_directory=directory,
        account=None,
        primary=LiveServer(url, SecretName("dsn"), "physical"),
        slot=slot,
        copy_rate=copy_rate,
        progress=progress,
    )


@pytest.mark.root
def test_no_account_of_a_clone_can_read_a_mirror_or_its_raw_copies(world: World, production: Primary) -> None:
    """With a superuser it has an account of its own, else the one that clones share; neither sees a single name."""
    follow(world, production, source=SOURCE, pointInTime={"window": "1h"})
    world.converge()
    places = [world.pool_path / "volumes" / volume.id for volume in world.volumes() if volume.manifest.kind == "mirror"]
    places += [world.pool_path / "volumes" / volume.id for volume in world.volumes() if volume.manifest.kind == "raw"]
    assert len(places) == 2
    assert all((place / "data" / "PG_VERSION").is_file() for place in places)
    with world.host() as host:
        runtime, volume = host.runtimes[DEFAULT_RUNTIME], VolumeId("dev.1")
        clones = [runtime.account("clone", volume, frozenset()), runtime.account("own", volume, frozenset())]
        build = runtime.account("build", volume, frozenset())
        places.append(host.state.run_directory(ServerName("shop.mirror")))  # the way into the primary, and its socket
    for place in places:
        assert listed(place, build), f"the server of the mirror reads {place}"
        assert [listed(place, account) for account in clones] == [False, False], place


def listed(place: Path, account: Account | None) -> bool:
    """Whether an account can list a directory, or read the file in it that every data directory has."""
    assert account is not None
    for argv in (["ls", str(place)], ["cat", str(place / "data" / "PG_VERSION")]):
        done = subprocess.run(
            argv, user=account.uid, group=account.gid, extra_groups=[], cwd="/", capture_output=True, check=False
        )
        if done.returncode == 0:
            return True
        assert b"Permission denied" in done.stderr or b"No such file" in done.stderr
    return False
