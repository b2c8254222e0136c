"""The proof that masking left nothing in MariaDB: it finds what is left, and knows why something may be there."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.engines.base import MaskingWork
from reconciler.errors import MaskingError
from reconciler.masking import keyed, leaks, reasons
from reconciler.state.desired import Script
from tests.engines.mysql.masking import KEY, KEYS, policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.masking.evidence import Evidence
    from reconciler.state.desired import Policy
    from tests.engines.mysql.conftest import MariaDbHarness

pytestmark = pytest.mark.long

PEOPLE = """
CREATE DATABASE shop; USE shop;
CREATE TABLE person (id int PRIMARY KEY, email varchar(60), name varchar(40), code varchar(40)) COLLATE utf8mb4_bin;
INSERT INTO person SELECT seq, concat('person', seq, '@corp.invalid'), concat('Original Person ', seq),
    concat('some code ', 1000 + seq) FROM seq_1_to_100;
"""
LEAKS = f"""
CREATE TABLE copied (what varchar(60));
INSERT INTO copied SELECT email FROM person WHERE id = 7;
CREATE TABLE loot (what text) ROW_FORMAT=COMPRESSED;
INSERT INTO loot VALUES (repeat('{keyed.subkey(KEY, "email").hex()} ', 50));
SET @told = (SELECT concat('CREATE TABLE told (a int) COMMENT ', quote(group_concat(name))) FROM person WHERE id < 80);
EXECUTE IMMEDIATE @told;
"""
RULES: dict[str, Any] = {"id": "keep", "email": "email", "name": {"fake": "full_name"}, "code": {"sql": "code"}}


def proved(harness: MariaDbHarness, sql: str, rules: Policy) -> Evidence:
    """Build, mask and prove as an image is, up to the search of the finished files."""
    work = harness.build_work()
    harness.engine.prepare(work)
    spec = harness.engine.build_server(work)
    harness.start(spec)

    @contextmanager
    def stopped() -> Iterator[None]:
        harness.stop(spec)
        yield
        harness.start(spec)

    try:
        with harness.engine.session(work) as session:
            session.run(Script("made.sql", sql))
            masked = session.mask(MaskingWork((rules,), KEYS, {}))
            session.isolate()
            session.settle()
            session.wipe(stopped)
            evidence = session.prove(masked)
    finally:
        harness.stop(spec)
    harness.engine.finish(work)
    leaks.judge(leaks.scan(work.directory, masked.samples, matcher=evidence.matcher), evidence.accepted)
    return evidence


def test_everything_that_is_left_is_told_at_once_and_no_value_of_it(mariadb: MariaDbHarness) -> None:
    with pytest.raises(MaskingError) as found:
        proved(mariadb, PEOPLE + LEAKS, policy({"person": RULES}, unlisted="report"))
    told = str(found.value)
    assert found.value.reason == "MaskingLeak"
    for word in ("shop.copied.what", "loot holds a masking key", "told.frm", "the rule sql changed no value"):
        assert word in told
    assert "corp.invalid" not in told
    assert "Original Person" not in told


def test_originals_that_a_rule_keeps_elsewhere_are_explained_and_counted(mariadb: MariaDbHarness) -> None:
    kept = """
    CREATE TABLE staff (id int PRIMARY KEY, name varchar(40), word varchar(20), KEY (word, name)) COLLATE utf8mb4_bin;
    INSERT INTO staff SELECT id, name, 'some' FROM person WHERE id <= 3;
    INSERT INTO staff VALUES (4, ' code 1055', 'some');
    """
    rules = {"person": {**RULES, "code": "hash"}, "staff": {"*": "keep"}}
    evidence = proved(mariadb, PEOPLE + kept, policy(rules))
    assert evidence.excluded[reasons.KEPT] == 3
    assert evidence.excluded[reasons.BESIDE] == 1
    assert [(one.column, one.values, one.decided) for one in evidence.exposed] == [("shop: shop.staff.name", 3, True)]
