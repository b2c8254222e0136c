"""Beside a table's rows: what cannot be computed together with the keys, or not by SQL.

Called by :mod:`.rewrite`. Expressions of policies may call functions that came with the
data; so they are computed first, into a copy of the rows, by the account that has rights on
databases of users only, on a connection without keys. What this package computes itself,
and what ``shuffle`` gives a row, is in tables of their own, by the number of a row: its
primary key, or one that the copy has. All of them are in the build's old data directory,
which no snapshot has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.mysql.failures import SqlError, interrupted
from reconciler.engines.mysql.link import quoted
from reconciler.engines.mysql.masking import computed, keys
from reconciler.errors import MaskingError
from reconciler.masking.schema import Family
from reconciler.masking.vocabulary import name_of
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.masking.computed import Computed
    from reconciler.masking.assignment import ColumnMasking, TableMasking
    from reconciler.masking.schema import Column

_ROWS, _BYTES = 1000, 1 << 20
"""Of computed values that are written together."""


class Stage:
    """What is beside one table. ``number`` makes the names of its tables; ``past`` are columns of a history."""

    def __init__(self, table: TableMasking, number: int, source: str, past: tuple[str, ...]) -> None:
        self._table, self._source, self._history = table, source, past
        taken = {one.name.lower() for one in table.table.columns}
        self._prefix = "reconciler_" + "_" * sum(name.startswith("reconciler_") for name in taken)
        self._name = f"{quoted(keys.SCHEMA)}.{{}}_{number}"
        conditions = dict.fromkeys(one.when for one in table.columns if one.when is not None)
        self._selected = {when: f"{self._prefix}selected_{at}" for at, when in enumerate(conditions)}
        given = [one for one in table.columns if isinstance(one.method, spec.Sql)]
        self._given = {one.column.name: f"{self._prefix}given_{at}" for at, one in enumerate(given)}
        self._beside: dict[str, str] = {}
        self._joins: list[str] = []
        number_of = _number(table) if not (past or self._selected or self._given) else None
        self.copies = number_of is None
        """Whether the rows have to be copied."""
        self.row = quoted(number_of.name if number_of is not None else f"{self._prefix}row")
        """The column with a row's number."""
        self._row_type = "bigint unsigned" if number_of is None else number_of.type
        self._rows = self._named("staged") if self.copies else source

    @property
    def source(self) -> str:
        """What stands behind FROM in place of the table, as ``t``."""
        joins = "".join(
            f" LEFT JOIN {name} AS {alias} ON {alias}.{self.row} = t.{self.row}" for name, alias in self._pairs()
        )
        return f"{self._rows} AS t{joins}"

    def selected(self, column: ColumnMasking) -> str | None:
        """Return the condition that the rule takes a row; None: it takes every row."""
        return None if column.when is None else f"t.{quoted(self._selected[column.when])}"

    def value(self, column: ColumnMasking) -> str | None:
        """Return what a column gets, if that was computed here."""
        name = column.column.name
        return f"t.{quoted(self._given[name])}" if name in self._given else self._beside.get(name)

    def fill(self, owner: Link) -> None:
        """Copy the rows, with what expressions of policies say of each.

        Raises:
            MaskingError: one of them cannot be computed.

        """
        chosen = [f"t.{quoted(one.name)}" for one in self._table.table.columns if one.name not in self._history]
        chosen += [f"CAST(t.{quoted(name)} AS DATETIME(6)) AS {quoted(name)}" for name in self._history]
        chosen += [f"IF(({when}\n), 1, 0) AS {quoted(name)}" for when, name in self._selected.items()]
        for one in self._table.columns:
            if isinstance(one.method, spec.Sql):
                chosen.append(f"({one.method.sql}\n) AS {quoted(self._given[one.column.name])}")
        statement = (
            f"CREATE TABLE {self._named('staged')} ({self.row} bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY)"
            f" ENGINE=InnoDB SELECT {', '.join(chosen)} FROM {self._source} AS t"
        )
        try:
            owner.rows(statement)
        except SqlError as error:
            if interrupted(error):
                raise
            raise MaskingError(f"{self._table.name}: an expression of a policy cannot be computed: {error}") from None

    def compute(self, read: Link, write: Link, wanted: tuple[Computed, ...]) -> None:
        """Compute columns in this process and put them beside the copy."""
        types = [_STORED.get(one.masking.column.family, _TEXT) for one in wanted]
        place, names = self._named("computed"), [f"c{number}" for number in range(len(wanted))]
        columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, types, strict=True))
        write.rows(f"CREATE TABLE {place} ({self.row} {self._row_type} PRIMARY KEY, {columns}) ENGINE=InnoDB")
        insert = f"INSERT INTO {place} VALUES (%s{', %s' * len(wanted)})"
        for rows in _batches(self._computed(read, wanted)):
            write.insert(insert, rows)
        self._beside |= {one.masking.column.name: f"c.{name}" for one, name in zip(wanted, names, strict=True)}
        self._joins.append("computed")

    def _computed(self, read: Link, wanted: tuple[Computed, ...]) -> Iterator[tuple[object, ...]]:
        """Yield the rows of computed values; of rows that no rule takes, NULL."""
        chosen, places = [f"t.{self.row}"], []
        for one in wanted:
            flag = self.selected(one.masking)
            places.append((len(chosen), len(one.reads)))
            chosen += ["1" if flag is None else flag, *(computed.read(column) for column in one.reads)]
        for row in read.stream(f"SELECT {', '.join(chosen)} FROM {self._rows} AS t"):
            values = (
                one(*row[at + 1 : at + 1 + count]) if row[at] else None
                for one, (at, count) in zip(wanted, places, strict=True)
            )
            yield (row[0], *values)

    def shuffle(self, link: Link, column: ColumnMasking, number: int) -> None:
        """Put beside the copy what each row gets: the next one's value in a keyed order, the last one the first's."""
        value = f"t.{quoted(column.column.name)}"
        group = "1"
        if isinstance(column.method, spec.Shuffle):
            group = f"t.{quoted(column.method.shuffle.within)}"
        conditions = [self.selected(column) or "1", *([f"{value} IS NOT NULL"] if column.keep_null else [])]
        window = f"PARTITION BY {group} ORDER BY {keys.stream(f't.{self.row}', column.key, 'shuffle')}"
        link.rows(
            f"CREATE TABLE {self._named(f'shuffled{number}')} (PRIMARY KEY ({self.row})) ENGINE=InnoDB"
            f" SELECT t.{self.row}, IF(ROW_NUMBER() OVER w = COUNT(*) OVER (PARTITION BY {group}),"
            f" FIRST_VALUE({value}) OVER w, LEAD({value}) OVER w) AS value"
            f" FROM {self._rows} AS t WHERE {' AND '.join(conditions)} WINDOW w AS ({window})"
        )
        self._beside[column.column.name] = f"s{number}.value"
        self._joins.append(f"shuffled{number}")

    def drop(self, link: Link) -> None:
        """Remove everything."""
        names = [*([self._named("staged")] if self.copies else []), *(name for name, _alias in self._pairs())]
        link.rows(f"DROP TABLE {', '.join(names)}")

    def _named(self, what: str) -> str:
        return self._name.format(what)

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for what in self._joins:
            yield self._named(what), "c" if what == "computed" else f"s{what.removeprefix('shuffled')}"


_TEXT = "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_STORED: Mapping[Family, str] = {Family.BYTES: "longblob"}


def _number(table: TableMasking) -> Column | None:
    """Return the column that numbers the rows of a table, if one does."""
    columns = {one.name: one for one in table.table.columns}
    alone = (columns[name] for one in table.table.identifying if len(one) == 1 for name in one)
    return next((one for one in alone if one.family is Family.INTEGER), None)


def needed(table: TableMasking, wanted: tuple[Computed, ...]) -> bool:
    """Tell whether anything has to be beside a table's rows."""
    methods = {name_of(one.method) for one in table.columns}
    return bool(wanted or methods & {"sql", "shuffle"} or any(one.when is not None for one in table.columns))


def _batches(rows: Iterator[tuple[object, ...]]) -> Iterator[list[tuple[object, ...]]]:
    some: list[tuple[object, ...]] = []
    size = 0
    for row in rows:
        some.append(row)
        size += sum(len(one) for one in row if isinstance(one, str | bytes))
        if len(some) >= _ROWS or size >= _BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some
