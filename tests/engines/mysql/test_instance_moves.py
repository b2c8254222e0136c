"""What is in the databases of a clone survives that these are moved, also when a move stops halfway."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import BusyError
from reconciler.ids import CloneName, VolumeId
from tests.engines.mysql.live import instance
from tests.engines.mysql.test_instance_content import Place, named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import CloneWork
    from reconciler.state.servers import Hosted
    from tests.engines.mysql.conftest import MariaDbHarness

IN_EACH = """
CREATE TABLE {0}.item (id int PRIMARY KEY, said varchar(20));
INSERT INTO {0}.item VALUES (1, 'one');
CREATE FUNCTION {0}.total() RETURNS int READS SQL DATA RETURN (SELECT count(*) FROM item);
CREATE TRIGGER {0}.says BEFORE INSERT ON {0}.item FOR EACH ROW SET NEW.said = concat(NEW.said, '-{0}');
USE {0};
CREATE VIEW seen AS SELECT id, said, total() AS total FROM item;
"""
WAITS = "SELECT count(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for table metadata lock'"


@pytest.fixture(scope="module")
def place(mariadb: MariaDbHarness) -> Iterator[Place]:
    with instance(options=["--skip-log-bin"]) as live:
        yield Place(mariadb, live)


@pytest.fixture(scope="module")
def pair(place: Place) -> CloneWork:
    """Have a snapshot of two databases loaded, each with a view, a function and a trigger."""
    work = place.snapshot(f"CREATE DATABASE a; CREATE DATABASE b; {IN_EACH.format('a')} {IN_EACH.format('b')}")
    work = named(work, "pair")
    place.load(work)
    return work


def next_of(hosted: Hosted) -> Hosted:
    """Return the next generation of a clone."""
    name, _, number = hosted.volume.rpartition(".")
    return replace(hosted, volume=VolumeId(f"{name}.{int(number) + 1}"))


def holds(place: Place, clone: str) -> None:
    """Insist that the code of a snapshot works in all databases of a clone."""
    for name in ("a", "b"):
        rows = place.rows(f"{clone}_{name}", "SELECT said, total FROM seen ORDER BY id")
        assert rows[0] == ("one", len(rows))
        added = len(rows) + 1
        place.rows(f"{clone}_{name}", f"INSERT INTO item VALUES ({added}, 'new')")
        said = place.rows(f"{clone}_{name}", f"SELECT said, total FROM seen WHERE id = {added}")
        assert said == [(f"new-{name}", added)]


def test_code_of_every_database_works_after_it_is_served_reset_and_brought_back(place: Place, pair: CloneWork) -> None:
    hosted = place.delivered(pair)
    holds(place, hosted.clone)
    place.reset(hosted)
    holds(place, hosted.clone)
    place.instance().serve(hosted)
    holds(place, hosted.clone)


def test_serving_gives_back_what_a_worker_needs_for_its_views(place: Place, pair: CloneWork) -> None:
    hosted = place.delivered(pair)
    ((definer,),) = place.live.sql(
        f"SELECT definer FROM information_schema.views WHERE table_schema = '{hosted.clone}_a'"
    )
    worker = definer.partition("@")[0]
    place.live.sql(f"DELETE FROM mysql.db WHERE user = '{worker}' AND db LIKE '%\\\\_a'", "FLUSH PRIVILEGES")
    place.instance().serve(hosted)
    holds(place, hosted.clone)


@pytest.mark.long  # the server is asked again for 20 s
def test_a_swap_that_stopped_while_code_was_dropped_and_was_undone_loses_none(place: Place, pair: CloneWork) -> None:
    hosted = place.delivered(pair)
    after = next_of(hosted)
    place.instance().create(after)
    place.live.sql("SET GLOBAL lock_wait_timeout = 1")
    try:
        with contextlib.closing(place.live.connect()) as reader, reader.cursor() as cursor:
            cursor.execute("START TRANSACTION")
            cursor.execute(f"SELECT * FROM `{hosted.clone}_a`.item")
            with pytest.raises(BusyError):
                place.instance().serve(after)
    finally:
        place.live.sql("SET GLOBAL lock_wait_timeout = DEFAULT")
    place.instance().serve(hosted)
    holds(place, hosted.clone)
    place.rows(
        f"{hosted.clone}_a",
        "CREATE VIEW mine AS SELECT id FROM item",
        "CREATE FUNCTION work() RETURNS int RETURN 42",
        "CREATE OR REPLACE FUNCTION total() RETURNS int READS SQL DATA RETURN 77",
    )
    place.instance().serve(after)
    place.instance().serve(hosted)
    assert place.rows(f"{hosted.clone}_a", "SELECT id, work(), total() FROM mine WHERE id = 1") == [(1, 42, 77)]


def test_what_somebody_made_while_a_database_was_moved_is_moved_with_it(place: Place, pair: CloneWork) -> None:
    hosted = place.delivered(pair)
    after = next_of(hosted)
    place.instance().create(after)
    place.live.sql(f"CREATE TABLE `{hosted.clone}_b`.zz (a int)")
    with contextlib.closing(place.live.connect()) as admin, admin.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("START TRANSACTION")
        cursor.execute(f"SELECT * FROM `{hosted.clone}_b`.zz")
        serving = pool.submit(place.instance().serve, after)
        deadline = time.monotonic() + 60
        while place.live.sql(WAITS) == [(0,)]:
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
        place.live.sql(f"CREATE TABLE `{hosted.clone}_b`.later AS SELECT 5 AS a")
        cursor.execute("COMMIT")
        with pytest.raises(BusyError, match=f"{hosted.clone}_b") as raised:
            serving.result()
    assert raised.value.reason == "InUse"
    place.instance().serve(after)
    place.instance().serve(hosted)
    assert place.rows(f"{hosted.clone}_b", "SELECT a FROM later") == [(5,)]
    holds(place, hosted.clone)


def test_a_view_that_was_broken_when_its_clone_was_renamed_is_made_once_it_can_be(
    place: Place, pair: CloneWork
) -> None:
    hosted = place.delivered(pair)
    place.rows(
        f"{hosted.clone}_a",
        "CREATE TABLE gone (a int, said varchar(40))",
        f"CREATE VIEW broken AS SELECT a, '`{hosted.clone}_a`.x''' AS told FROM gone WHERE said <> ''",
        "DROP TABLE gone",
    )
    new = CloneName(f"new{hosted.clone}")
    place.instance().rename(hosted.clone, new)
    renamed = replace(hosted, clone=new)
    place.rows(f"{new}_a", "CREATE TABLE gone (a int, said varchar(40))", "INSERT INTO gone VALUES (3, 'x')")
    after = next_of(renamed)
    place.instance().create(after)
    place.instance().serve(after)
    place.instance().serve(renamed)
    assert place.rows(f"{new}_a", "SELECT * FROM broken") == [(3, f"`{hosted.clone}_a`.x'")]
