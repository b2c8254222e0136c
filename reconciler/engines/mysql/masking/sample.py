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

    from reconciler.engines.mysql.link import Link
    from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, TableMasking
    from reconciler.masking.schema import Column, TableName

WANTED = 500
"""Distinct originals per column."""
CONTROLS = 3
_ROOM = 5000
_ALL_ROWS = 50_000
"""Rows up to which a table is read whole; of a larger one, about so many."""
_FREE_TEXT = 2000
_DOCUMENT = 1 << 20
_CONTROL_ROWS = 2000
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


def draw(link: Link, masking: DatabaseMasking, *, wanted: int = WANTED) -> tuple[Sample, ...]:
    """Return a sample of every column whose originals must be gone: ``wanted`` distinct ones, or all.

    Raises:
        MaskingError: a table cannot be read, for example because of the predicate of a rule.

    """
    vault, found = Vault(), list[Sample]()
    charsets = {(str(table), str(column)): str(name) for table, column, name in link.rows(_CHARSETS, masking.database)}
    for table in masking.tables:
        columns = [column for column in table.columns if drawn(column.method)]
        if not columns:
            continue
        with reading(table.name, "originals cannot be read"):
            pickers = _pick(link, table, columns, wanted)
        for column, (picker, whole) in zip(columns, pickers, strict=True):
            kept = vault.keep(picker.pick())
            charset = charsets.get((table.name.name, column.column.name), "utf8mb4")
            found.append(
                Sample(
                    masking.database,
                    table.name,
                    column,
                    kept,
                    complete=whole and picker.all_taken,
                    encoding=shape.codec(charset),
                    binary=column.column.family is Family.BYTES,
                )
            )
    return tuple(found)


def source(link: Link, name: TableName) -> str:
    """Return what stands behind FROM to read every row of a table that there is, also of the past, as ``t``."""
    return f"{shape.place(name)}{history.of(link, name).all_rows} AS t"


def _pick(link: Link, table: TableMasking, columns: Sequence[ColumnMasking], wanted: int) -> list[tuple[Picker, bool]]:
    pickers = [Picker(wanted, _ROOM) for _ in columns]
    step = max(1, table.table.estimated_rows // _ALL_ROWS)
    part = "" if step == 1 else f" WHERE RAND() * {step} < 1"
    _read(link, table, columns, pickers, part)
    lacking = [number for number, one in enumerate(pickers) if step > 1 and not one.enough]
    if lacking:
        for number in lacking:
            pickers[number] = Picker(wanted, _ROOM)
        _read(link, table, [columns[n] for n in lacking], [pickers[n] for n in lacking], "")
    return [(picker, step == 1 or number in lacking) for number, picker in enumerate(pickers)]


def _read(
    link: Link, table: TableMasking, columns: Sequence[ColumnMasking], pickers: Sequence[Picker], part: str
) -> None:
    names = ", ".join(_selected_cell(column) for column in columns)
    for row in link.stream(f"SELECT {names} FROM {source(link, table.name)}{part}"):
        for column, picker, cell in zip(columns, pickers, row, strict=True):
            for text in texts(column, cell):
                picker.add(text)


def _selected_cell(column: ColumnMasking) -> str:
    cell = cell_of(column)
    return cell if column.when is None else f"IF(({column.when}\n), {cell}, NULL)"


def left_out(
    link: Link, masking: DatabaseMasking, samples: Sequence[Sample]
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
            with reading(table.name, "rows without a rule cannot be read"):
                query = (
                    f"SELECT {cell_of(column)} FROM {source(link, table.name)} WHERE NOT COALESCE(({column.when}\n), 0)"
                )
                seen = {telling_part(text) for (cell,) in link.stream(query) for text in texts(column, cell)}
            found[masking.database, table.name, column.column.name] = frozenset(seen & every)
    return found


def with_controls(link: Link, masking: DatabaseMasking, samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return the samples with masked values of their columns, as far as files show them; called when it is masked."""
    controls: dict[tuple[TableName, str], tuple[str, ...]] = {}
    hidden = hiding.tables(link)
    for table in masking.tables:
        for column in table.columns if table.name not in hidden else ():
            if drawn(column.method) and name_of(column.method) != "null":
                query = (
                    f"SELECT {cell_of(column)} FROM {shape.place(table.name)} AS t"
                    f" WHERE t.{quoted(column.column.name)} IS NOT NULL LIMIT {_CONTROL_ROWS}"
                )
                with reading(table.name, "masked values cannot be read"):
                    cells = [row[0] for row in link.rows(query)]
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
def reading(table: TableName, what: str) -> Iterator[None]:
    """Translate an error of the server while a table is read with expressions of policies."""
    try:
        yield
    except SqlError as error:
        if interrupted(error):
            raise
        raise MaskingError(f"{table}: {what}: {error}") from None


def by_place(samples: Sequence[Sample]) -> Mapping[tuple[str, TableName, str], Sample]:
    """Return the samples of policies' columns by where they were drawn."""
    return {one.cell: one for one in sorted(samples, key=lambda one: drawn(one.masking.method))}


def with_text(column: Column) -> bool:
    """Tell whether a column holds text, documents or bytes that a step of others may mask."""
    return column.family in {Family.TEXT, Family.JSON, Family.BYTES} and not column.generated
