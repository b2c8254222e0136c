"""The reconciler is killed with SIGKILL while it works on an instance; new passes put everything right there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from reconciler.ids import SnapshotId, on_instance
from tests.crash.killed import Place, count, killed_at
from tests.hosted.world import ON_SHARED, Hosted, hosted_mariadb, hosted_world
from tests.support import clone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

MOST = int(os.environ.get("RECONCILER_TEST_KILLS", "8"))
"""How many places of each kind of work are tried; all of them take minutes."""
_PARTS = (
    "engines/postgres/instance/",
    "engines/mysql/instance/",
    "apply/templates.py",
    "apply/clones.py",
    "apply/serving.py",
    "storage/",
)


@pytest.fixture(scope="module", params=["postgres", "mariadb", "files"])
def hosted(request: pytest.FixtureRequest) -> Iterator[Hosted]:
    files = request.param == "files"
    with hosted_world("18") if request.param == "postgres" else hosted_mariadb(files=files) as made:
        made.world.configure(prune={"maxDelete": 1000, "maxDeletePercent": 100}, undo={"grace": "1h"})
        made.world.write("shop.yaml", made.image())
        made.world.converge()
        yield made


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


def is_new(hosted: Hosted) -> None:
    assert hosted.rows("dev", "SELECT count(*) FROM product") == [(3,)]
    assert (beside_template(hosted), hosted.logins()) == ({"dev"}, {"dev_app"})


def is_reset(hosted: Hosted) -> None:
    """The clone is new, and what it was before is one undo away."""
    assert hosted.rows("dev", "SELECT count(*) FROM product") == [(3,)]
    assert (len(beside_template(hosted)), hosted.logins()) == (2, {"dev_app"})
    hosted.world.apply(("undo", "dev")).require()
    assert hosted.rows("dev", "SELECT count(*) FROM product") == [(0,)]


def is_gone(hosted: Hosted) -> None:
    assert (beside_template(hosted), hosted.logins()) == (set(), set())


def beside_template(hosted: Hosted) -> set[str]:
    return {name for name in hosted.databases() if not name.endswith(".template")}


@pytest.mark.parametrize(
    ("prepare", "change", "check"),
    [
        pytest.param(absent, ask, is_new, id="load-and-create"),
        pytest.param(worked_in, ask_for_reset, is_reset, id="reset"),
        pytest.param(worked_in, remove, is_gone, id="delete"),
    ],
)
def test_killed_anywhere_it_converges_and_nothing_is_left_on_the_instance(
    hosted: Hosted,
    prepare: Callable[[Hosted], None],
    change: Callable[[Hosted], None],
    check: Callable[[Hosted], None],
) -> None:
    prepare(hosted)
    change(hosted)
    places = [place for place in count(hosted.world.config_file) if any(part in place.burst for part in _PARTS)]
    reached = 0
    for place in sampled(places):
        prepare(hosted)
        change(hosted)
        reached += killed_at(hosted.world.config_file, place)
        try:
            hosted.world.converge(passes=6)
            check(hosted)
            assert (hosted.world.leftovers(), hosted.idle()) == ([], [])
        except BaseException as error:
            error.add_note(f"killed at {place}")
            raise
    assert reached > 0


def sampled(places: list[Place]) -> list[Place]:
    """Return some places, evenly spread."""
    step = max(1, len(places) // MOST)
    return places[::step]
