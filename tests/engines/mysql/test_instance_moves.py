"""What is in the databases of a clone survives that these are moved, also when a move stops halfway."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engines.mysql.live import instance
from tests.engines.mysql.test_instance_content import Place, named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import CloneWork
    from tests.engines.mysql.conftest import MariaDbHarness

IN_EACH = """
CREATE TABLE {0}.item (id int PRIMARY KEY, said varchar(20));
INSERT INTO {0}.item VALUES (1, 'one');
CREATE FUNCTION {0}.total() RETURNS int READS SQL DATA RETURN (SELECT count(*) FROM item);
CREATE TRIGGER {0}.says BEFORE INSERT ON {0}.item FOR EACH ROW SET NEW.said = concat(NEW.said, '-{0}');
USE {0};
CREATE VIEW seen AS SELECT id, said, total() AS total FROM item;
"""


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
