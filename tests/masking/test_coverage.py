"""Policies and a real schema become a complete assignment, or one error that says everything."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from reconciler.errors import MaskingError
from reconciler.masking.coverage import cover
from reconciler.masking.schema import DatabaseSchema, Table, TableName, View
from reconciler.masking.vocabulary import name_of
from tests.masking.schemas import a_column, a_policy, a_rule, a_schema, a_table, name, policies, schemas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.masking.assignment import ColumnMasking, DatabaseMasking
    from reconciler.state.desired import Policy

CUSTOMER = a_table("public.customer", "id int !", "email text", "name text", key="id")
ORDER = a_table(
    "public.order", "id int !", "customer int", "note text", key="id", refers={"customer": "public.customer(id)"}
)


def masked(schema: DatabaseSchema, *named: Policy) -> dict[str, str]:
    """Return the method of each masked column, as ``table.column``."""
    return {place: name_of(one.method) for place, one in columns(schema, *named).items()}


def columns(schema: DatabaseSchema, *named: Policy) -> dict[str, ColumnMasking]:
    (found,) = cover(named, [schema])
    return {f"{table.name.name}.{one.column.name}": one for table in found.tables for one in table.columns}


def reports(schema: DatabaseSchema, *named: Policy) -> tuple[str, ...]:
    (found,) = cover(named, [schema])
    return found.reports


def refused(schema: DatabaseSchema | tuple[DatabaseSchema, ...], *named: Policy) -> list[str]:
    """Return the findings of the error."""
    with pytest.raises(MaskingError) as caught:
        cover(named, schema if isinstance(schema, tuple) else [schema])
    assert caught.value.reason == "MaskingUncovered"
    first, *rest = caught.value.message.split("\n- ")
    things = "1 thing" if len(rest) == 1 else f"{len(rest)} things"
    if not any("decide about each" in one for one in rest):
        assert first == f"policy and schema do not fit: {things} to put right"
    return rest


# Matching


def test_columns_that_rules_name_get_their_methods() -> None:
    rule = a_rule("public.customer", id="keep", email="email", name={"fake": "full_name"})
    assert masked(a_schema(CUSTOMER), a_policy(rule)) == {"customer.email": "email", "customer.name": "fake"}


def test_a_masked_column_knows_its_policy_its_key_and_its_condition() -> None:
    policy = a_policy(a_rule("public.customer", when="id > 5", email="email"), key="secret-key")
    (one,) = columns(a_schema(CUSTOMER), policy).values()
    assert (one.policy, one.key, one.when, one.inherited_from) == ("pii", "secret-key", "id > 5", None)


def test_globs_match_tables_and_columns() -> None:
    tables = a_table("public.a", "e_mail text", "x text"), a_table("other.a", "e_mail text")
    assert masked(a_schema(*tables), a_policy(a_rule("public.*", **{"e*l": "email"}))) == {"a.e_mail": "email"}


def test_names_with_dots_and_glob_characters_are_matched_as_they_are() -> None:
    tables = a_table("public.a.b", "x text"), a_table("public.c[1]", "x[y] text"), a_table("public.c1", "xy text")
    rules = a_rule("public.a.b", x="hash"), a_rule("public.c[1]", **{"x[y]": "hash"})
    # the pattern c[1] also means c1, as it always does
    assert masked(a_schema(*tables), a_policy(*rules)) == {"a.b.x": "hash", "c[1].x[y]": "hash", "c1.xy": "hash"}


@pytest.mark.parametrize(
    ("special", "general"),
    [
        (a_rule("public.customer", email="keep"), a_rule("public.*", email="email")),
        (a_rule("public.customer", email="keep"), a_rule("public.customer", **{"e*": "email"})),
        (a_rule("public.*", email="keep"), a_rule("*.*", email="email")),
        (a_rule("public.customer", database="shop", email="keep"), a_rule("public.customer", email="email")),
    ],
)
def test_the_more_exact_rule_wins_wherever_it_stands(special: dict[str, Any], general: dict[str, Any]) -> None:
    schema = a_schema(CUSTOMER)
    assert masked(schema, a_policy(special, general)) == masked(schema, a_policy(general, special)) == {}
    assert masked(schema, a_policy(general, policy="first"), a_policy(special)) == {}


def test_a_column_by_name_wins_over_a_glob_of_the_same_rule() -> None:
    rule = a_rule("public.customer", **{"*": "keep", "email": "email"})
    assert masked(a_schema(CUSTOMER), a_policy(rule)) == {"customer.email": "email"}


def test_among_equals_the_policy_that_is_named_first_wins() -> None:
    one, two = (
        a_policy(a_rule("public.customer", email="email"), policy="one"),
        a_policy(a_rule("public.customer", email="hash"), policy="two"),
    )
    assert masked(a_schema(CUSTOMER), one, two) == {"customer.email": "email"}
    assert masked(a_schema(CUSTOMER), two, one) == {"customer.email": "hash"}


def test_a_policy_that_keeps_what_another_one_masks_is_reported() -> None:
    one = a_policy(a_rule("public.customer", email="keep"), policy="one")
    two = a_policy(a_rule("public.*", email="hash"), policy="two")
    assert reports(a_schema(CUSTOMER), one, two) == (
        (
            "shop: public.customer.email stays as it is: keep (rule public.customer of the policy one) overrules"
            " hash (rule public.* of the policy two)"
        ),
    )


@pytest.mark.parametrize(
    "other",
    [
        a_rule("public.customer", email="hash"),
        a_rule("public.customer", when="true", email="email"),
        a_rule("public.customer", email={"email": {"domain": "example.org"}}),
    ],
)
def test_rules_of_one_policy_that_contradict_each_other_are_refused(other: dict[str, Any]) -> None:
    (line,) = refused(a_schema(CUSTOMER), a_policy(a_rule("public.customer", email="email"), other))
    assert line.startswith("shop: public.customer.email is email (rule public.customer of the policy pii) and ")
    assert line.endswith(": leave one of them out")


def test_globs_that_contradict_each_other_are_refused() -> None:
    (line,) = refused(a_schema(CUSTOMER), a_policy(a_rule("public.customer", **{"e*": "email", "*l": "hash"})))
    assert "rule public.customer, e* of" in line
    assert "rule public.customer, *l of" in line


def test_a_rule_that_is_more_exact_in_one_part_and_less_in_another_wins_nothing() -> None:
    rules = a_rule("public.customer", **{"*": "keep"}), a_rule("public.*", email="email")
    (line,) = refused(a_schema(CUSTOMER), a_policy(*rules))
    assert line.startswith("shop: public.customer.email is keep")


def test_rules_that_say_the_same_may_meet() -> None:
    rules = a_rule("public.customer", email="hash"), a_rule("public.customer", email={"hash": {"length": 16}})
    assert masked(a_schema(CUSTOMER), a_policy(*rules)) == {"customer.email": "hash"}


def test_names_that_match_nothing_are_all_told_with_what_was_probably_meant() -> None:
    policy = a_policy(
        a_rule("public.custmer", email="email"),
        a_rule("public.customer", emial="email", **{"phone*": "hash"}),
        a_rule("public.customer", database="shopp", email="email"),
    )
    assert refused(a_schema(CUSTOMER), policy) == [
        'the policy pii has a rule for public.custmer, which matches no table; did you mean "public.customer"?',
        'the policy pii has a rule for public.customer, which has no column emial; did you mean "email"?',
        "the policy pii has a rule for public.customer, which has no column phone*",
        'the policy pii has a rule for the database shopp, which the image does not have; did you mean "shop"?',
    ]


def test_case_counts() -> None:
    (line,) = refused(a_schema(CUSTOMER), a_policy(a_rule("public.Customer", email="email")))
    assert line.endswith('did you mean "public.customer"?')


def test_a_rule_has_to_match_in_one_database_only() -> None:
    crm = a_schema(a_table("public.lead", "email text"), database="crm")
    policy = a_policy(a_rule("public.lead", email="email"), a_rule("public.customer", email="email"))
    first, second = cover([policy], [a_schema(CUSTOMER), crm])
    assert [one.database for one in (first, second)] == ["shop", "crm"]
    assert [str(table.name) for one in (first, second) for table in one.tables] == ["public.customer", "public.lead"]


def test_a_rule_for_a_table_of_another_database_is_told_where_it_is() -> None:
    crm = a_schema(a_table("public.lead", "email text"), database="crm")
    (line,) = refused((a_schema(CUSTOMER), crm), a_policy(a_rule("public.lead", database="shop", email="email")))
    assert line == "the policy pii has a rule for public.lead, which is in the database crm only"


def test_a_view_is_told_with_the_tables_that_it_shows() -> None:
    views = View(name("public.v"), (name("public.customer"),)), View(name("public.m"), (), materialized=True)
    schema = replace(a_schema(CUSTOMER), views=views)
    assert refused(schema, a_policy(a_rule("public.v", email="email"), a_rule("public.m", email="email"))) == [
        "the policy pii has a rule for public.v, which is a view: tables are masked; write rules for public.customer",
        (
            "the policy pii has a rule for public.m, which is a materialized view, filled again after masking:"
            " tables are masked"
        ),
    ]


def test_a_foreign_table_has_nothing_to_mask() -> None:
    schema = a_schema(CUSTOMER, a_table("public.far", "email text", foreign=True))
    (line,) = refused(schema, a_policy(a_rule("public.far", email="email")))
    assert line.startswith("shop: public.far is a foreign table: its rows are on another server")
    assert masked(schema, a_policy(a_rule("public.*", email="email"), unlisted="fail")) == {"customer.email": "email"}
    (line,) = refused(schema, a_policy(a_rule("public.f*", email="email")))
    assert "matches foreign tables only" in line


def test_tables_of_extensions_stay_unless_they_are_named_exactly() -> None:
    schema = a_schema(CUSTOMER, a_table("public.spatial_ref_sys", "email text", extension="postgis"))
    every = a_rule("public.*", **{"*": "hash", "id": "keep"})
    assert masked(schema, a_policy(every)) == {"customer.email": "hash", "customer.name": "hash"}
    exact = a_policy(every, a_rule("public.spatial_ref_sys", email="email"))
    assert masked(schema, exact)["spatial_ref_sys.email"] == "email"
    for unlisted in ("report", "fail"):
        assert reports(schema, a_policy(every, unlisted=unlisted)) == (
            "shop: no rule matches public.spatial_ref_sys (of postgis)",
        )
    assert reports(schema, a_policy(every, unlisted="keep")) == ()


def test_a_computed_column_takes_no_rule_and_needs_none() -> None:
    schema = a_schema(a_table("public.t", "a text", "b text", "whole computed <a,b"))
    (line,) = refused(schema, a_policy(a_rule("public.t", whole="keep", a="hash")))
    assert line == (
        "shop: public.t.whole is computed from a, b; write rules for what it is computed from, and none for it"
    )
    policy = a_policy(a_rule("public.t", **{"*": "hash"}), unclassified="fail")
    assert masked(schema, policy) == {"t.a": "hash", "t.b": "hash"}


# Partitions and heirs


SALE = a_table("public.sale", "id int", "at date", "email text", has_rows=False)
SALE_A = a_table("public.sale_a", "email text", "id int", "at date /", parents=["public.sale"])


def test_a_rule_for_a_partitioned_table_holds_for_its_partitions() -> None:
    found = columns(a_schema(SALE, SALE_A), a_policy(a_rule("public.sale", email="email", at={"shift_days": 3})))
    assert {place: name_of(one.method) for place, one in found.items()} == {
        "sale_a.email": "email",
        "sale_a.at": "shift_days",
    }
    assert found["sale_a.at"].column.partition_key


def test_a_rule_for_a_parent_holds_for_its_heirs_and_leaves_their_own_columns_open() -> None:
    heir = a_table("public.vip", "email text", "gift text", parents=["public.base"])
    schema = a_schema(a_table("public.base", "email text"), heir)
    policy = a_policy(a_rule("public.base", email="email"), unclassified="report")
    assert masked(schema, policy) == {"base.email": "email", "vip.email": "email"}
    assert reports(schema, policy) == ("shop: no rule names public.vip.gift",)


@pytest.mark.parametrize("has_rows", [False, True])
def test_a_rule_for_a_part_that_contradicts_the_whole_is_refused(has_rows: bool) -> None:  # noqa: FBT001 - a case
    schema = a_schema(replace(SALE, has_rows=has_rows), SALE_A)
    rules = a_rule("public.sale", email="email"), a_rule("public.sale_a", email="keep")
    (line,) = refused(schema, a_policy(*rules))
    assert line.startswith("shop: public.sale_a.email is ")
    (line,) = refused(schema, a_policy(rules[1], policy="first"), a_policy(rules[0]))
    what = "inherits from" if has_rows else "is a partition of"
    assert f"is keep (rule public.sale_a of the policy first), but public.sale_a {what} public.sale, whose" in line


def test_what_is_wrong_with_a_partitioned_table_is_said_once() -> None:
    leaves = [replace(SALE_A, name=name(f"public.sale_{number}")) for number in range(50)]
    policy = a_policy(a_rule("public.sale", email={"shift_days": 3}), unclassified="fail", unlisted="fail")
    lines = refused(a_schema(SALE, *leaves), policy)
    assert [line for line in lines if "does not fit" in line] == [lines[0]]
    assert len(lines) == 2
    assert "public.sale_" not in "".join(lines)


def test_globs_of_a_rule_for_a_parent_pass_over_what_its_heirs_have_of_their_own() -> None:
    heir = a_table("public.vip", "email text", "gift text", parents=["public.base"])
    policy = a_policy(a_rule("public.base", **{"*": "hash"}))
    assert masked(a_schema(a_table("public.base", "email text"), heir), policy) == {
        "base.email": "hash",
        "vip.email": "hash",
    }


# What nothing decides about


@pytest.mark.parametrize("option", ["unclassified", "unlisted"])
def test_what_is_open_is_refused_with_the_yaml_to_add(option: str) -> None:
    table = a_table("public.new", "id int !", "no text", "null text", "born date", "x:y short", key="id")
    rule = a_rule("public.new", id="keep") if option == "unclassified" else a_rule("public.customer", id="keep")
    (part,) = refused(a_schema(CUSTOMER, table), a_policy(rule, **{option: "fail"}))
    head, _, text = part.partition("\n")
    assert f"({option}: fail); decide about each under rules of the policy pii:" in head
    added = yaml.safe_load(text.replace("no:", '"no":'))  # PyYAML reads YAML 1.1
    names = (["id"] if option == "unlisted" else []) + ["no", "null", "born", "x:y"]
    assert added == [{"table": "public.new", "columns": dict.fromkeys(names, "keep")}]
    assert '        born: keep    # or {shift_days: 180}, shuffle, "null", …' in part.split("\n")
    again = a_policy(rule, *added, **{option: "fail"})
    assert masked(a_schema(CUSTOMER, table), again) == {}


def test_the_yaml_to_add_names_the_database_where_there_are_several() -> None:
    both = a_schema(CUSTOMER), a_schema(a_table("public.customer", "id int", "fax text"), database="crm")
    (part,) = refused(both, a_policy(a_rule("public.customer", id="keep", **{"[en]*": "hash"}), unclassified="fail"))
    assert yaml.safe_load(part.partition("\n")[2]) == [
        {"table": "public.customer", "database": "crm", "columns": {"fax": "keep"}}
    ]


def test_what_is_open_is_reported_by_name_or_left_in_silence() -> None:
    schema = a_schema(CUSTOMER, ORDER)
    rule = a_rule("public.customer", email="email")
    assert reports(schema, a_policy(rule, unclassified="report", unlisted="report")) == (
        "shop: no rule names public.customer.id, public.customer.name",
        "shop: no rule matches public.order",
    )
    assert reports(schema, a_policy(rule)) == ()


def test_a_table_is_listed_by_a_pattern_whatever_columns_the_rule_has() -> None:
    policy = a_policy(a_rule("public.*", email="email"), unclassified="fail")
    (part,) = refused(a_schema(CUSTOMER, a_table("public.salary", "amount int")), policy)
    assert "table: public.salary" in part


def test_the_strictest_of_several_policies_decides_about_what_is_open() -> None:
    one = a_policy(a_rule("public.customer", email="email"), policy="one", unlisted="report")
    two = a_policy(a_rule("public.customer", name="hash"), policy="two", unclassified="fail")
    (part,) = refused(a_schema(CUSTOMER, ORDER), one, two)
    assert "(unclassified: fail); decide about each under rules of the policy two" in part
    assert "id: keep" in part


def test_large_objects_are_treated_as_the_first_policy_says_or_as_what_is_unlisted() -> None:
    rule, schema = a_rule("public.customer", email="email"), a_schema(CUSTOMER, large_objects=3)
    assert cover([a_policy(rule, largeObjects="remove"), a_policy(rule, largeObjects="keep")], [schema])[
        0
    ].remove_large_objects
    assert not cover([a_policy(rule, largeObjects="keep", unlisted="fail")], [schema])[0].remove_large_objects
    assert reports(schema, a_policy(rule, unlisted="report")) == (
        "shop: 3 large objects stay as they are: no policy decides about them",
    )
    (line,) = refused(schema, a_policy(rule, unlisted="fail"))
    assert line.startswith("shop: has 3 large objects, which no policy decides about (unlisted: fail); write")
    assert cover([a_policy(rule, unlisted="fail", largeObjects="remove")], [a_schema(CUSTOMER)])[0].reports == ()


# Keys


def test_what_refers_to_a_masked_column_is_masked_alike_even_in_an_unlisted_table() -> None:
    found = columns(a_schema(CUSTOMER, ORDER), a_policy(a_rule("public.customer", id="preserve")))
    assert {place: (one.method, one.inherited_from, one.unique) for place, one in found.items()} == {
        "customer.id": ("preserve", None, True),
        "order.customer": ("preserve", "public.customer.id", True),
    }


def test_a_rule_for_the_referring_column_holds_for_what_it_refers_to() -> None:
    found = columns(a_schema(CUSTOMER, ORDER), a_policy(a_rule("public.order", customer="preserve")))
    assert found["customer.id"].inherited_from == "public.order.customer"


def test_a_column_of_a_key_needs_no_rule_of_its_own() -> None:
    policy = a_policy(
        a_rule("public.customer", id="keep", email="email", name="hash"),
        a_rule("public.order", id="keep", note="text"),
        unclassified="fail",
    )
    assert "order.customer" not in masked(a_schema(CUSTOMER, ORDER), policy)


def test_keys_are_followed_through_tables_and_back_to_the_same_one() -> None:
    person = a_table("public.person", "id int !", "boss int", key="id", refers={"boss": "public.person(id)"})
    staff = a_table("public.staff", "id int !", key="id", refers={"id": "public.person(id)"})
    shift = a_table("public.shift", "staff int", refers={"staff": "public.staff(id)"})
    schema = a_schema(person, staff, shift)
    expected = dict.fromkeys(["person.id", "person.boss", "staff.id", "shift.staff"], "preserve")
    for rule in (a_rule("public.shift", staff="preserve"), a_rule("public.person", boss="preserve")):
        assert masked(schema, a_policy(rule)) == expected


def test_keys_of_several_columns_are_masked_pairwise() -> None:
    tenant = a_table("public.t", "tenant int !", "code text !", key="tenant code")
    other = a_table("public.u", "code text", "tenant int", refers={"tenant code": "public.t(tenant code)"})
    found = masked(a_schema(tenant, other), a_policy(a_rule("public.t", tenant="preserve", code="hash")))
    assert found == {"t.tenant": "preserve", "t.code": "hash", "u.code": "hash", "u.tenant": "preserve"}


@pytest.mark.parametrize("other", ["keep", "hash", {"email": {"domain": "example.org"}}])
def test_different_rules_along_a_key_are_refused_and_both_places_told(other: object) -> None:
    one = a_table("public.a", "mail text !", key="mail")
    two = a_table("public.b", "mail text", refers={"mail": "public.a(mail)"})
    policy = a_policy(a_rule("public.a", mail="email"), a_rule("public.b", mail=other))
    (line,) = refused(a_schema(one, two), policy)
    assert "but public.a.mail is email (rule public.a of the policy pii)" in line
    assert "public.b.mail refers to public.a.mail (the foreign key mail_fkey)" in line


def test_a_key_has_one_secret() -> None:
    schema = a_schema(CUSTOMER, ORDER)
    one = a_policy(a_rule("public.customer", id="preserve"), policy="one", key="k1")
    two = a_policy(a_rule("public.order", customer="preserve"), policy="two", key="k2")
    (line,) = refused(schema, one, two)
    assert ", with different keys, and public.order.customer refers to" in line
    keeping = [a_policy(a_rule("public.*", **{"*": "keep"}), key=key, policy=key) for key in ("k1", "k2")]
    assert masked(schema, *keeping) == {}
    kept = a_policy(a_rule("public.customer", id="keep"), policy="two", key="k2")
    assert masked(schema, a_policy(a_rule("public.order", customer="keep")), kept) == {}
    same_key = a_policy(a_rule("public.order", customer="preserve"), policy="two", key="k1")
    assert len(masked(schema, one, same_key)) == 2


@pytest.mark.parametrize("method", ["shuffle", {"noise": "5%", "by": "name"}, {"sql": "id + 1"}])
def test_a_key_that_would_lose_its_references_is_refused(method: object) -> None:
    lines = refused(a_schema(CUSTOMER, ORDER), a_policy(a_rule("public.customer", id=method)))
    found = [line for line in lines if "different results" in line]
    assert len(found) == 1
    assert "write preserve or keep" in found[0]


@pytest.mark.parametrize(
    ("kind", "instead"),
    [("date", "keep"), ("text", "hash, preserve or keep"), ("uuid", "hash or keep"), ("bool", "keep")],
)
def test_what_is_proposed_for_a_key_fits_its_type(kind: str, instead: str) -> None:
    parent = a_table("public.a", f"x {kind}")
    child = a_table("public.b", f"x {kind}", refers={"x": "public.a(x)"})
    (line,) = refused(a_schema(parent, child), a_policy(a_rule("public.a", x="shuffle")))
    assert line.endswith(f"different results; write {instead}")


def test_what_is_proposed_for_a_member_of_a_unique_set_fits_its_type() -> None:
    table = a_table("public.visit", "who text", "day date", unique=["who day"])
    (line,) = refused(a_schema(table), a_policy(a_rule("public.visit", day="shuffle")))
    assert line.endswith("write keep")
    (line,) = refused(a_schema(table), a_policy(a_rule("public.visit", day={"bucket": "month"})))
    assert line.endswith("write keep, or shuffle if it is unique by itself and part of no key")
    (line,) = refused(a_schema(table), a_policy(a_rule("public.visit", who="shuffle")))
    assert line.endswith("write hash or preserve")


def test_a_key_may_have_an_expression_for_each_of_its_columns() -> None:
    policy = a_policy(
        a_rule("public.customer", id={"sql": "id + 1"}), a_rule("public.order", customer={"sql": "customer + 1"})
    )
    assert masked(a_schema(CUSTOMER, ORDER), policy) == {"customer.id": "sql", "order.customer": "sql"}


def test_a_condition_on_a_key_is_refused() -> None:
    (line,) = refused(a_schema(CUSTOMER, ORDER), a_policy(a_rule("public.customer", when="id > 1", id="hash")))[:1]
    assert line.startswith("shop: public.customer.id has the condition when, and public.order.customer refers to")


def test_a_reference_can_be_cut_with_null() -> None:
    schema = a_schema(CUSTOMER, ORDER)
    assert masked(schema, a_policy(a_rule("public.order", customer="null"))) == {"order.customer": "null"}
    both = a_policy(a_rule("public.order", customer="null"), a_rule("public.customer", id="preserve"))
    assert masked(schema, both) == {"order.customer": "null", "customer.id": "preserve"}
    some = a_policy(a_rule("public.order", when="id > 1", customer="null"), a_rule("public.customer", id="preserve"))
    (line,) = refused(schema, some)
    assert 'is "null" where a condition is true, and refers to public.customer.id elsewhere' in line
    kept = a_policy(a_rule("public.order", when="id > 1", customer="null"), a_rule("public.customer", id="keep"))
    assert masked(schema, kept) == {"order.customer": "null"}


def test_declared_references_are_followed_like_foreign_keys() -> None:
    invoice = a_table("public.invoice", "mail short")
    reference = {"column": "public.invoice.mail", "to": "public.customer.email"}
    policy = a_policy(a_rule("public.customer", email="preserve"), references=[reference])
    found = columns(a_schema(CUSTOMER, invoice), policy)
    assert found["invoice.mail"].inherited_from == "public.customer.email"
    # what both have room for, so that equal values stay equal
    assert [one.column.length for one in found.values()] == [12, 12]


def test_columns_of_a_key_fold_case_together() -> None:
    one, two = a_table("public.a", "x citext"), a_table("public.b", "x text")
    reference = {"column": "public.b.x", "to": "public.a.x"}
    found = columns(a_schema(one, two), a_policy(a_rule("public.a", x="hash"), references=[reference]))
    assert [masking.column.folds_case for masking in found.values()] == [True, True]


def test_names_may_have_dots_in_them() -> None:
    dotted = replace(a_table("x.y", "a text"), name=TableName("my.schema", "t.1"))
    for pattern in ("my.schema.t.1", "my.schema.*", "my.*.t.?"):
        assert len(columns(a_schema(dotted, CUSTOMER), a_policy(a_rule(pattern, a="hash")))) == 1


def test_declared_references_have_to_exist() -> None:
    reference = {"column": "public.order.custmer", "to": "public.customer.id"}
    (line,) = refused(a_schema(CUSTOMER, ORDER), a_policy(a_rule("public.order", id="keep"), references=[reference]))
    assert line == (
        "the policy pii has a reference from public.order.custmer to public.customer.id, but there is no column"
        ' public.order.custmer; did you mean "public.order.customer"?'
    )
    crm = a_schema(a_table("public.lead", "mail text"), database="crm")
    across = {"column": "public.lead.mail", "to": "public.customer.email"}
    (line,) = refused((a_schema(CUSTOMER), crm), a_policy(a_rule("public.lead", mail="keep"), references=[across]))
    assert "but they are in different databases" in line


def test_a_reference_that_names_a_database_is_looked_for_there() -> None:
    def said(database: str) -> str:
        reference = {"column": "public.order.customer", "to": "public.customer.id", "database": database}
        policy = a_policy(a_rule("public.order", id="keep"), references=[reference])
        (line,) = refused((a_schema(CUSTOMER, ORDER), a_schema(database="crm")), policy)
        return line.split(", but ")[1]

    assert said("shpo") == 'the image has no database shpo; did you mean "shop"?'
    assert said("crm") == "there is no column public.order.customer in crm"


@pytest.mark.parametrize("table", ["pg_catalog.pg_authid", "pg_catalog.*", "information_schema.tables"])
def test_a_rule_for_tables_of_the_server_itself_is_told_why_it_matches_none(table: str) -> None:
    (line,) = refused(a_schema(CUSTOMER), a_policy(a_rule(table, x="hash")))
    assert "which is the server's own" in line


@pytest.mark.parametrize("method", ["preserve", "keep"])
def test_a_key_of_whole_numbers_may_have_types_of_different_width(method: str) -> None:
    log = a_table("public.log", "customer bigint", refers={"customer": "public.customer(id)"})
    found = masked(a_schema(CUSTOMER, log), a_policy(a_rule("public.customer", id=method)))
    assert found == ({} if method == "keep" else {"customer.id": "preserve", "log.customer": "preserve"})


def test_columns_of_a_key_with_types_that_mask_differently_are_refused() -> None:
    log = a_table("public.log", "customer bigint", refers={"customer": "public.customer(id)"})
    lines = refused(a_schema(CUSTOMER, log), a_policy(a_rule("public.customer", id={"noise": "5%"})))
    assert lines[0] == (
        "shop: public.log.customer has the type bigint and public.customer.id has int, but public.log.customer"
        " refers to public.customer.id (the foreign key customer_fkey): write preserve or keep,"
        " or make their types equal before masking"
    )


def test_a_key_reaches_the_partitions_of_what_refers_to_it() -> None:
    root = a_table("public.sale", "buyer int", has_rows=False, refers={"buyer": "public.customer(id)"})
    leaves = [a_table(f"public.sale_{one}", "buyer int", parents=["public.sale"]) for one in "ab"]
    found = masked(a_schema(CUSTOMER, root, *leaves), a_policy(a_rule("public.customer", id="preserve")))
    assert found == dict.fromkeys(["customer.id", "sale_a.buyer", "sale_b.buyer"], "preserve")


def test_a_key_reaches_the_heirs_of_what_refers_to_it() -> None:
    base = a_table("public.base", "buyer int", refers={"buyer": "public.customer(id)"})
    heir = a_table("public.heir", "buyer int", parents=["public.base"])
    found = columns(a_schema(CUSTOMER, base, heir), a_policy(a_rule("public.customer", id="preserve")))
    assert found["heir.buyer"].inherited_from == "public.customer.id"


def test_an_heir_of_two_parents_is_masked_if_one_of_them_is() -> None:
    other = a_table("public.other", "id int !", key="id")
    kept = a_table("public.kept", "x int", refers={"x": "public.other(id)"})
    hidden = a_table("public.hidden", "x int", refers={"x": "public.customer(id)"})
    heir = a_table("public.heir", "x int", parents=["public.kept", "public.hidden"])
    policy = a_policy(a_rule("public.customer", id="preserve"), a_rule("public.other", id="keep"))
    found = columns(a_schema(CUSTOMER, other, kept, hidden, heir), policy)
    assert found["heir.x"].inherited_from == "public.customer.id"


def test_a_rule_for_one_heir_says_nothing_of_the_others() -> None:
    base, one, two = (
        a_table("public.base", "id int"),
        a_table("public.one", "id int", parents=["public.base"]),
        a_table("public.two", "id int", parents=["public.base"]),
    )
    log = a_table("public.log", "one int", refers={"one": "public.one(id)"})
    found = masked(a_schema(base, one, two, log), a_policy(a_rule("public.one", id="preserve")))
    assert found == {"one.id": "preserve", "log.one": "preserve"}


def test_a_computed_column_in_a_masked_key_is_refused() -> None:
    one = a_table("public.a", "x text !", key="x")
    two = a_table("public.b", "y text", "x computed <y", refers={"x": "public.a(x)"})
    (line,) = refused(a_schema(one, two), a_policy(a_rule("public.a", x="hash")))
    assert line.startswith("shop: public.b.x is computed by the database and belongs to a key that is hash")


# Methods and columns


def test_a_method_that_does_not_fit_is_told_with_what_to_write() -> None:
    lines = refused(a_schema(CUSTOMER, ORDER), a_policy(a_rule("public.customer", id="email", email={"bucket": 5})))
    assert [line.split(": write")[0] for line in lines] == [
        "shop: public.customer.id has the type int, which email does not fit",
        "shop: public.customer.email has the type text, which bucket does not fit",
    ]


def test_a_method_that_does_not_fit_a_linked_column_is_told_there() -> None:
    tag = a_table("public.tag", "mail short", refers={"mail": "public.customer(email)"})
    customer = replace(CUSTOMER, unique=(*CUSTOMER.unique, frozenset({"email"})))
    lines = refused(a_schema(customer, tag), a_policy(a_rule("public.customer", email="hash")))
    assert lines == [
        (
            "shop: public.customer.email holds 12 characters, fewer than the hash has: write {hash: {length: 12}}"
            " (with public.tag.mail, which it is linked with: of both, the shorter length counts)"
        )
    ]


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ({"shift_days": 5, "by": "emial"}, "by: emial"),
        ({"shuffle": {"within": "emial"}}, "within: emial"),
    ],
)
def test_columns_that_options_name_have_to_exist(method: object, option: str) -> None:
    table = a_table("public.t", "born date", "email text")
    (line,) = refused(a_schema(table), a_policy(a_rule("public.t", born=method)))
    assert line == f'shop: public.t.born has {option}, but there is no such column; did you mean "email"?'


def test_a_unique_column_takes_no_method_that_makes_values_meet() -> None:
    schema = a_schema(a_table("public.t", "email text", unique=["email"]))
    (line,) = refused(schema, a_policy(a_rule("public.t", email={"fake": "first_name"})))
    assert line.startswith("shop: public.t.email must stay unique, but fake")
    assert columns(schema, a_policy(a_rule("public.t", email="email")))["t.email"].unique


def test_every_column_of_a_unique_set_must_stay_distinct() -> None:
    schema = a_schema(a_table("public.t", "tenant int", "name text", unique=["tenant name"]))
    (line,) = refused(schema, a_policy(a_rule("public.t", name={"fake": "first_name"})))
    assert "must stay unique" in line
    (line,) = refused(schema, a_policy(a_rule("public.t", name="shuffle")))
    assert "is part of a unique set (name, tenant), where shuffle can give two rows the same" in line
    assert columns(schema, a_policy(a_rule("public.t", name="hash")))["t.name"].unique


def test_a_set_that_holds_a_primary_key_lets_its_other_columns_meet() -> None:
    table = a_table("public.t", "id int !", "name text", key="id", unique=["id name"])
    found = columns(a_schema(table), a_policy(a_rule("public.t", name={"fake": "first_name"}, id="preserve")))
    assert [(place, one.unique) for place, one in found.items()] == [("t.id", True), ("t.name", False)]
    lines = refused(a_schema(table), a_policy(a_rule("public.t", name={"fake": "first_name"}, id={"noise": "5%"})))
    assert len(lines) == 2


def test_a_partition_key_is_judged_by_its_values_like_any_other_column() -> None:
    part = a_table("public.part", "id int !", "at date ! /", key="id", unique=["id at"])
    found = columns(a_schema(part), a_policy(a_rule("public.part", at={"shift_days": 3})))
    assert [(place, one.unique, one.column.partition_key) for place, one in found.items()] == [("part.at", False, True)]


def test_a_condition_on_a_unique_column_takes_no_method_whose_results_can_be_there_already() -> None:
    schema = a_schema(a_table("public.t", "phone text", unique=["phone"]))
    (line,) = refused(schema, a_policy(a_rule("public.t", when="true", phone="preserve")))
    assert "but with when a result can be what a row that is not masked has" in line
    assert masked(schema, a_policy(a_rule("public.t", when="true", phone="hash"))) == {"t.phone": "hash"}


def test_everything_that_is_wrong_is_said_at_once() -> None:
    policy = a_policy(
        a_rule("public.customer", id="email", nme="hash"),
        a_rule("public.gone", a="hash"),
        unclassified="fail",
        unlisted="fail",
    )
    text = "\n".join(refused(a_schema(CUSTOMER, ORDER, large_objects=1), policy))
    for expected in ("nme", "public.gone", "does not fit", "large objects", "email: keep", "table: public.order"):
        assert expected in text


def test_without_policies_nothing_is_masked() -> None:
    assert masked(a_schema(CUSTOMER, large_objects=1)) == {}


# Properties


def outcome(schemas_: Sequence[DatabaseSchema], *named: Policy) -> MaskingError | tuple[DatabaseMasking, ...]:
    """Return the assignment or the one error that is expected; any other is the test's failure."""
    try:
        return cover(named, schemas_)
    except MaskingError as error:
        return error


@given(policies(), schemas())
def test_it_is_an_assignment_or_one_error(named: tuple[Policy, ...], found: tuple[DatabaseSchema, ...]) -> None:
    result = outcome(found, *named)
    if isinstance(result, MaskingError):
        assert result.reason == "MaskingUncovered"
        assert str(outcome(found, *named)) == str(result)
    else:
        assert [one.database for one in result] == [one.database for one in found]


def lenient(**more: str) -> st.SearchStrategy[Policy]:
    """Rules that nothing can be wrong with: deterministic, injective, for tables that are there."""
    methods = st.sampled_from(["keep", "preserve"])
    columns_ = st.dictionaries(st.sampled_from(["a", "b", "c"]), methods, min_size=1)
    rules = st.dictionaries(st.sampled_from(["public.t0", "public.t1", "public.t2"]), columns_, min_size=1)
    return rules.map(lambda found: a_policy(*(a_rule(table, **one) for table, one in found.items()), **more))


@st.composite
def numbered(draw: st.DrawFn) -> DatabaseSchema:
    """Three tables of numbers that refer to each other in any way, each perhaps partitioned."""
    made: list[Table] = []
    for number in range(3):
        targets = st.tuples(st.integers(0, 2), st.sampled_from("abc"))
        refers = draw(st.dictionaries(st.sampled_from("abc"), targets, max_size=2))
        parts = draw(st.integers(0, 2))
        made.append(
            a_table(
                f"public.t{number}",
                "a int",
                "b int",
                "c int",
                refers={column: f"public.t{table}({to})" for column, (table, to) in refers.items()},
                unique=draw(st.lists(st.sampled_from(["a", "b", "a b"]), max_size=2)),
                has_rows=parts == 0,
            )
        )
        made.extend(
            a_table(f"public.t{number}_{part}", "c int", "a int", "b int", parents=[f"public.t{number}"])
            for part in range(parts)
        )
    return a_schema(*made)


def links(schema: DatabaseSchema) -> set[tuple[str, str]]:
    return {
        (f"{table.name.name}.{one}", f"{key.target.name}.{other}")
        for table in schema.tables
        for key in table.foreign_keys
        for one, other in zip(key.columns, key.target_columns, strict=True)
    }


def leaves(schema: DatabaseSchema, place: str) -> list[str]:
    """Return the columns with rows that ``table.column`` stands for: itself, or those of its partitions."""
    table, column = place.split(".")
    parts = [one.name.name for one in schema.tables if name(f"public.{table}") in one.parents]
    return [f"{one}.{column}" for one in parts or [table]]


@given(numbered(), lenient())
def test_columns_that_refer_to_each_other_are_masked_alike(schema: DatabaseSchema, policy: Policy) -> None:
    result = outcome([schema], policy)
    if isinstance(result, MaskingError):
        assert " is keep (" in result.message  # the one thing that can be wrong: keep and preserve along a key
        return
    found = columns(schema, policy)
    for pair in links(schema):
        alike = {
            (found[leaf].method, found[leaf].key, found[leaf].unique) if leaf in found else None
            for place in pair
            for leaf in leaves(schema, place)
        }
        assert len(alike) == 1


@given(numbered(), lenient(unclassified="fail", unlisted="fail"))
def test_every_column_is_decided_or_named(schema: DatabaseSchema, policy: Policy) -> None:
    result = outcome([schema], policy)
    text = result.message if isinstance(result, MaskingError) else ""
    assume(" is keep (" not in text)
    found = {} if text else columns(schema, policy)
    named = {
        f"{rule.table.removeprefix('public.')}.{column}": method
        for rule in policy.spec.rules
        for column, method in rule.columns.items()
    }
    linked = {place for pair in links(schema) for place in pair}
    for table in (one for one in schema.tables if not one.parents):
        for place in (f"{table.name.name}.{column.name}" for column in table.columns):
            if place in named and not text:
                assert {leaf in found for leaf in leaves(schema, place)} == {named[place] != "keep"}
            elif place not in named and place not in linked:
                part = text.split(f"- table: {table.name}\n")[1].split("- table:")[0]
                assert f"        {place.partition('.')[2]}: keep" in part


def covered(schema: DatabaseSchema, policy: Policy) -> Policy:
    """Return the policy with what the error says to add, if it is not complete yet."""
    result = outcome([schema], policy)
    if not isinstance(result, MaskingError):
        return policy
    assume(" is keep (" not in result.message)
    added = yaml.safe_load("\n".join(line for line in result.message.splitlines() if line.startswith("    ")))
    spec = policy.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return a_policy(*spec["rules"], *added, unclassified="fail", unlisted="fail")


@given(numbered(), lenient(unclassified="fail", unlisted="fail"), st.integers(0, 9))
def test_with_what_the_error_says_to_add_it_is_complete_until_a_column_appears(
    schema: DatabaseSchema, policy: Policy, number: int
) -> None:
    complete = covered(schema, policy)
    cover([complete], [schema])
    table = [one for one in schema.tables if not one.parents][number % 3]
    grown = replace(table, columns=(*table.columns, a_column("brand_new text")))
    changed = replace(schema, tables=tuple(grown if table is one else one for one in schema.tables))
    with pytest.raises(MaskingError) as caught:
        cover([complete], [changed])
    assert f"- table: {table.name}\n      columns:\n        brand_new: keep" in caught.value.message
