"""Samples are made the same way of whatever an engine reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.masking import sampling
from reconciler.masking.assignment import DatabaseMasking, TableMasking
from reconciler.masking.schema import Family, Table, TableName

from .originals import masked_column, sample_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reconciler.masking.assignment import ColumnMasking

_NAME = TableName("public", "customer")


def masking_of(*columns: ColumnMasking, rows: int = 10) -> DatabaseMasking:
    table = Table(name=_NAME, columns=tuple(one.column for one in columns), estimated_rows=rows)
    return DatabaseMasking("shop", (TableMasking(table, columns),))


@pytest.mark.parametrize(("values", "steps"), [(sampling.WANTED, [20]), (3, [20, 1])])
def test_a_large_table_is_read_whole_where_a_part_has_too_few_values(values: int, steps: list[int]) -> None:
    seen: list[int] = []

    def rows(_table: TableMasking, columns: Sequence[ColumnMasking], step: int) -> Iterable[list[list[str]]]:
        seen.append(step)
        return ([[f"person{number}@example.org"] for _ in columns] for number in range(values))

    (sample,) = sampling.draw(masking_of(masked_column(), masked_column("town", "keep"), rows=1_000_000), rows)
    assert seen == steps
    assert (len(sample.originals), sample.complete) == (values, steps[-1] == 1)
    assert sample.place == "shop: public.customer.email"


def test_samples_of_bytes_are_binary() -> None:
    masking = masking_of(masked_column("photo", family=Family.BYTES))
    assert [one.binary for one in sampling.draw(masking, lambda *_: [[["\xff\x00"]]])] == [True]


def test_originals_of_rows_without_a_rule_are_found_by_its_column() -> None:
    masking = masking_of(masked_column(when="id > 1"), masked_column("name"))
    samples = [sample_of(["ann@example.org", "bob@example.org"])]
    found = sampling.left_out(masking, samples, lambda *_: ["ann@example.org", "carl@example.org"])
    assert found == {("shop", _NAME, "email"): frozenset({"ann@example.org"})}


def test_controls_are_a_short_a_middle_and_a_long_value_of_what_is_masked() -> None:
    masking = masking_of(masked_column(), masked_column("phone", "null"))
    texts = ["ab", "shortest", "of a middling length", "the longest of these"]
    found = sampling.controls(masking, lambda *_: texts)
    assert found == {(_NAME, "email"): ("shortest", "of a middling length", "the longest of these")}
    ours = sample_of(["ann@example.org"])
    (controlled,) = sampling.with_controls([ours], "shop", found)
    assert controlled.controls == found[_NAME, "email"]
    assert sampling.with_controls([ours], "other", found) == (ours,)
