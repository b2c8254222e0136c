"""What a server holds that has to be moved into a fresh data directory, and how each of it can be.

Called by :mod:`.fresh`. It reads catalogs and changes nothing. Tables of InnoDB go as their
files (MariaDB's documentation, "Copying Transportable Tablespaces"); what that cannot take
(full-text indexes, partitions that are no plain ones) goes row by row, and tables of engines
that keep all of one in files of its own go as these files.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from reconciler.engines.mysql import server
from reconciler.engines.mysql.link import quoted
from reconciler.engines.mysql.masking import history
from reconciler.engines.mysql.masking.introspect import TABLE_TYPES
from reconciler.masking.schema import TableName

if TYPE_CHECKING:
    from reconciler.engines.mysql.link import Link

_TABLES = """
SELECT t.table_name, t.table_type, t.engine,
    EXISTS (SELECT 1 FROM information_schema.statistics s WHERE s.table_schema = t.table_schema
        AND s.table_name = t.table_name AND s.index_type = 'FULLTEXT'),
    t.create_options LIKE '%%partitioned%%'
FROM information_schema.tables t WHERE t.table_schema = %s AND t.table_type IN %s ORDER BY t.table_name
"""
_PARTITIONS = """
SELECT partition_name, subpartition_name, partition_method FROM information_schema.partitions
WHERE table_schema = %s AND table_name = %s AND partition_name IS NOT NULL ORDER BY partition_ordinal_position
"""
_WITH_STATISTICS = "SELECT DISTINCT db_name, table_name FROM mysql.{}"
_SEQUENCE = "SEQUENCE"


class Way(Enum):
    """How a table is moved."""

    TABLESPACE = auto()
    """Its file is imported into a table that was made like it."""
    ROWS = auto()
    """Its rows are put into files of MyISAM and inserted again."""
    FILES = auto()
    """All its files are its own."""
    SEQUENCE = auto()


@dataclass(frozen=True, slots=True)
class Moved:
    """One table: its name, that of its files, the statement that makes it, and how it goes."""

    database: str
    name: str
    file: str
    made_by: str
    way: Way
    partitions: tuple[str, ...] = ()
    """Names, if its rows are in several files."""
    partition_files: tuple[str, ...] = ()
    counted: bool = False
    """Whether it has statistics of its values (``ANALYZE TABLE … PERSISTENT``)."""

    @property
    def place(self) -> str:
        """The table as SQL names it."""
        return f"{quoted(self.database)}.{quoted(self.name)}"


@dataclass(frozen=True, slots=True)
class Database:
    """One database: the statement that makes it, the name of its directory, and those of the files of its views."""

    name: str
    made_by: str
    directory: str
    views: frozenset[str]
    tables: tuple[Moved, ...]


def read(link: Link) -> tuple[Database, ...]:
    """Return everything that users have.

    Raises:
        MaskingError: a table cannot be moved.

    """
    counted = {
        (str(schema), str(name))
        for table in ("column_stats", "index_stats", "table_stats")
        for schema, name in link.rows(_WITH_STATISTICS.format(table))
    }
    return tuple(_database(link, name, counted) for name in server.user_databases(link))


def _database(link: Link, name: str, counted: set[tuple[str, str]]) -> Database:
    views = link.rows("SELECT table_name FROM information_schema.views WHERE table_schema = %s", name)
    return Database(
        name=name,
        made_by=str(link.rows(f"SHOW CREATE DATABASE {quoted(name)}")[0][1]),
        directory=file_name(link, name),
        views=frozenset(file_name(link, str(view)) for (view,) in views),
        tables=tuple(
            _table(link, name, row, counted=(name, str(row[0])) in counted)
            for row in link.rows(_TABLES, name, (*TABLE_TYPES, _SEQUENCE))
        ),
    )


def _table(link: Link, database: str, row: tuple[object, ...], *, counted: bool) -> Moved:
    name, kind, engine, full_text, partitioned = str(row[0]), row[1], row[2], row[3], row[4]
    what = "SEQUENCE" if kind == _SEQUENCE else "TABLE"
    made_by = str(link.rows(f"SHOW CREATE {what} {quoted(database)}.{quoted(name)}")[0][1])
    file = file_name(link, name)
    if kind == _SEQUENCE:
        return Moved(database, name, file, made_by, Way.SEQUENCE)
    if engine != "InnoDB":
        return Moved(database, name, file, made_by, Way.FILES, counted=counted)
    history.of(link, TableName(database, name))  # which transactions there were is not moved
    found = link.rows(_PARTITIONS, database, name) if partitioned else []
    if full_text or any(one[1] is not None or one[2] == "SYSTEM_TIME" for one in found):
        return Moved(database, name, file, made_by, Way.ROWS, counted=counted)
    partitions = tuple(str(one[0]) for one in found)
    files = tuple(f"{file}#P#{file_name(link, one)}" for one in partitions)
    return Moved(database, name, file, made_by, Way.TABLESPACE, partitions, files, counted)


def file_name(link: Link, name: str) -> str:
    """Return what the files of a database, table or view are called."""
    return bytes(link.value("SELECT CAST(CONVERT(%s USING filename) AS BINARY)", name)).decode()
