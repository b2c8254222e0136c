"""Values of masked columns: originals that are drawn before masking, masked values (controls) after it.

Called by :mod:`.run`. It only reads, each table once; of a large one a part of the rows,
and more where that had too few values.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from reconciler.engines.sqlite.databases import quoted
from reconciler.engines.sqlite.failures import reason
from reconciler.engines.sqlite.masking.rewrite import guarded_sql
from reconciler.errors import MaskingError
from reconciler.masking import json_paths
from reconciler.masking.keyed import canonical
from reconciler.masking.originals import READ, Picker, drawn, personal_parts, searchable, telling_part
from reconciler.masking.originals import json_paths as drawn_paths
from reconciler.masking.report import Sample
from reconciler.masking.schema import Family
from reconciler.masking.vault import Vault
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reconciler.engines.sqlite.masking.cells import Cell
    from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, TableMasking
    from reconciler.masking.schema import TableName

WANTED = 500
"""Distinct originals per column."""
CONTROLS = 3
_ROOM = 5000
_ALL_ROWS = 50_000
"""Rows up to which a table is read whole; of a larger one, about so many."""
_FREE_TEXT = 2000
_CONTROL_ROWS = 2000


def texts(masking: ColumnMasking, cell: Cell) -> Iterator[str]:
    """Yield the values of a cell that must be gone, as they are looked for."""
    if cell is None:
        return
    column = masking.column
    if drawn_paths(masking.method):
        document = cell if isinstance(cell, bytes) else str(cell)
        yield from (one[:READ] for one in json_paths.strings(drawn_paths(masking.method), document))
    elif isinstance(cell, bytes):
        if column.family is Family.UUID and len(cell) == 16:  # noqa: PLR2004 - of a UUID (RFC 9562)
            yield str(UUID(bytes=cell))
        elif column.family is Family.BYTES:
            yield cell[: READ // 2].decode("latin-1")
        else:
            yield cell.decode("utf-8", "replace")[:READ]
    elif not isinstance(cell, str):
        yield canonical(cell, column)
    elif name_of(masking.method) == "text":
        yield from personal_parts(masking.method, cell[:_FREE_TEXT])
    elif column.family is Family.BYTES:
        yield cell.encode()[: READ // 2].decode("latin-1")
    else:
        yield cell[:READ]


def draw(conn: sqlite3.Connection, masking: DatabaseMasking, *, wanted: int = WANTED) -> tuple[Sample, ...]:
    """Return a sample of every column whose originals must be gone: ``wanted`` distinct ones, or all.

    Raises:
        MaskingError: a table cannot be read, for example because of the predicate of a rule.

    """
    vault, found = Vault(), list[Sample]()
    for table in masking.tables:
        columns = [column for column in table.columns if drawn(column.method)]
        if columns:
            with reading(conn, masking.database, table.name, "originals cannot be read"):
                pickers = _pick(conn, table, columns, wanted)
            for column, (picker, whole) in zip(columns, pickers, strict=True):
                kept = vault.keep(picker.pick())
                found.append(_sample(masking.database, table, column, kept, whole=whole and picker.all_taken))
    return tuple(found)


def _sample(
    database: str, table: TableMasking, column: ColumnMasking, originals: Sequence[str], *, whole: bool
) -> Sample:
    binary = column.column.family is Family.BYTES
    return Sample(database, table.name, column, originals, whole, binary=binary)


def _pick(
    conn: sqlite3.Connection, table: TableMasking, columns: Sequence[ColumnMasking], wanted: int
) -> list[tuple[Picker, bool]]:
    pickers = [Picker(wanted, _ROOM) for _ in columns]
    rows = table.table.estimated_rows
    step = max(1, rows // _ALL_ROWS)
    part = "" if step == 1 else f" WHERE abs(random() % {step}) = 0"
    _read(conn, table, columns, pickers, part)
    lacking = [number for number, one in enumerate(pickers) if step > 1 and not one.enough]
    if lacking:
        for number in lacking:
            pickers[number] = Picker(wanted, _ROOM)
        _read(conn, table, [columns[n] for n in lacking], [pickers[n] for n in lacking], "")
    return [(picker, step == 1 or number in lacking) for number, picker in enumerate(pickers)]


def _read(
    conn: sqlite3.Connection,
    table: TableMasking,
    columns: Sequence[ColumnMasking],
    pickers: Sequence[Picker],
    part: str,
) -> None:
    names = ", ".join(_selected_cell(column) for column in columns)
    for row in conn.execute(f"SELECT {names} FROM {quoted(table.name.name)} AS t{part}"):
        for column, picker, cell in zip(columns, pickers, row, strict=True):
            for text in texts(column, cell):
                picker.add(text)


def _selected_cell(column: ColumnMasking) -> str:
    cell = f"t.{quoted(column.column.name)}"
    return cell if column.when is None else f"CASE WHEN ({column.when}\n) THEN {cell} END"


def left_out(
    conn: sqlite3.Connection, masking: DatabaseMasking, samples: Sequence[Sample]
) -> dict[tuple[str, TableName, str], frozenset[str]]:
    """Return which originals are values of rows that a rule with a condition does not select, by the rule's column.

    Raises:
        MaskingError: a table cannot be read.

    """
    every = {text for sample in samples for text in sample.originals}
    found: dict[tuple[str, TableName, str], frozenset[str]] = {}
    for table in masking.tables:
        for column in table.columns:
            if column.when is None or not drawn(column.method):
                continue
            query = (
                f"SELECT t.{quoted(column.column.name)} FROM {quoted(table.name.name)} AS t"
                f" WHERE NOT coalesce(({column.when}\n), 0)"
            )
            with reading(conn, masking.database, table.name, "rows without a rule cannot be read"):
                seen = {telling_part(text) for (cell,) in conn.execute(query) for text in texts(column, cell)}
            found[masking.database, table.name, column.column.name] = frozenset(seen & every)
    return found


def with_controls(conn: sqlite3.Connection, masking: DatabaseMasking, samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return the samples with masked values of their columns; called when the database is masked."""
    controls: dict[tuple[TableName, str], tuple[str, ...]] = {}
    for table in masking.tables:
        for column in table.columns:
            if drawn(column.method) and name_of(column.method) != "null":
                query = (
                    f"SELECT {quoted(column.column.name)} FROM {quoted(table.name.name)}"
                    f" WHERE {quoted(column.column.name)} IS NOT NULL LIMIT {_CONTROL_ROWS}"
                )
                with reading(conn, masking.database, table.name, "masked values cannot be read"):
                    cells = [row[0] for row in conn.execute(query)]
                found = [text for cell in cells for text in texts(column, cell) if searchable(text)]
                controls[table.name, column.column.name] = _chosen(found)
    return tuple(
        replace(one, controls=controls.get((one.table, one.masking.column.name), ()))
        if one.database == masking.database
        else one
        for one in samples
    )


def _chosen(found: Sequence[str]) -> tuple[str, ...]:
    ordered = sorted(map(telling_part, found), key=lambda text: (len(text), text))
    return tuple(dict.fromkeys((ordered[0], ordered[len(ordered) // 2], ordered[-1])[:CONTROLS])) if ordered else ()


@contextmanager
def reading(conn: sqlite3.Connection, database: str, table: TableName, what: str) -> Iterator[None]:
    """Read with expressions of policies; translate an error of the database."""
    with guarded_sql(conn) as refused:
        try:
            yield
        except sqlite3.Error as error:
            why = f"{denied} is not allowed" if (denied := refused()) else reason(error)
            raise MaskingError(f"{database}: {table}: {what}: {why}") from None


def by_place(samples: Sequence[Sample]) -> Mapping[tuple[str, TableName, str], Sample]:
    """Return the samples of policies' columns by where they were drawn."""
    return {one.cell: one for one in sorted(samples, key=lambda one: drawn(one.masking.method))}
