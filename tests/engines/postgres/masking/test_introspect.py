"""What masking has to know of a database is read from its catalogs: on the oldest and the newest server here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking.introspect import read_schema
from reconciler.errors import MaskingError
from reconciler.ids import PolicyName
from reconciler.masking.coverage import cover
from reconciler.masking.schema import Column, DatabaseSchema, Family, ForeignKey, Table, TableName, View
from reconciler.spec.masking_policy import MaskingPolicySpec
from reconciler.state.desired import Policy

if TYPE_CHECKING:
    from tests.engines.postgres.conftest import Cluster

pytestmark = pytest.mark.postgres


def schema_of(cluster: Cluster, statements: str) -> DatabaseSchema:
    cluster.tool("psql", "-X", "-q", "-c", "CREATE DATABASE shop")
    cluster.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", database="shop", stdin=statements.encode())
    with server.connect(cluster.work(), "shop") as conn:
        return read_schema(conn, "shop")


def names(schema: DatabaseSchema) -> list[str]:
    return [str(one.name) for one in schema.tables]


def table(schema: DatabaseSchema, name: str) -> Table:
    return next(one for one in schema.tables if str(one.name) == f"public.{name}")


def column(schema: DatabaseSchema, name: str, of: str = "t") -> Column:
    return next(one for one in table(schema, of).columns if one.name == name)


def sets(*found: str) -> set[frozenset[str]]:
    return {frozenset(one.split()) for one in found}


def test_an_empty_database_has_no_tables(cluster: Cluster) -> None:
    assert schema_of(cluster, "SELECT 1") == DatabaseSchema("shop", ())


def test_tables_of_users_are_found_wherever_they_lie(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE plain (a int); CREATE UNLOGGED TABLE quick (a int); CREATE TEMPORARY TABLE passing (a int);
    CREATE SCHEMA "Ünï.código"; CREATE TABLE "Ünï.código"."Weird ""name" ();
    CREATE SCHEMA reconciler_masking; CREATE TABLE reconciler_masking.ours (a int);
    CREATE VIEW v AS SELECT a FROM plain; CREATE SEQUENCE s; CREATE TYPE pair AS (a int, b int);
    """
    assert names(schema_of(cluster, statements)) == ["public.plain", "public.quick", 'Ünï.código.Weird "name']


def test_tables_of_extensions_say_whose_they_are(cluster: Cluster) -> None:
    statements = """
    CREATE EXTENSION citext; CREATE TABLE fact (a int); CREATE TABLE plain (a int);
    ALTER EXTENSION citext ADD TABLE fact;
    """
    schema = schema_of(cluster, statements)
    assert [(str(one.name), one.extension) for one in schema.tables] == [
        ("public.fact", "citext"),
        ("public.plain", None),
    ]


def test_types_become_families_with_their_limits(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE t (
        a_text text, a_varchar varchar(30), any_varchar varchar, a_char char(5), a_name name,
        small int2, middle int4, big int8, price numeric(10, 2), any_numeric numeric, real8 float8,
        day date, at timestamp(3), at_zone timestamptz, of_day time, flag boolean, raw bytea, doc json, docb jsonb,
        id uuid, net inet, span interval, range daterange, mark xml, vector tsvector
    )
    """
    found = table(schema_of(cluster, statements), "t")
    assert [(one.name, one.family, one.length, one.digits, one.integer_bytes) for one in found.columns] == [
        ("a_text", Family.TEXT, None, None, None),
        ("a_varchar", Family.TEXT, 30, None, None),
        ("any_varchar", Family.TEXT, None, None, None),
        ("a_char", Family.TEXT, 5, None, None),
        ("a_name", Family.TEXT, 63, None, None),
        ("small", Family.INTEGER, None, None, 2),
        ("middle", Family.INTEGER, None, None, 4),
        ("big", Family.INTEGER, None, None, 8),
        ("price", Family.NUMBER, None, (10, 2), None),
        ("any_numeric", Family.NUMBER, None, None, None),
        ("real8", Family.NUMBER, None, None, None),
        ("day", Family.DATE, None, None, None),
        ("at", Family.TIME, None, None, None),
        ("at_zone", Family.TIME, None, None, None),
        ("of_day", Family.OTHER, None, None, None),
        ("flag", Family.BOOLEAN, None, None, None),
        ("raw", Family.BYTES, None, None, None),
        ("doc", Family.JSON, None, None, None),
        ("docb", Family.JSON, None, None, None),
        ("id", Family.UUID, None, None, None),
        ("net", Family.OTHER, None, None, None),
        ("span", Family.OTHER, None, None, None),
        ("range", Family.OTHER, None, None, None),
        ("mark", Family.OTHER, None, None, None),
        ("vector", Family.OTHER, None, None, None),
    ]
    assert [one.name for one in found.columns if one.fixed_length] == ["a_char"]
    assert (found.columns[1].type, found.columns[12].type) == (
        "character varying(30)",
        "timestamp(3) without time zone",
    )


def test_the_scale_of_a_number_may_be_negative(cluster: Cluster) -> None:
    assert column(schema_of(cluster, "CREATE TABLE t (a numeric(5, -2))"), "a").digits == (5, -2)


def test_domains_and_arrays_are_what_lies_below_them(cluster: Cluster) -> None:
    statements = """
    CREATE DOMAIN short AS varchar(12); CREATE DOMAIN must AS short NOT NULL; CREATE DOMAIN words AS short[];
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy'); ALTER TYPE mood ADD VALUE 'fine' AFTER 'ok';
    CREATE TABLE t (
        one short, two must, three short[], four words, five words[], six varchar(7)[][], seven mood, eight mood[],
        nine numeric(6, 3)[]
    )
    """
    found = table(schema_of(cluster, statements), "t").columns
    assert [(one.family, one.length, one.array, one.nullable) for one in found[:6]] == [
        (Family.TEXT, 12, False, True),
        (Family.TEXT, 12, False, False),
        (Family.TEXT, 12, True, True),
        (Family.TEXT, 12, True, True),
        (Family.TEXT, 12, True, True),
        (Family.TEXT, 7, True, True),
    ]
    assert [(one.family, one.labels, one.array) for one in found[6:8]] == [
        (Family.ENUM, ("sad", "ok", "fine", "happy"), False),
        (Family.ENUM, ("sad", "ok", "fine", "happy"), True),
    ]
    assert (found[8].family, found[8].digits, found[8].array) == (Family.NUMBER, (6, 3), True)
    assert [one.type for one in found[:4]] == ["public.short", "public.must", "public.short[]", "public.words"]


def test_columns_of_citext_are_equal_in_any_case(cluster: Cluster) -> None:
    statements = """
    CREATE EXTENSION citext; CREATE DOMAIN mail AS citext;
    CREATE TABLE t (a citext, b mail, c mail[], d text, e text COLLATE "C")
    """
    found = table(schema_of(cluster, statements), "t").columns
    assert [one.name for one in found if one.folds_case] == ["a", "b", "c"]
    assert {one.family for one in found} == {Family.TEXT}


def test_columns_of_a_collation_that_ignores_case_are_equal_in_any_case(build_older: Cluster) -> None:
    statements = """
    CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE DOMAIN mail AS text COLLATE folding;
    CREATE TABLE t (a text COLLATE folding, b mail, c text[] COLLATE folding, d text)
    """
    found = table(schema_of(build_older, statements), "t").columns
    assert [one.name for one in found if one.folds_case] == ["a", "b", "c"]


def test_generated_columns_tell_what_they_are_computed_from(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE t (
        id int GENERATED ALWAYS AS IDENTITY, gone text, first text DEFAULT ':varattno 3', last text NOT NULL,
        whole text GENERATED ALWAYS AS (first || ' :varattno 1 ' || last) STORED
    );
    ALTER TABLE t DROP COLUMN gone
    """
    found = table(schema_of(cluster, statements), "t").columns
    assert [(one.name, one.generated, one.computed_from, one.nullable) for one in found] == [
        ("id", False, (), False),
        ("first", False, (), True),
        ("last", False, (), False),
        ("whole", True, ("first", "last"), True),
    ]


def test_virtual_columns_are_generated_too(build: Cluster) -> None:
    schema = schema_of(build, "CREATE TABLE t (a text, b text GENERATED ALWAYS AS (upper(a)) VIRTUAL)")
    assert (column(schema, "b").generated, column(schema, "b").computed_from) == (True, ("a",))


_UNIQUE = """
CREATE EXTENSION btree_gist;
CREATE TABLE t (
    id int PRIMARY KEY, email text NOT NULL UNIQUE, phone text UNIQUE, tenant int NOT NULL, code text NOT NULL,
    during daterange, first text, last text, note text,
    UNIQUE (tenant, code) INCLUDE (note), EXCLUDE USING gist (tenant WITH =, during WITH &&)
);
CREATE UNIQUE INDEX ON t (lower(first), tenant);
CREATE UNIQUE INDEX ON t (last) WHERE note IS NULL;
CREATE INDEX ON t (note);
"""


def test_sets_that_must_stay_unique_are_found_whatever_keeps_them_so(cluster: Cluster) -> None:
    found = table(schema_of(cluster, _UNIQUE), "t")
    assert set(found.unique) == sets("id", "email", "phone", "tenant code", "tenant during", "first tenant", "last")


def test_only_sets_of_all_rows_without_null_identify_a_row(cluster: Cluster) -> None:
    found = table(schema_of(cluster, _UNIQUE), "t")
    assert set(found.identifying) == sets("id", "email", "tenant code")


_PARTITIONS = """
CREATE TABLE region (id int, code text, PRIMARY KEY (id, code));
CREATE TABLE sale (id int, at date, region int, code text, note text, PRIMARY KEY (id, at, region),
    FOREIGN KEY (region, code) REFERENCES region) PARTITION BY RANGE (at);
CREATE TABLE sale_a PARTITION OF sale FOR VALUES FROM ('2020-01-01') TO ('2021-01-01') PARTITION BY LIST (region);
CREATE TABLE sale_a1 PARTITION OF sale_a FOR VALUES IN (2);
CREATE TABLE sale_b (note text, code text, region int NOT NULL, at date NOT NULL, id int NOT NULL);
ALTER TABLE sale ATTACH PARTITION sale_b FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
CREATE TABLE line (sale int, at date, region int, CONSTRAINT of_sale FOREIGN KEY (sale, at, region) REFERENCES sale);
"""


def test_partitions_know_what_they_are_part_of(cluster: Cluster) -> None:
    schema = schema_of(cluster, _PARTITIONS)
    found = {one.name.name: one for one in schema.tables}
    root, middle = TableName("public", "sale"), TableName("public", "sale_a")
    assert {name: (one.parents, one.has_rows) for name, one in found.items()} == {
        "region": ((), True),
        "line": ((), True),
        "sale": ((), False),
        "sale_a": ((root,), False),
        "sale_a1": ((middle, root), True),
        "sale_b": ((root,), True),
    }
    keys = {name: {one.name for one in table.columns if one.partition_key} for name, table in found.items()}
    assert keys == {
        "region": set(),
        "line": set(),
        "sale": set(),
        "sale_a": {"at"},
        "sale_a1": {"at", "region"},
        "sale_b": {"at"},
    }
    assert frozenset({"id", "at", "region"}) in found["sale_b"].unique


def test_columns_in_an_expression_that_decides_the_partition_are_part_of_its_key(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE person (id int, first text, last text) PARTITION BY RANGE (lower(last), (id % 2));
    CREATE TABLE person_a PARTITION OF person DEFAULT
    """
    found = table(schema_of(cluster, statements), "person_a")
    assert [one.name for one in found.columns if one.partition_key] == ["id", "last"]


def test_foreign_keys_of_partitions_are_listed_once_at_the_top(cluster: Cluster) -> None:
    schema = schema_of(cluster, _PARTITIONS)
    sale, region, line = (TableName("public", name) for name in ("sale", "region", "line"))
    assert {one.name: one.foreign_keys for one in schema.tables if one.foreign_keys} == {
        sale: (ForeignKey(("region", "code"), region, ("id", "code"), "sale_region_code_fkey"),),
        line: (ForeignKey(("sale", "at", "region"), sale, ("id", "at", "region"), "of_sale"),),
    }


def test_heirs_know_all_their_ancestors_nearest_first(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE a (x int); CREATE TABLE b (y int); CREATE TABLE c () INHERITS (a);
    CREATE TABLE d (z int) INHERITS (c, b)
    """
    found = table(schema_of(cluster, statements), "d")
    assert [name.name for name in found.parents] == ["c", "b", "a"]
    assert ([one.name for one in found.columns], found.has_rows) == (["x", "y", "z"], True)


def test_foreign_tables_say_so_wherever_they_stand(cluster: Cluster) -> None:
    statements = """
    CREATE EXTENSION postgres_fdw;
    CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');
    CREATE TABLE sale (a int) PARTITION BY RANGE (a);
    CREATE FOREIGN TABLE sale_old PARTITION OF sale FOR VALUES FROM (10) TO (20) SERVER far;
    CREATE FOREIGN TABLE alone (b text) SERVER far;
    """
    schema = schema_of(cluster, statements)
    assert [(one.name.name, one.foreign) for one in schema.tables] == [
        ("alone", True),
        ("sale", False),
        ("sale_old", True),
    ]


def test_views_tell_the_tables_that_they_show_through_other_views(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE a (x int); CREATE TABLE b (x int);
    CREATE VIEW inner_view AS SELECT a.x FROM a, b; CREATE MATERIALIZED VIEW outer_view AS SELECT x FROM inner_view;
    CREATE VIEW nothing AS SELECT 1 AS x;
    """
    a, b = TableName("public", "a"), TableName("public", "b")
    assert schema_of(cluster, statements).views == (
        View(TableName("public", "inner_view"), (a, b)),
        View(TableName("public", "nothing"), ()),
        View(TableName("public", "outer_view"), (a, b), materialized=True),
    )


_SHOP = """
CREATE EXTENSION citext; CREATE EXTENSION btree_gist;
CREATE DOMAIN mail AS citext CHECK (VALUE ~ '@');
CREATE TABLE customer (id uuid PRIMARY KEY, email mail UNIQUE, names varchar(40)[], born date,
    label text GENERATED ALWAYS AS (lower(names[1])) STORED);
CREATE TABLE sale (id bigint GENERATED ALWAYS AS IDENTITY, at date NOT NULL, buyer uuid REFERENCES customer,
    PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE sale_1 PARTITION OF sale FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE sale_2 PARTITION OF sale FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
CREATE TABLE person (email citext, note text); CREATE TABLE employee (badge char(8)) INHERITS (person);
CREATE TABLE booking (room text, during daterange, EXCLUDE USING gist (room WITH =, during WITH &&));
CREATE VIEW contact AS SELECT email FROM customer UNION SELECT email FROM person;
"""
_RULES = [
    {"table": "public.customer", "columns": {"id": "hash", "email": "email", "names": "hash", "born": "keep"}},
    {"table": "public.sale", "columns": {"id": "keep", "at": "keep"}},
    {"table": "public.person", "columns": {"email": "email", "note": "text"}},
    {"table": "public.employee", "columns": {"badge": "preserve"}},
    {"table": "public.booking", "columns": {"room": "hash", "during": "keep"}},
]


def _policy(*rules: dict[str, Any]) -> Policy:
    spec = {"key": {"secret": "key"}, "unclassified": "fail", "unlisted": "fail", "rules": rules}
    return Policy(PolicyName("pii"), MaskingPolicySpec.model_validate(spec))


def test_every_column_of_a_real_schema_is_decided_about(cluster: Cluster) -> None:
    (found,) = cover([_policy(*_RULES)], [schema_of(cluster, _SHOP)])
    assert {
        f"{table.name.name}.{one.column.name}": (one.method, one.unique, one.inherited_from)
        for table in found.tables
        for one in table.columns
    } == {
        "customer.id": ("hash", True, None),
        "customer.email": ("email", True, None),
        "customer.names": ("hash", False, None),
        "sale_1.buyer": ("hash", True, "public.customer.id"),
        "sale_2.buyer": ("hash", True, "public.customer.id"),
        "person.email": ("email", False, None),
        "person.note": ("text", False, None),
        "employee.email": ("email", False, None),
        "employee.note": ("text", False, None),
        "employee.badge": ("preserve", False, None),
        "booking.room": ("hash", True, None),
    }


def test_what_does_not_fit_a_real_schema_is_told_all_at_once(cluster: Cluster) -> None:
    rules = [
        {"table": "public.customer", "columns": {"label": "hash", "born": "null", "id": "hash", "emial": "email"}},
        {"table": "public.contact", "columns": {"email": "email"}},
        {"table": "public.sale_1", "columns": {"buyer": "keep"}},
        {"table": "public.booking", "columns": {"room": {"fake": "city"}}},
        {"table": "public.employee", "columns": {"badge": "hash"}},
    ]
    with pytest.raises(MaskingError) as caught:
        cover([_policy(*rules)], [schema_of(cluster, _SHOP)])
    assert caught.value.message.splitlines() == [
        "policy and schema do not fit: 10 things to put right",
        (
            "- shop: public.customer.label is computed from names;"
            " write rules for what it is computed from, and none for it"
        ),
        '- the policy pii has a rule for public.customer, which has no column emial; did you mean "email"?',
        (
            "- the policy pii has a rule for public.contact, which is a view: tables are masked;"
            " write rules for public.customer, public.person"
        ),
        (
            "- shop: public.sale_1.buyer is keep (rule public.sale_1 of the policy pii), but public.customer.id is hash"
            " (rule public.customer of the policy pii), and both belong to one key with public.sale.buyer,"
            " public.sale_2.buyer (the foreign key sale_buyer_fkey): write the same for both, or for one of them only"
        ),
        (
            "- shop: public.booking.room must stay unique, but fake draws from a list, so that values repeat:"
            " write hash or preserve"
        ),
        "- shop: public.employee.badge holds 8 characters, fewer than the hash has: write {hash: {length: 8}}",
        "- columns that no rule names (unclassified: fail); decide about each under rules of the policy pii:",
        "    - table: public.booking",
        "      columns:",
        '        during: keep  # or "null", …',
        "    - table: public.customer",
        "      columns:",
        "        email: keep  # or email, hash, preserve, …",
        "        names: keep  # or email, hash, {fake: first_name}, …",
        "- tables that no rule matches (unlisted: fail); decide about each under rules of the policy pii:",
        "    - table: public.person",
        "      columns:",
        "        email: keep  # or email, hash, {fake: first_name}, …",
        "        note: keep   # or email, hash, {fake: first_name}, …",
        "    - table: public.sale",
        "      columns:",
        "        id: keep  # or preserve, …",
        "        at: keep",
    ]


def test_large_objects_are_counted(cluster: Cluster) -> None:
    assert schema_of(cluster, "SELECT lo_from_bytea(0, 'a'); SELECT lo_from_bytea(0, 'b')").large_objects == 2


def test_sizes_are_known_before_and_after_an_analysis(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE t AS SELECT i AS a, i AS b FROM generate_series(1, 10000) i;
    CREATE TABLE u AS SELECT i AS a, i AS b FROM generate_series(1, 10000) i; ANALYZE u; CREATE TABLE v (a int);
    """
    schema = schema_of(cluster, statements)
    assert table(schema, "u").estimated_rows == 10000
    assert 2000 < table(schema, "t").estimated_rows < 50000
    assert table(schema, "t").bytes >= 10000 * 32
    assert (table(schema, "v").estimated_rows, table(schema, "v").bytes) == (0, 0)


def test_the_number_of_queries_does_not_grow_with_the_tables(cluster: Cluster) -> None:
    assert _queries(cluster, "one", 1) == _queries(cluster, "many", 40) > 0


def _queries(cluster: Cluster, database: str, tables: int) -> int:
    cluster.tool("psql", "-X", "-q", "-c", f"CREATE DATABASE {database}")
    statements = "".join(f"CREATE TABLE t{number} (a int PRIMARY KEY);" for number in range(tables))
    cluster.tool("psql", "-X", "-q", database=database, stdin=statements.encode())
    asked: list[str] = []

    class Counting(psycopg.Cursor[Any]):
        def execute(self, *args: object, **options: object) -> Counting:
            asked.append(database)
            super().execute(*args, **options)  # type: ignore[call-overload] # passed on
            return self

    with server.connect(cluster.work(), database) as conn:
        conn.cursor_factory = Counting
        assert len(read_schema(conn, database).tables) == tables
    return len(asked)
