"""Compressed values are looked for in the pages that an earlier snapshot does not have, and in no others."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking import streams
from reconciler.engines.postgres.masking.unchanged import pages_to_search
from reconciler.masking.evidence import Base
from reconciler.masking.matcher import Matcher
from tests.masking.originals import sample_of

from .masked_database import make_database

if TYPE_CHECKING:
    from reconciler.engines.postgres.masking.streams import Relation
    from reconciler.fiemap import Part
    from tests.engines.postgres.conftest import Cluster

pytestmark = pytest.mark.postgres

TABLES = """
CREATE TABLE note (id int, said text);
INSERT INTO note SELECT n, repeat('zq7note' || 1000 + n || ' ', 300) FROM generate_series(1, 900) n;
CREATE TABLE wider (LIKE note);
INSERT INTO wider SELECT * FROM note;
ALTER TABLE wider ADD COLUMN more text DEFAULT 'of every row';
CHECKPOINT;
"""
PER_PAGE = "SELECT min(id), max(id) FROM note WHERE ctid >= '(3,0)' AND ctid < '(5,0)'"


@pytest.fixture
def cluster(cluster: Cluster) -> Cluster:
    """A build server with a database of tables."""
    make_database(cluster, TABLES)
    return cluster


def relations(cluster: Cluster) -> dict[str, Relation]:
    with server.connect(cluster.work(), "shop") as conn:
        return {relation.name.name: relation for relation in streams.relations(conn)}


def base_of(cluster: Cluster) -> Base:
    """Return a base with the very files of the build, so that all of them are its."""
    volume = cluster.work().directory
    known = {str(path.relative_to(volume)): "" for path in volume.glob("data/base/*/*") if path.is_file()}
    return Base(directory=volume, digests=known, begun_at=datetime.now(UTC) + timedelta(hours=1))


def pages(cluster: Cluster, table: str, base: Base | None) -> list[Part] | None:
    with server.connect(cluster.work(), "shop") as conn:
        return pages_to_search(cluster.work(), conn, relations(cluster)[table], base)


def test_pages_that_the_base_has_are_left_out_and_all_others_are_not(cluster: Cluster) -> None:
    base = base_of(cluster)
    assert pages(cluster, "note", base) == []
    ((path, count),) = cluster.query("shop", "SELECT pg_relation_filepath('note'), pg_relation_size('note') / 8192")
    at = datetime.now(UTC).timestamp() + 7200
    os.utime(base.directory / "data" / str(path), (at, at))  # as a file that was written to
    assert pages(cluster, "note", base) == [(0, count)]


def test_tables_are_searched_as_a_whole_where_pages_do_not_tell(cluster: Cluster) -> None:
    base = base_of(cluster)
    assert pages(cluster, "note", None) is None
    assert pages(cluster, "wider", base) is None  # rows have a value that is not in their pages
    assert pages(cluster, "pg_proc", base) is None
    ((path,),) = cluster.query("shop", "SELECT pg_relation_filepath('note')")
    del base.digests[f"data/{path}"]  # type: ignore[attr-defined] # a dict, made above
    assert pages(cluster, "note", base) is None  # something was found in it


def test_only_the_pages_that_are_named_are_read(cluster: Cluster) -> None:
    first, last = (int(str(number)) for number in cluster.query("shop", PER_PAGE)[0])
    originals = [f"zq7note{1000 + n}" for n in range(1, 901)]
    matcher = Matcher([sample_of(originals)])
    with server.connect(cluster.work(), "shop") as conn:
        note = relations(cluster)["note"]
        found = streams.compressed(conn, note, matcher.search(0), matcher.overlap, [(3, 4), (4, 5)])
        assert {originals[index] for _, index in found["said"]} == {
            f"zq7note{1000 + n}" for n in range(first, last + 1)
        }
        assert streams.compressed(conn, note, matcher.search(0), matcher.overlap, []) == {}
        assert len(streams.compressed(conn, note, matcher.search(0), matcher.overlap)["said"]) == 900
