"""Builds that fail, and builds that take long while the loop goes on."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import clone, image, until

if TYPE_CHECKING:
    from tests.support import World

pytestmark = pytest.mark.postgres

COUNT = "SELECT count(*) FROM product"
SLEEP = [{"inline": "SELECT pg_sleep(600);", "database": "shop"}]
TRUNCATED = "CREATE TABLE t (id integer, name text);\nCOPY t (id, name) FROM stdin;\n1\tone\n2\tt"

FAILING: dict[str, dict[str, Any]] = {
    "bad SQL": {"scripts": [{"inline": "SELECT 1;\nSELEC 2;", "database": "shop"}]},
    "failing check": {"checks": [{"sql": "SELECT count(*) > 99 FROM product", "database": "shop"}]},
    "truncated dump": {
        "source": {"dump": {"path": "cut.sql"}},
        "databases": ["shop"],
        "scripts": [],
        "unmasked": {"reason": "made-up data"},
    },
}


@pytest.mark.parametrize("why", list(FAILING))
def test_a_build_that_fails_leaves_nothing_and_waits_for_another_input(shop: World, why: str) -> None:
    volumes = shop.volumes()
    shop.write("cut.sql", TRUNCATED)
    shop.write("bad.yaml", image("bad", **FAILING[why]))
    shop.write("late.yaml", clone("late", image="bad"))
    result = shop.apply()
    assert "Image/bad" in result.errors
    assert shop.volumes() == volumes
    assert shop.leftovers() == []
    stalled = result.condition("Image/bad", "Stalled")
    assert stalled is not None
    assert stalled[0] == "True"
    assert shop.apply().actions == []
    shop.write("bad.yaml", image("bad"))
    shop.converge()
    assert shop.sql("late", COUNT) == [(3,)]
    assert shop.sql("dev", COUNT) == [(4,)]


def asks_for_long_build(world: World) -> None:
    world.write("slow.yaml", image("slow", scripts=SLEEP))


def builds(world: World) -> bool:
    """Whether the slow build has come to its script: one of its server's processes runs a SELECT."""
    return any(" SELECT" in title for title in world.titles())


def test_a_long_build_delays_no_clone_and_ends_with_the_commit_that_drops_it(shop: World) -> None:
    asks_for_long_build(shop)
    with shop.loop():
        until(lambda: builds(shop), what="the build")
        shop.write("quick.yaml", clone("quick"))
        until(lambda: shop.generations("quick") and "quick.1" in shop.servers(), what="the clone")
        assert builds(shop)
        shop.remove("slow.yaml")
        until(lambda: not builds(shop) and shop.leftovers() == [], what="the end of the build")
        assert shop.sql("quick", COUNT) == [(3,)]
    assert shop.leftovers() == []


def test_told_to_end_the_loop_abandons_its_build_and_leaves_the_clones_alone(shop: World) -> None:
    asks_for_long_build(shop)
    with shop.loop() as loop:
        until(lambda: builds(shop), what="the build")
        loop.send_signal(signal.SIGTERM)
        assert loop.wait(60) == 0
    assert shop.servers() == {"dev.1", "test.1"}
    assert shop.leftovers() == []
    for name in ("dev", "test"):
        assert shop.sql(name, COUNT) == [(4,)]


def test_a_loop_killed_during_a_build_leaves_nothing_behind_after_the_next_pass(shop: World) -> None:
    asks_for_long_build(shop)
    with shop.loop() as loop:
        until(lambda: builds(shop), what="the build")
        loop.kill()
        loop.wait()
    shop.remove("slow.yaml")
    shop.converge()
    assert shop.servers() == {"dev.1", "test.1"}
    assert shop.leftovers() == []


def test_requests_are_served_by_the_loop_that_runs(shop: World) -> None:
    with shop.loop():
        reset = shop.run("reset", "dev")
        assert reset.returncode == 0, reset.stderr
        assert "handed over to the running loop" in reset.stderr
        assert shop.sql("dev", COUNT) == [(3,)]
        unknown = shop.run("reset", "nobody")
        assert unknown.returncode == 1
        assert shop.run("apply").returncode == 0
        assert shop.run("apply", "--revision", "main").returncode == 1
    assert shop.leftovers() == []


def test_sighup_starts_a_pass_now(shop: World) -> None:
    with shop.loop() as loop:
        assert shop.run("apply").returncode == 0  # served by the loop, which therefore listens
        shop.kill_server("dev")
        loop.send_signal(signal.SIGHUP)
        until(lambda: "dev.1" in shop.servers(), what="a pass")
    assert shop.sql("dev", COUNT) == [(4,)]


def test_a_link_leads_no_image_to_data_that_is_granted_to_another(shop: World) -> None:
    backups = shop.root / "backups"
    for name in ("shop", "hr"):
        (backups / name).mkdir(parents=True)
    (backups / "hr" / "dump.sql").write_text("CREATE TABLE salary (amount integer);")
    (backups / "shop" / "2026.sql").write_text("CREATE TABLE product (name text);")
    (backups / "shop" / "dump.sql").symlink_to("2026.sql")
    shop.configure(sources={"roots": [str(backups)]}, grants=[{"images": "linked-*", "roots": [str(backups / "shop")]}])
    source = {"dump": {"path": str(backups / "shop" / "dump.sql")}}
    spec = {"source": source, "databases": [], "scripts": [], "unmasked": {"reason": "made-up data"}}
    shop.write("linked.yaml", image("linked-1", **spec), clone("linked", image="linked-1"))
    shop.converge()
    assert shop.sql("linked", COUNT, database="dump") == [(0,)]
    (backups / "shop" / "dump.sql").unlink()
    (backups / "shop" / "dump.sql").symlink_to("../hr/dump.sql")
    shop.write("more.yaml", image("linked-2", **spec))
    told = shop.apply().condition("Image/linked-2", "Stalled")
    assert told is not None
    assert "outside of the directories that this host grants" in told[2]
    assert not any(snapshot.startswith("linked-2") for snapshot in shop.snapshots())
