"""What discovery is given: the schema of a database, and some values of each column.

Drawn by an engine, in memory only: values have no representation as text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.masking.schema import DatabaseSchema, TableName

VALUES = 1000
"""Most values that are drawn of a column."""
LENGTH = 200
"""Characters of a value that are looked at; of documents more, or they could not be read."""
DOCUMENT_LENGTH = 20_000


@dataclass(frozen=True, slots=True)
class Drawn:
    """Values of one column: text as the database writes it, cut to :data:`LENGTH`, NULL left out.

    ``rows`` is how many rows were looked at. Elements of arrays stand for themselves.
    """

    values: tuple[str, ...] = field(default=(), repr=False)
    rows: int = 0


NOTHING = Drawn()


@dataclass(frozen=True, slots=True)
class DatabaseProfile:
    """One database."""

    schema: DatabaseSchema
    drawn: Mapping[tuple[TableName, str], Drawn] = field(repr=False)

    def of(self, table: TableName, column: str) -> Drawn:
        """Return the values of a column; of one that was not looked at, none."""
        return self.drawn.get((table, column), NOTHING)
