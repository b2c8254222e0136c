"""No code of the source or of a policy can read the keys, wherever the server calls it; and all of it still works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from reconciler.engines.postgres.masking.keys import setting_name
from reconciler.engines.postgres.masking.run import mask_cluster
from reconciler.errors import MaskingError
from reconciler.ids import SecretName
from reconciler.masking import keyed

from .rewriting import definition, execute, hits, make, one, rows
from .test_run import masking

if TYPE_CHECKING:
    from reconciler.masking.report import Masked
    from tests.engines.postgres.conftest import Cluster

pytestmark = pytest.mark.postgres

_NAMES = [setting_name(SecretName("key"), tag, part) for tag in keyed.TAGS for part in ("inner", "outer", "key")]
SPY = f"""
CREATE SEQUENCE calls; GRANT ALL ON SEQUENCE calls TO PUBLIC;
CREATE FUNCTION public.spy(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('public.calls');
    FOR i IN 1..{len(_NAMES)} LOOP
        IF current_setting(('{{{",".join(_NAMES)}}}'::text[])[i], true) <> '' THEN
            RAISE 'a key is in sight';
        END IF;
    END LOOP;
    RETURN $1;
END $$;
"""
EMAIL = {"table": "public.t", "columns": {"email": "email", "*": "keep"}}


def mask(cluster: Cluster, *rules: dict[str, Any]) -> Masked:
    return mask_cluster(cluster.work(), masking(*rules), ("shop",))


def rule(columns: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a rule
    return {"table": "public.t", "columns": columns, **more}


TABLE = "CREATE TABLE t (id int, email text, grp text);"
FILLED = "INSERT INTO t SELECT i, 'user' || i || '@corp.invalid', 'g' || i % 3 FROM generate_series(1, 9) i;"
PLACES: dict[str, tuple[str, dict[str, Any]]] = {
    "a condition": (TABLE, rule({"email": "email", "*": "keep"}, when="public.spy(grp) = 'g1'")),
    "an expression": (TABLE, rule({"email": {"sql": "public.spy(md5(email))"}, "grp": "hash", "*": "keep"})),
    "an expression and a condition": (
        TABLE,
        rule({"email": {"sql": "public.spy(md5(email))"}, "grp": "hash", "*": "keep"}, when="public.spy(grp) = 'g1'"),
    ),
    "a generated column": (
        TABLE + "ALTER TABLE t ADD low text GENERATED ALWAYS AS (public.spy(email)) STORED;", EMAIL,
    ),
    "a constraint": (
        "CREATE TABLE t (id int, email text CHECK (public.spy(email) IS NOT NULL), grp text);", EMAIL,
    ),
    "a constraint of a row": (
        TABLE + "CREATE FUNCTION fine(t) RETURNS bool LANGUAGE sql AS $$ SELECT public.spy($1.email) LIKE '%@%' $$;"
        "ALTER TABLE t ADD CONSTRAINT fine CHECK (public.fine(t));", EMAIL,
    ),
    "a domain": (
        ("CREATE DOMAIN address AS text CHECK (public.spy(VALUE) LIKE '%@%');"
        "CREATE DOMAIN private AS address; CREATE TABLE t (id int, email private, grp text);"), EMAIL,
    ),
    "an array of a domain": (
        ("CREATE DOMAIN address AS text CHECK (public.spy(VALUE) LIKE '%@%');"
        "CREATE TABLE t (id int, email text, grp text, more address[] DEFAULT '{a@b}');"),
        rule({"email": "email", "more": "email", "*": "keep"}),
    ),
    "a null of a domain": (
        ("CREATE DOMAIN address AS text CHECK (public.spy(VALUE) LIKE '%@%');"
        "CREATE TABLE t (id int, email address, grp text);"), rule({"email": "null", "grp": "hash", "*": "keep"}),
    ),
    "an index": (TABLE + "CREATE INDEX ON t (public.spy(email));", EMAIL),
    "an index of constants": (TABLE + "CREATE INDEX ON t ((public.spy('x') || email));", EMAIL),
    "a partial index": (TABLE + "CREATE INDEX ON t (id) WHERE public.spy('x') = email;", EMAIL),
    "extended statistics": (TABLE + "CREATE STATISTICS s ON (public.spy('x') || email), grp FROM t;", EMAIL),
    "a partition key": (
        ("CREATE TABLE t (id int, email text, grp text) PARTITION BY LIST (public.spy(email));"
        "CREATE TABLE t1 PARTITION OF t DEFAULT; CREATE TABLE t2 PARTITION OF t FOR VALUES IN ('x');"), EMAIL,
    ),
    "a partition's constraint": (
        ("CREATE TABLE t (id int, email text, grp text) PARTITION BY HASH (email);"
        "CREATE TABLE t1 PARTITION OF t (CHECK (public.spy(email) <> '')) FOR VALUES WITH (MODULUS 1, REMAINDER 0);"),
        EMAIL,
    ),
    "a materialised view": (TABLE + "CREATE MATERIALIZED VIEW v AS SELECT public.spy(email) FROM t;", EMAIL),
    "a foreign key's table": (
        TABLE + "CREATE TABLE u (email text PRIMARY KEY); INSERT INTO u SELECT 'user' || i || '@corp.invalid'"
        " FROM generate_series(1, 9) i; ALTER TABLE t ADD FOREIGN KEY (email) REFERENCES u;"
        "CREATE INDEX ON u ((public.spy(email)));", EMAIL,
    ),
    "an enum's cast": (
        ("CREATE TYPE mood AS ENUM ('good', 'bad');"
        "CREATE FUNCTION moody(text) RETURNS mood LANGUAGE plpgsql AS $$ BEGIN RETURN public.spy('good'); END $$;"
        "CREATE CAST (text AS mood) WITH FUNCTION moody(text);"
        "CREATE TABLE t (id int, email text, grp text, how mood);"),
        rule({"email": "email", "how": {"fixed": "bad", "keep_null": False}, "*": "keep"}),
    ),
    "a group's operators": (
        ("CREATE TYPE pair AS (a text);"
        "CREATE FUNCTION cmp(pair, pair) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM public.spy('x'); RETURN bttextcmp($1.a, $2.a); END $$;"
        "CREATE FUNCTION lt(pair, pair) RETURNS bool IMMUTABLE LANGUAGE sql AS $$ SELECT public.cmp($1, $2) < 0 $$;"
        "CREATE FUNCTION eq(pair, pair) RETURNS bool IMMUTABLE LANGUAGE sql AS $$ SELECT public.cmp($1, $2) = 0 $$;"
        "CREATE OPERATOR < (LEFTARG = pair, RIGHTARG = pair, FUNCTION = lt);"
        "CREATE OPERATOR = (LEFTARG = pair, RIGHTARG = pair, FUNCTION = eq);"
        "CREATE OPERATOR CLASS pairs DEFAULT FOR TYPE pair USING btree AS"
        " OPERATOR 1 <, OPERATOR 3 =, FUNCTION 1 cmp(pair, pair);"
        "CREATE TABLE t (id int, email text, grp text, of pair);"
        "SELECT count(*) FROM (SELECT DISTINCT of FROM t) s;"),
        rule({"email": {"shuffle": {"within": "of"}}, "*": "keep"}),
    ),
}  # fmt: skip
UNCALLED = {"a group's operators", "extended statistics"}
"""Masking goes without calling these at all, or calls them once only to plan."""


@pytest.mark.parametrize("place", list(PLACES))
def test_no_key_is_in_sight_of(cluster: Cluster, place: str) -> None:
    statements, rules = PLACES[place]
    make(cluster, SPY + statements + FILLED)
    before = definition(cluster)
    execute(cluster, "ALTER SEQUENCE calls RESTART")
    mask(cluster, rules)
    assert place in UNCALLED or one(cluster, "SELECT is_called FROM calls")
    assert definition(cluster) == before
    changed = "grp LIKE 'g%'" if "when" not in rules and "grp" in rules["columns"] else "email LIKE 'user%'"
    left = one(cluster, f"SELECT count(*) FROM t WHERE {changed}")
    assert left == (6 if "when" in rules else 9 if "shuffle" in str(rules) else 0)
    assert rows(cluster, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'reconciler%'") == []


def test_the_spy_sees_what_there_is(cluster: Cluster) -> None:
    make(cluster, SPY)
    with pytest.raises(Exception, match="a key is in sight"):
        execute(cluster, f"SELECT set_config('{_NAMES[0]}', 'x', false); SELECT public.spy('x')")


@pytest.mark.parametrize(
    ("statements", "columns", "found"),
    [
        (
            (
                "CREATE FUNCTION pg_catalog.text(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS"
                " $$ BEGIN RETURN public.spy(format('%s', $1)); END $$;"
                "CREATE CAST (int AS text) WITH FUNCTION pg_catalog.text(int);"
            ),
            {"email": {"noise": 10}, "*": "keep"},
            "",
        ),
        (
            (
                "CREATE FUNCTION pg_catalog.text(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS"
                " $$ BEGIN RETURN public.spy(format('%s', $1)); END $$;"
                "CREATE CAST (int AS text) WITH FUNCTION pg_catalog.text(int);"
                "ALTER TABLE t ALTER email TYPE date USING '2000-01-01';"
            ),
            {"email": {"shift_days": 10, "by": "id"}, "*": "keep"},
            "beside the masking key: function text(integer)",
        ),
        (
            (
                "CREATE FUNCTION pg_catalog.text(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS"
                " $$ BEGIN RETURN public.spy(format('%s', $1)); END $$;"
                "CREATE CAST (int AS text) WITH FUNCTION pg_catalog.text(int);"
            ),
            {"email": "preserve", "*": "keep"},
            "cast from integer to text",
        ),
        (
            (
                "CREATE FUNCTION pg_catalog.width_bucket(bigint, bigint[]) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM public.spy('x'); RETURN 1; END $$;"
            ),
            {"id": "preserve", "*": "keep"},
            "function width_bucket(bigint,bigint[])",
        ),
    ],
)
def test_code_in_place_of_the_servers_is_refused(
    cluster: Cluster, statements: str, columns: dict[str, Any], found: str
) -> None:
    make(cluster, SPY + TABLE + FILLED + statements)
    if not found:
        columns = {"email": "email", "*": "keep"}
        mask(cluster, rule(columns))
        assert one(cluster, "SELECT count(*) FROM t WHERE email LIKE 'user%'") == 0
        return
    with pytest.raises(MaskingError, match="drop it in a script") as caught:
        mask(cluster, rule(columns))
    assert found in str(caught.value)


def test_conditions_decide_about_each_row_and_method(cluster: Cluster) -> None:
    statements = "CREATE TABLE t (id int, a text, b text, c text, d text);"
    make(
        cluster,
        statements + "INSERT INTO t SELECT i, 'a' || i, 'b' || i, 'c' || i, 'd' || i FROM generate_series(1, 40) i",
    )
    first = rule({"a": "hash", "b": "shuffle", "*": "keep"}, when="id > 20 -- as said")
    second = rule({"c": {"sql": "'new ' || c"}}, when="a < 'a2'")
    masked = mask(cluster, first, second)
    found = rows(cluster, "SELECT id, a, b, c, d FROM t ORDER BY id")
    assert [row[1] == f"a{row[0]}" for row in found] == [row[0] <= 20 for row in found]
    assert [row[2] == f"b{row[0]}" for row in found] == [row[0] <= 20 for row in found]
    assert sorted(str(row[2]) for row in found) == sorted(f"b{number}" for number in range(1, 41))
    assert [row[3] for row in found] == [f"new c{i}" if f"a{i}" < "a2" else f"c{i}" for i in range(1, 41)]
    assert [(one.column, one.selected, one.equal) for one in masked.tables[0].columns] == [
        ("a", 20, 0), ("b", 20, 0), ("c", 11, 0),
    ]  # fmt: skip


def test_types_of_users_keep_their_bytes(cluster: Cluster) -> None:
    statements = """
    CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TYPE pair AS (a text, b int);
    CREATE DOMAIN short AS varchar(12); CREATE DOMAIN shorter AS short CHECK (VALUE <> ''); CREATE DOMAIN lot AS text[];
    CREATE DOMAIN feeling AS mood; CREATE DOMAIN amount AS numeric(9, 2);
    CREATE TABLE t (id int, a citext, b shorter, c citext[], d short[], e lot, f mood, g feeling, h pair, i amount,
        j mood[], k text GENERATED ALWAYS AS (upper(b)) STORED, l citext GENERATED ALWAYS AS (a || '!'::citext) STORED);
    INSERT INTO t SELECT n, 'Anna' || n, 'Ben' || n, ARRAY['Cleo' || n]::citext[], ARRAY['Dan' || n], ARRAY['Eva' || n],
        'bad', 'bad', ROW('Fay', n)::pair, n, '{bad}' FROM generate_series(1, 20) n;
    CREATE UNIQUE INDEX ON t (a); CREATE INDEX ON t USING gin (d); CREATE INDEX ON t (i);
    """
    make(cluster, statements)
    before = definition(cluster)
    columns = {
        "id": "keep", "a": "hash", "b": {"hash": {"length": 12}}, "c": "hash",
        "d": {"hash": {"length": 12}}, "e": "hash",
        "f": {"fixed": "good"}, "g": {"fixed": "good"}, "h": "shuffle", "i": {"noise": 10}, "j": "null",
    }  # fmt: skip
    mask(cluster, rule(columns))
    assert definition(cluster) == before
    found = """SELECT count(*), count(DISTINCT a), count(DISTINCT b), count(DISTINCT c), count(DISTINCT d[1]),
        count(DISTINCT e), min(f), min(g::text), count(DISTINCT (h).b), count(j),
        bool_and(k = upper(b) AND l = a || '!'::citext AND length(b) = 12 AND length(d[1]) = 12) FROM t"""
    assert rows(cluster, found) == [(20, 20, 20, 20, 20, 20, "good", "good", 20, 0, True)]
    types = "SELECT pg_typeof(c[1])::text, pg_typeof(d)::text, c = ARRAY[upper(c[1]::text)]::citext[] FROM t LIMIT 1"
    assert rows(cluster, types) == [("citext", "short[]", True)]
    execute(cluster, "CHECKPOINT")
    assert hits(cluster, "Anna1", "Cleo1", "Dan1") == {"Anna1": [], "Cleo1": [], "Dan1": []}
    cluster.tool("pg_dump", "--file=/dev/null", "shop", database="shop")


VALID = """
SET check_function_bodies = off;
CREATE SCHEMA tools; CREATE FUNCTION tools.known(text) RETURNS bool IMMUTABLE LANGUAGE sql AS $$ SELECT $1 <> '' $$;
CREATE FUNCTION tools.valid(text) RETURNS bool IMMUTABLE LANGUAGE {} AS $$ {} $$;
ALTER DATABASE shop SET search_path = tools, public;
"""
BODIES = [("sql", "SELECT known($1)"), ("plpgsql", "BEGIN RETURN known($1); END")]


@pytest.mark.parametrize("body", BODIES)
def test_constraints_find_names_on_the_path_of_the_database(cluster: Cluster, body: tuple[str, str]) -> None:
    table = "CREATE DOMAIN address AS text CHECK (tools.valid(VALUE));"
    table += "CREATE TABLE t (id int, email address, grp text CHECK (tools.valid(grp)));"
    make(cluster, VALID.format(*body) + "SET search_path = tools, public; SET check_function_bodies = off;")
    execute(cluster, table.replace("TABLE t", "TABLE public.t") + FILLED.replace("INTO t", "INTO public.t"))
    mask(cluster, rule({"email": "email", "grp": "hash", "id": "keep"}))
    assert one(cluster, "SELECT count(*) FROM public.t WHERE email LIKE 'user%'") == 0


def test_an_index_that_names_things_without_their_schema_is_told(cluster: Cluster) -> None:
    make(cluster, VALID.format(*BODIES[1]) + TABLE + "CREATE INDEX found ON t (tools.valid(email));")
    execute(cluster, FILLED)
    with pytest.raises(MaskingError, match=r"index found of public\.t .*valid\(text\) line 1 .* SET search_path"):
        mask(cluster, EMAIL)


def test_a_table_that_cannot_be_read_for_a_functions_sake_is_told(build_older: Cluster) -> None:
    make(build_older, VALID.format(*BODIES[0]) + TABLE)
    execute(build_older, "CREATE INDEX found ON t (tools.valid(email));" + FILLED)
    with pytest.raises(MaskingError, match=r'public\.t: originals cannot be read: .*"valid" .* SET search_path'):
        mask(build_older, EMAIL)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    ("table", "rules", "where"),
    [
        (
            TABLE,
            rule({"email": "email", "*": "keep"}, when="tools.valid(grp)"),
            "public.t.email (policy pii; when: tools",
        ),
        (TABLE, rule({"email": {"sql": "tools.valid(grp)::text"}, "*": "keep"}), "the rule sql for public.t.email"),
    ],
)
def test_a_function_that_names_things_without_their_schema_is_told(
    cluster: Cluster, body: tuple[str, str], table: str, rules: dict[str, Any], where: str
) -> None:
    make(cluster, VALID.format(*body))
    execute(cluster, "SET search_path = public, tools;" + table + FILLED)
    with pytest.raises(MaskingError) as caught:
        mask(cluster, rules)
    told = str(caught.value)
    assert where in told
    assert "valid" in told
    assert "ALTER FUNCTION … SET search_path" in told


def test_virtual_columns_have_values_where_constraints_read_them(build: Cluster) -> None:
    table = """CREATE TABLE t (id int, email text, grp text,
        size int GENERATED ALWAYS AS (length(email)) VIRTUAL NOT NULL, CONSTRAINT long CHECK (size > 12));"""
    make(build, table + FILLED)
    before = definition(build)
    mask(build, EMAIL)
    assert definition(build) == before
    execute(build, "DROP TABLE t;" + table.replace("size > 12", "size < 25") + FILLED)
    with pytest.raises(
        MaskingError, match=r"violate the constraint long in 9 of 9 \(give columns of it another rule: size"
    ):
        mask(build, rule({"email": {"hash": {"length": 30}}, "*": "keep"}))


def test_a_partition_asks_its_own_constraint_of_rows_that_move_to_it(cluster: Cluster) -> None:
    tree = """CREATE TABLE t (id int, email text) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (100);
    CREATE TABLE high PARTITION OF t (CONSTRAINT none CHECK (false)) FOR VALUES FROM (100) TO (1000000);
    INSERT INTO t VALUES (1, 'one');"""
    make(cluster, tree)
    with pytest.raises(MaskingError, match=r"masked rows of public\.high violate the constraint none in 1 of 1"):
        mask(cluster, rule({"id": {"sql": "id + 500"}, "email": "keep"}))


def test_a_source_with_a_schema_of_our_name_is_refused_before_anything_is_made(cluster: Cluster) -> None:
    make(cluster, TABLE + FILLED + "CREATE SCHEMA reconciler_masking; CREATE TABLE reconciler_masking.mine (a text);")
    with pytest.raises(MaskingError, match="database shop has a schema reconciler_masking") as caught:
        mask(cluster, EMAIL)
    assert caught.value.reason == "MaskingUncovered"
    assert rows(cluster, "SELECT relname FROM pg_class WHERE relnamespace = 'reconciler_masking'::regnamespace") == [
        ("mine",)
    ]
