"""Masked tables have nothing of before, and everything around them is as it was."""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres import settle
from reconciler.engines.postgres.masking import lanes
from reconciler.engines.postgres.masking.stage import mask_database
from reconciler.errors import CancelledError, MaskingError

from .rewriting import counts, definition, execute, express, hits, make, mask, masking_of, one, rows

if TYPE_CHECKING:
    from tests.engines.postgres.conftest import Cluster

    from .rewriting import Rules

pytestmark = pytest.mark.postgres


RICH = """
CREATE EXTENSION citext; CREATE EXTENSION btree_gist; CREATE EXTENSION amcheck;
CREATE ROLE clerk; CREATE ROLE auditor; CREATE ROLE boss;
CREATE SCHEMA "Ünïcode 4.2"; CREATE SCHEMA other;
CREATE DOMAIN address AS text COLLATE "C" CHECK (VALUE LIKE '%@%' OR length(VALUE) = 32) NOT NULL;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TYPE pair AS (a text, b int);
CREATE FUNCTION public.boom() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired'; END $$;
CREATE FUNCTION public.initial(text) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT left($1, 1) $$;

CREATE TABLE country (code char(2) PRIMARY KEY, name text NOT NULL);
INSERT INTO country VALUES ('DE', 'Germany'), ('FR', 'France');

CREATE TABLE person (
    gone int, id bigint GENERATED ALWAYS AS IDENTITY (START 10) PRIMARY KEY, gone_too text,
    email address, nick citext COLLATE "C" CONSTRAINT nick_length CHECK (length(nick::text) > 2),
    name varchar(40) NOT NULL DEFAULT 'nobody', upper_name text GENERATED ALWAYS AS (upper(name) || '!') STORED,
    tags text[], mood mood, card pair, document jsonb, raw json, picture bytea, note text,
    squeezed text COMPRESSION pglz, born date, balance numeric(12, 2), boss bigint, country char(2),
    active bool DEFAULT true, "Mixed ""Case" text, "reconciler_x" text,
    CONSTRAINT person_email_key UNIQUE (email) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT person_boss_fkey FOREIGN KEY (boss) REFERENCES person ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT person_country_fkey FOREIGN KEY (country) REFERENCES country ON UPDATE CASCADE,
    CONSTRAINT no_twins EXCLUDE USING gist (name WITH =, born WITH =)
) WITH (fillfactor = 90, autovacuum_enabled = false, toast.autovacuum_enabled = false);
ALTER TABLE person ALTER COLUMN note SET STORAGE EXTERNAL;
ALTER TABLE person DROP COLUMN gone, DROP COLUMN gone_too;
COMMENT ON TABLE person IS 'people'; COMMENT ON COLUMN person.email IS 'where to write';
COMMENT ON CONSTRAINT person_boss_fkey ON person IS 'who decides';
INSERT INTO person (email, nick, name, tags, mood, card, document, raw, picture, note, squeezed, born, balance, boss,
    country, "Mixed ""Case", "reconciler_x")
SELECT '0riginal' || i || '@corp.example', '0riginal' || i, '0riginal ' || i, ARRAY['0riginal' || i, NULL], 'bad',
    ROW('0riginal', i)::pair, '{"a": 1}', '{"a":  2}', '0riginal'::bytea, repeat('0riginal ', 3000) || i,
    repeat('0riginal ', 3000) || i, date '1970-01-01' + i, i / 3.0, 10, 'DE', '0riginal' || i, 'x'
FROM generate_series(1, 500) i;
INSERT INTO person (email, nick, name, born, boss) VALUES ('0riginal@corp.example', NULL, '0riginal empty', NULL, NULL);
CREATE INDEX person_lower ON person (lower(email)) INCLUDE (name) WHERE active;
CREATE INDEX person_initial ON person (public.initial(name)); CREATE UNIQUE INDEX person_nick ON person (nick);
CREATE INDEX person_tags ON person USING gin (tags); CREATE INDEX person_hash ON person USING hash (email);
CREATE INDEX person_brin ON person USING brin (born);
ALTER TABLE person CLUSTER ON person_initial; ALTER TABLE person REPLICA IDENTITY USING INDEX person_pkey;
ALTER TABLE person ALTER COLUMN name SET STATISTICS 500;
CREATE STATISTICS person_stats (dependencies, mcv) ON name, born FROM person;
CREATE INDEX person_broken ON person (active);
UPDATE pg_index SET indisvalid = false, indisunique = true WHERE indexrelid = 'person_broken'::regclass;
CREATE TRIGGER normal BEFORE INSERT OR UPDATE OR DELETE ON person FOR EACH ROW EXECUTE FUNCTION boom();
CREATE TRIGGER always AFTER INSERT OR UPDATE OF name ON person FOR EACH ROW EXECUTE FUNCTION boom();
CREATE TRIGGER replica AFTER TRUNCATE ON person EXECUTE FUNCTION boom();
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON person DEFERRABLE
    FOR EACH ROW WHEN (NEW.name <> '') EXECUTE FUNCTION boom();
CREATE TRIGGER off BEFORE INSERT ON person EXECUTE FUNCTION boom();
ALTER TABLE person ENABLE ALWAYS TRIGGER always, ENABLE REPLICA TRIGGER replica, DISABLE TRIGGER off;
CREATE RULE copy AS ON INSERT TO person DO ALSO NOTIFY hello; ALTER TABLE person ENABLE ALWAYS RULE copy;
ALTER TABLE person ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON person TO clerk USING (name = current_user) WITH CHECK (active);
GRANT SELECT (name, email), UPDATE (name) ON person TO clerk; GRANT SELECT ON person TO auditor WITH GRANT OPTION;
CREATE PUBLICATION everything FOR TABLE person, country;

CREATE TABLE visit (person bigint, place text, at date, note text, PRIMARY KEY (person, place),
    CONSTRAINT visit_person_fkey FOREIGN KEY (person) REFERENCES person ON DELETE CASCADE);
INSERT INTO visit SELECT id, '0riginal' || id, born, 'untouched' FROM person;
CREATE TABLE stay (person bigint, place text, nights int, CONSTRAINT stay_visit_fkey FOREIGN KEY (person, place)
    REFERENCES visit MATCH FULL ON UPDATE CASCADE DEFERRABLE);
INSERT INTO stay SELECT person, place, 1 FROM visit; INSERT INTO stay VALUES (NULL, NULL, 2);
ALTER TABLE stay ADD CONSTRAINT stay_new FOREIGN KEY (person) REFERENCES person NOT VALID;
CREATE TABLE other.person (id int, email text); INSERT INTO other.person VALUES (1, 'kept@corp.example');
CREATE TABLE "Ünïcode 4.2"."Täble ""x" ("Ä b" text, "%s {}" text);
INSERT INTO "Ünïcode 4.2"."Täble ""x" VALUES ('0riginal', 'kept'), ('0riginal', NULL);
CREATE UNLOGGED TABLE quick (id serial PRIMARY KEY, secret text, big text); INSERT INTO quick (secret, big)
    SELECT '0riginal', repeat(md5(i::text), 500) FROM generate_series(1, 5) i;
CREATE TABLE base (id int, secret text); CREATE TABLE heir (more text) INHERITS (base);
INSERT INTO base VALUES (1, '0riginal'); INSERT INTO heir VALUES (2, '0riginal', 'kept');
CREATE TABLE lonely (secret text); INSERT INTO lonely VALUES ('0riginal'), ('0riginal'), (NULL);
CREATE TABLE nothing (secret text);
CREATE TABLE sale (id int, secret text, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE sale_old PARTITION OF sale FOR VALUES FROM ('2000-01-01') TO ('2010-01-01');
CREATE TABLE sale_new (at date NOT NULL, gone int, secret text, id int NOT NULL);
ALTER TABLE sale_new DROP COLUMN gone;
ALTER TABLE sale ATTACH PARTITION sale_new FOR VALUES FROM ('2010-01-01') TO (MAXVALUE);
INSERT INTO sale SELECT i, '0riginal', date '2005-01-01' + i * 10 FROM generate_series(1, 400) i;
CREATE TABLE refund (id int, sale int, at date, CONSTRAINT refund_sale_fkey FOREIGN KEY (sale, at) REFERENCES sale);
INSERT INTO refund SELECT id, id, at FROM sale;

CREATE VIEW people AS SELECT id, email, upper_name FROM person WHERE active WITH CHECK OPTION;
CREATE VIEW people_of_note AS SELECT * FROM people WHERE upper_name LIKE '0%';
CREATE MATERIALIZED VIEW shown AS SELECT email, upper_name FROM people_of_note; CREATE UNIQUE INDEX ON shown (email);
CREATE MATERIALIZED VIEW shown_again AS SELECT upper(email) AS e FROM shown;
CREATE MATERIALIZED VIEW empty AS SELECT email FROM person WITH NO DATA;
CREATE MATERIALIZED VIEW unconcerned AS SELECT * FROM country;
"""
VIRTUAL = "ALTER TABLE person ADD shout text GENERATED ALWAYS AS (name || '!!') VIRTUAL;"
RULES = {
    "public.person": {
        "email": "md5(t.email)",
        "nick": "md5(t.nick::text)",
        "name": "substr(md5(t.name), 1, 30)",
        "tags": "ARRAY(SELECT md5(e) FROM unnest(t.tags) e)",
        "card": "ROW('x', 1)::public.pair",
        "document": "jsonb_build_object('b', 1)",
        "raw": "json_build_object('b', 1)",
        "picture": "sha256(t.picture)",
        "note": "repeat(md5(t.note) || ' ', 3000)",
        "squeezed": "repeat(md5(t.squeezed) || ' ', 3000)",
        "born": "t.born + 1000",
        "balance": "t.balance * 2",
        'Mixed "Case': """md5(t."Mixed ""Case")""",
    },
    "public.visit": {"place": "md5(t.place)"},
    "public.stay": {"place": "md5(t.place)"},
    'Ünïcode 4.2.Täble "x': {"Ä b": 'md5(t."Ä b")'},
    "public.quick": {"secret": "md5(t.secret)"},
    "public.base": {"secret": "md5(t.secret)"},
    "public.heir": {"secret": "md5(t.secret)"},
    "public.lonely": {"secret": "md5(t.secret)"},
    "public.nothing": {"secret": "md5(t.secret)"},
    "public.sale_old": {"secret": "md5(t.secret)"},
    "public.sale_new": {"secret": "md5(t.secret)"},
}


def rich(cluster: Cluster) -> None:
    make(cluster, RICH + (VIRTUAL if cluster.programs.major == "18" else ""))


def test_the_schema_is_the_same_to_the_byte(cluster: Cluster) -> None:
    rich(cluster)
    before = definition(cluster)
    mask(cluster, RULES)
    assert definition(cluster) == before


def test_what_no_rule_names_is_the_same_and_the_rest_is_masked(cluster: Cluster) -> None:
    rich(cluster)
    kept = """SELECT id, mood, boss, country, active, "reconciler_x" FROM person ORDER BY id"""
    expected = """SELECT id, md5(email), md5(nick::text), substr(md5(name), 1, 30), born + 1000, balance * 2,
        md5("Mixed ""Case"), array_length(tags, 1), sha256(picture), repeat(md5(note) || ' ', 3000),
        upper(substr(md5(name), 1, 30)) || '!' FROM person ORDER BY id"""
    found = """SELECT id, email::text, nick::text, name, born, balance, "Mixed ""Case", array_length(tags, 1), picture,
        note, upper_name FROM person ORDER BY id"""
    other = """SELECT v.person, md5(v.place), v.at, v.note, s.nights
        FROM visit v LEFT JOIN stay s USING (person, place) ORDER BY 1"""
    other_found = other.replace("md5(v.place)", "v.place")
    before = rows(cluster, kept), rows(cluster, expected), rows(cluster, other)
    untouched = (
        "SELECT * FROM other.person",
        "SELECT * FROM country ORDER BY 1",
        "SELECT id, sale, at FROM refund ORDER BY 1",
    )
    others = [rows(cluster, query) for query in untouched]
    mask(cluster, RULES)
    assert (rows(cluster, kept), rows(cluster, found), rows(cluster, other_found)) == before
    assert [rows(cluster, query) for query in untouched] == others
    assert one(cluster, "SELECT count(*) FROM sale WHERE secret = md5('0riginal')") == 400
    assert rows(cluster, "SELECT tableoid::regclass::text, id, length(secret) FROM base ORDER BY 2") == [
        ("base", 1, 32),
        ("heir", 2, 32),
    ]


def test_nothing_original_is_left_in_a_file(cluster: Cluster) -> None:
    rich(cluster)
    execute(cluster, "ANALYZE; CHECKPOINT")
    assert hits(cluster, "0riginal")["0riginal"]
    mask(cluster, RULES)
    settle.settle_cluster(cluster.work(), cluster.programs)
    assert hits(cluster, "0riginal") == {"0riginal": []}


def test_counts_come_from_the_rows(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE t (id int, a text, b text, c numeric, d json, e text[], f text);
    INSERT INTO t SELECT i, CASE WHEN i > 4 THEN 'x' || i END, 'y', 1.0, '{}', '{a}', 'A' FROM generate_series(1, 10) i;
    """
    make(cluster, statements)
    rules: Rules = {
        "public.t": {
            "a": ("md5(t.a)", "id > 3"),
            "b": ("CASE id WHEN 1 THEN 'y' ELSE 'z' END", "id < 9 -- some"),
            "c": "1.00",
            "d": "CASE id WHEN 2 THEN t.d ELSE '{ }' END",
            "e": "CASE id WHEN 2 THEN t.e ELSE '{b}' END",
            "f": "lower(t.f)",
        }
    }
    assert counts(mask(cluster, rules)) == {
        "public.t.a": (10, 7, 4, 0),
        "public.t.b": (10, 8, 0, 1),
        "public.t.c": (10, 10, 0, 10),
        "public.t.d": (10, 10, 0, 1),
        "public.t.e": (10, 10, 0, 1),
        "public.t.f": (10, 10, 0, 0),
    }


def test_more_columns_than_bits_are_counted(cluster: Cluster) -> None:
    columns = [f"c{number}" for number in range(70)]
    make(cluster, f"CREATE TABLE t (id int, {', '.join(f'{name} text' for name in columns)});")
    execute(cluster, f"INSERT INTO t SELECT i, {', '.join('i' for _ in columns)} FROM generate_series(1, 5) i")
    rules = {
        name: (f"CASE WHEN id <= {place % 3} THEN t.{name} ELSE 'x' END", f"id <= {place % 6}")
        for place, name in enumerate(columns)
    }
    expected = {f"public.t.c{place}": (5, place % 6, 0, min(place % 3, place % 6)) for place in range(70)}
    assert counts(mask(cluster, {"public.t": rules})) == expected


def test_indexes_are_right_and_those_that_were_invalid_still_are(cluster: Cluster) -> None:
    rich(cluster)
    flags = """SELECT indexrelid::regclass::text, indisvalid, indisready, indislive, indisunique, indisclustered
        FROM pg_index WHERE indexrelid >= 16384 AND indrelid::regclass::text !~ 'toast' ORDER BY 1"""
    before = rows(cluster, flags)
    mask(cluster, RULES)
    assert rows(cluster, flags) == before
    assert ("person_broken", False, True, True, True, False) in before
    checked = """SELECT count(bt_index_check(c.oid, heapallindexed => true))
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
        WHERE a.amname = 'btree' AND i.indisvalid AND c.relkind = 'i' AND c.relpersistence = 'p'"""
    assert one(cluster, checked) > 100
    corrupt = """SELECT c.oid::regclass::text, v.* FROM pg_class c, verify_heapam(c.oid) v
        WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence = 'p' AND c.oid >= 16384"""
    assert rows(cluster, corrupt) == []
    cluster.tool("pg_dump", "--file=/dev/null", "shop", database="shop")


def test_a_table_keeps_its_toast_table_by_name_and_options(cluster: Cluster) -> None:
    rich(cluster)
    toast = """SELECT t.relname, t.reloptions, i.relname, c.relpersistence::text, t.relpersistence::text FROM pg_class c
        JOIN pg_class t ON t.oid = c.reltoastrelid JOIN pg_index x ON x.indrelid = t.oid
        JOIN pg_class i ON i.oid = x.indexrelid
        WHERE c.oid IN ('person'::regclass, 'quick'::regclass) ORDER BY c.relname"""
    before = rows(cluster, toast)
    mask(cluster, RULES)
    assert rows(cluster, toast) == before
    assert before[0][1] == ["autovacuum_enabled=false"]
    assert (
        one(
            cluster,
            """SELECT count(*) FROM pg_class WHERE relkind = 't' AND oid >= 16384
            AND NOT EXISTS (SELECT FROM pg_class c WHERE c.reltoastrelid = pg_class.oid)""",
        )
        == 0
    )


def test_values_are_stored_in_the_form_of_their_column(cluster: Cluster) -> None:
    rich(cluster)
    mask(cluster, RULES)
    stored = """SELECT min(pg_column_compression(note)), min(pg_column_compression(squeezed)),
        min(pg_column_size(note)) > 90000 FROM person WHERE note IS NOT NULL"""
    assert rows(cluster, stored) == [(None, "pglz", True)]


def test_rows_of_unlogged_tables_stay_unlogged(cluster: Cluster) -> None:
    rich(cluster)
    mask(cluster, RULES)
    assert rows(cluster, "SELECT DISTINCT secret, length(big) FROM quick") == [
        (one(cluster, "SELECT md5('0riginal')"), 16000)
    ]
    execute(cluster, "CHECKPOINT; INSERT INTO quick (secret) VALUES ('new')")
    cluster.crash()
    assert one(cluster, "SELECT count(*) FROM quick") == 0
    assert one(cluster, "SELECT count(*) FROM person") == 501


def test_tables_without_rules_are_neither_rewritten_nor_read(cluster: Cluster) -> None:
    rich(cluster)
    files = """SELECT relname, relfilenode FROM pg_class
        WHERE relname IN ('country', 'refund', 'unconcerned', 'country_pkey')
        OR relnamespace = 'other'::regnamespace ORDER BY 1"""
    reads = """SELECT relname, seq_scan, idx_scan FROM pg_stat_all_tables
        WHERE relname IN ('country', 'refund', 'unconcerned') ORDER BY 1"""
    before = rows(cluster, files), rows(cluster, reads)
    mask(cluster, RULES)
    assert (rows(cluster, files), rows(cluster, reads)) == before


def test_a_table_with_rules_is_read_once(cluster: Cluster) -> None:
    make(cluster, "CREATE TABLE t (a text, b text); INSERT INTO t SELECT i, i FROM generate_series(1, 10) i;")
    execute(cluster, "CREATE INDEX ON t (a)")
    query = "SELECT seq_tup_read FROM pg_stat_all_tables WHERE relname = 't'"
    before, reads = one(cluster, query), dict[str, int]()

    class Said(list[str]):
        def append(self, text: str) -> None:
            reads[text.partition(" public")[0]] = one(cluster, query) - before

    mask(cluster, {"public.t": {"a": "md5(t.a)", "b": "md5(t.b)"}}, said=Said())
    assert reads == {"masking": 0, "building indexes of": 10}  # counted anew at the end, as all of it is new


def test_what_rows_had_before_their_column_was_added_is_gone(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE t (id int); INSERT INTO t VALUES (1);
    ALTER TABLE t ADD COLUMN a text DEFAULT '0riginal', ADD COLUMN b int DEFAULT 7;
    ALTER TABLE t ALTER COLUMN a DROP DEFAULT; INSERT INTO t VALUES (2, 'own', 8);
    """
    make(cluster, statements)
    mask(cluster, {"public.t": {"a": "md5(t.a)"}})
    execute(cluster, "CHECKPOINT")
    assert hits(cluster, "0riginal") == {"0riginal": []}
    assert rows(cluster, "SELECT id, a = md5('0riginal'), b FROM t ORDER BY id") == [(1, True, 7), (2, False, 8)]


@pytest.mark.parametrize("form", ["", "UNLOGGED"])
def test_what_belongs_to_a_table_belongs_to_its_owner(cluster: Cluster, form: str) -> None:
    statements = f"CREATE {form} TABLE t (a text); INSERT INTO t VALUES ('0riginal'); CREATE INDEX ON t (a);"
    make(cluster, statements)
    mask(cluster, {"public.t": {"a": "md5(t.a)"}})
    parts = """
    SELECT DISTINCT pg_get_userbyid(c.relowner) FROM pg_class t JOIN pg_class c ON c.oid IN (t.oid, t.reltoastrelid)
      OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid IN (t.oid, t.reltoastrelid))
    WHERE t.oid = 'public.t'::regclass
    """
    assert rows(cluster, parts) == [("reconciler_admin",)]


INJECTED = """t.a) AS text) AS reconciler_given_0 FROM public.t WITH NO DATA;
ALTER ROLE reconciler_builder SUPERUSER; CREATE MATERIALIZED VIEW reconciler_masking.more AS SELECT CAST(('x'"""


def test_an_expression_cannot_bring_a_statement_of_its_own(cluster: Cluster) -> None:
    make(cluster, "CREATE TABLE t (a text); INSERT INTO t VALUES ('0riginal')")
    with pytest.raises(MaskingError):
        mask(cluster, {"public.t": {"a": INJECTED}})
    assert one(cluster, "SELECT rolsuper FROM pg_roles WHERE rolname = 'reconciler_builder'") is False


def test_no_superuser_runs_what_users_wrote(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE log (who text); GRANT INSERT ON log TO PUBLIC;
    CREATE FUNCTION who(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
        IF current_user <> 'reconciler_builder' AND session_user <> 'reconciler_builder'
        THEN RAISE 'run by %', current_user; END IF; RETURN $1; END $$;
    CREATE TABLE t (a text, b text GENERATED ALWAYS AS (a || 'x') STORED, CHECK (length(a) > 0));
    INSERT INTO t VALUES ('a');
    CREATE OR REPLACE FUNCTION fill() RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$;
    """
    make(cluster, statements)
    execute(
        cluster,
        """ALTER TABLE t ADD CHECK (public.who(a) IS NOT NULL) NOT VALID;
        UPDATE pg_constraint SET convalidated = true WHERE conrelid = 't'::regclass""",
    )
    mask(cluster, {"public.t": {"a": "public.who('masked')"}})
    assert rows(cluster, "SELECT a, b FROM t") == [("masked", "maskedx")]


def test_materialised_views_are_computed_again_from_masked_rows(cluster: Cluster) -> None:
    rich(cluster)
    mask(cluster, RULES)
    assert one(
        cluster, "SELECT count(*) FROM shown s JOIN person p USING (email) WHERE p.upper_name = s.upper_name"
    ) == one(cluster, "SELECT count(*) FROM people_of_note")
    populated = "SELECT relname, relispopulated FROM pg_class WHERE relkind = 'm' ORDER BY 1"
    assert rows(cluster, populated) == [("empty", False), ("shown", True), ("shown_again", True), ("unconcerned", True)]


def test_progress_says_how_far_it_is(cluster: Cluster) -> None:
    make(
        cluster,
        """CREATE TABLE a (x text); CREATE TABLE b (x text); INSERT INTO a VALUES ('1');
        INSERT INTO b SELECT '1' FROM generate_series(1, 1000);""",
    )
    said: list[str] = []
    mask(cluster, {"public.a": {"x": "md5(t.x)"}, "public.b": {"x": "md5(t.x)"}}, jobs=1, said=said)
    assert said[0].startswith("masking public.b: 0 of 2 tables, 0 B of ")
    assert said[1].startswith("masking public.a: 1 of 2 tables, ")


def test_progress_says_how_far_a_single_table_is(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_SECONDS_BETWEEN_LOOKS", 0.05)
    make(
        cluster,
        """CREATE TABLE a (x text); ALTER TABLE a ALTER x SET STORAGE EXTERNAL;
        INSERT INTO a SELECT repeat(md5(n::text), 50) FROM generate_series(1, 2000) AS n; ANALYZE a;""",
    )
    said: list[str] = []
    slowly = "repeat(md5(t.x), 50) || coalesce(pg_sleep(0.001)::text, '')"
    mask(cluster, {"public.a": {"x": slowly}}, jobs=1, said=said)
    found = [
        int(match[1].replace(",", "")) for text in said if (match := re.search(r"about ([\d,]+) of 2,000 rows", text))
    ]
    assert found[0] == 0
    assert any(0 < rows < 2000 for rows in found), said
    assert found == sorted(found)


def test_cancelled_work_ends(cluster: Cluster) -> None:
    make(cluster, "CREATE TABLE a (x text)")
    work = cluster.work()
    work.cancel.cancel()
    masking = masking_of(cluster, {"public.a": {"x": "md5(t.x)"}})
    with pytest.raises(CancelledError):
        mask_database(work, masking, express, lambda _conn: None)


@pytest.mark.parametrize(
    ("statements", "rule", "message"),
    [
        (
            "CREATE TABLE t (a text UNIQUE)",
            "'same'",
            "masked values of public.t (a) are not distinct, as its index t_a_key",
        ),
        (
            "CREATE TABLE t (a text, b text, UNIQUE (a) DEFERRABLE INITIALLY DEFERRED)",
            "'same'",
            "its index t_a_key demands",
        ),
        (
            "CREATE TABLE t (a text CONSTRAINT short CHECK (length(a) < 10))",
            "md5(t.a)",
            "masked rows of public.t violate the constraint short in 2 of 2",
        ),
        ("CREATE TABLE t (a text NOT NULL)", "NULL", "masked rows of public.t violate NOT NULL of column a"),
        (
            "CREATE DOMAIN d AS text CONSTRAINT dc CHECK (length(VALUE) < 10); CREATE TABLE t (a d)",
            "md5(t.a)",
            "public.t violate the constraint dc of the domain d (give another rule to columns of that type: a)",
        ),
        (
            """CREATE TABLE u (a text PRIMARY KEY); INSERT INTO u VALUES ('secret1'), ('secret2');
            CREATE TABLE t (a text CONSTRAINT tu REFERENCES u)""",
            "md5(t.a)",
            "rows of public.t violate the foreign key tu (a) to public.u (a)",
        ),
        (
            "CREATE TABLE t (a text, b int)",
            "t.a::int",
            "the rule sql for public.t.a (policy pii): invalid input syntax",
        ),
        ("CREATE TABLE t (a text, b int)", "t.a::bigint", "columns: a"),
        ("CREATE TABLE t (a text)", "nowhere(t.a)", "function nowhere(text) does not exist"),
        ("CREATE TABLE t (a text)", "t.a::regclass::text", "SQLSTATE 42P01 while rows were computed"),
        (
            (
                "CREATE TABLE t (a text); CREATE FUNCTION look(text) RETURNS text LANGUAGE plpgsql AS"
                " $$ BEGIN EXECUTE 'SELECT FROM ' || $1; RETURN ''; END $$"
            ),
            "public.look(t.a)",
            "SQLSTATE 42P01 in PL/pgSQL function public.look(text) line 1 at EXECUTE",
        ),
        ("CREATE TABLE t (a text, EXCLUDE USING btree (a WITH =))", "'same'", "its index t_a_excl demands"),
    ],
)
def test_what_the_database_refuses_is_told_without_a_value(
    cluster: Cluster, statements: str, rule: str, message: str
) -> None:
    make(cluster, statements + "; INSERT INTO t VALUES ('secret1'), ('secret2')")
    with pytest.raises(MaskingError) as caught:
        mask(cluster, {"public.t": {"a": rule}})
    told = str(caught.value)
    assert message in told
    assert told.startswith("database shop: ")
    assert caught.value.reason == "MaskingFailed"
    assert "secret" not in told
    assert "same" not in told.replace("the same deterministic rule", "")
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_keys_that_refer_to_each_other_stay_together(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE p (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant int DEFAULT 1, boss int, up int,
        UNIQUE (tenant, id), FOREIGN KEY (boss) REFERENCES p DEFERRABLE INITIALLY DEFERRED,
        FOREIGN KEY (tenant, up) REFERENCES p (tenant, id) ON DELETE SET NULL);
    INSERT INTO p (boss, up) SELECT 1, 2 FROM generate_series(1, 9) i;
    """
    make(cluster, statements)
    before = definition(cluster)
    rules = {"public.p": {name: f"t.{name} + 1000" for name in ("id", "boss", "up")}}
    mask(cluster, rules)
    assert rows(cluster, "SELECT min(id), max(id), min(boss), min(up) FROM p") == [(1001, 1009, 1001, 1002)]
    assert definition(cluster) == before
    execute(cluster, "INSERT INTO p (boss, up) VALUES (1009, NULL)")
    assert one(cluster, "SELECT min(id) FROM p") == 10
    with pytest.raises(MaskingError, match=r"violate the foreign key p_boss_fkey \(boss\) to public\.p \(id\)"):
        mask(cluster, {"public.p": {"boss": "t.boss + 1"}})


def test_a_table_stays_in_its_tablespace(cluster: Cluster) -> None:
    execute(cluster, "SET allow_in_place_tablespaces = on; CREATE TABLESPACE apart LOCATION ''", "postgres")
    try:
        make(cluster, "CREATE TABLE t (a text) TABLESPACE apart; CREATE INDEX ON t (a) TABLESPACE apart")
        execute(
            cluster,
            "CREATE UNLOGGED TABLE u (a text) TABLESPACE apart; INSERT INTO u VALUES ('a'); INSERT INTO t VALUES ('a')",
        )
        before = definition(cluster)
        mask(cluster, {"public.t": {"a": "md5(t.a)"}, "public.u": {"a": "md5(t.a)"}})
        assert definition(cluster) == before
        assert one(cluster, "SELECT count(*) FROM t JOIN u ON t.a = u.a AND t.a = md5('a')") == 1
    finally:
        execute(cluster, "DROP DATABASE shop WITH (FORCE)", "postgres")
        execute(cluster, "DROP TABLESPACE apart", "postgres")


def test_a_failing_column_is_named_among_others(cluster: Cluster) -> None:
    make(cluster, "CREATE TABLE t (a text, b varchar(5), c text); INSERT INTO t VALUES ('secret1', 'x', 'y')")
    with pytest.raises(MaskingError, match=r"table public\.t cannot be masked: .* columns: a \("):
        mask(cluster, {"public.t": {"c": "md5(t.c)", "a": "(t.a::bigint)::text", "b": "'z'"}})
    execute(cluster, "DROP SCHEMA reconciler_masking CASCADE")
    with pytest.raises(MaskingError, match=r"table public\.t cannot be masked: the rule sql for public\.t\.a \("):
        mask(cluster, {"public.t": {"c": "md5(t.c)", "a": "(t.a::int)::text", "b": "'z'"}})


def test_a_table_that_is_not_there_is_named(cluster: Cluster) -> None:
    make(cluster, "SELECT 1")
    with pytest.raises(MaskingError, match=r"database shop has no table public\.absent"):
        mask(cluster, {"public.absent": {"a": "'x'"}})


def test_a_table_of_another_access_method_is_refused(cluster: Cluster) -> None:
    make(
        cluster,
        "CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE t (a text) USING heap2",
    )
    with pytest.raises(MaskingError, match=r"public\.t is stored by heap2"):
        mask(cluster, {"public.t": {"a": "'x'"}})


def test_event_triggers_do_not_fire_and_stay_enabled(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE t (a text);
    CREATE FUNCTION boom() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired'; END $$;
    CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION boom();
    SET session_replication_role = replica; SET client_min_messages = warning; ALTER EVENT TRIGGER e ENABLE ALWAYS;
    """
    make(cluster, statements)
    masking = masking_of(cluster, {"public.t": {"a": "'x'"}})
    mask_database(cluster.work(), masking, express, lambda _conn: None)
    assert rows(cluster, "SELECT evtname, evtenabled::text FROM pg_event_trigger") == [("e", "A")]


def test_a_database_without_plpgsql_is_masked(cluster: Cluster) -> None:
    make(cluster, "DROP EXTENSION plpgsql; CREATE TABLE t (a text); INSERT INTO t VALUES ('a'), ('b');")
    assert counts(mask(cluster, {"public.t": {"a": "'a'"}})) == {"public.t.a": (2, 2, 0, 1)}


def test_a_large_table_is_masked_by_several_processes(cluster: Cluster) -> None:
    make(
        cluster,
        """CREATE TABLE t (a text, b text); INSERT INTO t SELECT i, i FROM generate_series(1, 400000) i; ANALYZE t;
        CREATE INDEX ON t (a);""",
    )
    found = mask(
        cluster,
        {
            "public.t": {
                "a": "CASE WHEN t.a::int % 4 = 0 THEN t.a ELSE md5(t.a) END",
                "b": ("md5(t.b)", "t.b::int % 2 = 0"),
            }
        },
    )
    assert counts(found) == {"public.t.a": (400000, 400000, 0, 100000), "public.t.b": (400000, 200000, 0, 0)}
    assert one(cluster, "SELECT count(DISTINCT a) FROM t") == 400000
