"""Values are drawn in bounds, from every kind of column, and nothing of the database runs for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking.profile import profile_database
from reconciler.masking.classify.profiles import LENGTH, VALUES
from reconciler.masking.schema import TableName
from reconciler.proc import CancelToken

if TYPE_CHECKING:
    from reconciler.masking.classify.profiles import DatabaseProfile, Drawn
    from tests.engines.postgres.conftest import Cluster

pytestmark = pytest.mark.postgres


def profiled(build: Cluster, *statements: str) -> DatabaseProfile:
    with server.connect(build.work(), "template1") as conn:
        conn.execute("CREATE DATABASE shop")
    with server.connect(build.work(), "shop") as conn:
        conn.execute("SET search_path = public")
        for statement in statements:
            conn.execute(statement.encode())
    with server.connect(build.work(), "shop") as conn:
        return profile_database(conn, "shop", CancelToken())


def drawn(profile: DatabaseProfile, column: str, table: str = "t") -> Drawn:
    return profile.of(TableName("public", table), column)


def test_of_a_big_table_a_bounded_number_of_cut_values_is_drawn_from_all_over_it(build: Cluster) -> None:
    found = profiled(
        build,
        "CREATE TABLE t AS SELECT n AS id, repeat('x', 300) AS long FROM generate_series(1, 200000) n",
        "ANALYZE t",
    )
    ids = [int(value) for value in drawn(found, "id").values]
    assert len(ids) == VALUES
    assert max(ids) > 20_000
    assert {len(value) for value in drawn(found, "long").values} == {LENGTH}


def test_a_small_table_is_read_whole(build: Cluster) -> None:
    found = profiled(build, "CREATE TABLE t (a text, b text)", "INSERT INTO t VALUES ('one', NULL), ('two', '')")
    assert drawn(found, "a").values == ("one", "two")
    assert drawn(found, "b").values == ("",)
    assert drawn(found, "b").rows == 2


def test_values_that_few_rows_have_are_found(build: Cluster) -> None:
    found = profiled(
        build,
        "CREATE TABLE t AS SELECT CASE WHEN n % 10000 = 0 THEN 'rare' END AS a FROM generate_series(1, 50000) n",
        "ANALYZE t",
    )
    assert drawn(found, "a").values == ("rare",) * 5


def test_elements_of_arrays_stand_for_themselves(build: Cluster) -> None:
    found = profiled(build, "CREATE TABLE t (a text[])", "INSERT INTO t VALUES ('{x,\"y,z\"}'), (NULL), ('{}')")
    assert drawn(found, "a").values == ("x", "y,z", "")


def test_documents_are_drawn_whole_or_not_at_all(build: Cluster) -> None:
    found = profiled(
        build,
        "CREATE TABLE t (a jsonb)",
        """INSERT INTO t VALUES ('{"k": "v"}'), (jsonb_build_object('k', (SELECT string_agg(md5(n::text), '')"""
        " FROM generate_series(1, 2000) n)))",
    )
    assert drawn(found, "a").values == ('{"k": "v"}',)


def test_the_rows_of_partitions_are_drawn_once_through_their_table(build: Cluster) -> None:
    found = profiled(
        build,
        "CREATE TABLE t (a int) PARTITION BY RANGE (a)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
        "INSERT INTO t VALUES (1), (2)",
    )
    assert drawn(found, "a").values == ("1", "2")
    assert drawn(found, "a", "t1").values == ()


def test_dates_and_addresses_of_the_network_come_in_one_form_whatever_the_database_is_set_to(build: Cluster) -> None:
    found = profiled(
        build,
        "ALTER DATABASE shop SET datestyle = 'German'",
        "CREATE TABLE t (a date, b inet)",
        "INSERT INTO t VALUES ('1980-02-03', '192.0.2.7')",
    )
    assert drawn(found, "a").values == ("1980-02-03",)
    assert drawn(found, "b").values == ("192.0.2.7",)


def test_nothing_that_the_database_defines_runs(build: Cluster) -> None:
    found = profiled(
        build,
        "CREATE TABLE called (what text)",
        "CREATE TYPE mood AS (name text)",
        "CREATE FUNCTION caught(mood) RETURNS text LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.called VALUES ('cast'); RETURN 'x'; END $$",
        "CREATE CAST (mood AS text) WITH FUNCTION caught(mood)",
        "CREATE TABLE t (a mood)",
        "INSERT INTO t VALUES (row('glad'))",
    )
    assert drawn(found, "a").values == ("(glad)",)
    assert drawn(found, "what", "called").values == ()


def test_names_that_need_quotes_are_read(build: Cluster) -> None:
    found = profiled(build, 'CREATE TABLE "T %s" ("A""b" text)', """INSERT INTO "T %s" VALUES ('x')""")
    assert drawn(found, 'A"b', "T %s").values == ("x",)


def test_what_was_drawn_has_no_representation(build: Cluster) -> None:
    found = profiled(build, "CREATE TABLE t (a text)", "INSERT INTO t VALUES ('somebody''s secret')")
    assert "secret" not in repr(found)
