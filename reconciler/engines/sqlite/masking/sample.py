"""Values of masked columns: originals that are drawn before masking, masked values (controls) after it.

Called by :mod:`.run`. It only reads, each table once; of a large one a part of the rows,
and more where that had too few values.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from reconciler.engines.sqlite.databases import quoted
from reconciler.engines.sqlite.failures import reason
from reconciler.engines.sqlite.masking.rewrite import guarded_sql
from reconciler.errors import MaskingError
from reconciler.masking import json_paths, sampling
from reconciler.masking.keyed import canonical
from reconciler.masking.originals import READ, personal_parts
from reconciler.masking.originals import json_paths as drawn_paths
from reconciler.masking.schema import Family
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.engines.sqlite.masking.cells import Cell
    from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, TableMasking
    from reconciler.masking.report import Place, Sample
    from reconciler.masking.schema import TableName

_FREE_TEXT = 2000


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


def draw(conn: sqlite3.Connection, masking: DatabaseMasking) -> tuple[Sample, ...]:
    """Return a sample of every column whose originals must be gone.

    Raises:
        MaskingError: a table cannot be read, for example because of the predicate of a rule.

    """

    def rows(table: TableMasking, columns: Sequence[ColumnMasking], step: int) -> Iterator[list[Iterator[str]]]:
        names = ", ".join(_selected_cell(column) for column in columns)
        part = "" if step == 1 else f" WHERE abs(random() % {step}) = 0"
        with reading(conn, masking.database, table.name, "originals cannot be read"):
            for row in conn.execute(f"SELECT {names} FROM {quoted(table.name.name)} AS t{part}"):
                yield [texts(column, cell) for column, cell in zip(columns, row, strict=True)]

    return sampling.draw(masking, rows)


def _selected_cell(column: ColumnMasking) -> str:
    cell = f"t.{quoted(column.column.name)}"
    return cell if column.when is None else f"CASE WHEN ({column.when}\n) THEN {cell} END"


def left_out(
    conn: sqlite3.Connection, masking: DatabaseMasking, samples: Sequence[Sample]
) -> dict[Place, frozenset[str]]:
    """Return which originals are values of rows that a rule with a condition does not select, by the rule's column.

    Raises:
        MaskingError: a table cannot be read.

    """

    def read(table: TableMasking, column: ColumnMasking) -> Iterator[str]:
        with reading(conn, masking.database, table.name, "rows without a rule cannot be read"):
            yield from _texts(conn, table, column, f"NOT coalesce(({column.when}\n), 0)")

    return sampling.left_out(masking, samples, read)


def with_controls(conn: sqlite3.Connection, masking: DatabaseMasking, samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return the samples with masked values of their columns; called when the database is masked."""

    def read(table: TableMasking, column: ColumnMasking) -> Iterator[str]:
        with reading(conn, masking.database, table.name, "masked values cannot be read"):
            present = f"t.{quoted(column.column.name)} IS NOT NULL"
            yield from _texts(conn, table, column, f"{present} LIMIT {sampling.CONTROL_ROWS}")

    return sampling.with_controls(samples, masking.database, sampling.controls(masking, read))


def _texts(conn: sqlite3.Connection, table: TableMasking, column: ColumnMasking, rows: str) -> Iterator[str]:
    query = f"SELECT t.{quoted(column.column.name)} FROM {quoted(table.name.name)} AS t WHERE {rows}"
    for (cell,) in conn.execute(query):
        yield from texts(column, cell)


@contextmanager
def reading(conn: sqlite3.Connection, database: str, table: TableName, what: str) -> Iterator[None]:
    """Read with expressions of policies; translate an error of the database."""
    with guarded_sql(conn) as refused:
        try:
            yield
        except sqlite3.Error as error:
            why = f"{denied} is not allowed" if (denied := refused()) else reason(error)
            raise MaskingError(f"{database}: {table}: {what}: {why}") from None
