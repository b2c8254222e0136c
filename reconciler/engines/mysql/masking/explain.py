"""Why originals that were found in files may be there, as far as rows and words of the server say.

Called by :mod:`.prove` with what the search of files has found. A file of a table is judged by
the rows of that table; one of the server's own definitions (texts of views and routines, names, comments)
are words that people wrote. Logs and the dictionary repeat what tables have.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from reconciler.engines.mysql import server
from reconciler.engines.mysql.masking import inventory, live, sample
from reconciler.engines.mysql.masking.introspect import read_schema
from reconciler.masking.matcher import KEY, Matcher, is_control
from reconciler.masking.originals import SHORTEST, telling_part
from reconciler.masking.schema import TableName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.base import BuildWork
    from reconciler.engines.mysql.link import Link
    from reconciler.masking.evidence import Accepted, Scan
    from reconciler.masking.findings import Findings
    from reconciler.masking.matcher import ValueId
    from reconciler.masking.report import Sample
    from reconciler.masking.schema import DatabaseSchema, Table

_DATA = "data/"
_DEFINITIONS = (".frm", ".TRG", ".TRN", ".par", "db.opt")
_STATISTICS = ("column_stats.", "index_stats.", "table_stats.", "innodb_table_stats.", "innodb_index_stats.")
_CATALOG = "mysql"


def schemas(link: Link) -> tuple[DatabaseSchema, ...]:
    """Return what there is now: scripts may have made tables since masking."""
    return tuple(read_schema(link, name) for name in server.user_databases(link))


def explain(
    work: BuildWork, link: Link, found: Sequence[DatabaseSchema], scanned: Scan, findings: Findings
) -> Accepted:
    """Return which of the originals that were found in files may be there, by the file's path."""
    files = _Files(link, found)
    accepted: dict[str, frozenset[ValueId]] = {}
    later: list[tuple[str, frozenset[ValueId]]] = []
    for file in scanned.files:
        wanted = frozenset(value for value in file.found if value != KEY and not is_control(value))
        if not wanted:
            continue
        table = files.table(file.path)
        if table is not None:
            work.progress(f"finding out why originals are in {table.name}")
            accepted[file.path] = _Live(work, link, findings, table).look(wanted)
        elif file.path.endswith(_DEFINITIONS) or files.is_catalog(file.path):
            relation = live.Relation(TableName(_CATALOG, "definitions"), is_catalog=True)
            name = file.path.removeprefix(_DATA)
            database = name.partition("/")[0]
            accepted[file.path] = findings.accept(partial(at_paths, link), database, relation, [name], wanted)
        else:
            later.append((file.path, wanted))
    for path, wanted in later:  # what repeats others, which have been judged by now
        relation = live.Relation(TableName(_CATALOG, path.removeprefix(_DATA)), materialised=True)
        accepted[path] = findings.accept(partial(at_paths, link), _CATALOG, relation, [""], wanted)
    return accepted


class _Files:
    """Which file is of which table."""

    def __init__(self, link: Link, found: Sequence[DatabaseSchema]) -> None:
        self._tables: dict[tuple[str, str], Table] = {}
        for schema in found:
            directory = inventory.file_name(link, schema.database)
            for table in schema.tables:
                self._tables[directory, inventory.file_name(link, table.name.name)] = table

    def table(self, path: str) -> Table | None:
        """Return the table that a file has rows of; None: of none, or of several (full-text indexes)."""
        directory, _, name = path.removeprefix(_DATA).partition("/")
        if name.endswith(_DEFINITIONS):
            return None
        return self._tables.get((directory, name.rpartition(".")[0].partition("#P#")[0]))

    def is_catalog(self, path: str) -> bool:
        """Tell whether a file holds words of the server itself."""
        directory, _, name = path.removeprefix(_DATA).partition("/")
        return directory == _CATALOG and not name.startswith(_STATISTICS)


class _Live:
    """The rows of one table, searched for what its files have."""

    def __init__(self, work: BuildWork, link: Link, findings: Findings, table: Table) -> None:
        self._work, self._link, self._findings, self._table = work, link, findings, table
        self._relation = live.Relation(table.name)
        self._at_paths = partial(at_paths, link)

    def look(self, wanted: frozenset[ValueId]) -> frozenset[ValueId]:
        """Return which of the values may be in the files."""
        met: set[ValueId] = set()
        accepted: set[ValueId] = set()
        for column, ids in self._columns(Matcher(self._findings.samples, wanted)).items():
            met |= ids
            accepted |= self._accept([column], ids)
        left = wanted - met - accepted
        if left:
            accepted |= left & self._beside(Matcher(self._findings.samples, left))
        for cut in (slice(None, -1), slice(1, None)):  # next to a record lies another one, or its lengths
            left = self._findings.few_of(wanted - met - accepted)
            if left:
                matcher = Matcher(self._findings.samples, left, cut=cut, shortest=SHORTEST - 1)
                accepted |= left & self._beside(matcher)
        return frozenset(accepted)

    def _accept(self, columns: Sequence[str], ids: set[ValueId], *, beside: bool = False) -> frozenset[ValueId]:
        database = self._table.name.schema
        return self._findings.accept(self._at_paths, database, self._relation, columns, ids, beside=beside)

    def _columns(self, matcher: Matcher) -> dict[str, set[ValueId]]:
        found: dict[str, set[ValueId]] = {}
        for part in matcher.parts:
            self._work.cancel.check()
            for column, ids in live.in_columns(self._link, self._table, matcher.search(part)).items():
                found.setdefault(column, set()).update(ids)
        return found

    def _beside(self, matcher: Matcher) -> set[ValueId]:
        """Return what records have where columns meet, with the bytes around them."""
        accepted: set[ValueId] = set()
        names = [column.name for column in self._table.columns]
        for part in matcher.parts:
            ids = live.in_records(self._link, self._table, matcher.search(part))
            accepted |= self._accept(names, ids, beside=True)
        return accepted


def at_paths(link: Link, one: Sample, ids: Sequence[ValueId]) -> frozenset[str]:
    """Return which originals of a column of documents are still at the paths that its rule names."""
    wanted = {one.originals[index] for _, index in ids}
    query = f"SELECT {sample.cell_of(one.masking)} FROM {sample.source(link, one.table)}"
    return frozenset(
        part
        for (cell,) in link.stream(query)
        for each in sample.texts(one.masking, cell)
        if (part := telling_part(each)) in wanted
    )
