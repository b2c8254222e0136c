"""Materialised views are computed again in their order, or emptied and told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .rewriting import definition, make, mask, one, rows

if TYPE_CHECKING:
    from tests.engines.postgres.conftest import Cluster

pytestmark = pytest.mark.postgres

TABLE = "CREATE TABLE t (a text); INSERT INTO t VALUES ('0riginal1'), ('0riginal2');"
RULE = {"public.t": {"a": "md5(t.a)"}}


def test_each_is_computed_after_those_that_it_reads(cluster: Cluster) -> None:
    statements = """
    CREATE MATERIALIZED VIEW z AS SELECT 'x' || a AS a FROM t; CREATE VIEW between AS SELECT a || 'y' AS a FROM z;
    CREATE MATERIALIZED VIEW a AS SELECT a || 'z' AS a FROM between;
    """
    make(cluster, TABLE + statements)
    mask(cluster, RULE)
    assert one(cluster, "SELECT count(*) FROM a JOIN t ON a.a = 'x' || t.a || 'yz' AND length(t.a) = 32") == 2


def test_one_that_reads_tables_within_a_function_is_computed_as_well(cluster: Cluster) -> None:
    statements = """
    CREATE FUNCTION all_of_t() RETURNS SETOF text STABLE LANGUAGE sql AS $$ SELECT a FROM public.t $$;
    CREATE MATERIALIZED VIEW m AS SELECT * FROM all_of_t() AS a;
    """
    make(cluster, TABLE + statements)
    mask(cluster, RULE)
    assert one(cluster, "SELECT count(*) FROM m JOIN t USING (a)") == 2


def test_one_over_a_partitioned_table_is_computed_again(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE p (id int, a text) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT;
    INSERT INTO p VALUES (1, '0riginal'); CREATE MATERIALIZED VIEW m AS SELECT a FROM p;
    """
    make(cluster, statements)
    mask(cluster, {"public.p1": {"a": "md5(t.a)"}})
    assert one(cluster, "SELECT count(*) FROM m JOIN p USING (a)") == 1


def test_one_that_cannot_be_computed_is_emptied_and_told_without_values(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE answer (a text); INSERT INTO answer VALUES ('0riginal1');
    CREATE MATERIALIZED VIEW m AS SELECT a, 1 / (CASE WHEN a LIKE '0riginal%' THEN 1 ELSE 0 END) AS one FROM t;
    CREATE MATERIALIZED VIEW above AS SELECT one FROM m;
    """
    make(cluster, TABLE + statements)
    before = definition(cluster)
    said: list[str] = []
    mask(cluster, RULE, said=said)
    populated = "SELECT relname, relispopulated FROM pg_class WHERE relkind = 'm' ORDER BY 1"
    assert rows(cluster, populated) == [("above", False), ("m", False)]
    told = [text for text in said if "emptied" in text]
    assert [text.split(": ")[1] for text in told] == [
        "the materialised view public.m was emptied",
        "the materialised view public.above was emptied",
    ]
    assert "DivisionByZero" in told[0]
    assert definition(cluster) == before


def test_one_over_another_server_is_emptied_without_asking_it(cluster: Cluster) -> None:
    statements = """
    CREATE EXTENSION postgres_fdw;
    CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');
    CREATE FOREIGN TABLE remote (a text) SERVER far;
    CREATE MATERIALIZED VIEW m AS SELECT t.a FROM t WHERE NOT EXISTS (SELECT FROM remote) WITH NO DATA;
    UPDATE pg_class SET relispopulated = true WHERE relname = 'm';
    """
    make(cluster, TABLE + statements)
    said: list[str] = []
    mask(cluster, RULE, said=said)
    assert [text for text in said if "emptied" in text] == [
        "database shop: the materialised view public.m was emptied: it reads another server"
    ]
    assert one(cluster, "SELECT relispopulated FROM pg_class WHERE relname = 'm'") is False
