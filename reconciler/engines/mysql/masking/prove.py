"""The proof that masking left nothing: counts, values through SQL, and every file with what its live rows say.

Called by the session after everything that writes, when all tables were moved into a fresh
data directory. It changes nothing. In this order: each rule changed what it had to; no
drawn original is a value of its column any more; no table whose file hides its values
(compressed, encrypted) has one; no file has one, or rows say why it may.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from reconciler.engines.mysql.link import quoted, text
from reconciler.engines.mysql.masking import explain, expressions, hiding, inventory, keys, live, sample
from reconciler.masking import leaks, proof
from reconciler.masking.findings import Catalogs, Findings
from reconciler.masking.live import Relation
from reconciler.masking.matcher import Matcher
from reconciler.masking.originals import drawn
from reconciler.masking.schema import Family
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reconciler.engines.base import BuildWork
    from reconciler.engines.mysql.link import Link
    from reconciler.masking.evidence import Evidence
    from reconciler.masking.report import Masked, Sample
    from reconciler.masking.schema import DatabaseSchema, TableName

_DATA = ("data",)
_PUNCTUATION = r"[ -/:-@\\[-`{-~]"
_AT_ONCE = 100
CATALOGS = Catalogs(lambda table: table.schema == "mysql", comments=(".frm",))


def prove(work: BuildWork, masked: Masked) -> Evidence:
    """Prove that no drawn original is left in the rows or files of the databases.

    Raises:
        MaskingError: one is left, a rule changed too little, or the search is blind; all
            places at once, never a value (``MaskingLeak``).

    """
    findings, matcher = Findings(masked, CATALOGS), Matcher(masked.samples, traces=masked.traces)
    policies = [one for one in masked.samples if drawn(one.masking.method)]
    with keys.connected(work) as link:
        schemas = explain.schemas(link)
        for schema in schemas:
            work.progress(f"proving the masking of {schema.database}")
            proof.judge_counts(masked, findings, schema.database, partial(_short, link), samples=policies)
            _judge_values(work, link, findings, schema.database)
        _judge_hidden(work, link, findings, matcher, schemas)
        _write_out(link)
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
        accepted = explain.explain(work, link, schemas, scanned, findings)
    return proof.conclude(findings, scanned, accepted, matcher)


def _short(link: Link, one: Sample, tiny: int, unmoved: frozenset[str]) -> tuple[int, int]:
    """Count values with few letters and digits: see :data:`.proof.Short`."""
    letters = f"CHAR_LENGTH(REGEXP_REPLACE({_value(one)}, '{_PUNCTUATION}', ''))"
    free = f"{letters} <= {tiny}"
    if unmoved:
        free = f"({free} OR {_among(one, sorted(unmoved))})"
    place = sample.source(link, one.table)
    query = f"SELECT SUM({free}), SUM(NOT {free} AND {letters} < {proof.FEW}) FROM {place}"
    none, few = (int(number or 0) for number in link.rows(query)[0])
    return none, few


def _judge_values(work: BuildWork, link: Link, findings: Findings, database: str) -> None:
    """Compare every value of the masked columns with the column's originals."""
    tables: dict[TableName, list[int]] = {}
    for number, one in enumerate(findings.samples):
        if one.database == database and one.originals and _comparable(one):
            tables.setdefault(one.table, []).append(number)
    for table, numbers in tables.items():
        work.cancel.check()
        place = sample.source(link, table)
        sums = ", ".join(f"SUM({_among(one, one.originals)})" for one in (findings.samples[n] for n in numbers))
        counted = link.rows(f"SELECT {sums} FROM {place}")[0]
        for number, count in zip(numbers, counted, strict=True):
            if count:
                _judge_column(link, findings, number, place)


def _judge_column(link: Link, findings: Findings, number: int, place: str) -> None:
    """Judge the originals that are still in their column."""
    one = findings.samples[number]
    query = f"SELECT DISTINCT {_value(one)} FROM {place} WHERE {_among(one, one.originals)}"
    left = {str(value) for (value,) in link.rows(query)}
    for index, original in enumerate(one.originals):
        if _spelled(one, original) in left:
            findings.still((number, index))


def _comparable(one: Sample) -> bool:
    """Tell whether originals are whole values, not parts of a text or document, and SQL can write them."""
    method = one.masking.method
    return drawn(method) and name_of(method) not in {"text", "json"} and _plain(one) is not None


def _plain(one: Sample) -> str | None:
    """Return the text of a column's values, before any folding."""
    value, column = f"t.{quoted(one.masking.column.name)}", one.masking.column
    if column.family in {Family.TEXT, Family.JSON}:
        return f"CONVERT({value} USING utf8mb4)"
    return expressions.canonical(value, column)


def _value(one: Sample) -> str:
    return f"{_plain(one)} COLLATE utf8mb4_nopad_bin"


def _among(one: Sample, texts: Iterable[str]) -> str:
    """Return a condition that a row's value is one of some."""
    return f"{_value(one)} IN ({', '.join(text(_spelled(one, each)) for each in texts)})"


def _spelled(one: Sample, original: str) -> str:
    return original.encode("latin-1").hex() if one.masking.column.family is Family.BYTES else original


def _judge_hidden(
    work: BuildWork, link: Link, findings: Findings, matcher: Matcher, schemas: Sequence[DatabaseSchema]
) -> None:
    """Search the values of tables whose files do not show them."""
    for name in sorted(hiding.tables(link)):
        table = live.table_of(schemas, name)
        if table is None:
            continue
        work.progress(f"searching the values of {name}")
        for part in matcher.parts:
            work.cancel.check()
            for column, ids in live.in_columns(link, table, matcher.search(part)).items():
                findings.accept(partial(explain.at_paths, link), name.schema, Relation(name), [column], ids)


def _write_out(link: Link) -> None:
    """Have the server write what it holds in memory into the files of its tables."""
    tables = [
        table.place
        for database in inventory.read(link)
        for table in database.tables
        if table.way in (inventory.Way.TABLESPACE, inventory.Way.ROWS)
    ]
    link.rows("FLUSH TABLES")
    for start in range(0, len(tables), _AT_ONCE):
        link.rows(f"FLUSH TABLES {', '.join(tables[start : start + _AT_ONCE])} FOR EXPORT")
        link.rows("UNLOCK TABLES")
