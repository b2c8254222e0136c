"""Which methods fit which columns, and what is said where one does not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from reconciler.masking import json_paths, vocabulary
from reconciler.masking.schema import Column, Family
from reconciler.spec import masking_policy as spec

_METHOD: TypeAdapter[spec.Column] = TypeAdapter(spec.Column)


def text(length: int | None = None, **facts: Any) -> Column:  # noqa: ANN401 - fields of Column
    return Column(
        name="c", type="text" if length is None else f"varchar({length})", family=Family.TEXT, length=length, **facts
    )


def other(family: Family, **facts: Any) -> Column:  # noqa: ANN401 - fields of Column
    return Column(name="c", type=family.value, family=family, **facts)


def why_not(method: object, column: Column, *, unique: bool = False) -> str | None:
    return vocabulary.why_not(_METHOD.validate_python(method), column, unique=unique)


@pytest.mark.parametrize(
    ("method", "column", "advice"),
    [
        ("null", text(nullable=False), "is NOT NULL: write hash, email"),
        ("email", other(Family.INTEGER), "does not fit: write preserve, noise"),
        ("email", text(27), "an address at example.com needs 28: write a shorter domain"),
        ("hash", text(12), "write {hash: {length: 12}}"),
        ({"hash": {"length": 8, "prefix": "customer-"}}, text(12), "write preserve or fixed"),
        ({"hash": {"prefix": "c-"}}, other(Family.UUID), "takes no prefix"),
        ({"fake": "phone"}, text(10), "needs 15: write preserve or shuffle"),
        ({"fake": "city"}, text(5), "needs 8"),
        ({"fake": "city", "locale": "xx_XX"}, text(), "write one of en_US"),
        ({"pattern": "??-####"}, text(6), "fewer than the pattern has"),
        ({"pattern": "#" * 33}, text(), "more than 32 places"),
        ("preserve", other(Family.NUMBER, digits=(10, 2)), "write noise, bucket or shuffle"),
        ("preserve", other(Family.NUMBER), "write noise, bucket or shuffle"),
        ({"preserve": "card"}, other(Family.INTEGER), "write preserve without it"),
        ({"fixed": "long"}, text(3), "the fixed value is not"),
        ({"fixed": 40_000}, other(Family.INTEGER, integer_bytes=2), "the fixed value is not"),
        ({"fixed": "yesterday"}, other(Family.DATE), "the fixed value is not"),
        ({"fixed": "purple"}, other(Family.ENUM, labels=("red",)), "the fixed value is not"),
        ({"fixed": 1000}, other(Family.NUMBER, digits=(5, 2)), "the fixed value is not"),
        ({"fixed": "true"}, other(Family.BOOLEAN), "the fixed value is not"),
        ({"bucket": "month"}, other(Family.INTEGER), "write {bucket: 10}"),
        ({"bucket": 0.5}, other(Family.INTEGER), "a whole number"),
        ({"bucket": 5}, other(Family.DATE), "write {bucket: month}"),
        ({"bucket": "hour"}, other(Family.DATE), "has no hours"),
        ({"shift": "5h"}, other(Family.DATE), "write {shift_days: 1}"),
        ({"noise": "0%"}, other(Family.INTEGER), "above 0%"),
        ({"json": {"email": "hash"}}, other(Family.JSON), "cannot be read"),
        ({"json": {"$.a": "shuffle"}}, other(Family.JSON), "inside JSON write one of"),
        ({"json": {"$.a": "hash", "$.a.b": "hash"}}, other(Family.JSON), "below another one"),
        ({"json": {"$[*]": "hash", "$[1]": "hash"}}, other(Family.JSON), "beside a number"),
        ({"json": {"$.a": {"pattern": "#" * 33}}}, other(Family.JSON), "at $.a has a pattern"),
        ("hash", text(generated=True), "write keep, and mask what it is computed from"),
        ("hash", text(partition_key=True), "decides which partition"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_with_what_to_write(method: object, column: Column, advice: str) -> None:
    found = why_not(method, column)
    assert found is not None
    assert advice in found
    assert not found.endswith(".")


@pytest.mark.parametrize(
    ("method", "column"),
    [
        ("keep", text(generated=True, partition_key=True, nullable=False)),
        ("email", text(28)),
        ("hash", text(16)),
        ({"hash": {"length": 12}}, other(Family.BYTES)),
        ({"fake": "phone", "locale": "de"}, text(16)),
        ({"fixed": "2026-01-31"}, other(Family.DATE)),
        ({"fixed": "2026-01-31T00:00:00+00:00"}, other(Family.TIME)),
        ({"fixed": "red"}, other(Family.ENUM, labels=("red",))),
        ({"fixed": "192.0.2.1"}, other(Family.OTHER)),
        ({"fixed": True}, text(4)),
        ("preserve", other(Family.NUMBER, digits=(18, 0))),
        ({"shift": "36h"}, other(Family.DATE)),
        ({"json": {"$.a": "hash", '$."b c"[2]': {"fake": "city"}, "$.d[*].e": {"fixed": 1}}}, other(Family.JSON)),
        ("shuffle", other(Family.OTHER)),
        ({"sql": "1"}, other(Family.INTEGER)),
    ],
    ids=str,
)
def test_what_fits_is_taken(method: object, column: Column) -> None:
    assert why_not(method, column) is None


@pytest.mark.parametrize(
    "method",
    [
        {"hash": {"length": 15}},
        {"pattern": "??-####"},
        {"fake": "last_name"},
        {"fixed": "x"},
        {"partial": {"last": 4}},
        "text",
        {"hash": {"length": 20}, "keep_null": False},
    ],
    ids=str,
)
def test_methods_that_can_give_two_values_the_same_are_refused_for_unique_columns(method: object) -> None:
    column = text()
    assert why_not(method, column) is None
    assert "must stay unique" in str(why_not(method, column, unique=True))


@pytest.mark.parametrize("method", ["hash", "email", "preserve", "shuffle", "null", {"pattern": "#" * 20}], ids=str)
def test_methods_that_keep_values_apart_are_taken_for_unique_columns(method: object) -> None:
    assert why_not(method, text(), unique=True) is None


def test_every_method_has_a_name_and_its_promises() -> None:
    examples: list[object] = [
        "keep",
        "null",
        "hash",
        "email",
        "preserve",
        "text",
        "shuffle",
        {"fixed": 1},
        {"hash": {}},
        {"email": {}},
        {"fake": "city"},
        {"preserve": "card"},
        {"partial": {}},
        {"pattern": "#"},
        {"shift_days": 1},
        {"shift": "1h"},
        {"noise": 1},
        {"bucket": 1},
        {"shuffle": {"within": "a"}},
        {"text": ["email"]},
        {"json": {"$": "hash"}},
        {"sql": "1"},
    ]
    methods = [_METHOD.validate_python(one) for one in examples]
    names = {vocabulary.name_of(method) for method in methods}
    assert names == {"keep", "null", *spec.METHODS}
    erasing = {vocabulary.name_of(method) for method in methods if vocabulary.erases(method)}
    assert erasing == {"null", "fixed", "hash", "email", "preserve", "pattern"}
    varying = {vocabulary.name_of(method) for method in methods if not vocabulary.deterministic(method)}
    assert varying == {"shuffle", "sql"}


def test_what_depends_on_another_column_is_not_deterministic() -> None:
    for method in (
        {"shift_days": 3, "by": "id"},
        {"noise": 3, "by": "id"},
        {"text": ["email"], "names": ["first_name"]},
    ):
        assert not vocabulary.deterministic(_METHOD.validate_python(method))


def test_a_backslash_makes_the_next_character_of_a_pattern_stand_for_itself() -> None:
    assert vocabulary.pattern_places(r"#\#\\?") == (("#", True), ("#", False), ("\\", False), ("?", True))


@pytest.mark.parametrize("path", ["a", "$.", "$..a", "$[", "$[-1]", "$.a b", '$."a', "$[*", "$$", "$.a[]"])
def test_what_is_no_path_is_told_apart(path: str) -> None:
    assert json_paths.parse(path) is None


def test_paths_are_read_step_by_step() -> None:
    assert json_paths.parse(r'$.a."b \"c\""[*][12]') == ("a", 'b "c"', None, 12)
    assert json_paths.parse("$") == ()


@pytest.mark.parametrize("text", ['{"a": ["x", 1, {"b": "y"}, "z"], "c": "no"}', b'{"a": ["x", 1, {"b": "y"}, "z"]}'])
def test_strings_of_a_document_are_found_at_paths(text: str | bytes) -> None:
    assert list(json_paths.strings(["$.a[*]", "$.a[2].b", "$.a[0].b", "$.b"], text)) == ["x", "z", "y"]


@pytest.mark.parametrize("text", ["", "{", "17", b"\xff", "[" * 100_000])
def test_what_is_no_document_has_no_strings(text: str | bytes) -> None:
    assert list(json_paths.strings(["$", "$[*]"], text)) == []
