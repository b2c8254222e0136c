"""The proof that masking left nothing: counts, values through SQL, and every file with what its live rows say.

Called by the session after everything that writes, when each database was written anew. It
changes nothing. In this order: each rule changed what it had to; no drawn original is a
value of its column any more; no file has one, or the rows say why it may.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from reconciler.engines.sqlite.databases import connect, databases_in, file_of, quoted
from reconciler.engines.sqlite.masking import live, sample
from reconciler.engines.sqlite.masking.introspect import SCHEMA
from reconciler.masking import leaks, proof
from reconciler.masking.findings import Catalogs, Findings
from reconciler.masking.live import Live, Rows
from reconciler.masking.matcher import KEY, Matcher, is_control
from reconciler.masking.originals import drawn, telling_part
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from reconciler.engines.base import BuildWork
    from reconciler.masking.evidence import Accepted, Evidence, Scan
    from reconciler.masking.live import Relation
    from reconciler.masking.matcher import ValueId
    from reconciler.masking.report import Masked, Sample

_DATA = ("data",)
_PUNCTUATION = re.compile(r"[ -/:-@\[-`{-~]")
CATALOGS = Catalogs(lambda table: table.schema == SCHEMA and table.name == "sqlite_schema")


def prove(work: BuildWork, masked: Masked) -> Evidence:
    """Prove that no drawn original is left in the rows or files of the databases.

    Raises:
        MaskingError: one is left, a rule changed too little, or the search is blind; all
            places at once, never a value (``MaskingLeak``).

    """
    findings, matcher = Findings(masked, CATALOGS), Matcher(masked.samples, traces=masked.traces)
    policies = [one for one in masked.samples if drawn(one.masking.method)]
    for name in databases_in(work.directory):
        work.progress(f"proving the masking of {name}")
        with connect(file_of(work.directory, name), readonly=True, cancel=work.cancel) as conn:
            proof.judge_counts(masked, findings, name, partial(_short, conn), samples=policies, prefix=f"{name}: ")
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
    return proof.conclude(findings, scanned, _explain(work, scanned, findings), matcher)


def _short(conn: sqlite3.Connection, one: Sample, tiny: int, unmoved: frozenset[str]) -> tuple[int, int]:
    """Count values with few letters and digits: see :data:`.proof.Short`."""
    none = few = 0
    for text in _texts(conn, one):
        letters = len(_PUNCTUATION.sub("", text))
        if letters <= tiny or text in unmoved:
            none += 1
        elif letters < proof.FEW:
            few += 1
    return none, few


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
            findings.still((number, at))


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
