"""Masking of SQLite gives the reference's values, keeps everything around them, and fails closed."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from reconciler.errors import MaskingError
from reconciler.masking.schema import Column, Family
from reconciler.masking.values import mask as reference
from reconciler.spec.masking_policy import MaskingPolicySpec
from reconciler.state.desired import Policy, Script
from tests.engines.sqlite.conftest import KEY, policy
from tests.engines.sqlite.harness import made

if TYPE_CHECKING:
    from pathlib import Path

    from tests.engines.sqlite.conftest import Masking


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as conn:
        return conn.execute(query).fetchall()


def method(written: Any) -> Any:  # noqa: ANN401 - as YAML
    rule = {"table": "main.t", "columns": {"c": written}}
    return MaskingPolicySpec.model_validate({"key": {"secret": "key"}, "rules": [rule]}).rules[0].columns["c"]


PEOPLE = """
CREATE TABLE person (id INTEGER PRIMARY KEY, email TEXT UNIQUE, name NVARCHAR(40), born DATE, seen DATETIME, pay REAL);
WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < 300)
INSERT INTO person SELECT n, 'person' || n || '@corp.invalid', 'Original Person ' || n,
    date('1970-01-01', n || ' days'), datetime('2020-01-01', n || ' hours'), n * 10.5 FROM c;
"""


VALUES: list[tuple[str, Family, Any, Any]] = [
    ("text", Family.TEXT, "hash", "some original text"),
    ("text", Family.TEXT, {"hash": {"length": 24, "prefix": "x-"}}, "some original text"),
    ("text", Family.TEXT, "email", "somebody@corp.invalid"),
    ("text", Family.TEXT, {"email": {"domain": "example.org"}}, "Größe@corp.invalid"),
    ("text", Family.TEXT, {"fake": "full_name"}, "Some Body"),
    ("text", Family.TEXT, {"fake": "city", "locale": "de"}, "Some Town"),
    ("text", Family.TEXT, "preserve", "+49 30 1234567-89"),
    ("text", Family.TEXT, {"preserve": "card"}, "4111 1111 1111 1111"),
    ("text", Family.TEXT, {"preserve": "iban"}, "DE89370400440532013000"),
    ("text", Family.TEXT, {"pattern": "??-####"}, "AB-1234"),
    ("text", Family.TEXT, {"partial": {"first": 2, "last": 2}}, "some original text"),
    ("text", Family.TEXT, "text", "call +49 30 1234567 or mail somebody@corp.invalid"),
    ("text", Family.TEXT, {"fixed": "gone"}, "some original text"),
    ("int", Family.INTEGER, "preserve", 123456),
    ("int", Family.INTEGER, {"noise": "10%"}, 123456),
    ("int", Family.INTEGER, {"bucket": 1000}, 123456),
    ("real", Family.NUMBER, {"noise": "10%"}, 1234.5),
    ("real", Family.NUMBER, {"bucket": 100}, 1234.5),
    ("uuid", Family.UUID, "hash", "0f8fad5b-d9cb-469f-a165-70867728950e"),
    ("blob", Family.BYTES, "hash", b"some original bytes"),
]
"""Declared type, its family, a rule, and a value."""
WRITTEN: list[tuple[str, Any, str, str]] = [
    ("date", {"shift_days": 30}, "2001-02-03", "####-##-##"),
    ("datetime", {"shift_days": 30}, "2001-02-03 04:05:06", "####-##-## ##:##:##"),
    ("datetime", {"shift": "8h"}, "2001-02-03T04:05:06.123Z", "####-##-##T##:##:##.###Z"),
    ("datetime", {"bucket": "month"}, "2001-02-03 04:05", "####-##-## ##:##"),
    ("timestamp", {"bucket": "day"}, "2001-02-03 04:05:06+02:00", "####-##-## ##:##:##+##:##"),
]
"""Declared type, a rule, a time, and the layout of what it becomes."""


def table_of(cells: list[tuple[str, Any, Any]]) -> tuple[str, Policy]:
    """Return a table with a column for each declared type and value, a row of NULL, and a policy with their rules."""
    literals = [f"X'{value.hex()}'" if isinstance(value, bytes) else repr(value) for _, _, value in cells]
    columns = ", ".join(f"c{number} {declared}" for number, (declared, _, _) in enumerate(cells))
    nulls = ", ".join("NULL" for _ in cells)
    rules = {f"c{number}": written for number, (_, written, _) in enumerate(cells)}
    sql = f"CREATE TABLE t ({columns}); INSERT INTO t VALUES ({', '.join(literals)}), ({nulls});"
    return sql, policy({"t": rules})


def test_values_become_what_the_reference_says(mask: Masking) -> None:
    sql, rules = table_of([(declared, written, value) for declared, _, written, value in VALUES])
    found, nulls = rows(mask(sql, rules).path, "SELECT * FROM t")
    assert set(nulls) == {None}
    for result, (declared, family, written, value) in zip(found, VALUES, strict=True):
        column = Column(name="c", type=declared, family=family, integer_bytes=8 if family is Family.INTEGER else None)
        expected = reference(method(written), UUID(value) if family is Family.UUID else value, column, KEY)
        assert result == (str(expected) if family is Family.UUID else expected), written
        assert result != value, written


def test_dates_keep_the_layout_that_they_were_written_in(mask: Masking) -> None:
    sql, rules = table_of([(declared, written, value) for declared, written, value, _ in WRITTEN])
    found, _nulls = rows(mask(sql, rules).path, "SELECT * FROM t")
    for result, (_, _, value, form) in zip(found, WRITTEN, strict=True):
        assert "".join("#" if one.isdigit() else one for one in result) == form
        assert result != value


def test_dates_that_are_numbers_stay_numbers_and_move_as_dates_that_are_text(mask: Masking) -> None:
    sql = "CREATE TABLE t (c datetime); INSERT INTO t VALUES (981173106), (2451943.670208), ('2001-02-03 04:05:06');"
    done = mask(sql, policy({"t": {"c": {"shift_days": 30}}}))
    found = rows(done.path, "SELECT typeof(c), datetime(c, iif(typeof(c) = 'integer', 'unixepoch', '+0 days')) FROM t")
    assert [kind for kind, _ in found] == ["integer", "real", "text"]
    assert found[0][1] == found[2][1]


def test_a_column_that_ignores_case_is_masked_alike_whatever_its_case(mask: Masking) -> None:
    sql = "CREATE TABLE t (c text COLLATE NOCASE); INSERT INTO t VALUES ('Some Name'), ('SOME NAME');"
    done = mask(sql, policy({"t": {"c": "hash"}}))
    (first, second) = rows(done.path, "SELECT c FROM t")
    assert first == second


def test_counts_say_what_was_done_with_every_row(mask: Masking) -> None:
    sql = PEOPLE + "UPDATE person SET name = NULL WHERE id <= 10;"
    rules = {"person": {"email": "email", "name": {"fake": "full_name"}, "*": "keep"}}
    done = mask(sql, policy(rules))
    assert done.counts("person", "email") == (300, 300, 0, 0)
    assert done.counts("person", "name")[:3] == (300, 300, 10)


def test_a_rule_with_a_condition_leaves_other_rows_as_they_are(mask: Masking) -> None:
    done = mask(PEOPLE, policy({"person": {"name": "hash", "*": "keep"}}, when="id > 100"))
    kept = rows(done.path, "SELECT count(*) FROM person WHERE name LIKE 'Original Person%'")
    assert (kept, done.counts("person", "name")[:2]) == ([(100,)], (300, 200))


def test_shuffle_gives_every_row_the_value_of_another(mask: Masking) -> None:
    done = mask(PEOPLE, policy({"person": {"born": "shuffle", "*": "keep"}}))
    before = rows(made(done.path.with_name("again.db"), PEOPLE), "SELECT id, born FROM person ORDER BY id")
    after = rows(done.path, "SELECT id, born FROM person ORDER BY id")
    assert sorted(born for _, born in after) == sorted(born for _, born in before)
    assert not set(after) & set(before)


def test_an_expression_of_the_policy_is_computed_from_the_row(mask: Masking) -> None:
    done = mask(PEOPLE, policy({"person": {"name": {"sql": "'No. ' || id"}, "*": "keep"}}))
    assert rows(done.path, "SELECT name FROM person WHERE id = 7") == [("No. 7",)]


def test_documents_are_masked_at_their_paths(mask: Masking) -> None:
    document = {"contact": {"email": "somebody@corp.invalid"}, "level": 7, "ratio": 0.5}
    sql = f"CREATE TABLE t (c json); INSERT INTO t VALUES ('{json.dumps(document)}');"
    done = mask(sql, policy({"t": {"c": {"json": {"$.contact.email": "email"}}}}))
    found = json.loads(rows(done.path, "SELECT c FROM t")[0][0])
    assert found["contact"]["email"].endswith("@example.com")
    assert (found["level"], found["ratio"]) == (7, 0.5)


KEYS = """
CREATE TABLE account (number INTEGER PRIMARY KEY AUTOINCREMENT, code TEXT NOT NULL UNIQUE, label TEXT);
CREATE TABLE booking (id INTEGER PRIMARY KEY, account INTEGER REFERENCES account, code TEXT REFERENCES account (code));
CREATE TABLE pair (a TEXT, b INTEGER, note TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID;
WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < 200)
INSERT INTO account SELECT n, 'code-' || printf('%08d', n), 'label of account ' || n FROM c;
INSERT INTO booking SELECT number, number, code FROM account;
INSERT INTO pair SELECT code, number, 'note of pair ' || number FROM account;
"""


def test_keys_are_masked_alike_and_stay_unique_where_rows_would_collide_one_by_one(mask: Masking) -> None:
    rules = {
        "account": {"number": "preserve", "code": "preserve", "label": "hash"},
        "booking": {"id": "keep"},
        "pair": {"a": "hash", "b": "keep", "note": "hash"},
    }
    done = mask(KEYS, policy(rules))
    joined = "SELECT count(*) FROM booking b JOIN account a ON a.number = b.account AND a.code = b.code"
    assert rows(done.path, joined) == [(200,)]
    assert rows(done.path, "SELECT count(DISTINCT number), count(DISTINCT code) FROM account") == [(200, 200)]
    assert rows(done.path, "SELECT count(*) FROM account WHERE code LIKE 'code-000000%'") == [(0,)]
    assert rows(done.path, "PRAGMA foreign_key_check") == []
    assert rows(done.path, "PRAGMA integrity_check") == [("ok",)]


def test_a_key_that_is_masked_differently_from_what_refers_to_it_is_refused_before_anything_is_written(
    mask: Masking,
) -> None:
    rules = {
        "account": {"code": "hash", "*": "keep"},
        "booking": {"code": "preserve", "*": "keep"},
        "pair": {"*": "keep"},
    }
    with pytest.raises(MaskingError, match=r"main\.booking.*account"):
        mask(KEYS, policy(rules))


def test_triggers_do_not_fire_and_the_schema_stays_as_it_is_written(mask: Masking) -> None:
    schema = """
    CREATE TABLE audit (was TEXT);
    CREATE TRIGGER changed AFTER UPDATE ON person BEGIN INSERT INTO audit VALUES (old.email); END;
    CREATE TRIGGER removed AFTER DELETE ON person BEGIN INSERT INTO audit VALUES (old.email); END;
    CREATE VIEW reachable AS SELECT email FROM person;
    CREATE INDEX by_name ON person (lower(name)) WHERE id > 5;
    """
    done = mask(
        PEOPLE + schema, policy({"person": {"email": "email", "name": "hash", "*": "keep"}, "audit": {"*": "keep"}})
    )
    assert rows(done.path, "SELECT count(*) FROM audit") == [(0,)]
    again = made(done.path.with_name("again.db"), PEOPLE + schema)
    asked = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
    assert rows(done.path, asked) == rows(again, asked)


def test_generated_columns_follow_what_they_are_computed_from(mask: Masking) -> None:
    sql = """
    CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, upper_name TEXT GENERATED ALWAYS AS (upper(name)) STORED,
        short TEXT AS (substr(name, 1, 3)) VIRTUAL);
    CREATE INDEX by_upper ON t (upper_name);
    INSERT INTO t (name) VALUES ('some original name'), ('another original');
    """
    done = mask(sql, policy({"t": {"id": "keep", "name": "hash"}}))
    assert all(
        upper == name.upper() and short == name[:3]
        for name, upper, short in rows(done.path, "SELECT name, upper_name, short FROM t")
    )


def test_full_text_indexes_have_no_word_of_what_was_there(mask: Masking) -> None:
    sql = (
        PEOPLE
        + """
    CREATE VIRTUAL TABLE own USING fts5(body, tokenize = 'porter');
    INSERT INTO own SELECT 'owntoken' || id || ' walked home' FROM person;
    DELETE FROM own WHERE rowid > 250;
    CREATE VIRTUAL TABLE other USING fts5(name, content = 'person', content_rowid = 'id');
    INSERT INTO other(rowid, name) SELECT id, name FROM person;
    CREATE VIRTUAL TABLE old USING fts4(body);
    INSERT INTO old SELECT 'oldtoken' || id || ' walked home' FROM person;
    """
    )
    rules = {
        "person": {"email": "email", "name": "hash", "*": "keep"},
        "own": {"body": "hash"},
        "old": {"body": "hash"},
    }
    done = mask(sql, policy(rules))
    data = done.path.read_bytes()
    for word in (b"owntoken", b"oldtoken", b"Original Person", b"original", b"corp.invalid"):
        assert word not in data, word
    ((name,),) = rows(done.path, "SELECT name FROM person WHERE id = 7")
    assert rows(done.path, f"SELECT rowid FROM other WHERE other MATCH '\"{name}\"'") == [(7,)]


def test_an_index_that_has_the_words_of_rows_and_not_the_rows_is_refused(mask: Masking) -> None:
    sql = PEOPLE + "CREATE VIRTUAL TABLE words USING fts5(name, content = ''); INSERT INTO words(name) VALUES ('x y');"
    with pytest.raises(MaskingError, match="DROP TABLE words"):
        mask(sql, policy({"person": {"*": "keep"}}))
    done = mask(sql, policy({"person": {"*": "keep"}}), script="DROP TABLE words")
    assert rows(done.path, "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'words%'") == [(0,)]


def test_statistics_are_taken_anew_and_hold_no_original(mask: Masking) -> None:
    sql = PEOPLE + "CREATE INDEX by_name ON person (name); ANALYZE;"
    sql += "INSERT INTO sqlite_stat1 VALUES ('person', 'Original Statistic', '300 1');"
    done = mask(sql, policy({"person": {"email": "email", "name": "hash", "*": "keep"}}))
    found = rows(done.path, "SELECT DISTINCT idx FROM sqlite_stat1 WHERE tbl = 'person' ORDER BY idx")
    assert ("by_name",) in found
    assert ("Original Statistic",) not in found


def test_what_no_rule_decides_about_is_an_error_that_says_what_to_write(mask: Masking) -> None:
    with pytest.raises(MaskingError, match=r"main\.person[\s\S]*born") as found:
        mask(PEOPLE, policy({"person": {"email": "email", "name": "hash", "id": "keep"}}))
    assert found.value.reason == "MaskingUncovered"


def test_a_value_that_a_method_does_not_fit_fails_closed_and_is_not_shown(mask: Masking) -> None:
    sql = "CREATE TABLE t (c date); INSERT INTO t VALUES ('2001-02-03'), ('sometime in 1969');"
    with pytest.raises(MaskingError, match=r"main\.t\.c: a row holds text that is no date") as found:
        mask(sql, policy({"t": {"c": {"shift_days": 30}}}))
    assert "1969" not in str(found.value)


@pytest.mark.parametrize("written", [{"sql": "load_extension('evil')"}, {"sql": "writefile('/tmp/x', c)"}])
def test_expressions_of_policies_reach_nothing_outside(mask: Masking, written: dict[str, str]) -> None:
    with pytest.raises(MaskingError, match=r"not allowed|no such function"):
        mask("CREATE TABLE t (c text); INSERT INTO t VALUES ('some original');", policy({"t": {"c": written}}))


def test_an_original_in_a_column_that_nobody_decided_about_is_a_leak(mask: Masking) -> None:
    sql = PEOPLE + "CREATE TABLE copy (what TEXT); INSERT INTO copy SELECT email FROM person;"
    with pytest.raises(MaskingError, match=r"main\.copy\.what.*has .* originals of shop: main\.person\.email"):
        mask(sql, policy({"person": {"email": "email", "*": "keep"}}, unlisted="report"))


def test_a_script_that_masks_is_watched(mask: Masking) -> None:
    step = Script("mask.sql", "UPDATE person SET email = 'p' || id || '@example.com', name = 'x'")
    done = mask(PEOPLE, step)
    assert b"corp.invalid" not in done.path.read_bytes()
    assert {sample.masking.column.name for sample in done.masked.samples} >= {"email", "name"}


def test_a_check_constraint_that_masked_values_break_is_named(mask: Masking) -> None:
    sql = "CREATE TABLE t (c text CONSTRAINT upper_only CHECK (c = upper(c))); INSERT INTO t VALUES ('SOME ORIGINAL');"
    with pytest.raises(MaskingError, match=r"main\.t: masked values are refused: CHECK constraint failed: upper_only"):
        mask(sql, policy({"t": {"c": "hash"}}))


def test_a_database_in_utf16_is_masked_and_searched(mask: Masking) -> None:
    done = mask(
        "PRAGMA encoding = 'UTF-16le';" + PEOPLE, policy({"person": {"email": "email", "name": "hash", "*": "keep"}})
    )
    assert "Original".encode("utf-16-le") not in done.path.read_bytes()
