"""The proof that masking did what it had to, seen through the server and in its files, before it is stopped.

Called by the session after everything that writes. It changes nothing in the data. What
it proves, in this order:

1. Each rule changed what it had to: the counts that masking took of every row.
2. No drawn original is a value of its column any more; except what a rule may have
   given to another row (a word of a list, a short number), and rows that a rule does not select.
3. No compressed value has one, nor the statistics of the planner: files do not show those.
4. No file of the databases has one (:mod:`reconciler.masking.leaks`), or the live rows of
   its table say why it may (:mod:`.explain`): only then is anything read through SQL again.

The scan after the server has stopped covers everything else, and what was written since.

**Tolerances** (:func:`_tolerated`). ``null``: none. ``hash``, ``email``: values without any
letter or digit. ``pattern``, ``preserve``: also half of the rows whose values have fewer
than eight, which chance can repeat; not all of them, which a method that does not know
their alphabet would leave. ``fake``: also one row in five, since a list may give a
frequent value to itself.
``fixed``, ``text`` and ``json`` may leave any number of rows as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking import explain, streams
from reconciler.engines.postgres.masking.catalogs import CATALOGS, at_paths
from reconciler.engines.postgres.masking.sample import as_text, guarded, quoted, speak, together
from reconciler.engines.postgres.masking.unchanged import first_file, narrowed, pages_to_search
from reconciler.errors import MaskingError
from reconciler.masking import leaks, preserve, reasons
from reconciler.masking.evidence import Evidence
from reconciler.masking.findings import Findings
from reconciler.masking.matcher import Matcher
from reconciler.masking.originals import drawn
from reconciler.masking.schema import Family, TableName
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from reconciler.engines.base import BuildWork
    from reconciler.masking.evidence import Base, Scan
    from reconciler.masking.report import ColumnCounts, Masked, Sample

RELATIONS = ("data/base", "data/global")
"""Directories, relative to the volume, whose files are looked at before the server stops."""

_PUNCTUATION = r"[ -/:-@\[-`{-~]"
_FEW = 8
_TINY = 2
"""Letters and digits up to which a value of a format can stay as it is, in however many rows it is."""
_BY_CHANCE = 10
_ONE_IN = 5
_COMPARED = 256
"""Bytes beyond which a value is not compared: originals are shorter, or only known in part."""
_ANY_NUMBER = frozenset({"fixed", "text", "json"})
_STRICT = frozenset({"null"})
_EVERY_LETTER = frozenset({"hash", "email"})


def prove(work: BuildWork, masked: Masked, base: Base | None = None) -> Evidence:
    """Prove that no drawn original is left where a running server can see it, or in the files of its relations.

    ``base``: files in which an earlier scan has found nothing need not be searched again while they are as they were.

    Raises:
        MaskingError: one is left, a rule changed too little, or the search is blind; all
            places at once, never a value (``MaskingLeak``).

    """
    findings, matcher = Findings(masked, CATALOGS), Matcher(masked.samples, traces=masked.traces)
    with server.connect(work, "template1") as conn:
        names = server.connectable_databases(conn)
    for name in names:
        work.progress(f"proving the masking of {name}")
        with server.connect(work, name) as conn:
            speak(conn)
            _judge_counts(conn, masked, findings, name)
            _judge_values(work, conn, findings, name)
    with server.connect(work, "template1") as conn:
        conn.execute("CHECKPOINT")
    base, packed = narrowed(work, base, masked, names), set[str]()
    for part in matcher.parts:
        packed |= _judge_hidden(work, findings, matcher, part, names, base)
    with server.connect(work, "template1") as conn:
        conn.execute("CHECKPOINT")
    scanned = leaks.scan(
        work.directory,
        masked.samples,
        threads=work.jobs,
        cancel=work.cancel,
        progress=work.progress,
        below=RELATIONS,
        matcher=matcher,
        base=base,
        running=True,
    )
    accepted = explain.explain(work, scanned, findings)
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
        base=base,
        packed=tuple(sorted(packed)),
    )


def _not_searched(scanned: Scan) -> dict[str, int]:
    short = sum(column.drawn - column.searched for column in scanned.columns)
    return {"too short or too plain to be looked for in files, compared through SQL": short} if short else {}


def _judge_counts(conn: psycopg.Connection, masked: Masked, findings: Findings, database: str) -> None:
    ordered = sorted(masked.samples, key=lambda s: drawn(s.masking.method))  # a rule of a policy, rather than a script
    samples = {(s.table, s.masking.column.name): s for s in ordered if s.database == database}
    for table in masked.tables:
        for counts in table.columns if table.database == database else ():
            sample = samples.get((table.table, counts.column))
            if (
                sample is None
                and counts.method.partition(" ")[0] == "sql"
                and 0 < counts.equal >= counts.selected - counts.nulls
            ):
                findings.fail(f"{database}: {table.table}.{counts.column}: the rule {counts.method} changed no value")
            if sample is None or counts.equal == 0 or name_of(sample.masking.method) in _ANY_NUMBER:
                continue
            with guarded(database, table.table, "its values cannot be counted"):
                tolerated = _tolerated(conn, sample, counts)
            if counts.equal > tolerated:
                findings.fail(
                    f"{sample.place}: the rule {counts.method} left {counts.equal} of {counts.selected} values as they"
                    f" were, {tolerated} can be by chance"
                )


def _tolerated(conn: psycopg.Connection, sample: Sample, counts: ColumnCounts) -> int:
    """Return how many rows of a column may be as before."""
    name = name_of(sample.masking.method)
    if name in _STRICT:
        return 0
    kept = name == "preserve"
    query = sql.SQL(
        "SELECT count(*) FILTER (WHERE free), count(*) FILTER (WHERE NOT free AND n < {few}) FROM"
        " (SELECT n, n <= {free} OR v = ANY({unmoved}) AS free FROM {table} t,"
        ' LATERAL (SELECT {value} COLLATE "C" OFFSET 0) a(v), LATERAL (SELECT'
        " length(regexp_replace(v, {punctuation}, '', 'g')) OFFSET 0) b(n)) s"
    ).format(
        few=sql.Literal(_FEW),
        free=sql.Literal(_TINY if kept else 0),
        table=sql.SQL("ONLY ") + sql.Identifier(*sample.table),
        value=as_text(sample.masking.column, sql.Identifier("t", sample.masking.column.name)),
        punctuation=sql.Literal(_PUNCTUATION),
        unmoved=sql.Literal(sorted(preserve.unmoved()) if kept else []),
    )
    none, few = conn.execute(query).fetchone() or (0, 0)
    if name in _EVERY_LETTER:
        return int(none)
    by_chance = max(_BY_CHANCE, counts.selected // _ONE_IN if name == "fake" else 0)
    return int(none) + int(few) // 2 + by_chance


def _judge_values(work: BuildWork, conn: psycopg.Connection, findings: Findings, database: str) -> None:
    """Compare every value of the masked columns with the column's originals."""
    tables: dict[TableName, list[int]] = {}
    for number, sample in enumerate(findings.samples):
        if sample.database == database and sample.originals and _comparable(sample):
            tables.setdefault(sample.table, []).append(number)
    for table, numbers in tables.items():
        for some in together(numbers):
            work.cancel.check()
            with guarded(database, table, "its values cannot be compared"):
                _compare(conn, findings, table, some)


def _compare(conn: psycopg.Connection, findings: Findings, table: TableName, numbers: Sequence[int]) -> None:
    samples = [findings.samples[number] for number in numbers]
    query = sql.SQL("SELECT {} FROM ONLY {} t").format(
        sql.SQL(", ").join(sql.SQL("count(*) FILTER (WHERE {})").format(_among(sample)) for sample in samples),
        quoted(*table),
    )
    row = conn.execute(query, [_spelled(sample) for sample in samples]).fetchone() or ()
    for number, sample, count in zip(numbers, samples, row, strict=True):
        if count:
            _judge_column(conn, findings, number, sample)


def _judge_column(conn: psycopg.Connection, findings: Findings, number: int, sample: Sample) -> None:
    """Judge the originals that are still in their column."""
    value = sql.SQL("unnest({})") if sample.masking.column.array else sql.SQL("{}")
    query = sql.SQL("SELECT DISTINCT v FROM (SELECT {} AS v FROM ONLY {} t WHERE {}) s WHERE v = ANY(%s)").format(
        _text(sample, value.format(quoted("t", sample.masking.column.name))),
        quoted(*sample.table),
        _among(sample),
    )
    spelled = _spelled(sample)
    left = {row[0] for row in conn.execute(query, [spelled, spelled])}
    met = [(number, index) for index, text in enumerate(spelled) if text in left]
    for value_id in met:
        why = findings.reason(value_id, sample.cell, sample.masking)
        if why is None:
            findings.leak(number, sample.place, [value_id])
        elif why == reasons.NOT_SELECTED:
            findings.not_selected([value_id])
        else:
            findings.reappeared([value_id])


def _comparable(sample: Sample) -> bool:
    """Tell whether originals are whole values, not parts of a text or document."""
    return name_of(sample.masking.method) not in {"text", "json"}


def _among(sample: Sample) -> sql.Composable:
    """Return a condition, with one parameter, that a row's value is among the originals."""
    column = quoted("t", sample.masking.column.name)
    if sample.masking.column.array:
        return sql.SQL("EXISTS (SELECT FROM unnest({}) e WHERE {} = ANY(%s))").format(
            column, _text(sample, sql.SQL("e"))
        )
    value = _text(sample, column)
    return sql.SQL("CASE WHEN octet_length({}) <= {} THEN {} = ANY(%s) END").format(
        value, sql.Literal(_COMPARED), value
    )


def _text(sample: Sample, value: sql.Composable) -> sql.Composable:
    if sample.masking.column.family is Family.BYTES:
        return sql.SQL("encode({}, 'hex')").format(value)
    text = as_text(sample.masking.column, value).as_string().replace("'%s'", "'%%s'")
    return sql.SQL('({}) COLLATE "C"').format(sql.SQL(text))


def _spelled(sample: Sample) -> list[str]:
    """Return originals as the condition compares them."""
    if sample.masking.column.family is Family.BYTES:
        return [text.encode("latin-1").hex() for text in sample.originals]
    return list(sample.originals)


def _judge_hidden(
    work: BuildWork, findings: Findings, matcher: Matcher, part: int, names: Sequence[str], base: Base | None
) -> set[str]:
    """Search what files do not show: compressed values of every table, and the planner's statistics.

    Of tables in ``base`` only rows in other pages are. Return the first files of tables in which something was found.
    """
    search, packed = matcher.search(part), set[str]()
    for name in names:
        work.progress(f"searching compressed values of {name}")
        with server.connect(work, name) as conn:
            speak(conn)
            for relation in streams.relations(conn):
                work.cancel.check()
                with guarded(name, relation.name, "its compressed values cannot be read"):
                    pages = pages_to_search(work, conn, relation, base)
                    found = streams.compressed(conn, relation, search, matcher.overlap, pages)
                    for column, ids in found.items():
                        findings.accept(at_paths(conn), name, relation, [column], ids)
                    if any(found.values()) and (path := first_file(conn, relation)) is not None:
                        packed.add(path)
            with guarded(name, "pg_statistic", "statistics cannot be read"):
                explain.judge_statistics(conn, findings, name, search)
    return packed
