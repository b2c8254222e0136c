"""Why originals that were found in files may be there, as far as live rows of tables say.

Called by the engines whose records are searched as the bytes that a file has of them. What
a file shows besides values are neighbours: where the end of one and the beginning of the
next look like a value. An engine says how a table's columns and records are searched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.masking.matcher import Matcher
from reconciler.masking.originals import SHORTEST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from reconciler.masking.findings import AtPaths, Findings
    from reconciler.masking.matcher import Search, ValueId
    from reconciler.masking.schema import TableName
    from reconciler.proc import CancelToken

_BLOCK = 1 << 20
_BETWEEN = b"\0\xff\0"
"""Stands between values in a block: no text has it."""


@dataclass(frozen=True, slots=True)
class Relation:
    """What has rows, or words of its own, in which originals can be met.

    ``materialised``: it shows again what other tables have (statistics, full-text indexes).
    """

    name: TableName
    materialised: bool = False
    is_catalog: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of one table. ``columns``: all that a value of its records may be of."""

    relation: Relation
    columns: Sequence[str]
    in_columns: Callable[[Search], Mapping[str, set[ValueId]]]
    """Searches the values of its columns; what was found, by column."""
    in_records: Callable[[Search], set[ValueId]]
    """Searches the bytes of its records, and of those of its indexes."""


class Block:
    """Values that are searched together."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._parts: list[bytes] = []
        self._size = 0
        self._found: set[ValueId] = set()

    def add(self, data: bytes) -> None:
        """Search this as well, now or later."""
        self._parts.append(data)
        self._size += len(data)
        if self._size > _BLOCK:
            self._flush()

    def end(self) -> set[ValueId]:
        """Return what was found in all of them."""
        self._flush()
        return self._found

    def _flush(self) -> None:
        if self._parts:
            self._found |= self._search.find(_BETWEEN.join(self._parts))
        self._parts, self._size = [], 0


class Live:
    """The rows that files of a database are of, searched for what the files have.

    Of the tables, what others are made of comes first.
    """

    def __init__(
        self, tables: Sequence[Rows], findings: Findings, at_paths: AtPaths, database: str, cancel: CancelToken
    ) -> None:
        self._tables, self._findings, self._at_paths = tables, findings, at_paths
        self._database, self._cancel = database, cancel

    def look(self, wanted: frozenset[ValueId]) -> frozenset[ValueId]:
        """Return which of the values may be in the files."""
        met: set[ValueId] = set()
        accepted: set[ValueId] = set()
        matcher = Matcher(self._findings.samples, wanted)
        for table in self._tables:
            for column, ids in self._columns(table, matcher).items():
                met |= ids
                accepted |= self._accept(table, [column], ids)
        left = wanted - met - accepted
        if left:
            accepted |= left & self._beside(Matcher(self._findings.samples, left))
        for cut in (slice(None, -1), slice(1, None)):  # next to a record lies another one, or its lengths
            left = self._findings.few_of(wanted - met - accepted)
            if left:
                matcher = Matcher(self._findings.samples, left, cut=cut, shortest=SHORTEST - 1)
                accepted |= left & self._beside(matcher)
        return frozenset(accepted)

    def _accept(
        self, table: Rows, columns: Sequence[str], ids: set[ValueId], *, beside: bool = False
    ) -> frozenset[ValueId]:
        return self._findings.accept(self._at_paths, self._database, table.relation, columns, ids, beside=beside)

    def _columns(self, table: Rows, matcher: Matcher) -> dict[str, set[ValueId]]:
        found: dict[str, set[ValueId]] = {}
        for part in matcher.parts:
            self._cancel.check()
            for column, ids in table.in_columns(matcher.search(part)).items():
                found.setdefault(column, set()).update(ids)
        return found

    def _beside(self, matcher: Matcher) -> set[ValueId]:
        """Return what records have where columns meet, with the bytes around them."""
        accepted: set[ValueId] = set()
        for table in self._tables:
            if table.relation.materialised:
                continue
            for part in matcher.parts:
                accepted |= self._accept(table, table.columns, table.in_records(matcher.search(part)), beside=True)
        return accepted
