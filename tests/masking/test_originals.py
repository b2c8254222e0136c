"""Which values stand for a column."""

from __future__ import annotations

import pytest

from reconciler.masking.originals import (
    LONGEST,
    Picker,
    drawn,
    forms,
    json_paths,
    personal_parts,
    searchable,
    telling_part,
)
from reconciler.masking.schema import Family
from reconciler.spec import masking_policy as spec

from .originals import masked_column, sample_of


def test_long_and_rare_values_come_first() -> None:
    picker = Picker(10, 1000)
    for number in range(100):
        picker.add(f"frequent-value-{number}", 50)
        picker.add(f"short-{number}"[:6])
    rare = {f"a rare and long value {number:03}" for number in range(9)}
    for text in rare:
        picker.add(text)
    picked = picker.pick()
    assert len(picked) == 10
    assert set(picked[:9]) == rare
    assert picked[9].startswith("frequent")


def test_fewer_values_than_wanted_are_all_taken() -> None:
    picker = Picker(10, 1000)
    for text in ("Anna", "Bernd", "", "Anna"):
        picker.add(text)
    assert sorted(picker.pick()) == ["Anna", "Bernd"]
    assert picker.all_taken


def test_values_that_statistics_hold_are_among_the_picked() -> None:
    picker = Picker(10, 1000)
    for number in range(1000):
        picker.add(f"a long and rare value with the number {number}")
    picker.prefer("in statistics")
    assert "in statistics" in picker.pick()
    assert len(picker.pick()) == 10
    assert not picker.all_taken


def test_memory_is_bounded_by_the_room() -> None:
    picker = Picker(10, 50)
    for number in range(10_000):
        picker.add(f"value number {number}")
        assert len(picker._counts) <= 50
    assert picker.dropped
    assert len(picker.pick()) == 10


def test_a_long_value_is_known_by_its_most_peculiar_part() -> None:
    filler = "the quick brown fox and the lazy dog went on and on and on and on " * 2
    part = telling_part(filler + " Card 4111-1111-1111-1234 QXZ@Example.org " + filler)
    assert "4111-1111-1111-1234" in part
    assert len(part.encode()) <= LONGEST
    assert len(telling_part("ü" * 200).encode()) <= LONGEST
    assert telling_part("Grüße an Zoë") == "Grüße an Zoë"


@pytest.mark.parametrize("text", ["Anna", "aaaaaaaaaaaa", "0000-0000", ""])
def test_what_every_file_has_is_not_searched_for(text: str) -> None:
    assert not searchable(text)


def test_a_value_is_looked_for_in_every_form_that_files_hold_it_in() -> None:
    ascii_forms = forms("Anna Berg", sample_of(()))
    assert ascii_forms == {b"Anna Berg", "Anna Berg".encode("utf-16-le")[:-1]}
    assert forms("Zoë Łuk", sample_of((), encoding="iso8859-2")) >= {"Zoë Łuk".encode(), "Zoë Łuk".encode("iso8859-2")}
    mixed = forms("Zoë Łuk", sample_of(()))
    assert mixed >= {"Zoë Łuk".encode("utf-16-le"), "Zoë Łuk".encode("utf-16-be")}
    assert forms("\xff\x00ab", sample_of((), binary=True)) == {b"\xff\x00ab"}


def test_a_uuid_is_looked_for_as_text_and_as_its_bytes() -> None:
    text = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"
    found = forms(text, sample_of((), column=masked_column(family=Family.UUID)))
    assert {text.encode(), bytes.fromhex(text.replace("-", ""))} <= found


def test_free_text_is_searched_for_what_scrubbing_must_replace() -> None:
    text = "Call +49 30 1234567 or write to anna.berg@shop.example.org, ref 2024-01-02."
    assert list(personal_parts("text", text)) == ["anna.berg@shop.example.org", "+49 30 1234567"]
    assert list(personal_parts(spec.Text.model_validate({"text": ["phone"]}), text)) == ["+49 30 1234567"]
    assert list(personal_parts(spec.Text.model_validate({"text": ["iban"]}), text)) == []


def test_methods_that_keep_values_are_not_drawn() -> None:
    assert drawn("hash")
    assert drawn(spec.Fake.model_validate({"fake": "city"}))
    assert not drawn("shuffle")
    assert not drawn(spec.Partial.model_validate({"partial": {"first": 1}}))


def test_only_paths_with_erasing_rules_are_drawn() -> None:
    rule = spec.Json.model_validate(
        {"json": {"$.email": "email", "$.zip": {"partial": {"first": 2}}, "$.name": "null"}}
    )
    assert json_paths(rule) == ("$.email", "$.name")
    assert json_paths("hash") == ()
