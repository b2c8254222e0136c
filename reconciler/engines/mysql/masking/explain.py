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
from reconciler.masking.live import Live, Relation, Rows
from reconciler.masking.matcher import KEY, is_control
from reconciler.masking.originals import telling_part
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
            rows = Live([_rows(link, table)], findings, partial(at_paths, link), table.name.schema, work.cancel)
            accepted[file.path] = rows.look(wanted)
        elif file.path.endswith(_DEFINITIONS) or files.is_catalog(file.path):
            relation = Relation(TableName(_CATALOG, "definitions"), is_catalog=True)
            name = file.path.removeprefix(_DATA)
            database = name.partition("/")[0]
            accepted[file.path] = findings.accept(partial(at_paths, link), database, relation, [name], wanted)
        else:
            later.append((file.path, wanted))
    for path, wanted in later:  # what repeats others, which have been judged by now
        relation = Relation(TableName(_CATALOG, path.removeprefix(_DATA)), materialised=True)
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


def _rows(link: Link, table: Table) -> Rows:
    return Rows(
        relation=Relation(table.name),
        columns=[column.name for column in table.columns],
        in_columns=partial(live.in_columns, link, table),
        in_records=partial(live.in_records, link, table),
    )


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
