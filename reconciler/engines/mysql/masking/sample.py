"""Values of masked columns: originals that are drawn before masking, masked values (controls) after it.

Called by :mod:`.run`. It only reads, each table once; of a large one a part of the rows,
and more where that had too few values. Conditions of policies are computed by the
account that has rights on databases of users only.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reconciler.engines.mysql.failures import SqlError, interrupted
from reconciler.engines.mysql.link import quoted
from reconciler.engines.mysql.masking import computed, hiding, history, shape
from reconciler.errors import MaskingError
from reconciler.masking import json_paths, sampling
from reconciler.masking.keyed import canonical
from reconciler.masking.originals import READ, personal_parts
from reconciler.masking.originals import json_paths as drawn_paths
from reconciler.masking.schema import Family
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.engines.mysql.link import Link
    from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, TableMasking
    from reconciler.masking.report import Place, Sample
    from reconciler.masking.schema import TableName

_FREE_TEXT = 2000
_DOCUMENT = 1 << 20
_CHARSETS = """
SELECT table_name, column_name, character_set_name FROM information_schema.columns
WHERE table_schema = %s AND character_set_name IS NOT NULL
"""


def texts(masking: ColumnMasking, cell: Any) -> Iterator[str]:  # noqa: ANN401 - whatever PyMySQL hands out
    """Yield the values of a cell that must be gone, as they are looked for."""
    if cell is None:
        return
    if drawn_paths(masking.method):
        document = cell if isinstance(cell, bytes) else str(cell)
        yield from (one[:READ] for one in json_paths.strings(drawn_paths(masking.method), document))
    elif isinstance(cell, bytes):
        yield cell[: READ // 2].decode("latin-1")
    elif not isinstance(cell, str):
        yield canonical(cell, masking.column)
    elif name_of(masking.method) == "text":
        yield from personal_parts(masking.method, cell[:_FREE_TEXT])
    else:
        yield cell[:READ]


def cell_of(masking: ColumnMasking) -> str:
    """Return the expression with which a cell is read, no more of it than :func:`texts` looks at."""
    column = masking.column
    value = computed.read(column)
    if column.length is not None and column.length <= READ:
        return value
    if drawn_paths(masking.method):
        return f"LEFT({value}, {_DOCUMENT})"
    if column.family in {Family.TEXT, Family.JSON}:
        return f"LEFT({value}, {_FREE_TEXT if name_of(masking.method) == 'text' else READ})"
    return f"LEFT({value}, {READ // 2})" if column.family is Family.BYTES else value


def draw(link: Link, masking: DatabaseMasking) -> tuple[Sample, ...]:
    """Return a sample of every column whose originals must be gone.

    Raises:
        MaskingError: a table cannot be read, for example because of the predicate of a rule.

    """
    charsets = {(str(table), str(column)): str(name) for table, column, name in link.rows(_CHARSETS, masking.database)}

    def rows(table: TableMasking, columns: Sequence[ColumnMasking], step: int) -> Iterator[list[Iterator[str]]]:
        names = ", ".join(_selected_cell(column) for column in columns)
        part = "" if step == 1 else f" WHERE RAND() * {step} < 1"
        with reading(table.name, "originals cannot be read"):
            for row in link.stream(f"SELECT {names} FROM {source(link, table.name)}{part}"):
                yield [texts(column, cell) for column, cell in zip(columns, row, strict=True)]

    return tuple(
        replace(one, encoding=shape.codec(charsets.get((one.table.name, one.masking.column.name), "utf8mb4")))
        for one in sampling.draw(masking, rows)
    )


def source(link: Link, name: TableName) -> str:
    """Return what stands behind FROM to read every row of a table that there is, also of the past, as ``t``."""
    return f"{shape.place(name)}{history.of(link, name).all_rows} AS t"


def _selected_cell(column: ColumnMasking) -> str:
    cell = cell_of(column)
    return cell if column.when is None else f"IF(({column.when}\n), {cell}, NULL)"


def left_out(link: Link, masking: DatabaseMasking, samples: Sequence[Sample]) -> dict[Place, frozenset[str]]:
    """Return which originals are values of rows that a rule with a condition does not select, by the rule's column.

    Raises:
        MaskingError: a table cannot be read.

    """

    def read(table: TableMasking, column: ColumnMasking) -> Iterator[str]:
        with reading(table.name, "rows without a rule cannot be read"):
            yield from _texts(link, column, f"{source(link, table.name)} WHERE NOT COALESCE(({column.when}\n), 0)")

    return sampling.left_out(masking, samples, read)


def with_controls(link: Link, masking: DatabaseMasking, samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return the samples with masked values of their columns, as far as files show them; called when it is masked."""
    hidden = hiding.tables(link)

    def read(table: TableMasking, column: ColumnMasking) -> Iterator[str]:
        if table.name in hidden:
            return
        rows = f"{shape.place(table.name)} AS t WHERE t.{quoted(column.column.name)} IS NOT NULL"
        with reading(table.name, "masked values cannot be read"):
            yield from _texts(link, column, f"{rows} LIMIT {sampling.CONTROL_ROWS}")

    return sampling.with_controls(samples, masking.database, sampling.controls(masking, read))


def _texts(link: Link, column: ColumnMasking, rows: str) -> Iterator[str]:
    for (cell,) in link.stream(f"SELECT {cell_of(column)} FROM {rows}"):
        yield from texts(column, cell)


@contextmanager
def reading(table: TableName, what: str) -> Iterator[None]:
    """Translate an error of the server while a table is read with expressions of policies."""
    try:
        yield
    except SqlError as error:
        if interrupted(error):
            raise
        raise MaskingError(f"{table}: {what}: {error}") from None
