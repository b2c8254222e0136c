"""The reconciler is killed with SIGKILL while it works on an instance; new passes put everything right there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from reconciler.ids import SnapshotId, on_instance
from tests.crash.killed import Place, count, killed_at
from tests.hosted.world import ON_SHARED, Hosted, PairOnMariaDb, PairOnPostgres, hosted_mariadb, hosted_world
from tests.support import clone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

MOST = int(os.environ.get("RECONCILER_TEST_KILLS", "6"))
"""How many places of each kind of work are tried on the instance, and half as many here; all of them take minutes."""
_THERE = ("engines/postgres/instance/", "engines/mysql/instance/")
_HERE = ("apply/templates.py", "apply/clones.py", "apply/serving.py", "storage/")


@pytest.fixture(scope="module", params=["postgres", "files", "mariadb"])
def hosted(request: pytest.FixtureRequest) -> Iterator[Hosted]:
    with _world(request.param) as made:
        made.world.configure(prune={"maxDelete": 1000, "maxDeletePercent": 100}, undo={"grace": "1h"})
        made.world.write("shop.yaml", made.image())
        made.world.converge()
        yield made


def _world(kind: str) -> AbstractContextManager[Hosted]:
    if kind == "postgres":
        return hosted_world("18", made_as=PairOnPostgres)
    return hosted_mariadb(files=True) if kind == "files" else hosted_mariadb(made_as=PairOnMariaDb)


def absent(hosted: Hosted) -> None:
    """Have neither clone nor template."""
    (hosted.world.root / "specs" / "dev.yaml").unlink(missing_ok=True)
    hosted.world.converge()
    with hosted.world.host(writes=True) as host:
        for snapshot in hosted.world.snapshots():
            host.instance(on_instance("shared")).unload(SnapshotId(snapshot))
    assert (hosted.databases(), hosted.logins()) == (set(), set())


def worked_in(hosted: Hosted) -> None:
    """Have a clone that somebody worked in."""
    absent(hosted)
    hosted.clone("dev")
    hosted.rows("dev", "DELETE FROM product")


def ask(hosted: Hosted) -> None:
    hosted.world.write("dev.yaml", clone("dev", **ON_SHARED))


def ask_for_reset(hosted: Hosted) -> None:
    hosted.world.request("reset", "dev")


def remove(hosted: Hosted) -> None:
    hosted.world.remove("dev.yaml")


def go_on(hosted: Hosted) -> None:
    hosted.world.converge(passes=6)


def undo(hosted: Hosted) -> None:
    """Want what was before, also where there is nothing to undo yet."""
    hosted.world.apply(("undo", "dev"))
    hosted.world.converge(passes=6)


def is_new(hosted: Hosted) -> None:
    assert hosted.rows("dev", "SELECT count(*) FROM product") == [(3,)]
    assert (beside_template(hosted), hosted.logins()) == ({*hosted.names("dev")}, {"dev_app"})
    hosted.require_code("dev")


def is_reset(hosted: Hosted) -> None:
    """The clone is new, and what it was before is one undo away."""
    assert hosted.rows("dev", "SELECT count(*) FROM product") == [(3,)]
    assert (len(beside_template(hosted)), hosted.logins()) == (2 * len(hosted.parts), {"dev_app"})
    hosted.require_code("dev")
    hosted.world.apply(("undo", "dev")).require()
    assert hosted.rows("dev", "SELECT count(*) FROM product") == [(0,)]
    hosted.require_code("dev")


def is_whole(hosted: Hosted) -> None:
    """It is what it was, or new and that one undo away; and it keeps what is made in it from now on."""
    if hosted.rows("dev", "SELECT count(*) FROM product") != [(0,)]:
        is_reset(hosted)
    hosted.require_code("dev")
    hosted.rows("dev", "CREATE VIEW mine AS SELECT count(*) AS number FROM product")
    hosted.world.apply(("reset", "dev")).require()
    hosted.world.apply(("undo", "dev")).require()
    assert hosted.rows("dev", "SELECT number FROM mine") == [(0,)]
    hosted.require_code("dev")


def is_gone(hosted: Hosted) -> None:
    assert (beside_template(hosted), hosted.logins()) == (set(), set())


def beside_template(hosted: Hosted) -> set[str]:
    return {name for name in hosted.databases() if ".template" not in name}


@pytest.mark.parametrize(
    ("prepare", "change", "then", "check"),
    [
        pytest.param(absent, ask, go_on, is_new, id="load-and-create"),
        pytest.param(worked_in, ask_for_reset, go_on, is_reset, id="reset"),
        pytest.param(worked_in, ask_for_reset, undo, is_whole, id="reset-and-undo"),
        pytest.param(worked_in, remove, go_on, is_gone, id="delete"),
    ],
)
def test_killed_anywhere_it_converges_and_nothing_is_left_on_the_instance(
    hosted: Hosted,
    prepare: Callable[[Hosted], None],
    change: Callable[[Hosted], None],
    then: Callable[[Hosted], None],
    check: Callable[[Hosted], None],
) -> None:
    prepare(hosted)
    change(hosted)
    places = count(hosted.world.config_file)
    reached = 0
    for place in (*sampled(places, _THERE, MOST), *sampled(places, _HERE, MOST // 2)):
        prepare(hosted)
        change(hosted)
        reached += killed_at(hosted.world.config_file, place)
        try:
            then(hosted)
            check(hosted)
            assert (hosted.world.leftovers(), hosted.idle()) == ([], [])
        except BaseException as error:
            error.add_note(f"killed at {place}")
            raise
    assert reached > 0


def sampled(places: list[Place], parts: tuple[str, ...], most: int) -> list[Place]:
    """Return some places of these parts of the program, evenly spread."""
    found = [place for place in places if any(part in place.burst for part in parts)]
    step = max(1, len(found) // max(1, most))
    return found[::step]
