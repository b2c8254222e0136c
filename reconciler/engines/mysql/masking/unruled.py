"""Originals of columns that no policy decides about, as :mod:`reconciler.masking.unruled` describes them.

Called by :mod:`.run` around steps that only their authors know.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from reconciler.engines.mysql.masking import sample
from reconciler.masking import unruled
from reconciler.masking.originals import telling_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.mysql.link import Link
    from reconciler.masking.report import Sample
    from reconciler.masking.schema import DatabaseSchema

_COLUMNS = "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"


def draw(link: Link, schema: DatabaseSchema, by: str) -> tuple[Sample, ...]:
    """Return values of every column with text of a database, before the step called ``by``.

    Raises:
        MaskingError: a table cannot be read.

    """
    return sample.draw(link, unruled.everything(schema.database, schema.tables, by))


def gone(link: Link, drawn: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return what is left of samples without the values that their columns still have."""
    return unruled.gone(drawn, partial(_still, link))


def _still(link: Link, one: Sample) -> set[str]:
    """Return the values that the column has now; none when it is gone."""
    names = {str(name) for (name,) in link.rows(_COLUMNS, *one.table)}
    if one.masking.column.name not in names:
        return set()
    place = sample.source(link, one.table)
    query = f"SELECT {sample.cell_of(one.masking)} FROM {place}"
    with sample.reading(one.table, "values cannot be read"):
        return {telling_part(text) for (cell,) in link.stream(query) for text in sample.texts(one.masking, cell)}
