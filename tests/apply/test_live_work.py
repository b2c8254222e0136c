"""Nothing that happens to images, snapshots and other clones ends a session of a clone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import clone, image

if TYPE_CHECKING:
    from typing import Any

    import psycopg

    from tests.support import World

pytestmark = pytest.mark.postgres

REFRESHES = 4


def write_image(world: World, number: int) -> None:
    scripts = [*image("shop")["spec"]["scripts"], {"inline": f"CREATE TABLE build_{number} ()", "database": "shop"}]
    world.write("shop.yaml", image("shop", scripts=scripts, retention={"keep": 1}))


def begun(world: World, name: str) -> psycopg.Connection[Any]:
    """Return a session with a transaction that holds a lock, a temporary table and a row that nobody else sees."""
    connection = world.connect(name)
    connection.execute("CREATE TEMPORARY TABLE mine (n int)")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO product VALUES (100, 'not committed yet')")
    connection.execute("LOCK TABLE product")
    return connection


def test_open_transactions_of_clones_outlive_refreshes_of_their_image(world: World) -> None:
    write_image(world, 0)
    names = ["dev", "qa"]
    for name in names:
        world.write(f"{name}.yaml", clone(name))
    world.write("follower.yaml", clone("follower", onRefresh="recreate"))
    world.converge()
    sessions = [begun(world, name) for name in names]
    backends = [session.info.backend_pid for session in sessions]
    pinned = {name: world.current(name).snapshot for name in names}
    for number in range(1, REFRESHES + 1):
        write_image(world, number)
        world.write("passing.yaml", clone("passing")) if number % 2 else world.remove("passing.yaml")
        world.converge()
        for session in sessions:
            session.execute("INSERT INTO mine VALUES (%s)", [number])
    assert world.current("follower").snapshot not in pinned.values()
    for session, name, backend in zip(sessions, names, backends, strict=True):
        row = session.execute("SELECT count(*), (SELECT count(*) FROM mine), pg_backend_pid() FROM product").fetchone()
        assert row == (4, REFRESHES, backend)
        session.execute("COMMIT")
        session.close()
        assert world.sql(name, "SELECT count(*) FROM product") == [(4,)]
        assert world.current(name).snapshot == pinned[name]
    # the snapshot that they are of is not the newest for long, and is kept for them all the same
    assert set(pinned.values()) < set(world.snapshots())


def test_a_look_at_who_uses_a_clone_disturbs_no_session(world: World) -> None:
    write_image(world, 0)
    world.write("dev.yaml", clone("dev", idle="1s"))
    world.converge()
    session = begun(world, "dev")
    for _ in range(3):
        assert session.execute("SELECT pg_sleep(0.7), count(*) FROM product").fetchall()
        world.converge()
    session.execute("COMMIT")
    session.close()
    assert world.sql("dev", "SELECT count(*) FROM product") == [(4,)]
