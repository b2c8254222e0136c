"""Originals of columns that no policy decides about, as :mod:`reconciler.masking.unruled` describes them.

Called by :mod:`.run` around steps that only their authors know.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from reconciler.engines.postgres.masking import sample, streams
from reconciler.masking import unruled
from reconciler.masking.matcher import Matcher
from reconciler.masking.schema import TableName

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg

    from reconciler.masking.matcher import Search, ValueId
    from reconciler.masking.report import Place, Sample
    from reconciler.masking.schema import DatabaseSchema

_OIDS = """
SELECT c.oid::int8, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
"""


def draw(conn: psycopg.Connection, schema: DatabaseSchema, by: str) -> tuple[Sample, ...]:
    """Return values of every column with text of a database, before the step called ``by``.

    Raises:
        MaskingError: a table cannot be read.

    """
    tables = [one for one in schema.tables if one.has_rows and not one.foreign and not one.extension]
    return sample.draw(conn, unruled.everything(schema.database, tables, by))


def gone(conn: psycopg.Connection, drawn: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return what is left of samples of one database without the values that their columns still have."""
    sample.speak(conn)
    matcher = Matcher(drawn)
    numbers = {(one.table, one.masking.column.name): number for number, one in enumerate(drawn)}
    names = sorted({one.table for one in drawn})
    rows = conn.execute(_OIDS, [[name.schema for name in names], [name.name for name in names]]).fetchall()
    relations = [streams.Relation(oid, TableName(schema, table)) for oid, schema, table in rows]
    still: set[ValueId] = set()
    for part in matcher.parts:
        still |= _at_home(conn, relations, matcher.search(part), matcher.overlap, numbers)
    present: dict[Place, list[int]] = defaultdict(list)
    for number, index in still:
        present[drawn[number].cell].append(index)
    return unruled.gone(drawn, lambda one: {one.originals[index] for index in present[one.cell]})


def _at_home(
    conn: psycopg.Connection,
    relations: Sequence[streams.Relation],
    search: Search,
    overlap: int,
    numbers: Mapping[tuple[TableName, str], int],
) -> set[ValueId]:
    """Return the values that are in the columns that they were drawn from."""
    found: set[ValueId] = set()
    for relation in relations:
        for column, ids in streams.live(conn, relation, search, overlap).items():
            own = numbers.get((relation.name, column))
            found.update(value for value in ids if value[0] == own)
    return found
