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
