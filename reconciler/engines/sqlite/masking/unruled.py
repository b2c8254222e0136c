"""Originals of columns that no policy decides about: those of scripts and of maskers of the host.

Called by :mod:`.run` around such steps. What they mask, only they know. So values are
drawn of every column with text before them, and of these the ones that a column does
not have any more afterwards must be gone from the files as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.engines.sqlite.databases import quoted
from reconciler.engines.sqlite.masking import sample
from reconciler.engines.sqlite.masking.introspect import listed
from reconciler.ids import PolicyName, SecretName
from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, TableMasking
from reconciler.masking.originals import searchable, telling_part
from reconciler.masking.report import Sample
from reconciler.masking.schema import Family
from reconciler.masking.vault import Vault
from reconciler.spec.masking_policy import Sql

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from reconciler.masking.schema import DatabaseSchema

_WITH_TEXT = frozenset({Family.TEXT, Family.JSON, Family.BYTES})
_UNKNOWN = Sql.model_validate({"sql": "unknown"})
"""Stands for what such a step does: it may keep parts, and give to one row what another had."""


def draw(conn: sqlite3.Connection, schema: DatabaseSchema, by: str) -> tuple[Sample, ...]:
    """Return values of every column with text of a database, before the step called ``by``.

    Raises:
        MaskingError: a table cannot be read.

    """
    tables = [
        TableMasking(
            table,
            tuple(
                ColumnMasking(column, "hash", PolicyName(by), SecretName(""))  # a method of which everything is drawn
                for column in table.columns
                if column.family in _WITH_TEXT and not column.generated
            ),
        )
        for table in schema.tables
    ]
    return sample.draw(conn, DatabaseMasking(schema.database, tuple(table for table in tables if table.columns)))


def gone(conn: sqlite3.Connection, drawn: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return what is left of samples of one database without the values that their columns still have."""
    vault, left = Vault(), list[Sample]()
    present = {one.name for one in listed(conn)}
    for one in drawn:
        still = _still(conn, one) if one.table.name in present else set()
        originals = tuple(text for text in one.originals if searchable(text) and text not in still)
        if originals:
            masking = replace(one.masking, method=_UNKNOWN)
            left.append(replace(one, masking=masking, originals=vault.keep(originals), complete=False))
    return tuple(left)


def _still(conn: sqlite3.Connection, one: Sample) -> set[str]:
    """Return the values that the column has now; none when it is gone."""
    names = {row[1] for row in conn.execute(f"PRAGMA table_xinfo({quoted(one.table.name)})")}
    if one.masking.column.name not in names:
        return set()
    query = f"SELECT {quoted(one.masking.column.name)} FROM {quoted(one.table.name)}"
    with sample.reading(conn, one.database, one.table, "values cannot be read"):
        return {telling_part(text) for (cell,) in conn.execute(query) for text in sample.texts(one.masking, cell)}
