"""Masked values in place of a table's own, and everything around them as it was.

Called by :mod:`.run`. A table is never updated: another one is made like it, filled from it
by one ``INSERT … SELECT`` that computes and counts, and takes its name. So neither undo
nor free pages of the new one ever had an original, no trigger fires and no reference
cascades. Several tables are masked at once, each on connections of its own.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from reconciler.engines.mysql import accounts
from reconciler.engines.mysql.failures import SqlError
from reconciler.engines.mysql.link import quoted
from reconciler.engines.mysql.masking import computed, expressions, history, indexes, keys, permutations, shape, stage
from reconciler.engines.mysql.masking.moves import OFFSET
from reconciler.masking.report import ColumnCounts, TableCounts
from reconciler.masking.schema import Family
from reconciler.masking.vocabulary import name_of
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.base import BuildWork
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.masking.stage import Stage
    from reconciler.engines.mysql.product import Product
    from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, Keys, TableMasking

_COUNTED = ("selected", "nulls", "equal")
_FEW = 10_000
"""Rows up to which keys are filled with the rows: making them afterwards takes statements of its own."""
_BINARY = frozenset({Family.BYTES, Family.OTHER})


def mask_databases(
    work: BuildWork, product: Product, databases: Sequence[DatabaseMasking], masking_keys: Keys
) -> tuple[TableCounts, ...]:
    """Mask all tables of the databases; return the proof per table, in their order.

    Raises:
        MaskingError: a database refused, or a row holds what a method does not fit; names table and column.

    """
    todo = [(one.database, table) for one in databases for table in one.tables]
    with keys.connected(work) as link:
        before = shape.broken(link, databases)
        keys.install(link)
    with accounts.opened_owner(work, product) as password, ThreadPoolExecutor(max(1, work.jobs)) as pool:
        jobs = [_Rewrite(work, password, table, masking_keys, number) for number, (_, table) in enumerate(todo)]
        largest = sorted(jobs, key=lambda job: -job.size)
        running = {job.number: pool.submit(job.run) for job in largest}
        try:
            counts = [running[job.number].result() for job in jobs]
        finally:
            for one in running.values():
                one.cancel()
    with keys.connected(work) as link:
        keys.remove(link)
        shape.require_whole(link, before, databases)
    return tuple(counts)


class _Rewrite:
    """One table."""

    def __init__(self, work: BuildWork, password: str, table: TableMasking, known: Keys, number: int) -> None:
        self._work, self._password, self._table, self._keys = work, password, table, known
        self.number, self.size = number, table.table.bytes
        self._name, self._new = shape.place(table.name), f"{quoted(keys.SCHEMA)}.masked_{number}"
        self._sql = {one.column.name: expressions.express(one, table) for one in table.columns}
        others = [one for one in table.columns if self._sql[one.column.name] is None and not _given(one)]
        self._computed = computed.of(table, others, known.values)

    def run(self) -> TableCounts:
        self._work.cancel.check()
        self._work.progress(f"masking {self._table.name}")
        with keys.with_keys(self._work, self._keys) as link:
            past = history.of(link, self._table.name)
            staged = self._stage(link, past) if stage.needed(self._table, self._computed) else None
            try:
                counts = self._fill(link, staged, past)
                self._take_over(link)
            except SqlError as error:
                raise shape.failed(error, str(self._table.name)) from None
            if staged is not None:
                staged.drop(link)
        return counts

    def _stage(self, link: Link, past: history.History) -> Stage:
        staged = stage.Stage(self._table, self.number, f"{self._name}{past.all_rows}", past.columns)
        if staged.copies:
            with keys.owned(self._work, self._password) as owner:
                staged.fill(owner)
        if self._computed:
            with keys.connected(self._work) as reading, keys.connected(self._work) as writing:
                staged.compute(reading, writing, self._computed)
        shuffled = [one for one in self._table.columns if name_of(one.method) == "shuffle"]
        for number, one in enumerate(shuffled):
            staged.shuffle(link, one, number)
        return staged

    def _fill(self, link: Link, staged: Stage | None, past: history.History) -> TableCounts:
        """Make the new table and fill it; return what was counted on the way."""
        link.rows(f"CREATE TABLE {self._new} LIKE {self._name}")
        later = indexes.set_aside(link, self._new) if self._table.table.estimated_rows > _FEW else ()
        past.open(link)
        masked = {one.column.name: (number, one) for number, one in enumerate(self._table.columns)}
        names = [one.name for one in self._table.table.columns if not one.generated]
        for number, one in masked.values():
            link.rows(f"SET {', '.join(_initial(number, one))}")
        link.rows(f"SET {OFFSET} = 0")
        link.rows(permutations.VARIABLES)
        values = [
            _counting(*masked[name], self._value(masked[name][1], staged), staged)
            if name in masked
            else f"t.{quoted(name)}"
            for name in names
        ]
        columns = [*map(quoted, names), *map(quoted, past.columns)]
        values += [f"t.{quoted(name)}" for name in past.columns]
        source = f"{self._name}{past.all_rows} AS t" if staged is None else staged.source
        link.rows(f"INSERT INTO {self._new} ({', '.join(columns)}) SELECT {', '.join(values)} FROM {source}")
        rows = int(link.value("SELECT ROW_COUNT()"))
        indexes.bring_back(link, self._new, later)
        return TableCounts(
            self._table.name.schema,
            self._table.name,
            tuple(_counts(link, number, one, rows) for number, one in masked.values()),
        )

    def _value(self, one: ColumnMasking, staged: Stage | None) -> str:
        found = self._sql[one.column.name]
        if found is not None:
            return found
        assert staged is not None  # noqa: S101 - see stage.needed
        value = staged.value(one)
        assert value is not None  # noqa: S101 - as above
        if isinstance(one.method, spec.Sql) and one.keep_null:
            return f"IF(t.{quoted(one.column.name)} IS NULL, NULL, {value})"
        return value

    def _take_over(self, link: Link) -> None:
        """Let the new table take the place of the old one."""
        known = shape.read(link, self._table.name)
        masked = {one.column.name for one in self._table.columns}
        link.rows(f"DROP TABLE {self._name}")
        link.rows(f"RENAME TABLE {self._new} TO {self._name}")
        shape.give(link, self._table.name, known, counting=not masked & known.counted)


def _given(one: ColumnMasking) -> bool:
    return name_of(one.method) in {"sql", "shuffle"}


def _variable(number: int, what: str) -> str:
    return f"@reconciler_{what}_{number}"


def _initial(number: int, one: ColumnMasking) -> list[str]:
    """Return the values with which a column's variables begin: that of its values says of which type they are."""
    empty = "0x00" if one.column.family in _BINARY else "CONVERT('' USING utf8mb4)"
    return [f"{_variable(number, 'value')} = {empty}", *(f"{_variable(number, what)} = 0" for what in _COUNTED)]


def _counting(number: int, one: ColumnMasking, value: str, staged: Stage | None) -> str:
    """Return a masked value, or that of a row which the rule does not select, counted."""
    column, held = f"t.{quoted(one.column.name)}", _variable(number, "value")
    null = _count(number, "nulls", "NULL")
    typed = "BINARY" if one.column.family in _BINARY else "CHAR CHARACTER SET utf8mb4"
    counted = f"IF({_same(one, held)}, {_count(number, 'equal', held)}, {held})"
    masked = f"IF({keys.assigned(held, f'CAST({value} AS {typed})')} IS NULL, {null}, {counted})"
    flag = staged.selected(one) if staged is not None else None
    if flag is None:
        return masked
    kept = f"IF({column} IS NULL, {null}, {_kept(one, column)})"
    return f"IF({flag}, {_count(number, 'selected', masked)}, {kept})"


def _count(number: int, what: str, value: str) -> str:
    counter = _variable(number, what)
    return f"IF(({counter} := {counter} + 1) > 0, {value}, {value})"


def _same(one: ColumnMasking, held: str) -> str:
    """Tell whether a value is the one from before, byte for byte where it is text."""
    column = f"t.{quoted(one.column.name)}"
    match one.column.family:
        case Family.TEXT | Family.JSON | Family.ENUM:
            return f"{held} = CONVERT({column} USING utf8mb4) COLLATE utf8mb4_nopad_bin"
        case Family.NUMBER if one.column.digits is None:
            return f"CAST({held} AS DOUBLE) = CAST({column} AS DOUBLE)"
        case Family.DATE | Family.TIME | Family.UUID:
            return f"{held} = {column}"
        case Family.BYTES | Family.OTHER:
            return f"{held} = CAST({column} AS BINARY)"
        case _:
            return f"{held} = CONVERT({column} USING utf8mb4)"


def _kept(one: ColumnMasking, column: str) -> str:
    """Return a value that stays, in the form of the masked ones beside it: text loses nothing of any type."""
    if one.column.family is Family.NUMBER and one.column.digits is None:
        return f"CAST({column} AS DOUBLE)"
    return column


def _counts(link: Link, number: int, one: ColumnMasking, rows: int) -> ColumnCounts:
    selected, nulls, equal = (int(link.value(f"SELECT {_variable(number, what)}") or 0) for what in _COUNTED)
    name, origin = name_of(one.method), one.inherited_from
    return ColumnCounts(
        column=one.column.name,
        method=name if origin is None else f"{name} (from {origin})",
        policy=str(one.policy),
        rows=rows,
        selected=rows if one.when is None else selected,
        nulls=nulls,
        equal=equal,
    )
