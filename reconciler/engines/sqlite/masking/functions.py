"""The values of masked columns, as functions that SQL calls: those of :mod:`reconciler.masking.values`, for each cell.

Used by :mod:`.rewrite`. Keys are in this process only, and no SQL ever has one. Each
function counts what it did, which is the proof that the rule was carried out. An error
inside one ends the statement; what was wrong is kept here, as SQLite does not tell.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from reconciler.engines.sqlite.masking.cells import Cell, UnfitError, canonical_of, typed
from reconciler.masking.keyed import subkey
from reconciler.masking.report import ColumnCounts
from reconciler.masking.values import mask
from reconciler.masking.vocabulary import gives_null_a_value, name_of, why_not
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.masking.assignment import ColumnMasking, TableMasking
    from reconciler.masking.schema import Column, Family

_REMEMBERED = 50_000
"""Values of a column that are computed once: columns repeat themselves."""


class ColumnMasker:
    """One masked column: a function of its cell, whether the rule selects the row, and what else the method reads."""

    def __init__(self, masking: ColumnMasking, table: TableMasking, key: bytes) -> None:
        self.masking = masking
        self.problem = ""
        self._key = key
        self._column = masking.column
        self._by = _named(table, getattr(masking.method, "by", None))
        self._rows = self._selected = self._nulls = self._equal = 0
        self._unfit: dict[Family, bool] = {}
        self._known: dict[tuple[type, Cell], Cell] = {}  # 1 and 1.0 are not the same cell
        self._given = name_of(masking.method) in {"sql", "shuffle"}
        self._whole = self._by is None and not getattr(masking.method, "names", ())

    @property
    def reads(self) -> tuple[str, ...]:
        """The other columns of the row that the method reads, in the order of its arguments."""
        by = (self._by.name,) if self._by is not None else ()
        names = self.masking.method.names if isinstance(self.masking.method, spec.Text) else ()
        return (*by, *names)

    def __call__(self, cell: Cell, selected: Cell, *others: Cell) -> Cell:
        """Return what a cell becomes."""
        self._rows += 1
        result = cell
        if selected:
            self._selected += 1
            try:
                result = self._masked(cell, others)
            except UnfitError as error:
                self.problem = f"a row holds {error}, to which {name_of(self.masking.method)} cannot be applied"
                raise
            self._equal += result is not None and result == cell
        self._nulls += result is None
        return result

    def _masked(self, cell: Cell, others: tuple[Cell, ...]) -> Cell:
        if self._given:
            return None if cell is None and self.masking.keep_null else others[0]
        if not self._whole:
            return self._value(cell, others)
        known = (type(cell), cell)
        if known not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[known] = self._value(cell, others)
        return self._known[known]

    def _value(self, cell: Cell, others: tuple[Cell, ...]) -> Cell:
        method = self.masking.method
        if method == "null":
            return None
        found = typed(cell, self._column)
        if cell is not None and self._does_not_fit(found.column):
            raise UnfitError(f"a value of another kind ({found.column.family})")
        by = canonical_of(others[0], self._by) if self._by is not None else None
        row = tuple("" if one is None else str(one) for one in others) if self._by is None else ()
        if cell is None and not (gives_null_a_value(method) or isinstance(method, spec.Fixed)):
            return None
        return found.back(mask(method, found.value, found.column, self._key, by=by, row=row))

    def _does_not_fit(self, column: Column) -> bool:
        """Tell whether a method cannot be applied to values of a family: a column may hold several."""
        if column.family not in self._unfit:
            self._unfit[column.family] = (
                column.family is not self._column.family
                and why_not(self.masking.method, column, unique=False) is not None
            )
        return self._unfit[column.family]

    @property
    def counts(self) -> ColumnCounts:
        """What was done."""
        name, origin = name_of(self.masking.method), self.masking.inherited_from
        return ColumnCounts(
            column=self.masking.column.name,
            method=name if origin is None else f"{name} (from {origin})",
            policy=str(self.masking.policy),
            rows=self._rows,
            selected=self._selected,
            nulls=self._nulls,
            equal=self._equal,
        )


def placing(key: bytes) -> Callable[[Cell], bytes]:
    """Return a function that gives rows the order in which ``shuffle`` hands values on."""
    secret = subkey(key, "shuffle")
    return lambda place: sha256(secret + str(place).encode()).digest()


def _named(table: TableMasking, name: str | None) -> Column | None:
    return next((one for one in table.table.columns if one.name == name), None)
