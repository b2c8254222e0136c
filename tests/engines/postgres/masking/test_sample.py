"""Originals are drawn from what must be gone, controls from what must be there."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking import sample
from reconciler.errors import MaskingError
from reconciler.masking import sampling
from reconciler.masking.assignment import DatabaseMasking, TableMasking
from reconciler.masking.schema import Table, TableName
from tests.masking.originals import masked_column

from .masked_database import CUSTOMERS, MASK, at_most, make_database, make_shop, masking_of, run

if TYPE_CHECKING:
    from reconciler.masking.report import Sample
    from tests.engines.postgres.conftest import Cluster

pytestmark = pytest.mark.postgres


def drawn(cluster: Cluster, statements: str, columns: dict[str, Any], **options: Any) -> dict[str, Sample]:  # noqa: ANN401
    make_database(cluster, statements)
    rule = {"table": "public.t", "columns": columns}
    if "when" in options:
        rule["when"] = options.pop("when")
    masking = masking_of(cluster, rule)
    with server.connect(cluster.work(), "shop") as conn:
        return {one.masking.column.name: one for one in sample.draw(conn, masking, **options)}


def test_at_least_500_distinct_originals_are_drawn_or_all(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    counts = {one.masking.column.name: (len(set(one.originals)), one.complete) for one in shop.samples}
    assert counts == {
        "email": (500, False), "phone": (500, False), "city": (20, True), "born": (500, False), "notes": (500, False),
    }  # fmt: skip


def test_a_function_of_users_does_not_decide_what_is_drawn(cluster: Cluster) -> None:
    statements = """
    CREATE EXTENSION citext; CREATE TABLE t (nick citext); GRANT SELECT ON t TO PUBLIC;
    INSERT INTO t SELECT 'somebody ' || n FROM generate_series(1, 20) n;
    CREATE FUNCTION public.format(text, citext) RETURNS text LANGUAGE sql AS $$ SELECT '' $$;
    """
    make_database(cluster, statements)
    masking = masking_of(cluster, {"table": "public.t", "columns": {"nick": "hash"}})
    with server.connect(cluster.work(), "shop", role=server.BUILDER) as conn:
        (found,) = sample.draw(conn, masking)
    assert set(found.originals) == {f"somebody {n}" for n in range(1, 21)}


def test_a_column_with_few_distinct_values_of_a_large_table_is_read_in_full(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE t (often text, seldom text, filler text);
    INSERT INTO t SELECT 'the same value', CASE WHEN n % 1000 = 0 THEN 'seldom value ' || n END, repeat('x', 700)
    FROM generate_series(1, 20000) n;
    """
    found = drawn(cluster, statements, {"often": "hash", "seldom": "hash", "filler": "keep"}, wanted=50)
    assert tuple(found["often"].originals) == ("the same value",)
    assert found["often"].complete
    assert set(found["seldom"].originals) == {f"seldom value {n}" for n in range(1000, 20001, 1000)}


def test_a_large_table_with_many_values_is_read_in_part(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE t (a text, filler text);
    INSERT INTO t SELECT 'value number ' || n, repeat('x', 700) FROM generate_series(1, 20000) n;
    """
    found = drawn(cluster, statements, {"a": "hash", "filler": "keep"}, wanted=50)
    assert len(set(found["a"].originals)) == 50
    assert not found["a"].complete


def test_only_values_that_a_rule_selects_are_drawn(cluster: Cluster) -> None:
    statements = "CREATE TABLE t (c text, a text); INSERT INTO t VALUES ('US', 'kept value'), ('FR', 'masked value')"
    found = drawn(cluster, statements, {"a": "hash", "c": "keep"}, when="c <> 'US' -- a note")
    assert tuple(found["a"].originals) == ("masked value",)


def test_a_condition_may_end_in_a_comment(cluster: Cluster) -> None:
    statements = "CREATE TABLE t (c text, a text); INSERT INTO t VALUES ('US', 'kept value'), ('FR', 'masked value')"
    found = drawn(cluster, statements, {"a": "hash", "c": "keep"}, when="c <> 'US' -- they have a law of their own")
    assert tuple(found["a"].originals) == ("masked value",)


def test_of_arrays_documents_and_texts_the_parts_that_must_go_are_drawn(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE t (tags text[], doc jsonb, old json, story text, raw bytea);
    INSERT INTO t VALUES ('{first tag,second tag}',
        '{"contact": {"email": "a@corp.invalid"}, "phones": [{"n": "phone one"}, {"n": "phone two"}], "kept": "kept"}',
        '{"name": "old name"}', 'write to b@corp.invalid, or stay away', '\\x00ff6162');
    """
    columns = {
        "tags": "hash", "story": "text", "raw": "hash", "old": {"json": {"$.name": "hash"}},
        "doc": {"json": {"$.contact.email": "email", "$.phones[*].n": "preserve"}},
    }  # fmt: skip
    found = {name: set(one.originals) for name, one in drawn(cluster, statements, columns).items()}
    assert found == {
        "tags": {"first tag", "second tag"},
        "doc": {"a@corp.invalid", "phone one", "phone two"},
        "old": {"old name"},
        "story": {"b@corp.invalid"},
        "raw": {"\x00\xffab"},
    }


def test_methods_that_keep_values_are_not_drawn(cluster: Cluster) -> None:
    statements = "CREATE TABLE t (a text, b text, c text); INSERT INTO t VALUES ('value a', 'value b', 'value c')"
    found = drawn(cluster, statements, {"a": "shuffle", "b": {"partial": {"first": 2}}, "c": "hash"})
    assert list(found) == ["c"]


def test_values_that_the_statistics_of_the_source_hold_are_drawn(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE t (a text);
    INSERT INTO t SELECT 'a value with the number ' || n FROM generate_series(1, 30000) n;
    ANALYZE t; UPDATE t SET a = a || ' that is longer than before';
    """
    found = drawn(cluster, statements, {"a": "hash"})["a"].originals
    assert sum(not text.endswith("before") for text in found) >= 90


def test_values_are_drawn_as_the_database_encodes_them(cluster: Cluster) -> None:
    make_database(cluster, "", "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with server.connect(cluster.work(), "shop") as conn:
        conn.execute("CREATE TABLE public.t (a text)")
        conn.execute("INSERT INTO public.t VALUES ('Jürgen Groß')")
        masking = masking_of(cluster, {"table": "public.t", "columns": {"a": "hash"}})
        (found,) = sample.draw(conn, masking)
    assert tuple(found.originals) == ("Jürgen Groß",)
    assert "Jürgen".encode("latin-1") == "Jürgen".encode(found.encoding)


def test_a_database_without_encoding_is_drawn_byte_by_byte(cluster: Cluster) -> None:
    make_database(cluster, "", "ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    with server.connect(cluster.work(), "shop") as conn:
        conn.execute(r"CREATE TABLE public.t (a text); INSERT INTO public.t VALUES (E'odd \xff\xfe value')")
        name = TableName("public", "t")
        column = masked_column("a", "hash")
        table = TableMasking(Table(name=name, columns=(column.column,)), (column,))
        (found,) = sample.draw(conn, DatabaseMasking("shop", (table,)))
    assert tuple(found.originals) == ("odd \xff\xfe value",)
    assert found.binary


def test_names_may_have_any_characters(cluster: Cluster) -> None:
    make_database(
        cluster, """CREATE TABLE "a ""%s"" {}" ("50%% {x}" text); INSERT INTO "a ""%s"" {}" VALUES ('odd one')"""
    )
    masking = masking_of(cluster, {"table": 'public.a "%s" {}', "columns": {"50%% {x}": "hash"}})
    with server.connect(cluster.work(), "shop") as conn:
        (found,) = sample.draw(conn, masking)
        assert tuple(found.originals) == ("odd one",)
        assert sample.with_controls(conn, masking, [found])[0].controls == ()


def test_controls_are_masked_values_of_every_column(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    shop.run(MASK)
    controls = {one.masking.column.name: one.controls for one in shop.masked().samples}
    assert all(text.endswith("@example.com") for text in controls["email"])
    assert {name: bool(texts) for name, texts in controls.items()} == {
        "email": True, "phone": True, "city": True, "born": False, "notes": True,
    }  # fmt: skip


def test_controls_are_found_where_most_rows_have_none(cluster: Cluster) -> None:
    shop = make_shop(cluster, CUSTOMERS + "INSERT INTO customer (id) SELECT n FROM generate_series(1000, 9000) n;")
    shop.run("CREATE TABLE s AS SELECT * FROM customer ORDER BY email NULLS FIRST; TRUNCATE customer;")
    shop.run("INSERT INTO customer SELECT * FROM s")
    assert all(one.controls for one in shop.masked().samples if one.masking.column.name != "born")


def test_huge_values_do_not_cost_memory(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE t (a text);
    INSERT INTO t SELECT n || repeat('0123456789abcdef', 8000000) FROM generate_series(1, 5) n;
    """
    make_database(cluster, statements)
    masking = masking_of(cluster, {"table": "public.t", "columns": {"a": "hash"}})
    with server.connect(cluster.work(), "shop") as conn, at_most(20):
        (found,) = sample.draw(conn, masking)
    assert len(found.originals[0]) <= 64


def test_a_table_with_many_columns_is_read_in_turns(cluster: Cluster) -> None:
    columns = [f"c{number}" for number in range(2 * sample.TOGETHER + 5)]
    values = [f"'value {name} of ' || n" for name in columns]
    make_database(cluster, f"CREATE TABLE t ({', '.join(f'{name} text' for name in columns)})")
    run(cluster, f"INSERT INTO t SELECT {', '.join(values)} FROM generate_series(1, 40) n")
    masking = masking_of(cluster, {"table": "public.t", "columns": {"*": "hash"}})
    with server.connect(cluster.work(), "shop") as conn:
        found = {one.masking.column.name: one for one in sample.draw(conn, masking)}
        run(cluster, f"UPDATE t SET {', '.join(f'{name} = md5({name})' for name in columns)}")
        controls = sample.with_controls(conn, masking, list(found.values()))
    assert {name: set(one.originals) for name, one in found.items()} == {
        name: {f"value {name} of {n}" for n in range(1, 41)} for name in columns
    }
    assert all(one.complete for one in found.values())
    assert all(len(one.controls) == sampling.CONTROLS for one in controls)


def test_many_columns_of_wide_text_do_not_cost_memory(cluster: Cluster) -> None:
    columns = [f"c{number}" for number in range(60)]
    values = [f"repeat(md5(n || '{name}') || 'ж', 8)" for name in columns]
    make_database(cluster, f"CREATE TABLE t ({', '.join(f'{name} text' for name in columns)})")
    run(cluster, f"INSERT INTO t SELECT {', '.join(values)} FROM generate_series(1, 2500) n")
    masking = masking_of(cluster, {"table": "public.t", "columns": {"*": "hash"}})
    with server.connect(cluster.work(), "shop") as conn, at_most(60):
        found = sample.draw(conn, masking)
    assert {len(set(one.originals)) for one in found} == {500}


def test_an_error_of_the_database_shows_no_value(cluster: Cluster) -> None:
    make_database(cluster, "CREATE TABLE t (a text); INSERT INTO t VALUES ('zq7secret')")
    masking = masking_of(cluster, {"table": "public.t", "when": "a::int > 1", "columns": {"a": "hash"}})
    with server.connect(cluster.work(), "shop") as conn, pytest.raises(MaskingError) as caught:
        sample.draw(conn, masking)
    told = "shop: the condition of the rule for public.t.a (policy pii; when: a::int > 1) cannot be evaluated: invalid"
    assert told in str(caught.value)
    assert "zq7secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("when", "told"),
    [
        ("b >\n  1", 'when: b > 1) cannot be evaluated: column "b" does not exist'),
        (
            "length(a)",
            "cannot be evaluated: argument of FILTER must be type boolean, not type integer",
        ),
        ("a::regclass IS NULL", "cannot be evaluated: SQLSTATE 42P01 while rows were computed"),
        ("a > )", "when: a > )) cannot be evaluated: syntax error"),
        ("public.look(a)", "cannot be evaluated: SQLSTATE 42P01 in PL/pgSQL function public.look(text)"),
    ],
)
def test_a_condition_that_fails_is_named(cluster: Cluster, when: str, told: str) -> None:
    statements = """CREATE TABLE t (a text); INSERT INTO t VALUES ('zq7secret');
    CREATE FUNCTION look(text) RETURNS bool LANGUAGE plpgsql AS
    $$ BEGIN EXECUTE 'SELECT FROM ' || $1; RETURN true; END $$;"""
    make_database(cluster, statements)
    masking = masking_of(cluster, {"table": "public.t", "when": when, "columns": {"a": "hash"}})
    with server.connect(cluster.work(), "shop") as conn, pytest.raises(MaskingError) as caught:
        sample.draw(conn, masking)
    assert str(caught.value).startswith("shop: the condition of the rule for public.t.a (policy pii; when: ")
    assert told in str(caught.value)
    assert "zq7secret" not in "".join(traceback.format_exception(caught.value))
