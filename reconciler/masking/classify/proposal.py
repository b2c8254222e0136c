"""A verdict and a method for every column of a database that a policy has to decide about.

Called by whoever profiled databases. Columns that other rules decide about are left out:
those that refer to others are masked like them, partitions like their tables, generated
columns are computed anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from reconciler.masking.classify import methods
from reconciler.masking.classify.kinds import Kind
from reconciler.masking.classify.values import look
from reconciler.masking.classify.verdict import Verdict, by_name, judge
from reconciler.masking.schema import Family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reconciler.masking.assignment import DatabaseMasking
    from reconciler.masking.classify.methods import Written
    from reconciler.masking.classify.profiles import DatabaseProfile
    from reconciler.masking.schema import Column, DatabaseSchema, Table, TableName


class _Cell(NamedTuple):
    table: TableName
    column: str


@dataclass(frozen=True, slots=True)
class Proposed:
    """One column. ``method`` None: no rule of its own is needed, ``reason`` says why."""

    database: str
    table: TableName
    column: str
    type: str
    method: Written | None
    verdict: Verdict
    reason: str

    @property
    def place(self) -> str:
        """``schema.table.column``."""
        return f"{self.table}.{self.column}"


def propose(profile: DatabaseProfile) -> tuple[Proposed, ...]:
    """Return a proposal for every column of a database, table by table."""
    return tuple(_Proposal(profile).rows())


def personal_by_name(schema: DatabaseSchema, masking: DatabaseMasking) -> tuple[str, ...]:
    """Return columns, as ``schema.table.column``, that look personal by their names and that nothing masks.

    Columns that refer to others are left out: the column that they refer to is told.
    Pure; for :func:`look_personal`.
    """
    masked = {(table.name, one.column.name) for table in masking.tables for one in table.columns}
    found = []
    for table in schema.tables:
        if table.foreign or table.extension is not None or table.parents:
            continue
        referring = {column for key in table.foreign_keys for column in key.columns}
        found += [
            f"{table.name}.{column}"
            for column in by_name(table)
            if (table.name, column) not in masked
            and column not in referring
            and not _masked_below(table, column, schema, masked)
        ]
    return tuple(found)


def look_personal(schema: DatabaseSchema, masking: DatabaseMasking) -> tuple[str, ...]:
    """Return a warning about images that are built already, if a column looks personal and nothing masks it."""
    names = personal_by_name(schema, masking)
    return (f"{masking.database}: not masked, though the names look personal: {', '.join(names)}",) if names else ()


def _masked_below(table: Table, column: str, schema: DatabaseSchema, masked: set[tuple[TableName, str]]) -> bool:
    """Whether it is the partitions of a table that hold its rows, and they are masked."""
    return any((one.name, column) in masked for one in schema.tables if table.name in one.parents)


class _Proposal:
    """One database."""

    def __init__(self, profile: DatabaseProfile) -> None:
        self._profile = profile
        self._tables = {table.name: table for table in profile.schema.tables}
        self._keys = _keys(profile.schema)
        self._verdicts = {
            _Cell(table.name, column): verdict
            for table in profile.schema.tables
            if not _elsewhere(table)
            for column, verdict in judge(table, profile).items()
        }

    def rows(self) -> Iterator[Proposed]:
        for table in self._profile.schema.tables:
            if _elsewhere(table):
                continue
            above = {one.name for name in table.parents if name in self._tables for one in self._tables[name].columns}
            for column in table.columns:
                if column.name not in above:
                    yield self._row(table, column)

    def _row(self, table: Table, column: Column) -> Proposed:
        cell = _Cell(table.name, column.name)
        key = self._keys.get(cell, ())
        if column.generated:
            return self._proposed(column, cell, None, "computed by the database: follows what it is computed from")
        if key and cell != key[0]:
            return self._proposed(
                column, cell, None, f"masked like {key[0].table}.{key[0].column}, as they are one key"
            )
        verdict = self._strongest(key) if key else self._verdicts[cell]
        if not verdict.personal or verdict.kind is None:
            return self._proposed(column, cell, "keep", verdict.reason, verdict)
        method = self._method(table, column, cell, verdict, key)
        reason = verdict.reason if method != "keep" else f"{verdict.reason}; no method fits: decide"
        return self._proposed(column, cell, method, reason, verdict)

    def _proposed(
        self, column: Column, cell: _Cell, method: Written | None, reason: str, verdict: Verdict | None = None
    ) -> Proposed:
        known = verdict or Verdict(None, 0.0, reason)
        return Proposed(self._profile.schema.database, *cell, column.type, method, known, reason)

    def _strongest(self, key: Sequence[_Cell]) -> Verdict:
        """Return the verdict on a whole key: what any of its columns shows; numbers made up as keys are none."""
        lead = self._verdicts[key[0]]
        if lead.personal or self._column(key[0]).family in (Family.INTEGER, Family.UUID):
            return lead
        return max((self._verdicts[cell] for cell in key if cell in self._verdicts), key=lambda one: one.confidence)

    def _method(self, table: Table, column: Column, cell: _Cell, verdict: Verdict, key: Sequence[_Cell]) -> Written:
        if verdict.kind is None:
            return "keep"
        if verdict.kind is Kind.JSON:
            return methods.for_document(verdict.paths or {})
        share = look(self._profile.of(*cell).values).share(verdict.kind)
        if not key:
            unique = any(column.name in one for one in table.unique)
            return methods.choose(verdict.kind, column, share=share, unique=unique, alike=False)
        columns = [self._column(one) for one in key]
        if len({(one.family, one.integer_bytes, one.digits, one.labels) for one in columns}) > 1:
            return "keep"
        length = min((one.length for one in columns if one.length is not None), default=None)
        levelled = replace(column, length=length, folds_case=any(one.folds_case for one in columns))
        return methods.choose(verdict.kind, levelled, share=share, unique=True, alike=True)

    def _column(self, cell: _Cell) -> Column:
        return next(one for one in self._tables[cell.table].columns if one.name == cell.column)


def _elsewhere(table: Table) -> bool:
    """Whether nothing of a table is decided here: it has no rows on this host, or is an extension's own."""
    return table.foreign or table.extension is not None


def _keys(schema: DatabaseSchema) -> Mapping[_Cell, tuple[_Cell, ...]]:
    """Return, for columns that refer to each other, all of their key: first those that others refer to."""
    groups: dict[_Cell, set[_Cell]] = {}
    referring = set()
    for table in schema.tables:
        for key in table.foreign_keys:
            for column, target in zip(key.columns, key.target_columns, strict=True):
                one, other = _Cell(table.name, column), _Cell(key.target, target)
                referring.add(one)
                joined = groups.get(one, {one}) | groups.get(other, {other})
                groups.update(dict.fromkeys(joined, joined))
    return {cell: tuple(sorted(group, key=lambda one: (one in referring, one))) for cell, group in groups.items()}
