"""How many values a rule may leave as they were, whatever engine counted them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.errors import MaskingError
from reconciler.masking import proof
from reconciler.masking.findings import Catalogs, Findings
from reconciler.masking.report import ColumnCounts, Masked, Sample, TableCounts
from reconciler.masking.schema import TableName
from reconciler.spec import masking_policy as spec

from .originals import masked_column, sample_of

if TYPE_CHECKING:
    from reconciler.spec.masking_policy import Column as Method

_NAME = TableName("public", "customer")
_FIXED = spec.Fixed.model_validate({"fixed": "x"})
_FAKE = spec.Fake.model_validate({"fake": "city"})


def failures(method: str, equal: int, *samples: Sample, prefix: str = "") -> str:
    counts = ColumnCounts(column="email", method=method, policy="pii", rows=1000, selected=1000, nulls=10, equal=equal)
    masked = Masked(tables=(TableCounts("shop", _NAME, (counts,)),), samples=samples)
    findings = Findings(masked, Catalogs(lambda _table: False))
    proof.judge_counts(masked, findings, "shop", lambda *_: (4, 21), samples=samples, prefix=prefix)
    try:
        findings.judge()
    except MaskingError as error:
        return error.message
    return ""


@pytest.mark.parametrize(
    ("method", "most"), [("null", 0), ("hash", 4), ("preserve", 4 + 10 + 10), (_FAKE, 4 + 10 + 200), (_FIXED, 1000)]
)
def test_chance_explains_so_many_values_that_are_as_before(method: Method, most: int) -> None:
    sample = sample_of(["ann@example.org"], column=masked_column(method=method))
    assert not failures("x", most, sample)
    if most < 1000:
        told = f"the rule x left {most + 1} of 1000 values as they were, {most} can be by chance"
        assert failures("x", most + 1, sample) == f"shop: public.customer.email: {told}"


def test_an_expression_must_have_changed_something() -> None:
    assert failures("sql", 990, prefix="shop: ") == "shop: public.customer.email: the rule sql changed no value"
    assert not failures("sql", 989)
    assert not failures("shuffle", 990)
