"""Customers and employees of Chinook, masked with what ``classify`` proposes for them: nothing of them is left."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import clone, image, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World

pytestmark = pytest.mark.postgres

SOURCE = Path(__file__).with_name("chinook.sql")
PERSONAL = ("first_name", "last_name", "company", "address", "phone", "fax", "email")
_SHORTEST = 8
"""Shorter values occur by chance in any file."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """The database as it is, classified, masked with the proposal, and a clone of each."""
    made = new_world()
    try:
        (made.root / "secrets" / "masking-key").write_text("a key for tests")
        made.write("dump/chinook.sql", SOURCE.read_text())
        dump = {"dump": {"path": "dump/chinook.sql"}}
        common = {"source": dump, "databases": ["chinook"], "scripts": []}
        made.write("plain.yaml", image("plain", **common, unmasked={"reason": "public"}), clone("plain", image="plain"))
        made.converge()
        made.write("shop.yaml", image("shop", **common, masking=["shop"]), clone("dev"))
        done = made.run("classify", "shop", "--write", str(made.root / "specs" / "policy.yaml"))
        assert done.returncode == 0, done.stderr
        made.converge()
        yield made
    finally:
        made.close()


def originals(world: World) -> dict[str, set[str]]:
    """Return every personal value of customers and employees, by column."""
    found: dict[str, set[str]] = {}
    for table in ("customer", "employee"):
        for row in world.sql("plain", f"SELECT to_jsonb(t) FROM {table} AS t", database="chinook"):
            for column in PERSONAL:
                if value := row[0].get(column):
                    found.setdefault(column, set()).add(value)
    return found


def test_no_value_of_a_person_is_in_its_column_any_more(world: World) -> None:
    for table, count in (("customer", 59), ("employee", 8)):
        before = world.sql("plain", f"SELECT to_jsonb(t) FROM {table} AS t ORDER BY 1", database="chinook")
        after = {
            row[0][f"{table}_id"]: row[0]
            for row in world.sql("dev", f"SELECT to_jsonb(t) FROM {table} AS t", database="chinook")
        }
        assert len(before) == len(after) == count
        same = [
            (table, column)
            for (row,) in before
            for column in PERSONAL
            if row.get(column) and row[column] == after[row[f"{table}_id"]][column]
        ]
        assert len(same) <= count // 10, same  # a list of names may give one to itself


def test_no_email_phone_name_or_address_is_in_a_file(world: World) -> None:
    (volume,) = [path for path in (world.pool_path / "volumes").iterdir() if path.name.startswith("shop-")]
    content = b"\0".join(path.read_bytes() for path in volume.rglob("*") if path.is_file())
    wanted = {value for column in ("email", "phone", "fax", "address", "company") for value in originals(world)[column]}
    names = world.sql("plain", "SELECT first_name || ' ' || last_name FROM customer", database="chinook")
    wanted |= {name for (name,) in names}
    assert [value for value in wanted if len(value) >= _SHORTEST and value.encode() in content] == []


def test_keys_and_amounts_are_as_before(world: World) -> None:
    question = (
        "SELECT c.customer_id, e.employee_id, count(*), sum(i.total) FROM customer c"
        " JOIN employee e ON e.employee_id = c.support_rep_id JOIN invoice i USING (customer_id)"
        " GROUP BY 1, 2 ORDER BY 1"
    )
    before = world.sql("plain", question, database="chinook")
    assert len(before) == 59
    assert world.sql("dev", question, database="chinook") == before


def test_the_attestation_names_every_rule_and_no_value(world: World) -> None:
    done = world.run("attest", "dev", "-o", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    text = json.dumps(told, ensure_ascii=False)
    assert '"customer.email"' in text or re.search(r"customer.{0,2000}email", text, re.DOTALL)
    assert not [value for values in originals(world).values() for value in values if len(value) > 5 and value in text]
