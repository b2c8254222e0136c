"""Sequences of masked columns, set behind the largest number that masking gave.

Called by :mod:`.run` when a database is masked. Otherwise a clone's next rows would take
numbers that masked rows have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.masking.schema import Family

if TYPE_CHECKING:
    import psycopg

    from reconciler.masking.assignment import DatabaseMasking

_NUMBERS = frozenset({Family.INTEGER, Family.NUMBER})
# A parent may lack a column that an heir has.
_SEQUENCE = """
SELECT pg_get_serial_sequence(%(table)s, attname::text) FROM pg_attribute
WHERE attrelid = %(table)s::regclass AND attname = %(column)s AND NOT attisdropped
"""
_BEHIND = """
SELECT setval({sequence}::regclass, n::bigint)
FROM (SELECT max({column}) AS n FROM ONLY {table}) AS rows, pg_sequence AS s, {relation} AS state
WHERE s.seqrelid = {sequence}::regclass AND s.seqincrement > 0 AND n >= state.last_value AND n <= s.seqmax
"""


def catch_up(conn: psycopg.Connection, masking: DatabaseMasking) -> None:
    """Let every sequence that a masked column owns go on behind the column's largest number."""
    for table in masking.tables:
        for column in (one.column for one in table.columns if one.column.family in _NUMBERS and not one.column.array):
            for name in (table.name, *table.table.parents):  # partitions draw from the sequence of their root
                quoted = sql.Identifier(*name).as_string(conn)
                row = conn.execute(_SEQUENCE, {"table": quoted, "column": column.name}).fetchone()
                if row is None or row[0] is None:
                    continue
                parts = {
                    "sequence": sql.Literal(row[0]),
                    "relation": sql.SQL(row[0]),  # quoted by the server
                    "column": sql.Identifier(column.name),
                    "table": sql.Identifier(*table.name),
                }
                conn.execute(sql.SQL(_BEHIND).format(**parts))
