"""What a build leaves is vacuumed and analysed, without asking anybody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres import isolate, settle

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.postgres

_PARTITIONS = """
CREATE EXTENSION postgres_fdw;
CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');
CREATE TABLE sale (a int) PARTITION BY RANGE (a);
CREATE TABLE sale_new PARTITION OF sale FOR VALUES FROM (0) TO (10);
CREATE FOREIGN TABLE sale_old PARTITION OF sale FOR VALUES FROM (10) TO (20) SERVER far;
INSERT INTO sale SELECT 1 FROM generate_series(1, 100);
CREATE TABLE log (a int) PARTITION BY RANGE (a);
CREATE TABLE log_all PARTITION OF log DEFAULT;
INSERT INTO log SELECT 1 FROM generate_series(1, 100);
"""


def test_partitions_on_another_server_are_not_asked_for_rows(build: Cluster) -> None:
    build.tool("psql", "-X", "-q", "-c", "CREATE DATABASE shop")
    build.tool("psql", "-X", "-q", database="shop", stdin=_PARTITIONS.encode())
    isolate.isolate_cluster(build.work())
    settle.settle_cluster(build.work(), build.programs)
    analysed = "SELECT DISTINCT starelid::regclass::text FROM pg_statistic WHERE starelid >= 16384 ORDER BY 1"
    assert build.query("shop", analysed) == [("log",), ("log_all",), ("sale_new",)]


@pytest.mark.parametrize("version", ["build_older", "build"])
def test_a_masked_copy_of_a_mirror_keeps_pages_without_dead_rows_as_they_are(
    request: pytest.FixtureRequest, version: str
) -> None:
    cluster: Cluster = request.getfixturevalue(version)
    cluster.tool("psql", "-X", "-q", "-c", "CREATE DATABASE shop")
    # as old as a table of production can be; and large enough for version 18 to freeze some of it early
    eager = "ALTER DATABASE shop SET vacuum_freeze_table_age = 0; ALTER DATABASE shop SET vacuum_freeze_min_age = 0;"
    rows = "CREATE TABLE wide (a text) WITH (fillfactor = 10); INSERT INTO wide SELECT repeat(md5(n::text), 20) FROM"
    made = f"{rows} generate_series(1, 9000) n; CHECKPOINT; VACUUM wide; CHECKPOINT; {eager}"
    cluster.tool("psql", "-X", "-q", database="shop", stdin=made.encode())
    ((path,),) = cluster.query("shop", "SELECT pg_relation_filepath('wide')")
    file = cluster.work().directory / "data" / str(path)
    before = file.read_bytes()
    settle.settle_cluster(cluster.work(file, kind="mirror"), cluster.programs, masked=True)
    after = file.read_bytes()
    changed = [page for page in range(0, len(before), 8192) if before[page : page + 8192] != after[page : page + 8192]]
    assert len(before) > 8192 * 8192
    assert len(changed) <= 1  # the last one is always looked at, for it may be cut off
