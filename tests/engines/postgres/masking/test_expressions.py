"""What PostgreSQL computes is what the reference says, on both versions; keys stay out of statements and logs."""

from __future__ import annotations

import math
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking import expressions
from reconciler.engines.postgres.masking.refusals import refused
from reconciler.errors import MaskingError
from reconciler.ids import PolicyName, SecretName
from reconciler.masking import fakes, keyed, values
from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, Keys, TableMasking
from reconciler.masking.schema import Column, Family, Table, TableName
from reconciler.spec import masking_policy as spec
from tests.support import OLDER_MAJOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.engines.postgres.conftest import Cluster

pytestmark = pytest.mark.postgres

_METHOD: TypeAdapter[spec.Column] = TypeAdapter(spec.Column)
_SECRET = SecretName("masking-key")
_KEY = b"a key of the tests that no log may hold"
_NAME = TableName("public", "Person of interest")
_EXAMPLES = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Bench:
    """A table with a column ``value`` and one ``other`` (text) beside it, and what masks them."""

    conn: psycopg.Connection
    column: Column

    def masking(self, method: object) -> tuple[ColumnMasking, TableMasking]:
        identity = Column(name="id", type="integer", family=Family.INTEGER, integer_bytes=4)
        other = Column(name="other", type="text", family=Family.TEXT)
        table = Table(name=_NAME, columns=(identity, self.column, other))
        rule = _METHOD.validate_python(method)
        masking = ColumnMasking(self.column, rule, PolicyName("pii"), _SECRET)
        return masking, TableMasking(table, (masking,))

    def fill(self, originals: Sequence[object], others: Sequence[str | None] = ()) -> None:
        table = sql.Identifier(*_NAME)
        self.conn.execute(sql.SQL("TRUNCATE {}").format(table))
        rows = [
            (number, self._adapted(value), others[number] if others else None) for number, value in enumerate(originals)
        ]
        with self.conn.cursor() as cursor:
            cursor.executemany(sql.SQL("INSERT INTO {} VALUES (%s, %s, %s)").format(table), rows)

    def _adapted(self, value: object) -> object:
        return Jsonb(value) if self.column.family is Family.JSON and value is not None else value

    def masked(self, method: object) -> list[Any]:
        masking, table = self.masking(method)
        return [row[0] for row in self.conn.execute(_query(masking, table)).fetchall()]

    def install(self, *methods: object) -> None:
        tables = tuple(self.masking(method)[1] for method in methods)
        masking = DatabaseMasking("shop", tables)
        expressions.install(self.conn, Keys({_SECRET: _KEY}), masking)
        expressions.open_keys(self.conn, Keys({_SECRET: _KEY}), masking)


def _query(masking: ColumnMasking, table: TableMasking) -> sql.Composed:
    expression = expressions.express(masking, table)
    return sql.SQL("SELECT CAST({} AS {}) FROM ONLY {} AS t {} ORDER BY t.id").format(
        expression.sql, sql.SQL(masking.column.type), sql.Identifier(*table.name), sql.SQL(" ").join(expression.joins)
    )


@contextmanager
def bench(cluster: Cluster, column: Column, *methods: object) -> Iterator[Bench]:
    _create(cluster, "shop")
    with server.connect(cluster.work(), "shop") as conn:
        made = Bench(conn, column)
        conn.execute(
            sql.SQL("CREATE TABLE {} (id integer, value {}, other text)").format(
                sql.Identifier(*_NAME), sql.SQL(column.type)
            )
        )
        made.install(*methods)
        yield made


def _create(cluster: Cluster, name: str) -> None:
    with server.connect(cluster.work(), "postgres") as conn:
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def column(type_: str, family: Family, **facts: Any) -> Column:  # noqa: ANN401 - fields of Column
    return Column(name="value", type=type_, family=family, **facts)


def reference(method: object, originals: Sequence[object], of: Column) -> list[object]:
    rule = _METHOD.validate_python(method)
    return [values.mask(rule, value, of, _KEY) for value in originals]


def same(found: object, expected: object) -> bool:
    """Compare, with NaN equal to itself and char(n) without what it pads with."""
    if isinstance(found, str) and isinstance(expected, str):
        return found.rstrip(" ") == expected.rstrip(" ") if expected != found else True
    if isinstance(found, float | Decimal) and isinstance(expected, float | Decimal):
        return math.isnan(found) == math.isnan(expected) and (math.isnan(found) or found == expected)
    return found == expected


def for_all(strategy: st.SearchStrategy[Any], promise: Callable[[Any], None]) -> None:
    """Try a promise with generated values, all in one database."""
    _EXAMPLES(given(strategy)(promise))()


def check(made: Bench, methods: Sequence[object], originals: Sequence[object]) -> None:
    made.fill(originals)
    for method in methods:
        found, expected = made.masked(method), reference(method, originals, made.column)
        different = [
            (method, original, ours, theirs)
            for original, ours, theirs in zip(originals, found, expected, strict=True)
            if not same(ours, theirs)
        ]
        assert different == []


_characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
texts = st.lists(
    st.none()
    | st.text(_characters, max_size=12)
    | st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=70)
    | st.text("aZ09éßŁЯя漢한 -", max_size=90)
    | st.from_regex(r"\A[0-9 ]{8,20}[A-Z0-9 @.:]{0,30}\Z")
    | st.from_regex(r"\A[A-Za-z]{2}[0-9]{2}[A-Za-z0-9 ]{0,30}\Z"),
    min_size=1,
    max_size=30,
)
_TEXT_METHODS: list[object] = [
    "null",
    "hash",
    {"hash": {"length": 64, "prefix": "ü-"}},
    "email",
    {"email": {"domain": "example.org"}, "keep_null": False},
    "preserve",
    {"preserve": "card"},
    {"preserve": "iban"},
    {"pattern": "??-#\\#é##"},
    {"pattern": "?#", "keep_null": False},
    {"partial": {"first": 2, "last": 3, "mask": "•"}},
    {"fixed": "it's \\ {fixed}"},
    {"fixed": "x", "keep_null": False},
    "text",
    {"text": ["email", "name"]},
]


def test_texts_are_what_the_reference_says(cluster: Cluster) -> None:
    with bench(cluster, column("text", Family.TEXT), *_TEXT_METHODS) as made:
        for_all(texts, lambda originals: check(made, _TEXT_METHODS, originals))


def test_plausible_values_are_what_the_reference_says(cluster: Cluster) -> None:
    methods = [
        {"fake": kind, "locale": locale}
        for kind in spec.FakeKind.__args__  # type: ignore[attr-defined] # of a Literal
        for locale in fakes.LOCALES
    ]
    originals = [None, "", *(f"Größe {number}" for number in range(200))]
    with bench(cluster, column("text", Family.TEXT), *methods) as made:
        check(made, methods, originals)


@pytest.mark.parametrize("fixed_length", [False, True])
def test_texts_of_limited_columns_are_what_the_reference_says(cluster: Cluster, *, fixed_length: bool) -> None:
    methods: list[object] = ["email", {"fake": "company"}, {"fake": "full_name", "locale": "es_ES"}, "text", "hash"]
    limited = column(
        "character(30)" if fixed_length else "character varying(30)",
        Family.TEXT,
        length=30,
        fixed_length=fixed_length,
    )
    originals = st.lists(st.none() | st.text("abcÄ 12", max_size=30), max_size=20)
    with bench(cluster, limited, *methods) as made:
        for_all(originals, lambda some: check(made, methods, some))


def test_columns_that_ignore_case_give_equal_values_equal_results(cluster: Cluster) -> None:
    methods: list[object] = ["hash", "email", "preserve", {"fake": "city"}, "text"]
    with bench(cluster, column("text", Family.TEXT, folds_case=True), *methods) as made:
        _ignore_case(made.conn)
        check(made, methods, ["José ÄRGER", "josé ärger", "ΣΊΣΥΦΟΣ", "İSTANBUL", "", None, "ASCII only"])


def _ignore_case(conn: psycopg.Connection) -> None:
    """Let the column compare without case where the server can (ICU); such columns take no regular expressions."""
    with suppress(psycopg.errors.FeatureNotSupported):
        conn.execute("CREATE COLLATION public.nocase (provider=icu, locale='und-u-ks-level2', deterministic=false)")
        conn.execute('ALTER TABLE public."Person of interest" ALTER value TYPE text COLLATE public.nocase')


integers = st.lists(
    st.none()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.integers(-20_000, 20_000)
    | st.builds(
        lambda bits, sign, off: max(-(1 << 63), min((1 << 63) - 1, sign * (1 << (bits - 1)) + off)),
        st.sampled_from([16, 32, 64]),
        st.sampled_from([-1, 1]),
        st.integers(-200, 200),
    ),
    max_size=40,
)
_INTEGER_METHODS: list[object] = [
    "preserve",
    {"noise": 10},
    {"noise": 100},
    {"bucket": 1000},
    {"fixed": -7},
    {"fixed": 3, "keep_null": False},
]


@pytest.mark.parametrize(("type_", "size"), [("bigint", 8), ("integer", 4), ("smallint", 2)])
def test_whole_numbers_are_what_the_reference_says(cluster: Cluster, type_: str, size: int) -> None:
    limit = 1 << (8 * size - 1)

    def fitting(originals: list[int | None]) -> list[int | None]:
        return [one for one in originals if one is None or -limit <= one < limit]

    with bench(cluster, column(type_, Family.INTEGER, integer_bytes=size), *_INTEGER_METHODS) as made:
        for_all(integers, lambda originals: check(made, _INTEGER_METHODS, fitting(originals)))


decimals = st.none() | st.sampled_from([Decimal("NaN"), Decimal(0)]) | st.decimals("-999.99", "999.99", places=2)
_FAR = [Decimal("Infinity"), Decimal("-Infinity"), Decimal("1e40"), Decimal("1." + "0" * 60 + "1")]
_DECIMAL_METHODS: list[object] = [{"noise": 7}, {"noise": 100}, {"bucket": 0.25}, {"bucket": 10}, {"fixed": 1.5}]


def test_decimal_numbers_are_what_the_reference_says(cluster: Cluster) -> None:
    with bench(cluster, column("numeric(5,2)", Family.NUMBER, digits=(5, 2)), *_DECIMAL_METHODS) as made:
        for_all(st.lists(decimals), lambda originals: check(made, _DECIMAL_METHODS, originals))


def test_decimal_numbers_without_limit_are_what_the_reference_says(cluster: Cluster) -> None:
    with bench(cluster, column("numeric", Family.NUMBER), *_DECIMAL_METHODS) as made:
        for_all(st.lists(decimals), lambda originals: check(made, _DECIMAL_METHODS, [*originals, *_FAR]))


def test_whole_decimal_numbers_are_what_the_reference_says(cluster: Cluster) -> None:
    whole = st.lists(st.none() | st.integers(-(10**18) + 1, 10**18 - 1).map(Decimal))
    with bench(cluster, column("numeric(18)", Family.NUMBER, digits=(18, 0)), "preserve") as made:
        for_all(whole, lambda originals: check(made, ["preserve"], originals))


def test_binary_numbers_are_what_the_reference_says(cluster: Cluster) -> None:
    methods: list[object] = [{"noise": 7}, {"noise": 100}, {"fixed": 0.5}, {"bucket": 0.5}]
    with bench(cluster, column("double precision", Family.NUMBER), *methods) as made:
        for_all(st.lists(st.none() | st.floats()), lambda originals: check(made, methods, originals))


_MOVING: list[object] = [
    {"shift_days": 180},
    {"shift_days": 36_500},
    {"shift": "36h"},
    {"bucket": "day"},
    {"bucket": "week"},
    {"bucket": "month"},
    {"bucket": "quarter"},
    {"bucket": "year"},
]
_DATES = [date(1, 1, 1), date(9999, 12, 31), date(2020, 2, 29), None]


def test_dates_are_what_the_reference_says(cluster: Cluster) -> None:
    methods = [*_MOVING, {"fixed": "1970-01-01"}]
    with bench(cluster, column("date", Family.DATE), *methods) as made:
        for_all(st.lists(st.none() | st.dates()), lambda originals: check(made, methods, [*originals, *_DATES]))
        for_all(st.lists(st.dates(date(10, 1, 1))), lambda originals: check(made, [{"bucket": "decade"}], originals))


_TIMES = [
    datetime.fromisoformat("0001-01-01"),
    datetime.fromisoformat("9999-12-31T23:59:59.999999"),
    datetime.fromisoformat("2020-02-29T12:00:00.000500"),
    None,
]


@pytest.mark.parametrize("zone", [None, UTC])
def test_times_are_what_the_reference_says(cluster: Cluster, zone: tzinfo | None) -> None:
    methods = [*_MOVING, {"shift": "90s"}, {"bucket": "hour"}]
    type_ = f"timestamp {'with' if zone else 'without'} time zone"

    def zoned(originals: list[datetime | None]) -> list[datetime | None]:
        return [one and one.replace(tzinfo=zone) for one in [*originals, *_TIMES]]

    with bench(cluster, column(type_, Family.TIME), *methods) as made:
        for_all(st.lists(st.none() | st.datetimes()), lambda originals: check(made, methods, zoned(originals)))


def test_times_that_no_calendar_of_ours_has_move_or_stay(cluster: Cluster) -> None:
    with bench(cluster, column("date", Family.DATE), {"shift_days": 100}) as made:
        made.conn.execute(
            """INSERT INTO public."Person of interest" SELECT row_number() OVER (), v::date
            FROM unnest('{infinity,-infinity,4713-01-01 BC,5874897-12-31,0044-03-15 BC}'::text[]) AS v"""
        )
        masking, table = made.masking({"shift_days": 100})
        query = sql.SQL("SELECT r.v::text FROM ({}) AS r(v)").format(_query(masking, table))
        found = [row[0] for row in made.conn.execute(query).fetchall()]
    assert found[:2] == ["infinity", "-infinity"]
    assert all(one not in {"4713-01-01 BC", "5874897-12-31", "0044-03-15 BC"} for one in found)
    assert [found[2].endswith("BC"), found[3].startswith("58"), found[4].endswith("BC")] == [True, True, True]


def test_other_types_are_what_the_reference_says(cluster: Cluster) -> None:
    with bench(cluster, column("uuid", Family.UUID), "hash") as made:
        check(made, ["hash", {"hash": {"length": 16}, "keep_null": False}], [UUID(int=5), UUID(int=1 << 127), None])
    with bench(cluster, column("bytea", Family.BYTES), "hash") as made:
        check(made, ["hash", {"hash": {"length": 64}}, {"fixed": "é"}], [b"\x00\xff", b"", b"x" * 5000, None])
    with bench(cluster, column("boolean", Family.BOOLEAN), {"fixed": True}) as made:
        check(made, [{"fixed": True}, "null"], [True, False, None])
    with bench(cluster, column("integer[]", Family.INTEGER, array=True, integer_bytes=4), "preserve") as made:
        check(made, ["preserve", {"noise": 10}, "null"], [[12, None, 345], [], None])
    with bench(cluster, column("character varying(40)[]", Family.TEXT, array=True, length=40), "email") as made:
        check(made, ["email", "hash", {"fixed": "x"}], [["a", None, ""], [], None])


def test_an_array_of_several_dimensions_fails_without_showing_a_value(cluster: Cluster) -> None:
    with bench(cluster, column("text[]", Family.TEXT, array=True), "email") as made:
        made.fill([[["canary"], ["canary"]]])
        with pytest.raises(MaskingError) as caught, refused("table t", advise=True):
            made.masked("email")
    told = str(caught.value)
    assert told.startswith("table t: an array has more than one dimension, and rules are for")
    assert 'write shuffle, "null" or an expression' in told
    assert "canary" not in told


scalars = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("aé1 @", max_size=8)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b c", "d"]), inner)
)
_JSON_METHODS: list[object] = [
    {"json": {"$.a": "email", '$."b c"': "preserve", "$.d[*].a": {"fixed": 5}, "$.d[*].d": {"partial": {"last": 1}}}},
    {"json": {"$[1]": "hash", "$[0]": "null", "$.a.a": {"pattern": "##", "keep_null": False}, "$.a.d": "keep"}},
    {"json": {"$": {"fake": "city", "keep_null": False}}},
    {"json": {"$[*]": {"text": ["email"]}}},
    {"fixed": "x"},
]


@pytest.mark.parametrize("type_", ["jsonb", "json"])
def test_documents_are_what_the_reference_says(cluster: Cluster, type_: str) -> None:
    present = st.lists(documents.filter(lambda one: one is not None), max_size=20)
    with bench(cluster, column(type_, Family.JSON), *_JSON_METHODS) as made:
        for_all(present, lambda originals: check(made, _JSON_METHODS, [*originals, None]))


def test_offsets_follow_another_column(cluster: Cluster) -> None:
    rule = {"shift_days": 30, "by": "other"}
    days = [date(2026, 1, 1), date(2026, 1, 11), date(2026, 1, 1), date(2026, 1, 1), None]
    with bench(cluster, column("date", Family.DATE), rule) as made:
        made.fill(days, ["7", "7", "8", None, "7"])
        found = made.masked(rule)
    expected = [
        values.mask(_METHOD.validate_python(rule), day, made.column, _KEY, by=by)
        for day, by in zip(days, ["7", "7", "8", None, "7"], strict=True)
    ]
    assert found == expected
    assert found[1] - found[0] == timedelta(days=10)


def test_values_of_other_columns_leave_a_text(cluster: Cluster) -> None:
    rule = {"text": ["email"], "names": ["other"]}
    with bench(cluster, column("text", Family.TEXT), rule) as made:
        made.fill(["Told Xaver, x@y.example", "Told %", None], ["Xaver", None, "a"])
        assert made.masked(rule) == ["Told [name], [email]", "Told %", None]


def test_a_rule_that_names_no_column_of_the_table_is_refused(cluster: Cluster) -> None:
    with bench(cluster, column("date", Family.DATE)) as made, pytest.raises(MaskingError, match="nobody") as caught:
        made.masked({"shift_days": 30, "by": "nobody"})
    assert caught.value.reason == "MaskingUncovered"


def test_shuffled_values_are_the_same_ones_elsewhere(cluster: Cluster) -> None:
    originals = [f"v{number}" for number in range(100)]
    groups = ["even" if number % 2 == 0 else "odd" for number in range(100)]
    within = {"shuffle": {"within": "other"}}
    with bench(cluster, column("text", Family.TEXT), "shuffle") as made:
        made.fill([*originals, None], [*groups, "odd"])
        anywhere, grouped = made.masked("shuffle"), made.masked(within)
        mixed = made.masked({"shuffle": {"within": "id"}, "keep_null": False})
    assert (sorted(anywhere[:-1]), anywhere[-1]) == (sorted(originals), None)
    assert all(one != other for one, other in zip(anywhere, originals, strict=False))
    assert all(int(one[1:]) % 2 == number % 2 for number, one in enumerate(grouped[:-1]))
    assert mixed == [*originals, None]


def test_an_expression_of_the_user_sees_the_row(cluster: Cluster) -> None:
    rule = {"sql": "upper(other) -- loudly"}
    with bench(cluster, column("character varying(9)", Family.TEXT, length=9), rule) as made:
        made.fill(["a", None], ["x", "y"])
        assert made.masked(rule) == ["X", None]
        assert made.masked({**rule, "keep_null": False}) == ["X", "Y"]


def test_one_value_has_one_result_in_every_table_database_and_version(build: Cluster, build_older: Cluster) -> None:
    found = []
    for cluster in (build, build_older):
        for type_, family in (("text", Family.TEXT), ("character varying(80)", Family.TEXT)):
            with bench(cluster, column(type_, family), "email", "preserve") as made:
                made.fill(["José 12"])
                found.append((made.masked("email"), made.masked("preserve")))
    assert found == [found[0]] * 4


def test_numbers_of_different_types_are_masked_alike(cluster: Cluster) -> None:
    found = []
    for type_, family, facts in (
        ("smallint", Family.INTEGER, {"integer_bytes": 2}),
        ("integer", Family.INTEGER, {"integer_bytes": 4}),
        ("bigint", Family.INTEGER, {"integer_bytes": 8}),
        ("numeric(12)", Family.NUMBER, {"digits": (12, 0)}),
    ):
        with bench(cluster, column(type_, family, **facts), "preserve") as made:
            made.fill([1, 12_345, -31_000])
            found.append([int(one) for one in made.masked("preserve")])
    assert found == [found[0]] * 4


def test_masked_expressions_run_in_parallel(cluster: Cluster) -> None:
    methods: list[object] = ["hash", "email", "preserve", {"fake": "city"}, {"pattern": "##"}, "text"]
    with bench(cluster, column("text", Family.TEXT), *methods) as made:
        made.conn.execute(
            "INSERT INTO public.\"Person of interest\" SELECT i, 'person ' || i FROM generate_series(1, 5000) AS i"
        )
        made.conn.execute(
            "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;"
            " SET max_parallel_workers_per_gather = 2"
        )
        made.conn.execute('ANALYZE public."Person of interest"')
        for method in methods:
            masking, table = made.masking(method)
            value = expressions.express(masking, table).sql
            statement = sql.SQL("CREATE TEMP TABLE copy AS SELECT {} AS v, t.id FROM ONLY {} AS t").format(
                value, sql.Identifier(*_NAME)
            )
            plan = made.conn.execute(sql.SQL("EXPLAIN ") + statement).fetchall()
            assert any("Gather" in row[0] for row in plan), (method, plan)
            made.conn.execute(statement)
            rows = made.conn.execute("SELECT v FROM pg_temp.copy WHERE id IN (1, 5000) ORDER BY id").fetchall()
            assert [row[0] for row in rows] == reference(method, ["person 1", "person 5000"], made.column)
            made.conn.execute("DROP TABLE pg_temp.copy")


def test_the_builder_computes_the_same_in_a_materialised_view(cluster: Cluster) -> None:
    methods: list[object] = ["hash", "email", "preserve", {"fake": "city"}, {"pattern": "##"}, "text"]
    with bench(cluster, column("text", Family.TEXT), *methods) as made:
        made.fill(["Anna 12", "é"])
        expected = [reference(method, ["Anna 12", "é"], made.column) for method in methods]
        made.conn.execute("GRANT pg_read_all_data TO reconciler_builder; CREATE SCHEMA staged")
        for number, method in enumerate(methods):
            masking, table = made.masking(method)
            view = sql.Identifier("staged", f"v{number}")
            value = expressions.express(masking, table).sql
            made.conn.execute(
                sql.SQL("CREATE MATERIALIZED VIEW {} AS SELECT t.id, {} AS v FROM ONLY {} AS t WITH NO DATA").format(
                    view, value, sql.Identifier(*_NAME)
                )
            )
            made.conn.execute(sql.SQL("ALTER MATERIALIZED VIEW {} OWNER TO reconciler_builder").format(view))
        with server.connect(cluster.work(), "shop", role=server.BUILDER) as builder:
            expressions.open_keys(builder, Keys({_SECRET: _KEY}), DatabaseMasking("shop", ()))
            for number, wanted in enumerate(expected):
                view = sql.Identifier("staged", f"v{number}")
                builder.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(view))
                rows = builder.execute(sql.SQL("SELECT v FROM {} ORDER BY id").format(view)).fetchall()
                assert [row[0] for row in rows] == wanted


@pytest.mark.parametrize("major", ["18", OLDER_MAJOR])
def test_no_key_is_in_a_statement_or_a_log(make_cluster: Any, major: str) -> None:  # noqa: ANN401 - a fixture
    with make_cluster(major) as cluster:
        with server.connect(cluster.work(), "postgres") as conn:
            for setting in (
                "log_min_messages = warning",
                "log_statement = 'all'",
                "log_min_duration_statement = 0",
                "log_min_error_statement = error",
            ):
                conn.execute(f"ALTER SYSTEM SET {setting}".encode())
            conn.execute("SELECT pg_reload_conf()")
        info = server.socket_environment(cluster.work(), "postgres", server.ADMIN)
        with psycopg.connect(
            host=info["PGHOST"], port=info.get("PGPORT", "5432"), user=server.ADMIN, dbname="postgres", autocommit=True
        ) as conn:
            conn.execute("SELECT 'this is logged'")
            conn.execute('CREATE TABLE public."Person of interest" (id integer, value text, other text)')
            made = Bench(conn, column("text", Family.TEXT))
            made.install("hash", "email")
            made.fill(["a"])
            expected = reference("hash", ["a"], made.column)
            assert made.masked("hash") == expected
            seen = conn.execute("SELECT string_agg(query, ' ') FROM pg_stat_activity").fetchone()
        log = (cluster.root / "log").read_text()
    assert "this is logged" in log
    assert seen is not None
    for tag in keyed.TAGS:
        derived = keyed.subkey(_KEY, tag)
        for secret in (_KEY, derived, *keyed.pads(derived)):
            assert secret.hex() not in log
            assert secret.hex() not in seen[0]
    assert _KEY.decode() not in log


def test_nothing_is_left_in_the_database(cluster: Cluster) -> None:
    with bench(cluster, column("text", Family.TEXT), "email", "preserve", "text") as made:
        expressions.remove(made.conn)
        left = made.conn.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'reconciler%'").fetchone()
        functions = made.conn.execute(
            "SELECT count(*) FROM pg_proc WHERE oid >= 16384 AND pronamespace <> 'pg_catalog'::regnamespace"
        ).fetchone()
    assert (left, functions) == ((0,), (0,))


@pytest.mark.parametrize("locale", ["ja_JP", "pl_PL"])
def test_words_that_the_encoding_lacks_are_refused(cluster: Cluster, locale: str) -> None:
    with server.connect(cluster.work(), "postgres") as conn:
        conn.execute("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    rule = {"fake": "first_name", "locale": locale}
    with server.connect(cluster.work(), "latin") as conn:
        conn.execute('CREATE TABLE public."Person of interest" (id integer, value text, other text)')
        made = Bench(conn, column("text", Family.TEXT))
        with pytest.raises(MaskingError, match=f"latin lacks characters of the locale {locale}"):
            made.install(rule)
        made.install("hash", "preserve", {"fake": "first_name", "locale": "de_DE"})
        made.fill(["Größe 12", "plain 12"])
        assert made.masked("hash") == reference("hash", ["Größe 12", "plain 12"], made.column)
        assert made.masked({"fake": "first_name", "locale": "de_DE"}) == reference(
            {"fake": "first_name", "locale": "de_DE"}, ["Größe 12", "plain 12"], made.column
        )
        with pytest.raises(psycopg.errors.RaiseException, match="encoding UTF8"):
            made.masked("preserve")
