"""Tables that go into a fresh data directory row by row, and sequences.

Called by :mod:`.fresh`. Rows are put into tables of MyISAM, whose files any server can open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.mysql import server
from reconciler.engines.mysql.link import quoted
from reconciler.engines.mysql.masking import history, keys
from reconciler.engines.mysql.masking.inventory import Way
from reconciler.masking.schema import TableName

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from reconciler.engines.base import BuildWork
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.masking.inventory import Moved

_COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = %s AND table_name = %s AND COALESCE(generation_expression, '') = '' ORDER BY ordinal_position
"""


class Carry:
    """Everything of a server that does not go as files of its own."""

    def __init__(self, link: Link, tables: Sequence[Moved]) -> None:
        rows = [table for table in tables if table.way is Way.ROWS]
        self._places = {
            table.place: f"{quoted(keys.SCHEMA)}.{quoted(f'carried_{number}')}" for number, table in enumerate(rows)
        }
        self._columns = {table.place: _columns(link, table) for table in rows}
        self._sequences = {
            table: int(link.value(f"SELECT next_not_cached_value FROM {table.place}"))
            for table in tables
            if table.way is Way.SEQUENCE
        }
        if rows:
            link.rows(f"CREATE DATABASE IF NOT EXISTS {quoted(keys.SCHEMA)}")
        for table in rows:
            names, past = self._columns[table.place]
            chosen = ", ".join([*names, *(f"CAST({name} AS DATETIME(6)) AS {name}" for name in past)])
            place, every = self._places[table.place], " FOR SYSTEM_TIME ALL" if past else ""
            link.rows(f"CREATE TABLE {place} ENGINE=MyISAM SELECT {chosen} FROM {table.place}{every}")

    def arrive(self, work: BuildWork, before: Path) -> None:
        """Bring the files into the new directory, whose server runs and has the database for them."""
        if self._places:
            for entry in list((before / keys.SCHEMA).iterdir()):
                if entry.name != "db.opt":
                    entry.rename(server.data_directory(work) / keys.SCHEMA / entry.name)

    def make_sequences(self, link: Link) -> None:
        """Make the sequences, which tables may take defaults from, and let them go on where they stood."""
        for table, value in self._sequences.items():
            link.rows(f"USE {quoted(table.database)}")
            link.rows(table.made_by)
            link.rows(f"ALTER SEQUENCE {table.place} RESTART {value}")

    def fill(self, link: Link, table: Moved) -> None:
        """Fill a table that was made."""
        names, past = self._columns[table.place]
        history.History(past).open(link)
        columns, place = ", ".join([*names, *past]), self._places[table.place]
        link.rows(f"INSERT INTO {table.place} ({columns}) SELECT {columns} FROM {place}")
        link.rows(f"DROP TABLE {place}")


def _columns(link: Link, table: Moved) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns of a table that are written, and those that say from when to when a row held."""
    names = tuple(quoted(str(name)) for (name,) in link.rows(_COLUMNS, table.database, table.name))
    past = history.of(link, TableName(table.database, table.name)).columns
    return names, tuple(map(quoted, past))
