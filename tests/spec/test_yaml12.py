"""YAML 1.2 out of libyaml, within bounds."""

from __future__ import annotations

import math

import pytest

from reconciler.spec.yaml12 import MAX_DEPTH, MAX_FILE_BYTES, Span, locate, parse


def value(text: str) -> object:
    documents, problems = parse(text.encode())
    assert problems == []
    return documents[0].data


def codes(data: bytes) -> list[str]:
    return [problem.code for problem in parse(data)[1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("~", None),
        ("null", None),
        ("nULL", "nULL"),
        ("12", 12),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("+1", 1),
        ("1_000", "1_000"),
        ("190:20:30", "190:20:30"),
        ("0b11", "0b11"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-.inf", -math.inf),
        ("2026-11-20", "2026-11-20"),
        ("2026-11-20T12:00:00Z", "2026-11-20T12:00:00Z"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_plain_scalars_follow_the_core_schema_of_yaml_1_2(text: str, expected: object) -> None:
    result = value(f"a: {text}\n")
    assert result == {"a": expected}
    assert type(result["a"]) is type(expected)


def test_a_file_holds_several_documents_and_empty_ones_do_not_count() -> None:
    documents, problems = parse(b"---\n---\na: 1\n---\n# nothing\n---\nb: 2\n...\n")
    assert [document.data for document in documents] == [{"a": 1}, {"b": 2}]
    assert problems == []


def test_a_byte_order_mark_is_skipped() -> None:
    assert value("\ufeffa: 1") == {"a": 1}


def test_a_duplicate_key_points_at_both_places() -> None:
    [problem] = parse(b"a: 1\nb: 2\na: 3\n")[1]
    assert (problem.code, problem.span, problem.also) == (
        "R004",
        Span(3, 1, 3, 2),
        ("first written here", Span(1, 1, 1, 2)),
    )


def test_every_duplicate_key_of_a_file_is_reported() -> None:
    assert codes(b"a: {x: 1, x: 2}\nb: [{y: 1, y: 2}]\n---\nc: 1\nc: 2\n") == ["R004", "R004", "R004"]


@pytest.mark.parametrize("key", ["1", "true", "~", "1.5", "? [a]\n", "<<"])
def test_keys_are_text(key: str) -> None:
    assert codes(f"{key}: {{a: 1}}\n".encode()) == ["R006"]


def test_words_that_were_booleans_in_yaml_1_1_are_good_keys() -> None:
    assert value("on: 1\nno: 2\ny: 3\n") == {"on": 1, "no": 2, "y": 3}


def test_tags_that_make_objects_are_refused() -> None:
    assert codes(b"a: !!python/object/apply:os.system [ls]\n") == ["R006"]


def test_anchors_and_aliases_work() -> None:
    assert value("a: &x {b: [1]}\nc: *x\n") == {"a": {"b": [1]}, "c": {"b": [1]}}


def bomb(levels: int, width: int) -> bytes:
    lines = [b"a0: &a0 [" + b"x," * width + b"]"]
    for level in range(1, levels):
        name = f"a{level}".encode()
        lines.append(name + b": &" + name + b" [" + f"*a{level - 1},".encode() * width + b"]")
    return b"\n".join(lines)


def test_an_alias_bomb_is_refused() -> None:
    assert codes(bomb(30, 10)) == ["R005"]


def test_aliases_that_nest_too_deep_are_refused() -> None:
    assert codes(bomb(MAX_DEPTH + 2, 1)) == ["R005"]


def test_a_node_within_itself_is_refused() -> None:
    assert codes(b"a: &a [*a]\n") == ["R005"]


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b"{" * 100_000,
        b"- " * 100_000,
        b"? " * 100_000,
        b"[a," * 60 + b"a," * 200_000,
        b"a\n--- \n" * 110_000,
    ],
)
def test_what_is_too_deep_or_too_large_is_refused_early(data: bytes) -> None:
    assert codes(data) == ["R005"]


def test_a_file_of_50_mb_is_refused_before_parsing() -> None:
    assert codes(b"a" * 50_000_000) == ["R002"]
    assert codes(b"#" * MAX_FILE_BYTES) == []


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"\xff\xfea\0", (1, 1)),
        (b"a: 1\nb: \xff\n", (2, 4)),
        (b"a: 1\nb: \0\n", (2, 4)),
        (b"a: \xc3\xa9\x07\n", (1, 5)),
        (b"a: \xed\xa0\x80\n", (1, 4)),
    ],
)
def test_what_is_no_text_is_refused_at_its_place(data: bytes, place: tuple[int, int]) -> None:
    [problem] = parse(data)[1]
    assert (problem.code, problem.span[:2]) == ("R001", place)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"a:\n\t- b\n", "tab"),
        (b"a: b: c\n", "quotes"),
        (b"a: @x\n", "quotes"),
        (b"a: *x\n", "begins with *"),
    ],
)
def test_common_mistakes_come_with_advice(data: bytes, hint: str) -> None:
    [problem] = parse(data)[1]
    assert problem.code == "R003"
    assert hint in str(problem.hint)


def test_documents_before_a_syntax_error_survive() -> None:
    documents, problems = parse(b"a: 1\n---\nb: [\n")
    assert [document.data for document in documents] == [{"a": 1}]
    assert [problem.code for problem in problems] == ["R003"]


def test_positions_count_characters() -> None:
    [document] = parse("ä: {ö: [1, é]}\n".encode())[0]
    assert locate(document.root, ("ä", "ö", 1)) == Span(1, 12, 1, 13)
    assert locate(document.root, ("ä", "ö"), key=True) == Span(1, 5, 1, 6)


def test_a_missing_field_is_found_at_its_parent() -> None:
    [document] = parse(b"a: 1\nspec:\n  b: {}\n")[0]
    assert locate(document.root, ("spec", "b", "c"), key=True) == Span(3, 3, 3, 4)
