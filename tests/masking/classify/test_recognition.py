"""Recall and precision over the labelled schemas: half of them were never tuned with."""

from __future__ import annotations

import pytest

from tests.masking.classify.measure import Score, held_out, score, tuning
from tests.masking.classify.samples import labelled, schema_files

RECALL, PRECISION = 0.95, 0.8


@pytest.fixture(scope="module")
def tuned() -> Score:
    return score(tuning())


@pytest.fixture(scope="module")
def unseen() -> Score:
    return score(held_out())


def test_there_are_forty_schemas_in_thirteen_languages_half_of_them_held_out() -> None:
    assert len(schema_files()) == 40
    assert len(tuning()) == len(held_out()) == 20


def test_over_all_schemas_nearly_every_personal_column_is_found_and_few_others(tuned: Score, unseen: Score) -> None:
    both = Score((*tuned.scored, *unseen.scored))
    assert both.recall >= RECALL, both.missed
    assert both.precision >= PRECISION, both.wrong


def test_so_it_is_over_the_schemas_that_were_held_out(unseen: Score) -> None:
    assert unseen.recall >= RECALL, unseen.missed
    assert unseen.precision >= PRECISION, unseen.wrong


def test_names_alone_find_most_of_what_names_can_tell() -> None:
    whole = score(schema_files(), with_values=False)
    named = [one for one in whole.scored if "legacy" not in one.column.schema]
    assert Score(tuple(named)).recall >= 0.85
    assert Score(tuple(named)).precision >= PRECISION


def test_a_labelled_schema_is_the_same_in_every_run() -> None:
    first = schema_files()[0]
    assert labelled(first) == labelled(first)


def test_a_reason_never_holds_a_value(tuned: Score, unseen: Score) -> None:
    for one in (*tuned.scored, *unseen.scored):
        values = {value for value in one.column.values if len(value) > 5 and not value.isdigit()}
        assert not [value for value in values if value in one.verdict.reason], one.column.name
