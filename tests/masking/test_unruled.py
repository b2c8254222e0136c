"""What steps that only their authors know took away is looked for, whatever they did."""

from __future__ import annotations

from dataclasses import replace

from reconciler.masking import unruled
from reconciler.masking.schema import Family, Table, TableName

from .originals import masked_column, sample_of


def test_every_column_with_text_that_can_be_written_is_drawn() -> None:
    families = {"email": Family.TEXT, "tags": Family.JSON, "photo": Family.BYTES, "id": Family.INTEGER}
    columns = [masked_column(name, family=family).column for name, family in families.items()]
    computed = replace(masked_column("name").column, generated=True)
    tables = [
        Table(name=TableName("public", "customer"), columns=(*columns, computed)),
        Table(name=TableName("public", "number"), columns=(columns[-1],)),
    ]
    masking = unruled.everything("shop", tables, "mask.sql")
    assert [(table.name.name, [one.column.name for one in table.columns]) for table in masking.tables] == [
        ("customer", ["email", "tags", "photo"])
    ]
    assert {one.policy for table in masking.tables for one in table.columns} == {"mask.sql"}


def test_only_values_that_are_gone_and_can_be_found_in_files_are_kept() -> None:
    samples = [sample_of(["ann@example.org", "bob@example.org", "short"]), sample_of(["ann@example.org"])]
    (left,) = unruled.gone(samples, lambda _one: {"ann@example.org"})
    assert list(left.originals) == ["bob@example.org"]
    assert not left.complete
