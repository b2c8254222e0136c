"""Rows that were removed before a build began are in no page of it any more, and pages are sound all the same."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler import proc
from reconciler.engines.postgres import server, settle
from reconciler.engines.postgres.masking import pages, remains
from reconciler.errors import PermanentError
from reconciler.masking.evidence import Base
from tests.support import OLDER_MAJOR

from .rewriting import execute, make, one, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from reconciler.masking.evidence import Wiped
    from tests.engines.postgres.conftest import Cluster

pytestmark = pytest.mark.postgres

HISTORY = """
CREATE EXTENSION amcheck;
CREATE EXTENSION pageinspect;
CREATE TABLE diary (id int PRIMARY KEY, said text);
INSERT INTO diary SELECT n, (SELECT string_agg(md5(n || '.' || i), '') FROM generate_series(1, 100) i)
    || repeat('a long story ', 3000) FROM generate_series(1, 40) AS n;
CREATE TABLE note (id int PRIMARY KEY, said text);
CREATE INDEX note_said ON note (said);
INSERT INTO note SELECT n, repeat('zq7inline' || n, 300) FROM generate_series(1, 200) AS n;
CREATE TABLE person (id int PRIMARY KEY, name text);
INSERT INTO person SELECT n, 'zq7plain' || n FROM generate_series(1, 2000) AS n;
CREATE TABLE trimmed (LIKE person);
INSERT INTO trimmed SELECT * FROM person;
"""
REMOVED = """
DELETE FROM diary WHERE id > 3; UPDATE note SET said = 'short' || id WHERE id > 20; DELETE FROM trimmed;
UPDATE person SET name = 'new' || id; VACUUM person; UPDATE person SET name = 'newer' || id WHERE id % 2 = 0;
"""
TOASTED = "SELECT chunk_data FROM {} WHERE chunk_seq = 0 ORDER BY chunk_id"
INLINE = """
SELECT t_data FROM generate_series(0, pg_relation_size('note')::int / 8192 - 1) AS block,
    heap_page_items(get_raw_page('note', block)) ORDER BY block, lp
"""


@pytest.fixture(params=[OLDER_MAJOR, "18"])
def cluster(
    request: pytest.FixtureRequest, make_cluster: Callable[..., AbstractContextManager[Cluster]]
) -> Iterator[Cluster]:
    """A build server with checksums, with rows, of which most were removed."""
    with make_cluster(request.param, running=False) as made:
        made.init("--locale=C.UTF-8", "--encoding=UTF8", "--data-checksums")
        made.start()
        make(made, HISTORY)
        yield made


def wiped(cluster: Cluster) -> Wiped:
    """Do what ends a masked build of a physical source."""
    settle.settle_cluster(cluster.work(), cluster.programs)
    return wiped_only(cluster)


def wiped_only(cluster: Cluster, base: Base | None = None) -> Wiped:
    @contextmanager
    def stopped() -> Iterator[None]:
        cluster.stop()
        yield
        cluster.launch()

    return remains.wipe(cluster.work(), cluster.programs, stopped, base)


def contents(cluster: Cluster) -> dict[str, bytes]:
    base = cluster.root / "volume" / "data" / "base"
    return {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}


def stored(cluster: Cluster) -> tuple[list[bytes], list[bytes]]:
    """Return a part of each compressed value as the server stores it: in TOAST, and in rows (and in indexes alike)."""
    toast = one(cluster, "SELECT reltoastrelid::regclass FROM pg_class WHERE relname = 'diary'")
    execute(cluster, "SET search_path = public; CHECKPOINT;")
    toasted = [bytes(data)[8:200] for (data,) in rows(cluster, TOASTED.format(toast))]
    return toasted, [bytes(data)[12:32] for (data,) in rows(cluster, INLINE)]


def files_with(cluster: Cluster, values: list[bytes]) -> list[int]:
    """Return for each value how many files have it."""
    database = str(one(cluster, "SELECT oid FROM pg_database WHERE datname = 'shop'"))
    found = [data for name, data in contents(cluster).items() if name.startswith(f"{database}/")]
    return [sum(value in data for data in found) for value in values]


def test_no_file_has_a_removed_value_plain_or_compressed(cluster: Cluster) -> None:
    toasted, inline = stored(cluster)
    assert (len(toasted), len(inline)) == (40, 200)
    execute(cluster, REMOVED + "CHECKPOINT;")
    assert files_with(cluster, toasted) == [1] * 40
    assert files_with(cluster, inline) == [2] * 200, "in the table and its index"
    assert files_with(cluster, [b"zq7plain"]) == [2]
    assert wiped(cluster).pages > 0
    assert files_with(cluster, toasted) == [1] * 3 + [0] * 37
    assert files_with(cluster, inline) == [2] * 20 + [0] * 180
    assert files_with(cluster, [b"zq7plain"]) == [0]


def test_what_is_left_is_read_as_before_and_passes_every_check_of_the_server(cluster: Cluster) -> None:
    execute(cluster, REMOVED)
    digest = "SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM {} t"
    tables = ("diary", "note", "person", "trimmed")
    before = [one(cluster, digest.format(table)) for table in tables]
    wiped(cluster)
    assert [one(cluster, digest.format(table)) for table in tables] == before
    assert one(cluster, "SELECT count(*) FROM note WHERE said = 'short21'") == 1
    indexes = "SELECT bt_index_check(indexrelid, true) FROM pg_index JOIN pg_class c ON c.oid = indexrelid"
    rows(cluster, f"{indexes} JOIN pg_am ON pg_am.oid = relam WHERE amname = 'btree' AND relpersistence <> 't'")
    heaps = "SELECT oid, v.* FROM pg_class, verify_heapam(oid) v WHERE relkind IN ('r', 't', 'm')"
    assert rows(cluster, heaps) == []
    execute(cluster, "INSERT INTO note SELECT n, 'more' || n FROM generate_series(1000, 3000) n; VACUUM note;")
    cluster.stop()
    proc.run(
        [server.program(cluster.programs, "pg_checksums"), "--check", "-D", cluster.root / "volume" / "data"],
        account=cluster.account,
    )
    cluster.launch()


def test_pages_in_which_nothing_was_removed_are_not_written(cluster: Cluster) -> None:
    wiped(cluster)
    before = {path: path.stat().st_mtime_ns for path in (cluster.root / "volume" / "data" / "base").rglob("*")}
    name = str(one(cluster, "SELECT pg_relation_filepath('person'::regclass)"))
    wiped(cluster)
    changed = {path.name for path, at in before.items() if path.exists() and path.stat().st_mtime_ns != at}
    assert name.rpartition("/")[2] not in changed


def test_files_that_are_one_with_those_of_a_base_are_not_read_unless_it_was_wiped_otherwise(cluster: Cluster) -> None:
    wiped(cluster)
    everything = wiped_only(cluster)
    assert (everything.full, everything.same_bytes) == (True, 0)
    volume = cluster.root / "volume"
    known = {str(path.relative_to(volume)): "" for path in volume.glob("data/*/**/*") if path.is_file()}
    later = datetime.now(UTC) + timedelta(hours=1)
    base = Base(directory=volume, digests=known, begun_at=later, wiped=remains.VERSION)
    left_out = wiped_only(cluster, base)
    assert (left_out.full, left_out.read_bytes, left_out.same_bytes) == (False, 0, everything.read_bytes)
    written = str(one(cluster, "SELECT pg_relation_filepath('person'::regclass)"))
    at = (later + timedelta(hours=1)).timestamp()
    os.utime(volume / "data" / written, (at, at))  # as a file that was written to since the base was begun
    assert wiped_only(cluster, base).read_bytes == (volume / "data" / written).stat().st_size
    for other in (replace(base, wiped=remains.VERSION + 1), replace(base, wiped=None)):
        again = wiped_only(cluster, other)
        assert (again.full, again.read_bytes) == (True, everything.read_bytes)


def test_a_damaged_page_is_told(cluster: Cluster) -> None:
    path = str(one(cluster, "SELECT pg_relation_filepath('person'::regclass)"))
    file = cluster.root / "volume" / "data" / path

    @contextmanager
    def stopped() -> Iterator[None]:
        cluster.stop()
        with file.open("r+b") as stream:
            stream.seek(8192 + 12)
            stream.write(b"\xff\xff")
        yield

    with pytest.raises(PermanentError, match=f"page 1 of {path} is damaged"):
        remains.wipe(cluster.work(), cluster.programs, stopped)


def test_a_checksum_is_the_servers_own(cluster: Cluster) -> None:
    execute(cluster, "CHECKPOINT")
    cluster.stop()
    seen = 0
    for name, data in contents(cluster).items():
        if re.fullmatch(r"\d+/\d+", name):
            for number, start in enumerate(range(0, len(data), 8192)):
                page = data[start : start + 8192]
                if any(page):
                    assert pages.checksum(page, number) == int.from_bytes(page[8:10], "little")
                    seen += 1
    assert seen > 500
    cluster.launch()
