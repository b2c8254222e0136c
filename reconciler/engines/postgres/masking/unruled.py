"""Originals of columns that no policy decides about: those of scripts and of maskers of the host.

Called by :mod:`.run` around such steps. What they mask, only they know. So values are
drawn of every column with text before them, and of these the ones that a column does
not have any more afterwards must be gone from the files as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.engines.postgres.masking import sample, streams
from reconciler.ids import PolicyName, SecretName
from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, TableMasking
from reconciler.masking.matcher import Matcher
from reconciler.masking.report import Sample
from reconciler.masking.schema import Family, TableName
from reconciler.masking.vault import Vault
from reconciler.spec.masking_policy import Sql

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg

    from reconciler.masking.matcher import Search, ValueId
    from reconciler.masking.schema import DatabaseSchema

_WITH_TEXT = frozenset({Family.TEXT, Family.JSON, Family.BYTES})
_UNKNOWN = Sql.model_validate({"sql": "unknown"})
"""Stands for what such a step does: it may keep parts, and give to one row what another had."""
_OIDS = """
SELECT c.oid::int8, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
"""


def draw(conn: psycopg.Connection, schema: DatabaseSchema, by: str) -> tuple[Sample, ...]:
    """Return values of every column with text of a database, before the step called ``by``.

    Raises:
        MaskingError: a table cannot be read.

    """
    tables = [
        TableMasking(
            table,
            tuple(
                ColumnMasking(column, "hash", PolicyName(by), SecretName(""))  # a method of which everything is drawn
                for column in table.columns
                if column.family in _WITH_TEXT and not column.generated
            ),
        )
        for table in schema.tables
        if table.has_rows and not table.foreign and not table.extension
    ]
    return sample.draw(conn, DatabaseMasking(schema.database, tuple(table for table in tables if table.columns)))


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
    vault, left = Vault(), list[Sample]()
    for number, one in enumerate(drawn):
        originals = tuple(
            text
            for index, text in enumerate(one.originals)
            if matcher.looks_for((number, index)) and (number, index) not in still
        )
        if originals:
            left.append(
                replace(
                    one, masking=replace(one.masking, method=_UNKNOWN), originals=vault.keep(originals), complete=False
                )
            )
    return tuple(left)


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
