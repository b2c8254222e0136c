"""Masked values in place of a table's own, and everything around them as it was.

Called by :mod:`.run` for each database of a build that is thrown away when anything
fails. Triggers do not fire and no reference cascades: triggers are taken away meanwhile,
foreign keys are not enforced and checked at the end. Rows are updated where they are;
where a masked column has to stay unique, row by row that could not be (2 may become 1 while 1 is
still there), so such a table is emptied and filled from masked rows that were put aside.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reconciler.engines.sqlite import guard
from reconciler.engines.sqlite.databases import quoted
from reconciler.engines.sqlite.failures import code, reason
from reconciler.engines.sqlite.masking import virtual
from reconciler.engines.sqlite.masking.functions import ColumnMasker, placing
from reconciler.engines.sqlite.masking.introspect import listed
from reconciler.errors import MaskingError
from reconciler.masking.report import TableCounts
from reconciler.masking.vocabulary import name_of
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from reconciler.engines.base import BuildWork
    from reconciler.engines.sqlite.masking.introspect import Listed
    from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, Keys, TableMasking

ASIDE = "reconciler_aside"
_ROWIDS = ("rowid", "_rowid_", "oid")
_CONSTRAINT = "SQLITE_CONSTRAINT"


def mask_database(
    work: BuildWork, conn: sqlite3.Connection, masking: DatabaseMasking, keys: Keys, aside: Path
) -> tuple[TableCounts, ...]:
    """Mask all tables of a database; return the proof per table, in order. ``aside``: a file that may be made.

    Raises:
        MaskingError: the database refused, or a row holds what a method does not fit; names table and column.

    """
    tables = {one.name: one for one in listed(conn)}
    virtuals = virtual.virtual_tables(conn)
    before = _broken_references(conn)
    conn.execute("PRAGMA foreign_keys = OFF")
    conn.execute("ATTACH ? AS " + ASIDE, (str(aside),))
    conn.execute(f"PRAGMA {ASIDE}.journal_mode = OFF").fetchone()
    counts = []
    with _without_triggers(conn):
        for table in masking.tables:
            work.cancel.check()
            work.progress(f"masking {masking.database}: {table.name}")
            counts.append(_Rewrite(conn, masking.database, table, keys, tables[table.name.name]).run())
    virtual.rebuild(conn, masking.database, virtuals)
    conn.execute("DETACH " + ASIDE)
    aside.unlink(missing_ok=True)
    _check_references(conn, masking.database, before)
    return tuple(counts)


class _Rewrite:
    """One table."""

    def __init__(self, conn: sqlite3.Connection, database: str, table: TableMasking, keys: Keys, kind: Listed) -> None:
        self._conn, self._database, self._table, self._kind = conn, database, table, kind
        self._name = quoted(table.name.name)
        self._keys = keys
        self._maskers = [ColumnMasker(one, table, keys.values[one.key]) for one in table.columns]
        self._rowid = None if kind.without_rowid else _rowid(table)

    def run(self) -> TableCounts:
        for number, masker in enumerate(self._maskers):
            self._conn.create_function(f"reconciler_mask_{number}", -1, masker, deterministic=True)
        try:
            shuffled = [number for number, one in enumerate(self._maskers) if name_of(one.masking.method) == "shuffle"]
            for number in shuffled:
                self._shuffle(number)
            with guarded_sql(self._conn) as refused:
                try:
                    self._apply()
                except sqlite3.Error as error:
                    raise self._failed(error, refused()) from None  # its cause may show a value
            for number in shuffled:
                self._conn.execute(f"DROP TABLE {ASIDE}.shuffled_{number}")
        finally:
            for number in range(len(self._maskers)):
                self._conn.create_function(f"reconciler_mask_{number}", -1, None)
        return TableCounts(self._database, self._table.name, tuple(one.counts for one in self._maskers))

    def _apply(self) -> None:
        expressions = {
            masker.masking.column.name: self._expression(number) for number, masker in enumerate(self._maskers)
        }
        if self._kind.kind == "virtual" or not self._must_be_emptied():
            sets = ", ".join(f"{quoted(name)} = {value}" for name, value in expressions.items())
            self._conn.execute(f"UPDATE main.{self._name} AS t SET {sets}")
            return
        names = [one.name for one in self._table.table.columns if not one.generated]
        values = [expressions.get(name, f"t.{quoted(name)}") for name in names]
        columns = [quoted(name) for name in names]
        if self._rowid is not None and not self._is_alias(names):
            values.insert(0, f"t.{self._rowid}")
            columns.insert(0, self._rowid)
        numbered = ", ".join(f"{value} AS c{number}" for number, value in enumerate(values))
        self._conn.execute(f"CREATE TABLE {ASIDE}.staged AS SELECT {numbered} FROM main.{self._name} AS t")
        self._conn.execute(f"DELETE FROM main.{self._name}")
        self._conn.execute(
            f"INSERT INTO main.{self._name} ({', '.join(columns)}) SELECT * FROM {ASIDE}.staged ORDER BY rowid"
        )
        self._conn.execute(f"DROP TABLE {ASIDE}.staged")

    def _expression(self, number: int) -> str:
        """Return the SQL of a masked column, over the alias ``t``."""
        masker = self._maskers[number]
        masking = masker.masking
        arguments = [f"t.{quoted(masking.column.name)}", _selected(masking)]
        if isinstance(masking.method, spec.Sql):
            arguments.append(f"({masking.method.sql}\n)")
        elif name_of(masking.method) == "shuffle":
            arguments.append(f"(SELECT value FROM {ASIDE}.shuffled_{number} WHERE place = {self._place()})")
        arguments += [f"t.{quoted(name)}" for name in masker.reads]
        return f"reconciler_mask_{number}({', '.join(arguments)})"

    def _shuffle(self, number: int) -> None:
        """Put aside what each row gets: the value of the next one in a keyed order, the last one that of the first."""
        masking = self._maskers[number].masking
        self._conn.create_function("reconciler_place", 1, placing(self._keys.values[masking.key]), deterministic=True)
        value = f"t.{quoted(masking.column.name)}"
        group = "NULL"
        if isinstance(masking.method, spec.Shuffle):
            group = f"t.{quoted(masking.method.shuffle.within or '')}"
        chosen = f"{_selected(masking)}" + (f" AND {value} IS NOT NULL" if masking.keep_null else "")
        with guarded_sql(self._conn) as refused:
            try:
                self._conn.execute(
                    f"CREATE TABLE {ASIDE}.shuffled_{number} AS SELECT {self._place()} AS place,"
                    f" CASE WHEN row_number() OVER w = count(*) OVER (PARTITION BY {group})"
                    f" THEN first_value({value}) OVER w ELSE lead({value}) OVER w END AS value"
                    f" FROM main.{self._name} AS t WHERE {chosen}"
                    f" WINDOW w AS (PARTITION BY {group} ORDER BY reconciler_place({self._place()}))"
                )
                self._conn.execute(f"CREATE INDEX {ASIDE}.places_{number} ON shuffled_{number} (place)")
            except sqlite3.Error as error:
                raise self._failed(error, refused()) from None

    def _place(self) -> str:
        """Return what tells the table's rows apart."""
        if self._rowid is not None:
            return f"t.{self._rowid}"
        key = self._table.table.unique[0]
        return " || ',' || ".join(f"quote(t.{quoted(name)})" for name in sorted(key))

    def _is_alias(self, names: list[str]) -> bool:
        """Tell whether a column is another name of the rowid: an INTEGER PRIMARY KEY."""
        rows = self._conn.execute(f"PRAGMA main.table_info({self._name})").fetchall()
        keys = [row for row in rows if row[5]]
        return len(keys) == 1 and keys[0][2].upper() == "INTEGER" and keys[0][1] in names

    def _must_be_emptied(self) -> bool:
        """Tell whether a masked column takes part in something unique, as far as indexes tell."""
        masked = {one.column.name for one in self._table.columns}
        if any(masked & together for together in self._table.table.unique):
            return True
        rows = self._conn.execute(f"PRAGMA main.index_list({self._name})").fetchall()
        return any(
            unique and any(row[2] is None for row in self._conn.execute(f"PRAGMA main.index_info({quoted(name)})"))
            for _number, name, unique, *_rest in rows
        )

    def _failed(self, error: sqlite3.Error, refused: str) -> MaskingError:
        place = f"{self._database}: {self._table.name}"
        if refused:
            return MaskingError(f"{place}: {refused} is not allowed in expressions of policies")
        for one in self._maskers:
            if one.problem:
                return MaskingError(
                    f"{place}.{one.masking.column.name}: {one.problem}",
                    hint='write hash, fixed, "null" or keep for the column, or correct its rows in a script',
                )
        text = f"{place}: masked values are refused: {reason(error)}"
        if code(error) == _CONSTRAINT:
            return MaskingError(text, hint="write a method whose values the constraint allows, or keep")
        return MaskingError(text)


def _selected(masking: ColumnMasking) -> str:
    return "1" if masking.when is None else f"coalesce(({masking.when}\n), 0)"


def _rowid(table: TableMasking) -> str | None:
    """Return a name by which the rowid can be reached; None where columns have all of them."""
    taken = {one.name.lower() for one in table.table.columns}
    return next((name for name in _ROWIDS if name not in taken), None)


@contextmanager
def guarded_sql(conn: sqlite3.Connection) -> Iterator[Callable[[], str]]:
    """Let expressions of policies be part of statements; gives what was refused."""
    yield guard.watch(conn)
    conn.set_authorizer(None)


@contextmanager
def _without_triggers(conn: sqlite3.Connection) -> Iterator[None]:
    """Take triggers away, and put them back as they were written."""
    found = conn.execute("SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger' ORDER BY rowid").fetchall()
    for name, _sql in found:
        conn.execute(f"DROP TRIGGER main.{quoted(name)}")
    yield
    for name, text in found:
        try:
            conn.execute(text)
        except sqlite3.Error as error:
            raise MaskingError(f"the trigger {name} cannot be made again: {reason(error)}") from error


def _broken_references(conn: sqlite3.Connection) -> Counter[tuple[str, str, int]]:
    """Return how many rows refer to what is not there, by table, target and number of the key."""
    try:
        return Counter((row[0], row[2], row[3]) for row in conn.execute("PRAGMA foreign_key_check"))
    except sqlite3.Error:  # a reference to what cannot be referred to, which SQLite takes all the same
        return Counter()


def _check_references(conn: sqlite3.Connection, database: str, before: Counter[tuple[str, str, int]]) -> None:
    for key, count in _broken_references(conn).items():
        if count > before[key]:
            table, target, _number = key
            raise MaskingError(
                f"{database}: after masking, {count - before[key]} rows of {table} refer to rows of {target} that are"
                " not there",
                hint="write the same rule for both columns, or keep",
            )
