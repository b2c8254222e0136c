"""Samples of masked columns: originals out of what an engine reads of tables, and masked values beside them.

Called by the engines' ``sample.py``. They read, translate the errors of that, and say as
which texts the values of a cell are looked for; nothing here knows a database.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.masking.originals import Picker, drawn, searchable, telling_part
from reconciler.masking.report import Sample
from reconciler.masking.schema import Family
from reconciler.masking.vault import Vault
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, TableMasking
    from reconciler.masking.report import Place
    from reconciler.masking.schema import TableName

    Rows = Callable[[TableMasking, Sequence[ColumnMasking], int], Iterable[Sequence[Iterable[str]]]]
    """Reads one of so many rows of a table: of each the texts of some columns, as far as their rules select it."""
    Texts = Callable[[TableMasking, ColumnMasking], Iterable[str]]
    """Reads the texts of one column in some rows."""
    Controls = Mapping[tuple[TableName, str], tuple[str, ...]]

WANTED = 500
"""Distinct originals per column."""
CONTROLS = 3
"""Masked values per column."""
CONTROL_ROWS = 2000
"""Rows that are read for them."""
_ROOM = 5000
_ALL_ROWS = 50_000
"""Rows up to which a table is read whole; of a larger one, about so many."""


def draw(masking: DatabaseMasking, rows: Rows) -> tuple[Sample, ...]:
    """Return a sample of every column whose originals must be gone: as many distinct ones as are wanted, or all."""
    vault, found = Vault(), list[Sample]()
    for table in masking.tables:
        columns = [column for column in table.columns if drawn(column.method)]
        for column, (picker, whole) in zip(columns, _pick(table, columns, rows), strict=True) if columns else ():
            kept = vault.keep(picker.pick())
            binary = column.column.family is Family.BYTES
            found.append(Sample(masking.database, table.name, column, kept, whole and picker.all_taken, binary=binary))
    return tuple(found)


def _pick(table: TableMasking, columns: Sequence[ColumnMasking], rows: Rows) -> list[tuple[Picker, bool]]:
    """Return what was picked of columns, and whether of all rows, as where a part of them had too few values."""
    pickers = [Picker(WANTED, _ROOM) for _ in columns]
    step = max(1, table.table.estimated_rows // _ALL_ROWS)
    _fill(pickers, rows(table, columns, step))
    lacking = [number for number, one in enumerate(pickers) if step > 1 and not one.enough]
    if lacking:
        for number in lacking:
            pickers[number] = Picker(WANTED, _ROOM)
        _fill([pickers[number] for number in lacking], rows(table, [columns[number] for number in lacking], 1))
    return [(picker, step == 1 or number in lacking) for number, picker in enumerate(pickers)]


def _fill(pickers: Sequence[Picker], rows: Iterable[Sequence[Iterable[str]]]) -> None:
    for row in rows:
        for picker, texts in zip(pickers, row, strict=True):
            for text in texts:
                picker.add(text)


def left_out(masking: DatabaseMasking, samples: Sequence[Sample], texts: Texts) -> dict[Place, frozenset[str]]:
    """Return which originals are values of rows that a rule with a condition does not select, by the rule's column.

    ``texts`` reads those rows.
    """
    every = {text for sample in samples for text in sample.originals}
    return {
        (masking.database, table.name, column.column.name): frozenset(
            every & {telling_part(text) for text in texts(table, column)}
        )
        for table in masking.tables
        for column in table.columns
        if column.when is not None and drawn(column.method)
    }


def controls(masking: DatabaseMasking, texts: Texts) -> Controls:
    """Return the controls of columns, by table and column. ``texts`` reads masked values."""
    return {
        (table.name, column.column.name): chosen(filter(searchable, texts(table, column)))
        for table in masking.tables
        for column in table.columns
        if drawn(column.method) and name_of(column.method) != "null"
    }


def chosen(texts: Iterable[str]) -> tuple[str, ...]:
    """Return a short, a long and a middle value: long ones may be compressed, short ones repeat."""
    ordered = sorted(map(telling_part, texts), key=lambda text: (len(text), text))
    return tuple(dict.fromkeys((ordered[0], ordered[len(ordered) // 2], ordered[-1])[:CONTROLS])) if ordered else ()


def with_controls(samples: Sequence[Sample], database: str, found: Controls) -> tuple[Sample, ...]:
    """Return the samples, those of the database with the controls of their columns."""
    return tuple(
        replace(one, controls=found.get((one.table, one.masking.column.name), ())) if one.database == database else one
        for one in samples
    )
