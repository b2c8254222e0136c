"""What rows have that conditions of rules (``when``) leave out.

Called by :mod:`.run` before anything is masked, on a connection of the builder: a
condition can read columns that are masked, and call functions of users. It only reads.
Rows that a condition leaves out keep their values, so an original that is drawn from
others may stay if it is one of theirs as well; that is found out here, from the rows as
they were, and nothing else excuses it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres.masking import sample, streams
from reconciler.masking.matcher import Matcher
from reconciler.masking.originals import drawn
from reconciler.masking.schema import Family
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg

    from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, TableMasking
    from reconciler.masking.report import Place, Sample

_OID = "SELECT {}::regclass::oid::int8"


def left_out(
    conn: psycopg.Connection, masking: DatabaseMasking, samples: Sequence[Sample]
) -> dict[Place, frozenset[str]]:
    """Return which originals of ``samples`` are values of rows that a rule does not select, by the rule's column.

    Raises:
        MaskingError: a table cannot be read.

    """
    sample.speak(conn)
    matcher = Matcher(samples)
    conditions = [(table, *one) for table in masking.tables for one in _conditions(table)]
    found: dict[Place, set[str]] = defaultdict(set)
    for part in matcher.parts if conditions else ():
        search = matcher.search(part)
        for table, others, columns in conditions:
            with sample.guarded(masking.database, table.name, "rows without a rule cannot be read"):
                relation = streams.Relation(_oid(conn, table), table.name)
                names = [column.column.name for column in columns]
                for name, ids in streams.live(conn, relation, search, matcher.overlap, names, others).items():
                    found[masking.database, table.name, name] |= {samples[n].originals[index] for n, index in ids}
    for table, others, columns in conditions:
        for one in samples:
            if (one.database, one.table) == (masking.database, table.name) and one.masking in columns:
                with sample.guarded(masking.database, table.name, "rows without a rule cannot be read"):
                    found[one.cell] |= set(_equal(conn, one, others))
    return {place: frozenset(texts) for place, texts in found.items()}


def _conditions(table: TableMasking) -> Iterator[tuple[sql.Composable, list[ColumnMasking]]]:
    """Yield what holds for rows that a condition leaves out, and the columns that have that condition."""
    by_condition: dict[str, list[ColumnMasking]] = defaultdict(list)
    for column in table.columns:
        if column.when is not None and drawn(column.method):
            by_condition[column.when].append(column)
    for when, columns in by_condition.items():
        yield sql.SQL("NOT coalesce(({}\n), false)").format(sql.SQL(when)), columns


def _oid(conn: psycopg.Connection, table: TableMasking) -> int:
    name = sql.Literal(sql.Identifier(*table.name).as_string())
    return int(conn.execute(sql.SQL(_OID).format(name)).fetchall()[0][0])


def _equal(conn: psycopg.Connection, one: Sample, rows: sql.Composable) -> Iterator[str]:
    """Yield the originals that are whole values of rows, however short, and of types without text."""
    if name_of(one.masking.method) == "text":
        return
    probe = sample.probe(one.masking, selected=False)
    many = one.masking.column.array or name_of(one.masking.method) == "json"
    value = sql.SQL("unnest({})" if many else "{}").format(probe.expression)
    query = sql.SQL(
        'SELECT DISTINCT v FROM (SELECT ({}) COLLATE "C" AS v FROM ONLY {} AS t WHERE {}) s WHERE v'
    ).format(value, sql.Identifier(*one.table), rows)
    binary = one.masking.column.family is Family.BYTES
    spelled = [text.encode("latin-1").hex() if binary else text for text in one.originals]
    wanted = query.as_string(conn).replace("%", "%%") + " = ANY(%s)"
    left = {row[0] for row in conn.execute(wanted.encode(), [spelled])}
    yield from (text for text, form in zip(one.originals, spelled, strict=True) if form in left)
