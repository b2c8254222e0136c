"""Originals of columns that no policy decides about: those of scripts and of maskers of the host.

Called by the engines' ``unruled.py`` around such steps. What they mask, only they know. So
values are drawn of every column with text before them, and of these the ones that a column
does not have any more afterwards must be gone from the files as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.ids import PolicyName, SecretName
from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, TableMasking
from reconciler.masking.originals import searchable
from reconciler.masking.schema import Family
from reconciler.masking.vault import Vault
from reconciler.spec.masking_policy import Sql

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from reconciler.masking.report import Sample
    from reconciler.masking.schema import Table

_WITH_TEXT = frozenset({Family.TEXT, Family.JSON, Family.BYTES})
_UNKNOWN = Sql.model_validate({"sql": "unknown"})
"""Stands for what such a step does: it may keep parts, and give to one row what another had."""


def everything(database: str, tables: Iterable[Table], by: str) -> DatabaseMasking:
    """Return every column with text of some tables, for all of it to be drawn before the step called ``by``."""
    masked = (
        TableMasking(
            table,
            tuple(
                ColumnMasking(column, "hash", PolicyName(by), SecretName(""))  # a method of which everything is drawn
                for column in table.columns
                if column.family in _WITH_TEXT and not column.generated
            ),
        )
        for table in tables
    )
    return DatabaseMasking(database, tuple(table for table in masked if table.columns))


def gone(drawn: Sequence[Sample], still: Callable[[Sample], Container[str]]) -> tuple[Sample, ...]:
    """Return what is left of samples without the values that ``still`` says their columns have."""
    vault = Vault()
    left: list[Sample] = []
    for one in drawn:
        present = still(one)
        originals = tuple(text for text in one.originals if searchable(text) and text not in present)
        if originals:
            masking = replace(one.masking, method=_UNKNOWN)
            left.append(replace(one, masking=masking, originals=vault.keep(originals), complete=False))
    return tuple(left)
