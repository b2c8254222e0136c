"""Samples for the tests of the search for originals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.ids import PolicyName, SecretName
from reconciler.masking.assignment import ColumnMasking
from reconciler.masking.report import Sample
from reconciler.masking.schema import Column, Family, TableName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.spec.masking_policy import Column as Method


def masked_column(
    name: str = "email", method: Method = "hash", family: Family = Family.TEXT, when: str | None = None
) -> ColumnMasking:
    column = Column(name=name, type=family.value, family=family)
    return ColumnMasking(column, method, PolicyName("pii"), SecretName("key"), when)


def sample_of(
    originals: Sequence[str],
    *,
    controls: Sequence[str] = (),
    column: ColumnMasking | None = None,
    encoding: str = "utf-8",
    binary: bool = False,
) -> Sample:
    return Sample(
        "shop",
        TableName("public", "customer"),
        column or masked_column(),
        tuple(originals),
        controls=tuple(controls),
        encoding=encoding,
        binary=binary,
    )
