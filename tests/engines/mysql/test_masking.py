"""Masking of MariaDB gives the reference's values, keeps everything around them, and fails closed."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from reconciler.engines.mysql import server
from reconciler.engines.mysql.masking import keys
from reconciler.engines.mysql.masking.introspect import read_schema
from reconciler.engines.mysql.masking.profile import profile_database
from reconciler.errors import MaskingError
from reconciler.masking import keyed, preserve
from reconciler.masking.schema import Family
from reconciler.masking.values import mask as reference
from reconciler.spec.masking_policy import MaskingPolicySpec
from reconciler.state.desired import Script
from tests.engines.mysql.masking import KEY, KEYS, masking_on, policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.engines.mysql.conftest import MariaDbHarness
    from tests.engines.mysql.masking import Masking


@pytest.fixture(scope="module")
def mask(mariadb: MariaDbHarness) -> Iterator[Masking]:
    with masking_on(mariadb) as made:
        yield made


def method(written: Any) -> Any:  # noqa: ANN401 - as YAML
    rule = {"table": "shop.t", "columns": {"c": written}}
    return MaskingPolicySpec.model_validate({"key": {"secret": "key"}, "rules": [rule]}).rules[0].columns["c"]


BIN, LATIN = "varchar(60) COLLATE utf8mb4_bin", "varchar(60) CHARACTER SET latin1"
DOCUMENT = '{"contact": {"email": "somebody@corp.invalid"}, "level": 7, "ratio": 0.5}'
VALUES: list[tuple[str, Any, str]] = [
    (BIN, "hash", "some original text"),
    (BIN + " NOT NULL", "hash", "some original text"),
    (BIN, {"hash": {"length": 24, "prefix": "x-"}}, "some original text"),
    (BIN, "email", "somebody@corp.invalid"),
    ("varchar(30)", {"email": {"domain": "example.org"}}, "Größe@corp.invalid"),
    (BIN, {"fake": "full_name"}, "Some Body"),
    (LATIN, {"fake": "city", "locale": "de"}, "Große Stadt"),
    (BIN, {"fake": "street", "locale": "fr"}, "1 Some Street"),
    (BIN, {"fake": "phone"}, "+49 30 1234567"),
    (BIN, {"fake": "user_name"}, "somebody"),
    (BIN, "preserve", "+49 30 1234567-89"),
    (BIN, {"preserve": "card"}, "4111 1111 1111 1111"),
    (BIN, {"preserve": "iban"}, "DE89370400440532013000"),
    (BIN, {"pattern": r"??-##\#"}, "AB-1234"),
    (BIN, {"partial": {"first": 2, "last": 2}}, "some original text"),
    ("longtext COLLATE utf8mb4_bin", "text", "call +49 30 1234567 or mail somebody@corp.invalid, Anna"),
    (BIN, {"fixed": r"it's \gone"}, "some original text"),
    ("varchar(60)", "hash", "Größe ŁÓDŹ Ⅷ Ǆ"),
    ("char(30)", "preserve", "Some Name"),
    ("int", "preserve", "123456"),
    ("bigint", {"noise": "12.5%"}, "9223372036854775806"),
    ("int unsigned", {"noise": "50%"}, "17"),
    ("smallint", {"bucket": 1000}, "-31234"),
    ("decimal(12,2)", {"noise": "10%"}, "1234.50"),
    ("decimal(10,3)", {"bucket": 0.5}, "-1234.567"),
    ("double", {"noise": "10%"}, "1234.5"),
    ("float", {"bucket": 100}, "1234.5"),
    ("date", {"shift_days": 30}, "2001-02-03"),
    ("date NOT NULL", {"shift": "900d"}, "9999-12-31"),
    ("date", {"bucket": "quarter"}, "2001-05-03"),
    ("date", {"bucket": "decade"}, "2001-05-03"),
    ("datetime(3)", {"shift": "8h"}, "2001-02-03 04:05:06.120"),
    ("datetime", {"shift_days": 30}, "0001-01-01 04:05:06"),
    ("datetime", {"bucket": "week"}, "2001-02-03 04:05:06"),
    ("timestamp NULL", {"bucket": "hour"}, "2001-02-03 04:05:06"),
    ("uuid", "hash", "0f8fad5b-d9cb-469f-a165-70867728950e"),
    ("varbinary(40)", "hash", "some original bytes"),
    ("json", {"json": {"$.contact.email": "email"}}, DOCUMENT),
]
"""Type, a rule, and a value."""


def test_values_become_what_the_reference_says(mask: Masking) -> None:
    columns = ", ".join(f"c{number} {declared}" for number, (declared, _, _) in enumerate(VALUES))
    literals = ", ".join("'" + value.replace("\\", "\\\\").replace("'", "''") + "'" for _, _, value in VALUES)
    rules = {f"c{number}": written for number, (_, written, _) in enumerate(VALUES)}
    statements = (
        f"CREATE TABLE t (id int PRIMARY KEY, {columns})",
        f"INSERT INTO t VALUES (1, {literals})",
        "CREATE TABLE before_ LIKE t",
        "INSERT INTO before_ SELECT * FROM t",
    )
    done = mask(statements, policy({"t": {"id": "keep", **rules}, "before_": {"*": "keep"}}))
    with server.connect(mask.work) as admin:
        table = next(one for one in read_schema(admin, "shop").tables if one.name.name == "t")
    ((_, *found),), ((_, *before),) = done.rows("SELECT * FROM t"), done.rows("SELECT * FROM before_")
    for result, value, column, (_, written, _) in zip(found, before, table.columns[1:], VALUES, strict=True):
        if column.family is Family.JSON:
            result, value = json.loads(result), json.loads(value, parse_float=Decimal)  # noqa: PLW2901
        original = UUID(value) if column.family is Family.UUID else value
        expected = reference(method(written), original, column, KEY)
        assert result == (str(expected) if column.family is Family.UUID else expected), (column.type, written)
        assert result != value, written


def test_null_and_the_empty_text_stay_unless_the_method_says_otherwise(mask: Masking) -> None:
    columns = {"a": "hash", "b": {"fake": "city"}, "c": "preserve", "d": {"hash": {"length": 12}, "keep_null": False}}
    done = mask(
        (
            "CREATE TABLE t (a text, b text, c text, d varchar(20) COLLATE utf8mb4_bin)",
            "INSERT INTO t VALUES (NULL, NULL, NULL, NULL), ('', '', '', '')",
        ),
        policy({"t": columns}),
    )
    hashed = keyed.keyed(KEY, "hash", "").hex()[:12]
    assert sorted(done.rows("SELECT * FROM t"), key=str) == [("", "", "", ""), (None, None, None, hashed)]
    assert [done.counts("t", name) for name in "abcd"] == [(2, 2, 1, 1), (2, 2, 1, 1), (2, 2, 1, 1), (2, 2, 0, 1)]


PEOPLE = (
    (
        "CREATE TABLE person (id int PRIMARY KEY AUTO_INCREMENT, email varchar(60) UNIQUE, name varchar(40), born date,"
        " pay decimal(10,2)) AUTO_INCREMENT=5000"
    ),
    (
        "INSERT INTO person SELECT seq, concat('person', seq, '@corp.invalid'), concat('Original Person ', seq),"
        " date '1970-01-01' + INTERVAL seq DAY, seq * 10.5 FROM seq_1_to_300"
    ),
)


def test_the_server_folds_letters_as_the_reference_does(mask: Masking) -> None:
    letters = "".join(chr(code) for code in range(0x41, 0x2200) if not 0xD800 <= code < 0xE000 and chr(code).isalpha())
    with keys.with_keys(mask.work, KEYS) as link:
        keys.install(link)
        parts = [letters[start : start + 50] for start in range(0, len(letters), 50)]
        folded = [link.value(f"SELECT {keys.folded('%s')}", part) for part in parts]
        keys.remove(link)
    assert folded == [keyed.fold(part) for part in parts]


def test_numbers_of_every_size_are_permuted_as_the_reference_does(mask: Masking) -> None:
    ends = {end + near for one in preserve.segments() for end in (one.low,) for near in (-1, 0, 1)}
    numbers = sorted(number for number in ends if -(1 << 63) <= number < 1 << 63)
    statements = (
        "CREATE TABLE t (id int PRIMARY KEY AUTO_INCREMENT, n bigint)",
        f"INSERT INTO t (n) VALUES {', '.join(f'({number})' for number in numbers)}, (NULL)",
    )
    done = mask(statements, policy({"t": {"id": "keep", "n": "preserve"}}))
    found = [number for (number,) in done.rows("SELECT n FROM t ORDER BY id")]
    assert found == [*(preserve.integer(number, KEY) for number in numbers), None]


def test_columns_that_ignore_case_are_masked_alike_whatever_their_case(mask: Masking) -> None:
    done = mask(
        ("CREATE TABLE t (c varchar(40))", "INSERT INTO t VALUES ('Jörg Ä'), ('JÖRG ä')"), policy({"t": {"c": "hash"}})
    )
    assert len(set(done.rows("SELECT c FROM t"))) == 1


def test_what_is_kept_of_a_text_keeps_its_case(mask: Masking) -> None:
    text = "Anna called from GB29 NWBK 6016 1331 9268 19"
    done = mask(
        ("CREATE TABLE t (a varchar(60), b text)", f"INSERT INTO t VALUES ('Some Original', '{text}')"),
        policy({"t": {"a": {"partial": {"first": 2, "last": 3}}, "b": "text"}}),
    )
    assert done.rows("SELECT * FROM t") == [("So********nal", "[name] called from [iban]")]


def test_a_rule_with_a_condition_leaves_other_rows_as_they_are(mask: Masking) -> None:
    rules = {"name": "hash", "pay": {"noise": "10%"}, "born": "null", "*": "keep"}
    done = mask(PEOPLE, policy({"person": rules}, when="t.id > 100 AND pay > 0"))
    kept = "SELECT count(*), sum(pay = id * 10.5), count(born) FROM person WHERE name LIKE 'Original Person%'"
    assert done.rows(kept) == [(100, 100, 100)]
    assert done.counts("person", "name") == (300, 200, 0, 0)
    assert done.counts("person", "born") == (300, 200, 200, 0)


def test_shuffle_gives_every_row_the_value_of_another_of_its_group(mask: Masking) -> None:
    rules = {"born": "shuffle", "pay": {"shuffle": {"within": "name"}}, "*": "keep"}
    done = mask((*PEOPLE, "UPDATE person SET name = id % 3"), policy({"person": rules}))
    found = done.rows("SELECT id, datediff(born, '1970-01-01'), CAST(pay / 10.5 AS int) FROM person")
    assert sorted(born for _, born, _ in found) == list(range(1, 301))
    assert [id_ for id_, born, _ in found if id_ == born] == []
    assert [id_ for id_, _, pay in found if id_ == pay or id_ % 3 != pay % 3] == []


def test_an_expression_of_the_policy_is_computed_from_the_row_without_the_keys(mask: Masking) -> None:
    got = "concat('got ', coalesce(@reconciler_digest, 'nothing'))"
    spy = f"CREATE FUNCTION spy(what text) RETURNS text READS SQL DATA RETURN {got}"
    rules = {"name": {"sql": "concat('No. ', id)"}, "email": {"sql": "concat(shop.spy(email), id)"}, "*": "keep"}
    done = mask((*PEOPLE, spy), policy({"person": rules}))
    assert done.rows("SELECT name, email FROM person WHERE id = 7") == [("No. 7", "got nothing7")]


def test_keys_are_masked_alike_stay_unique_and_refer_to_each_other(mask: Masking) -> None:
    done = mask(
        (
            "CREATE TABLE account (number int PRIMARY KEY, code varchar(20) NOT NULL UNIQUE)",
            (
                "CREATE TABLE booking (id int PRIMARY KEY, account int, code varchar(20), KEY (code),"
                " CONSTRAINT of_account FOREIGN KEY (account) REFERENCES account (number) ON DELETE CASCADE,"
                " FOREIGN KEY (code) REFERENCES account (code))"
            ),
            "INSERT INTO account SELECT seq, concat('code-', lpad(seq, 8, '0')) FROM seq_1_to_200",
            "INSERT INTO booking SELECT number, number, code FROM account",
        ),
        policy({"account": {"number": "preserve", "code": "preserve"}, "booking": {"id": "keep"}}),
    )
    joined = "SELECT count(*) FROM booking b JOIN account a ON a.number = b.account AND a.code = b.code"
    assert done.rows(joined) == [(200,)]
    assert done.rows("SELECT count(DISTINCT number), count(DISTINCT code) FROM account") == [(200, 200)]
    rules = (
        "SELECT delete_rule FROM information_schema.referential_constraints WHERE constraint_schema = 'shop' ORDER BY 1"
    )
    assert done.rows(rules) == [("CASCADE",), ("RESTRICT",)]


def test_everything_around_the_rows_stays_as_it_was(mask: Masking) -> None:
    schema = (
        "CREATE TABLE audit (was varchar(60))",
        "CREATE TRIGGER changed AFTER UPDATE ON person FOR EACH ROW INSERT INTO audit VALUES (concat('ä', old.email))",
        "CREATE TRIGGER added AFTER INSERT ON person FOR EACH ROW INSERT INTO audit VALUES (new.email)",
        "CREATE VIEW reachable AS SELECT email FROM person",
        (
            "ALTER TABLE person ADD shout varchar(40) AS (upper(name)) STORED,"
            " ADD short varchar(9) AS (left(name, 9)) VIRTUAL, ADD KEY (short),"
            " ADD CONSTRAINT paid CHECK (pay > 0), COMMENT 'of people'"
        ),
    )
    asked = ("SHOW CREATE TABLE person", "SHOW CREATE TRIGGER changed", "SHOW CREATE TRIGGER added")
    made = mask.make((*PEOPLE, *schema))
    before = [made.rows(one)[0][:3] for one in asked]
    done = mask(
        (*PEOPLE, *schema), policy({"person": {"email": "email", "name": "hash", "*": "keep"}, "audit": {"*": "keep"}})
    )
    assert [done.rows(one)[0][:3] for one in asked] == before
    assert done.rows("SELECT count(*) FROM audit") == [(0,)]
    assert done.rows("SELECT count(*) FROM person WHERE shout <> upper(name) OR short <> left(name, 9)") == [(0,)]


def test_every_version_of_a_row_and_every_partition_and_engine_is_masked(mask: Masking) -> None:
    done = mask(
        (
            "CREATE TABLE kept (id int PRIMARY KEY, who varchar(40)) WITH SYSTEM VERSIONING",
            "INSERT INTO kept SELECT seq, 'the first' FROM seq_1_to_9",
            "UPDATE kept SET who = 'the second'",
            "CREATE TABLE past LIKE kept",
            "CREATE TABLE part (id int PRIMARY KEY, who varchar(40)) PARTITION BY HASH (id) PARTITIONS 3",
            "INSERT INTO part SELECT seq, concat('part ', seq) FROM seq_1_to_9",
            "CREATE TABLE other (who varchar(40) CHARACTER SET ucs2) ENGINE=MyISAM",
            "INSERT INTO other VALUES ('some name')",
        ),
        policy(
            {
                "kept": {"id": "keep", "who": "hash"},
                "part": {"id": "keep", "who": "hash"},
                "other": {"who": "hash"},
                "past": {"*": "keep"},
            }
        ),
    )
    asked = "count(*), count(DISTINCT who), sum(who LIKE 'the %'), sum(row_end < now(6))"
    assert done.rows(f"SELECT {asked} FROM kept FOR SYSTEM_TIME ALL") == [(18, 2, 0, 9)]
    assert done.rows("SELECT count(DISTINCT who), sum(who LIKE 'part%') FROM part PARTITION (p0, p1, p2)") == [(9, 0)]
    assert done.rows("SELECT length(who), engine FROM other, information_schema.tables WHERE table_name = 'other'") == [
        (32, "MyISAM")
    ]
    assert done.counts("kept", "who") == (18, 18, 0, 0)


REFUSED: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
    (
        ("CREATE TABLE t (c varchar(9) CHARACTER SET latin1)", "INSERT INTO t VALUES ('x')"),
        {"fixed": "Łódź"},
        r"shop\.t: masked",
    ),
    (
        ("CREATE TABLE t (c varchar(40), CONSTRAINT small CHECK (c = 'x'))", "INSERT INTO t VALUES ('x')"),
        {"fixed": "y"},
        "small",
    ),
    (
        ("CREATE TABLE t (c varchar(40))", "INSERT INTO t VALUES ('zq7 original')"),
        {"sql": "nowhere.nothing(c)"},
        "expression of a policy",
    ),
    (("CREATE TABLE t (c varchar(40))", "INSERT INTO t VALUES ('x')"), {"sql": "load_file('/etc/passwd')"}, ""),
    (("CREATE TABLE t (c bigint unsigned)", "INSERT INTO t VALUES (18446744073709551615)"), {"x": 1}, "64 bits"),
    (
        ("CREATE TABLE t (c varchar(9) PRIMARY KEY) COLLATE utf8mb4_bin", "INSERT INTO t VALUES ('x'), ('y')"),
        {"sql": "'same'"},
        "duplicate",
    ),
    (
        (
            (
                "CREATE TABLE t (c varchar(40), s bigint unsigned AS ROW START, e bigint unsigned AS ROW END,"
                " PERIOD FOR SYSTEM_TIME (s, e)) WITH SYSTEM VERSIONING ENGINE=InnoDB"
            ),
        ),
        {"fixed": "x"},
        "DROP SYSTEM VERSIONING",
    ),
]


@pytest.mark.parametrize(("statements", "written", "told"), REFUSED)
def test_what_cannot_be_done_is_an_error_without_any_value(
    mask: Masking, statements: tuple[str, ...], written: dict[str, Any], told: str
) -> None:
    rule = "preserve" if "x" in written else written
    if not told:
        done = mask(statements, policy({"t": {"c": rule}}))
        assert done.rows("SELECT c FROM t") == [(None,)]
        return
    with pytest.raises(MaskingError, match=told) as found:
        mask(statements, policy({"t": {"c": rule}}))
    assert "zq7" not in str(found.value)


def test_rows_that_lose_what_they_refer_to_are_an_error(mask: Masking) -> None:
    statements = (
        "CREATE TABLE a (code varchar(20) COLLATE utf8mb4_general_ci PRIMARY KEY)",
        "CREATE TABLE b (code varchar(20) COLLATE utf8mb4_general_ci, FOREIGN KEY (code) REFERENCES a (code))",
        "INSERT INTO a VALUES ('résumé')",
        "INSERT INTO b VALUES ('resume')",
    )
    with pytest.raises(MaskingError, match="1 rows of b refer to rows of a"):
        mask(statements, policy({"a": {"code": "hash"}}, unlisted="report"))


def test_what_no_rule_decides_about_is_an_error_that_says_what_to_write(mask: Masking) -> None:
    with pytest.raises(MaskingError, match=r"shop\.person[\s\S]*born") as found:
        mask(PEOPLE, policy({"person": {"email": "email", "name": "hash", "id": "keep", "pay": "keep"}}))
    assert found.value.reason == "MaskingUncovered"


def test_discovery_is_told_of_every_table_and_what_its_columns_hold(mask: Masking) -> None:
    made = mask.make(
        (
            "CREATE TABLE kept (id int PRIMARY KEY, who varchar(40), what json) WITH SYSTEM VERSIONING",
            "INSERT INTO kept VALUES (1, 'somebody', '{}')",
        )
    )
    with server.connect(made.work) as admin:
        found = profile_database(admin, "shop", made.work.cancel)
    (table,) = found.schema.tables
    assert [(one.name, one.family) for one in table.columns] == [
        ("id", Family.INTEGER), ("who", Family.TEXT), ("what", Family.JSON),
    ]  # fmt: skip
    assert found.drawn[table.name, "who"].values == ("somebody",)


def test_a_script_that_masks_is_watched(mask: Masking) -> None:
    step = Script("mask.sql", "UPDATE person SET email = concat('p', id, '@example.com'), name = 'x'", database="shop")
    done = mask(PEOPLE, step)
    assert {sample.masking.column.name for sample in done.masked.samples} == {"email", "name"}


def test_the_reserved_database_is_refused(mask: Masking) -> None:
    with pytest.raises(MaskingError, match="DROP DATABASE reconciler_masking"):
        mask((*PEOPLE, "CREATE DATABASE reconciler_masking"), policy({"person": {"*": "keep"}}))
