"""What masking did and what is to be proved: counts per column, and originals that must be gone.

Counts go into the attestation. Originals are kept (see :mod:`.vault`) from the moment they
are drawn until the files of the build were scanned; they have no representation as text.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reconciler.masking.assignment import ColumnMasking
    from reconciler.masking.schema import TableName

    Place = tuple[str, TableName, str]
    """Database, table, column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnCounts:
    """One column's proof: ``rows`` of the table, of them ``nulls`` afterwards, ``selected`` by ``when``.

    ``equal``: selected values that are the same as before, NULL aside. ``erasing``
    methods must leave none but by chance of a short value.
    """

    column: str
    method: str
    """Name of the method, with ``(from table.column)`` when it is inherited."""
    policy: str
    rows: int
    selected: int
    nulls: int
    equal: int


@dataclass(frozen=True, slots=True)
class TableCounts:
    """One table's proof."""

    database: str
    table: TableName
    columns: tuple[ColumnCounts, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """Distinct originals of one masked column, drawn before masking, and masked values drawn after it.

    ``controls`` must be found by a scan that looks for ``originals``: a blind scanner is noticed.
    ``complete``: the originals are all that the column had. Values of more than some 64
    bytes are represented by their most telling part. ``encoding`` is how the files hold
    them, besides UTF-8 and UTF-16; those of ``binary`` columns are text of one character
    per byte (Latin-1).
    """

    database: str
    table: TableName
    masking: ColumnMasking
    originals: Sequence[str] = field(repr=False)
    complete: bool = False
    controls: tuple[str, ...] = field(default=(), repr=False)
    encoding: str = "utf-8"
    binary: bool = False

    @property
    def place(self) -> str:
        """``database: schema.table.column``, for messages."""
        return f"{self.database}: {self.table}.{self.masking.column.name}"

    @property
    def cell(self) -> Place:
        """Database, table and column."""
        return self.database, self.table, self.masking.column.name


@dataclass(frozen=True, slots=True)
class Masked:
    """What a session's ``mask`` returns."""

    tables: tuple[TableCounts, ...] = ()
    samples: tuple[Sample, ...] = ()
    kept: frozenset[Place] = frozenset()
    """Database, table and column of what a rule keeps."""
    left_out: Mapping[Place, frozenset[str]] = field(default_factory=dict, repr=False)
    """Originals that rows had which a rule with a condition does not select, by the rule's column."""
    reports: tuple[str, ...] = ()
    traces: frozenset[bytes] = field(default=frozenset(), repr=False)
    """Bytes by which the masking keys would show: see :func:`reconciler.masking.keyed.traces`."""

    def added(
        self,
        tables: tuple[TableCounts, ...] = (),
        samples: tuple[Sample, ...] = (),
        reports: tuple[str, ...] = (),
        *,
        kept: frozenset[Place] = frozenset(),
        left_out: Mapping[Place, frozenset[str]] = MappingProxyType({}),
    ) -> Masked:
        """Return this with more."""
        return replace(
            self,
            tables=(*self.tables, *tables),
            samples=(*self.samples, *samples),
            reports=(*self.reports, *reports),
            kept=self.kept | kept,
            left_out={**self.left_out, **left_out},
        )


def idle(counts: Sequence[TableCounts]) -> Iterator[str]:
    """Yield the rules whose condition took no row of a table that has some."""
    for table in counts:
        for column in table.columns:
            if column.rows and not column.selected:
                yield f"{table.database}: the condition of the rule for {table.table}.{column.column} takes no row"
