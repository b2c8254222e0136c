"""The proof that masking left nothing: counts, values through SQL, and every file with what its live rows say.

Called by the session after everything that writes, when all tables were moved into a fresh
data directory. It changes nothing. In this order: each rule changed what it had to; no
drawn original is a value of its column any more; no table whose file hides its values
(compressed, encrypted) has one; no file has one, or rows say why it may. Tolerances are
those of PostgreSQL: ``null`` leaves nothing; ``hash`` and ``email`` leave values without any
letter or digit; ``pattern`` and ``preserve`` also half of those with fewer than eight; ``fake``
also one row in five; ``fixed``, ``text`` and ``json`` any number.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from reconciler.engines.mysql.link import quoted, text
from reconciler.engines.mysql.masking import explain, expressions, hiding, inventory, keys, live, sample
from reconciler.errors import MaskingError
from reconciler.masking import leaks, preserve, reasons
from reconciler.masking.evidence import Evidence
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
    from reconciler.masking.evidence import Scan
    from reconciler.masking.report import ColumnCounts, Masked, Sample
    from reconciler.masking.schema import DatabaseSchema, TableName

_DATA = ("data",)
_PUNCTUATION = r"[ -/:-@\\[-`{-~]"
_FEW, _TINY, _BY_CHANCE, _ONE_IN = 8, 2, 10, 5
_ANY_NUMBER = frozenset({"fixed", "text", "json"})
_EVERY_LETTER = frozenset({"hash", "email"})
_AT_ONCE = 100
CATALOGS = Catalogs(lambda table: table.schema == "mysql", comments=(".frm",))


def prove(work: BuildWork, masked: Masked) -> Evidence:
    """Prove that no drawn original is left in the rows or files of the databases.

    Raises:
        MaskingError: one is left, a rule changed too little, or the search is blind; all
            places at once, never a value (``MaskingLeak``).

    """
    findings, matcher = Findings(masked, CATALOGS), Matcher(masked.samples, traces=masked.traces)
    with keys.connected(work) as link:
        schemas = explain.schemas(link)
        for schema in schemas:
            work.progress(f"proving the masking of {schema.database}")
            _judge_counts(link, masked, findings, schema.database)
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
    try:
        leaks.judge(scanned, accepted)
    except MaskingError as error:
        findings.fail(error.message)
    findings.judge()
    return Evidence(
        accepted=accepted,
        excluded={**findings.excluded, **_not_searched(scanned)},
        exposed=findings.exposed,
        scan=scanned,
        matcher=matcher,
    )


def _not_searched(scanned: Scan) -> dict[str, int]:
    short = sum(column.drawn - column.searched for column in scanned.columns)
    return {"too short or too plain to be looked for in files, compared through SQL": short} if short else {}


def _judge_counts(link: Link, masked: Masked, findings: Findings, database: str) -> None:
    known = sample.by_place([one for one in masked.samples if one.database == database])
    for table in masked.tables:
        for counts in table.columns if table.database == database else ():
            one = known.get((database, table.table, counts.column))
            if one is None or not drawn(one.masking.method):
                if counts.method.partition(" ")[0] == "sql" and 0 < counts.equal >= counts.selected - counts.nulls:
                    findings.fail(f"{table.table}.{counts.column}: the rule {counts.method} changed no value")
                continue
            if counts.equal and name_of(one.masking.method) not in _ANY_NUMBER:
                tolerated = _tolerated(link, one, counts)
                if counts.equal > tolerated:
                    findings.fail(
                        f"{one.place}: the rule {counts.method} left {counts.equal} of {counts.selected} values as they"
                        f" were, {tolerated} can be by chance"
                    )


def _tolerated(link: Link, one: Sample, counts: ColumnCounts) -> int:
    """Return how many rows of a column may be as before."""
    name = name_of(one.masking.method)
    if name == "null":
        return 0
    kept = name == "preserve"
    value = _value(one)
    letters = f"CHAR_LENGTH(REGEXP_REPLACE({value}, '{_PUNCTUATION}', ''))"
    free = f"{letters} <= {_TINY if kept else 0}"
    if kept:
        free = f"({free} OR {_among(one, sorted(preserve.unmoved()))})"
    place = sample.source(link, one.table)
    query = f"SELECT SUM({free}), SUM(NOT {free} AND {letters} < {_FEW}) FROM {place}"
    none, few = (int(number or 0) for number in link.rows(query)[0])
    if name in _EVERY_LETTER:
        return none
    return none + few // 2 + max(_BY_CHANCE, counts.selected // _ONE_IN if name == "fake" else 0)


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
        if _spelled(one, original) not in left:
            continue
        value = (number, index)
        why = findings.reason(value, one.cell, one.masking)
        if why is None:
            findings.leak(number, one.place, [value])
        elif why == reasons.NOT_SELECTED:
            findings.not_selected([value])
        else:
            findings.reappeared([value])


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
