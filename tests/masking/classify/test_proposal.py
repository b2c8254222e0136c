"""A proposal is a policy that is valid, complete and fits the schema, and it shows no value."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from reconciler.ids import PolicyName
from reconciler.masking.classify.policy import policy_document
from reconciler.masking.classify.profiles import DatabaseProfile, Drawn
from reconciler.masking.classify.proposal import personal_by_name, propose
from reconciler.masking.classify.render import proposal_json, proposal_text
from reconciler.masking.coverage import cover
from reconciler.masking.schema import Column, DatabaseSchema, Family, ForeignKey, Table, TableName
from reconciler.spec.documents import SpecFile, policy_of
from reconciler.spec.loader import load
from reconciler.state.desired import Policy
from tests.masking.classify.measure import profile_of
from tests.masking.classify.samples import labelled, schema_files

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.masking.assignment import DatabaseMasking
    from reconciler.masking.classify.proposal import Proposed

CUSTOMER, INVOICE = TableName("public", "customer"), TableName("public", "invoice")
ID = Column(name="id", type="integer", family=Family.INTEGER, integer_bytes=4, nullable=False)


def text(name: str, **options: object) -> Column:
    return Column(name=name, type="text", family=Family.TEXT, **options)  # type: ignore[arg-type] # options of a column


def profile(*tables: Table, **drawn: list[str]) -> DatabaseProfile:
    """A database; values are given by the names of columns."""
    values = {(t.name, c.name): Drawn(tuple(drawn.get(c.name, ())), 100) for t in tables for c in t.columns}
    return DatabaseProfile(DatabaseSchema("shop", tables), values)


def masking(found: DatabaseProfile, rows: tuple[Proposed, ...] | None = None) -> DatabaseMasking:
    """What coverage makes of the written policy; it raises for whatever does not fit."""
    written = policy_document("pii", rows or propose(found), key="masking-key")
    loaded = load([SpecFile("pii.yaml", written.encode())])
    assert [str(one) for one in loaded.diagnostics] == []
    return cover([Policy(PolicyName("pii"), policy_of(loaded.documents[0]).spec)], [found.schema])[0]


def methods(found: DatabaseProfile) -> dict[str, object]:
    return {row.column: row.method for row in propose(found)}


@pytest.mark.parametrize("path", schema_files(), ids=lambda path: path.stem)
def test_the_policy_for_every_labelled_schema_is_valid_and_leaves_no_column_open(path: Path) -> None:
    found = profile_of(labelled(path))
    assert masking(found).reports == ()


@pytest.mark.parametrize("path", schema_files(), ids=lambda path: path.stem)
def test_no_value_is_in_what_is_written_or_shown(path: Path) -> None:
    columns = labelled(path)
    rows = propose(profile_of(columns))
    shown = "\n".join(
        [
            policy_document("pii", rows, key="masking-key"),
            proposal_text(rows, databases=1),
            json.dumps(proposal_json("shop", rows), ensure_ascii=False),
        ]
    )
    personal = {value for one in columns if one.personal for value in one.values if len(value) > 7}
    assert [value for value in personal if value in shown] == []


def test_a_column_that_refers_to_another_is_left_to_that_one() -> None:
    customer = Table(name=CUSTOMER, columns=(text("email", nullable=False),), unique=(frozenset({"email"}),))
    key = ForeignKey(("customer_email",), CUSTOMER, ("email",), "invoice_customer")
    invoice = Table(name=INVOICE, columns=(ID, text("customer_email")), foreign_keys=(key,))
    found = profile(customer, invoice)
    assert methods(found) == {"email": "email", "id": "keep", "customer_email": None}
    assert [(str(t.name), [c.column.name for c in t.columns]) for t in masking(found).tables] == [
        ("public.customer", ["email"]),
        ("public.invoice", ["customer_email"]),
    ]


def test_columns_that_refer_to_each_other_in_a_circle_get_one_rule() -> None:
    one = Table(name=CUSTOMER, columns=(ID,), foreign_keys=(ForeignKey(("id",), INVOICE, ("id",), "a"),))
    other = Table(name=INVOICE, columns=(ID,), foreign_keys=(ForeignKey(("id",), CUSTOMER, ("id",), "b"),))
    found = profile(one, other)
    assert [row.method for row in propose(found)] == ["keep", None]
    assert masking(found).tables == ()


def test_unique_names_get_a_method_that_keeps_them_distinct() -> None:
    table = Table(name=CUSTOMER, columns=(text("user_name"), text("last_name")), unique=(frozenset({"user_name"}),))
    found = profile(table)
    assert methods(found)["user_name"] == "preserve"
    assert methods(found)["last_name"] == {"fake": "last_name"}
    assert len(masking(found).tables[0].columns) == 2


def test_a_column_too_short_for_its_method_gets_another_one() -> None:
    found = profile(Table(name=CUSTOMER, columns=(text("email", length=10), text("password", length=8))))
    assert methods(found)["email"] == "preserve"
    assert methods(found)["password"] == {"hash": {"length": 8}}
    masking(found)


def test_what_the_database_computes_gets_no_rule() -> None:
    computed = text("full_name", generated=True, computed_from=("first_name",))
    found = profile(Table(name=CUSTOMER, columns=(text("first_name"), computed)))
    assert methods(found)["full_name"] is None
    masking(found)


def test_partitions_and_heirs_are_covered_by_the_rules_of_their_parents() -> None:
    root = Table(name=CUSTOMER, columns=(ID, text("email")), has_rows=False)
    part = Table(name=TableName("public", "customer_1"), columns=(ID, text("email")), parents=(CUSTOMER,))
    person = Table(name=TableName("public", "person"), columns=(text("surname"),))
    heir = Table(name=TableName("public", "employee"), columns=(text("surname"), text("iban")), parents=(person.name,))
    found = profile(root, part, person, heir)
    assert [row.place for row in propose(found)] == [
        *("public.customer.id", "public.customer.email", "public.person.surname", "public.employee.iban"),
    ]
    assert {str(table.name) for table in masking(found).tables} == {
        *("public.customer_1", "public.person", "public.employee"),
    }


def test_tables_of_extensions_and_of_other_servers_get_no_rule() -> None:
    foreign = Table(name=CUSTOMER, columns=(text("email"),), foreign=True)
    owned = Table(name=INVOICE, columns=(text("email"),), extension="crm")
    own = Table(name=TableName("public", "item"), columns=(ID,))
    assert [row.place for row in propose(profile(foreign, owned, own))] == ["public.item.id"]


def test_personal_data_within_documents_gets_rules_by_path() -> None:
    column = Column(name="data", type="jsonb", family=Family.JSON)
    documents = [
        json.dumps({"contact": {"email": f"ann{n}@example.org"}, "tags": ["a", "b"], "size": n}) for n in range(20)
    ]
    found = profile(Table(name=INVOICE, columns=(column,)), data=documents)
    assert methods(found)["data"] == {"json": {"$.contact.email": "email"}}
    masking(found)


def test_keys_that_are_data_themselves_are_told_to_nobody() -> None:
    column = Column(name="data", type="jsonb", family=Family.JSON)
    addresses = {f"h{n}@example.org": "h@example.org" for n in range(3)}
    documents = [json.dumps({f"hannah{n}": f"hannah{n}@example.org", "size": "big"} | addresses) for n in range(20)]
    found = profile(Table(name=INVOICE, columns=(column,)), data=documents)
    (row,) = propose(found)
    assert row.method == {"fixed": "{}"}
    assert "hannah" not in row.reason
    assert "@" not in row.reason
    masking(found)


def test_values_outweigh_a_name_that_says_something_else() -> None:
    addresses = [f"ann{n}@example.org" for n in range(50)]
    found = profile(Table(name=TableName("public", "x"), columns=(text("email_count"), text("c17"))), c17=addresses)
    assert methods(found) == {"email_count": "keep", "c17": "email"}


def test_a_policy_for_one_of_several_databases_says_which() -> None:
    rows = propose(profile(Table(name=CUSTOMER, columns=(text("email"),))))
    assert "database: shop" in policy_document("pii", rows, key="k", databases=2)


def test_large_objects_are_not_passed_over() -> None:
    assert "largeObjects: remove" in policy_document("pii", (), key="k", large_objects=3)


def test_columns_that_look_personal_and_are_kept_are_told_by_name() -> None:
    customer = Table(name=CUSTOMER, columns=(ID, text("email"), text("phone"), text("email_count"), text("shirt")))
    found = profile(customer)
    rows = tuple(row for row in propose(found) if row.column != "phone")
    kept = masking(found, (*rows, *(replaced(row) for row in propose(found) if row.column == "phone")))
    assert personal_by_name(found.schema, kept) == ("public.customer.phone",)


def replaced(row: Proposed) -> Proposed:
    from dataclasses import replace  # noqa: PLC0415

    return replace(row, method="keep")


def test_of_a_music_shop_all_that_identifies_customers_and_employees_is_masked_by_names_alone() -> None:
    names = "first_name last_name company address city state country postal_code phone fax email"
    customer = Table(name=CUSTOMER, columns=(ID, *map(text, names.split())))
    employee = Table(name=TableName("public", "employee"), columns=(ID, *map(text, names.split())))
    track = Table(name=TableName("public", "track"), columns=(ID, text("name"), text("composer")))
    found = masking(profile(customer, employee, track))
    masked = {(str(table.name), one.column.name) for table in found.tables for one in table.columns}
    personal = set(names.split()) - {"state", "country"}
    assert masked == {(table, name) for table in ("public.customer", "public.employee") for name in personal}
