"""Values that SQL cannot compute, or only slowly: by :mod:`reconciler.masking.values`, for each row that is read.

Called by :mod:`.stage` with the rows of a table, and by :mod:`.rewrite` to know which columns
it is for. No key reaches the server for these. Values never show in an error.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from reconciler.engines.mysql.link import quoted
from reconciler.errors import MaskingError
from reconciler.masking.keyed import canonical
from reconciler.masking.schema import Family
from reconciler.masking.values import mask
from reconciler.masking.vocabulary import gives_null_a_value, name_of
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reconciler.masking.assignment import ColumnMasking, TableMasking
    from reconciler.masking.schema import Column

_KEEPING = frozenset({"text", "partial"})
_REMEMBERED = 50_000
"""Values of a column that are computed once: columns repeat themselves."""
_LARGEST = 1 << 63
Cell = Any
"""What PyMySQL hands out and takes."""


class Computed:
    """One column whose values are computed here."""

    def __init__(self, masking: ColumnMasking, table: TableMasking, key: bytes) -> None:
        self.masking = masking
        self._table, self._key = table, key
        columns = {one.name: one for one in table.table.columns}
        self._by = columns.get(getattr(masking.method, "by", None) or "")
        names = masking.method.names if isinstance(masking.method, spec.Text) else ()
        self._row = tuple(columns[name] for name in names)
        self._known: dict[Cell, Cell] = {}

    @property
    def reads(self) -> tuple[Column, ...]:
        """The columns whose values it is called with."""
        return (self.masking.column, *((self._by,) if self._by is not None else ()), *self._row)

    def __call__(self, *cells: Cell) -> Cell:
        """Return what a cell becomes, as text or bytes; the other cells are those of :attr:`reads`.

        Raises:
            MaskingError: the row holds what the method does not fit.

        """
        if len(cells) > 1:
            return self._value(*cells)
        known = cells[0]
        if known not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[known] = self._value(known)
        return self._known[known]

    def _value(self, cell: Cell, *others: Cell) -> Cell:
        method, column = self.masking.method, self.masking.column
        if cell is None and not (gives_null_a_value(method) or isinstance(method, spec.Fixed)):
            return None
        if column.family in {Family.DATE, Family.TIME} and isinstance(cell, str):
            return cell  # a day that does not exist
        by, row = None, others
        if self._by is not None:
            by, row = canonical_of(others[0], self._by), others[1:]
        texts = tuple("" if one is None else str(one) for one in row)
        result = mask(method, self._typed(cell), column_of(self.masking), self._key, by=by, row=texts)
        return document(result) if column.family is Family.JSON and cell is not None else plain(result)

    def _typed(self, cell: Cell) -> object:
        match self.masking.column.family:
            case Family.JSON if cell is not None:
                try:
                    return json.loads(cell, parse_float=Decimal)
                except (ValueError, RecursionError):
                    raise self._unfit("something that is no JSON text") from None
            case Family.INTEGER if cell is not None and cell >= _LARGEST:
                raise self._unfit("a number beyond 64 bits with a sign")
            case Family.UUID if cell is not None:
                return UUID(cell)
            case _:
                return cell

    def _unfit(self, what: str) -> MaskingError:
        return MaskingError(
            f"{self._table.name}.{self.masking.column.name}: a row holds {what}, to which"
            f" {name_of(self.masking.method)} cannot be applied",
            hint='write hash, fixed, "null" or keep for the column, or correct its rows in a script',
        )


def column_of(masking: ColumnMasking) -> Column:
    """Return a column as its method sees it.

    Nearly all columns of the server ignore case. What keeps parts of a text keeps their case: values that were
    equal stay so, and names in a text are known by their capitals.
    """
    return replace(masking.column, folds_case=False) if name_of(masking.method) in _KEEPING else masking.column


def canonical_of(cell: Cell, column: Column) -> str:
    """Return the text that stands for a cell; empty for NULL."""
    return "" if cell is None else canonical(cell, column)


def plain(value: object) -> Cell:
    """Return a value as its column takes it: text, or bytes."""
    match value:
        case None | str() | bytes():
            return value
        case datetime():
            return value.isoformat(" ")
        case date() | UUID():
            return str(value)
        case Decimal():
            return format(value, "f")
        case _:
            return repr(value)


def document(value: object) -> str:
    """Return a document as text."""
    return json.dumps(value, default=_number, ensure_ascii=False, separators=(",", ":"))


def _number(value: object) -> int | float | str:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def read(column: Column, alias: str = "t") -> str:
    """Return the expression with which a column is read: what PyMySQL makes of it is what the reference takes."""
    name = f"{alias}.{quoted(column.name)}"
    if column.family is Family.NUMBER and column.digits is None:
        return f"CAST({name} AS DOUBLE)"  # a float is shown with six digits
    return name


def of(table: TableMasking, wanted: Sequence[ColumnMasking], keys: Mapping[Any, bytes]) -> tuple[Computed, ...]:
    """Return the columns that are computed here."""
    return tuple(Computed(one, table, keys[one.key]) for one in wanted)
