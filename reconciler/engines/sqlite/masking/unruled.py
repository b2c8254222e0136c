"""Originals of columns that no policy decides about, as :mod:`reconciler.masking.unruled` describes them.

Called by :mod:`.run` around steps that only their authors know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.sqlite.databases import quoted
from reconciler.engines.sqlite.masking import sample
from reconciler.engines.sqlite.masking.introspect import listed
from reconciler.masking import unruled
from reconciler.masking.originals import telling_part

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from reconciler.masking.report import Sample
    from reconciler.masking.schema import DatabaseSchema


def draw(conn: sqlite3.Connection, schema: DatabaseSchema, by: str) -> tuple[Sample, ...]:
    """Return values of every column with text of a database, before the step called ``by``.

    Raises:
        MaskingError: a table cannot be read.

    """
    return sample.draw(conn, unruled.everything(schema.database, schema.tables, by))


def gone(conn: sqlite3.Connection, drawn: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return what is left of samples of one database without the values that their columns still have."""
    present = {one.name for one in listed(conn)}
    return unruled.gone(drawn, lambda one: _still(conn, one) if one.table.name in present else ())


def _still(conn: sqlite3.Connection, one: Sample) -> set[str]:
    """Return the values that the column has now; none when it is gone."""
    names = {row[1] for row in conn.execute(f"PRAGMA table_xinfo({quoted(one.table.name)})")}
    if one.masking.column.name not in names:
        return set()
    query = f"SELECT {quoted(one.masking.column.name)} FROM {quoted(one.table.name)}"
    with sample.reading(conn, one.database, one.table, "values cannot be read"):
        return {telling_part(text) for (cell,) in conn.execute(query) for text in sample.texts(one.masking, cell)}
