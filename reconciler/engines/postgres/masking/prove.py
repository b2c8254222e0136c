"""The proof that masking did what it had to, seen through the server and in its files, before it is stopped.

Called by the session after everything that writes. It changes nothing in the data. What
it proves, in this order:

1. Each rule changed what it had to: the counts that masking took of every row (:mod:`reconciler.masking.proof`).
2. No drawn original is a value of its column any more; except what a rule may have
   given to another row (a word of a list, a short number), and rows that a rule does not select.
3. No compressed value has one, nor the statistics of the planner: files do not show those.
4. No file of the databases has one (:mod:`reconciler.masking.leaks`), or the live rows of
   its table say why it may (:mod:`.explain`): only then is anything read through SQL again.

The scan after the server has stopped covers everything else, and what was written since.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking import explain, streams
from reconciler.engines.postgres.masking.catalogs import CATALOGS, at_paths
from reconciler.engines.postgres.masking.sample import as_text, guarded, quoted, speak, together
from reconciler.engines.postgres.masking.unchanged import first_file, narrowed, pages_to_search
from reconciler.masking import leaks, proof
from reconciler.masking.findings import Findings
from reconciler.masking.matcher import Matcher
from reconciler.masking.schema import Family, TableName
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from reconciler.engines.base import BuildWork
    from reconciler.masking.evidence import Base, Evidence
    from reconciler.masking.report import Masked, Sample

RELATIONS = ("data/base", "data/global")
"""Directories, relative to the volume, whose files are looked at before the server stops."""

_PUNCTUATION = r"[ -/:-@\[-`{-~]"
_COMPARED = 256
"""Bytes beyond which a value is not compared: originals are shorter, or only known in part."""


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
            proof.judge_counts(
                masked, findings, name, partial(_short, conn), samples=masked.samples, prefix=f"{name}: "
            )
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
    return proof.conclude(findings, scanned, accepted, matcher, base=base, packed=tuple(sorted(packed)))


def _short(conn: psycopg.Connection, sample: Sample, tiny: int, unmoved: frozenset[str]) -> tuple[int, int]:
    """Count values with few letters and digits: see :data:`.proof.Short`."""
    query = sql.SQL(
        "SELECT count(*) FILTER (WHERE free), count(*) FILTER (WHERE NOT free AND n < {few}) FROM"
        " (SELECT n, n <= {free} OR v = ANY({unmoved}) AS free FROM {table} t,"
        ' LATERAL (SELECT {value} COLLATE "C" OFFSET 0) a(v), LATERAL (SELECT'
        " length(regexp_replace(v, {punctuation}, '', 'g')) OFFSET 0) b(n)) s"
    ).format(
        few=sql.Literal(proof.FEW),
        free=sql.Literal(tiny),
        table=sql.SQL("ONLY ") + sql.Identifier(*sample.table),
        value=as_text(sample.masking.column, sql.Identifier("t", sample.masking.column.name)),
        punctuation=sql.Literal(_PUNCTUATION),
        unmoved=sql.Literal(sorted(unmoved)),
    )
    with guarded(sample.database, sample.table, "its values cannot be counted"):
        none, few = conn.execute(query).fetchone() or (0, 0)
    return int(none), int(few)


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
    for index, text in enumerate(spelled):
        if text in left:
            findings.still((number, index))


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
