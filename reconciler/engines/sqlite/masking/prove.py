"""The proof that masking left nothing: counts, values through SQL, and every file with what its live rows say.

Called by the session after everything that writes, when each database was written anew. It
changes nothing. In this order: each rule changed what it had to; no drawn original is a
value of its column any more; no file has one, or the rows say why it may. Tolerances are
those of PostgreSQL: ``null`` leaves nothing; ``hash`` and ``email`` leave values without any
letter or digit; ``pattern`` and ``preserve`` also half of those with fewer than eight; ``fake``
also one row in five; ``fixed``, ``text`` and ``json`` any number.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from reconciler.engines.sqlite.databases import connect, databases_in, file_of, quoted
from reconciler.engines.sqlite.masking import live, sample
from reconciler.engines.sqlite.masking.introspect import SCHEMA
from reconciler.errors import MaskingError
from reconciler.masking import leaks, preserve, reasons
from reconciler.masking.evidence import Evidence
from reconciler.masking.findings import Catalogs, Findings
from reconciler.masking.live import Live, Rows
from reconciler.masking.matcher import KEY, Matcher, is_control
from reconciler.masking.originals import drawn, telling_part
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from reconciler.engines.base import BuildWork
    from reconciler.masking.evidence import Accepted, Scan
    from reconciler.masking.live import Relation
    from reconciler.masking.matcher import ValueId
    from reconciler.masking.report import ColumnCounts, Masked, Sample

_DATA = ("data",)
_PUNCTUATION = re.compile(r"[ -/:-@\[-`{-~]")
_FEW, _TINY, _BY_CHANCE, _ONE_IN = 8, 2, 10, 5
_ANY_NUMBER = frozenset({"fixed", "text", "json"})
_EVERY_LETTER = frozenset({"hash", "email"})
CATALOGS = Catalogs(lambda table: table.schema == SCHEMA and table.name == "sqlite_schema")


def prove(work: BuildWork, masked: Masked) -> Evidence:
    """Prove that no drawn original is left in the rows or files of the databases.

    Raises:
        MaskingError: one is left, a rule changed too little, or the search is blind; all
            places at once, never a value (``MaskingLeak``).

    """
    findings, matcher = Findings(masked, CATALOGS), Matcher(masked.samples, traces=masked.traces)
    for name in databases_in(work.directory):
        work.progress(f"proving the masking of {name}")
        with connect(file_of(work.directory, name), readonly=True, cancel=work.cancel) as conn:
            _judge_counts(conn, masked, findings, name)
            _judge_values(work, conn, findings, name)
    scanned = leaks.scan(
        work.directory,
        masked.samples,
        threads=work.jobs,
        cancel=work.cancel,
        progress=work.progress,
        below=_DATA,
        matcher=matcher,
        running=True,
    )
    accepted = _explain(work, scanned, findings)
    try:
        leaks.judge(scanned, accepted)
    except MaskingError as error:
        findings.fail(error.message)
    findings.judge()
    short = sum(column.drawn - column.searched for column in scanned.columns)
    told = {"too short or too plain to be looked for in files, compared through SQL": short} if short else {}
    return Evidence(
        accepted=accepted,
        excluded={**findings.excluded, **told},
        exposed=findings.exposed,
        scan=scanned,
        matcher=matcher,
    )


def _judge_counts(conn: sqlite3.Connection, masked: Masked, findings: Findings, database: str) -> None:
    known = sample.by_place([one for one in masked.samples if one.database == database])
    for table in masked.tables:
        for counts in table.columns if table.database == database else ():
            one = known.get((database, table.table, counts.column))
            if one is None or not drawn(one.masking.method):
                if counts.method.partition(" ")[0] == "sql" and 0 < counts.equal >= counts.selected - counts.nulls:
                    findings.fail(
                        f"{database}: {table.table}.{counts.column}: the rule {counts.method} changed no value"
                    )
                continue
            if counts.equal and name_of(one.masking.method) not in _ANY_NUMBER:
                tolerated = _tolerated(conn, one, counts)
                if counts.equal > tolerated:
                    findings.fail(
                        f"{one.place}: the rule {counts.method} left {counts.equal} of {counts.selected} values as they"
                        f" were, {tolerated} can be by chance"
                    )


def _tolerated(conn: sqlite3.Connection, one: Sample, counts: ColumnCounts) -> int:
    """Return how many rows of a column may be as before."""
    name = name_of(one.masking.method)
    if name == "null":
        return 0
    unmoved = preserve.unmoved() if name == "preserve" else frozenset[str]()
    tiny = _TINY if name == "preserve" else 0
    none = few = 0
    for text in _texts(conn, one):
        letters = len(_PUNCTUATION.sub("", text))
        if letters <= tiny or text in unmoved:
            none += 1
        elif letters < _FEW:
            few += 1
    if name in _EVERY_LETTER:
        return none
    return none + few // 2 + max(_BY_CHANCE, counts.selected // _ONE_IN if name == "fake" else 0)


def _texts(conn: sqlite3.Connection, one: Sample) -> Iterable[str]:
    query = f"SELECT {quoted(one.masking.column.name)} FROM {quoted(one.table.name)}"
    return (text for (cell,) in conn.execute(query) for text in sample.texts(one.masking, cell))


def _judge_values(work: BuildWork, conn: sqlite3.Connection, findings: Findings, database: str) -> None:
    """Compare every value of the masked columns with the column's originals."""
    for number, one in enumerate(findings.samples):
        if one.database != database or not one.originals or not drawn(one.masking.method):
            continue
        if name_of(one.masking.method) in {"text", "json"}:
            continue  # parts of values, which the search of the files judges
        work.cancel.check()
        index = {text: at for at, text in enumerate(one.originals)}
        met = {index[part] for text in _texts(conn, one) if (part := telling_part(text)) in index}
        for at in met:
            value = (number, at)
            why = findings.reason(value, one.cell, one.masking)
            if why is None:
                findings.leak(number, one.place, [value])
            elif why == reasons.NOT_SELECTED:
                findings.not_selected([value])
            else:
                findings.reappeared([value])


def _explain(work: BuildWork, scanned: Scan, findings: Findings) -> Accepted:
    """Return which of the originals that were found in files live rows say may be there, by the file's path."""
    accepted: dict[str, frozenset[ValueId]] = {}
    paths = {f"data/{file_of(work.directory, name).name}": name for name in databases_in(work.directory)}
    for file in scanned.files:
        wanted = frozenset(value for value in file.found if value != KEY and not is_control(value))
        if wanted and file.path in paths:
            name = paths[file.path]
            work.progress(f"finding out why originals are in {name}")
            with connect(file_of(work.directory, name), readonly=True, cancel=work.cancel) as conn:
                tables = [_rows(conn, relation) for relation in live.relations(conn)]
                rows = Live(tables, findings, partial(_at_paths, conn), name, work.cancel)
                accepted[file.path] = rows.look(wanted)
    return accepted


def _rows(conn: sqlite3.Connection, relation: Relation) -> Rows:
    return Rows(
        relation=relation,
        columns=[row[1] for row in conn.execute(f"PRAGMA table_xinfo({quoted(relation.name.name)})")],
        in_columns=partial(live.in_columns, conn, relation),
        in_records=partial(live.in_records, conn, relation),
    )


def _at_paths(conn: sqlite3.Connection, one: Sample, ids: Sequence[ValueId]) -> frozenset[str]:
    """Return which originals of a column of documents are still at the paths that its rule names."""
    wanted = {one.originals[index] for _, index in ids}
    return frozenset(part for text in _texts(conn, one) if (part := telling_part(text)) in wanted)
