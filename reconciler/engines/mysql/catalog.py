"""What a primary holds: its databases, tables and code, and the statements that make them.

Called by :mod:`.copying` within the transaction of one moment. Reads only. Rows are of that
moment; definitions are those of when they are read, and a table whose definition changed in
between refuses to show its rows (error 1412), which begins everything anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.engines.mysql import server
from reconciler.engines.mysql.isolate import REACHING
from reconciler.engines.mysql.link import quoted
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.mysql.link import Link, Row
    from reconciler.engines.mysql.primary import Primary

_TABLES = """
SELECT table_schema, table_name, table_type, coalesce(engine, ''), coalesce(data_length, 0),
    coalesce(table_comment, '') FROM information_schema.tables WHERE table_schema IN %s
ORDER BY table_schema, table_name
"""
_SIZE = """
SELECT coalesce(sum(data_length + index_length), 0) FROM information_schema.tables WHERE table_schema IN %s
"""
_KEY = """
SELECT k.column_name, c.data_type FROM information_schema.key_column_usage k
JOIN information_schema.columns c USING (table_schema, table_name, column_name)
WHERE k.constraint_name = 'PRIMARY' AND table_schema = %s AND table_name = %s
"""
_ROUTINES = """
SELECT routine_schema, routine_name, routine_type FROM information_schema.routines WHERE routine_schema IN %s
ORDER BY routine_schema, FIELD(routine_type, 'PACKAGE', 'PACKAGE BODY', 'FUNCTION', 'PROCEDURE'), routine_name
"""
_TRIGGERS = """
SELECT trigger_schema, trigger_name FROM information_schema.triggers WHERE trigger_schema IN %s
ORDER BY created, trigger_schema, event_object_table, action_order
"""
_EVENTS = "SELECT event_schema, event_name FROM information_schema.events WHERE event_schema IN %s ORDER BY 1, 2"
_INTEGERS = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint"})
_TRANSACTIONAL = frozenset({"INNODB", "ROCKSDB", "TOKUDB"})
_WITHOUT_ROWS = frozenset({"MRG_MYISAM", "BLACKHOLE"})


@dataclass(frozen=True, slots=True)
class Table:
    """A table or sequence of the primary."""

    database: str
    name: str
    engine: str
    bytes: int
    sequence: bool = False
    versioned: bool = False

    @property
    def place(self) -> str:
        """How SQL calls it."""
        return f"{quoted(self.database)}.{quoted(self.name)}"

    @property
    def reaches_out(self) -> bool:
        """Whether its rows are elsewhere."""
        return self.engine.upper() in REACHING

    @property
    def of_the_moment(self) -> bool:
        """Whether a snapshot shows its rows as they were at one moment."""
        return self.engine.upper() in _TRANSACTIONAL

    @property
    def has_rows(self) -> bool:
        """Whether it holds rows of its own."""
        return self.engine.upper() not in _WITHOUT_ROWS


@dataclass(frozen=True, slots=True)
class Code:
    """A view, routine, trigger or event: the statement that makes it, and the settings that it is read with."""

    database: str
    what: str
    """For people: "view shop.names"."""
    statement: str
    sql_mode: str = ""
    collation: str = ""
    time_zone: str = ""


def databases(link: Link, here: Primary, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the databases to copy.

    Raises:
        SourceError: one is not there, or not to be seen; or there are none.

    """
    present = server.user_databases(link)
    missing = sorted(set(wanted) - set(present))
    if missing or not present:
        what = f"no database {', '.join(missing)}" if missing else "no database of users"
        here_are = ", ".join(present) or "none"
        raise SourceError(
            f"the primary {here.where} shows {what} to the user of the secret {here.secret}; it shows: {here_are}",
            hint="GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON its databases, or mend `databases`",
        )
    return tuple(wanted) or present


def size(link: Link, names: Sequence[str]) -> int:
    """Return the bytes of tables and indexes."""
    return int(link.value(_SIZE, tuple(names)) or 0)


def tables(link: Link, names: Sequence[str]) -> tuple[list[Table], list[tuple[str, str]]]:
    """Return the tables and sequences, and the views as (database, name).

    Raises:
        SourceError: one cannot be opened there.

    """
    found, views = [], []
    for database, name, kind, engine, length, comment in link.rows(_TABLES, tuple(names)):
        if "VIEW" in str(kind):
            views.append((str(database), str(name)))
        elif not engine:
            raise SourceError(f"the table {database}.{name} cannot be opened: {comment}")
        elif kind != "TEMPORARY":
            versioned, sequence = kind == "SYSTEM VERSIONED", kind == "SEQUENCE"
            found.append(Table(str(database), str(name), str(engine), int(length), sequence, versioned))
    return found, views


def definition(link: Link, table: Table) -> str:
    """Return the statement that makes a table or sequence."""
    kind = "SEQUENCE" if table.sequence else "TABLE"
    return str(link.rows(f"SHOW CREATE {kind} {table.place}")[0][1])


def database_definition(link: Link, name: str) -> str:
    """Return the statement that makes a database."""
    return str(link.rows(f"SHOW CREATE DATABASE {quoted(name)}")[0][1])


def sequence_value(link: Link, table: Table) -> int:
    """Return the next value of a sequence that nobody has yet."""
    return int(link.value(f"SELECT next_not_cached_value FROM {table.place}"))  # noqa: S608 - a quoted name


def integer_key(link: Link, table: Table) -> str | None:
    """Return the column of a primary key that is one integer."""
    found = link.rows(_KEY, table.database, table.name)
    return str(found[0][0]) if len(found) == 1 and found[0][1] in _INTEGERS else None


def routines(link: Link, names: Sequence[str]) -> list[Code]:
    """Return procedures, functions and packages.

    Raises:
        SourceError: the code of one is not shown to us.

    """
    found = []
    for database, name, kind in link.rows(_ROUTINES, tuple(names)):
        row = link.rows(f"SHOW CREATE {kind} {quoted(database)}.{quoted(name)}")[0]
        what = f"{str(kind).lower()} {database}.{name}"
        if row[2] is None:
            raise SourceError(
                f"the code of {what} is not shown to the user that reads it",
                reason="PrimaryRefused",
                hint="GRANT SELECT ON mysql.proc TO it",
            )
        found.append(Code(str(database), what, str(row[2]), sql_mode=str(row[1]), collation=str(row[4])))
    return found


def view(link: Link, database: str, name: str) -> Code:
    """Return a view."""
    row = link.rows(f"SHOW CREATE VIEW {quoted(database)}.{quoted(name)}")[0]
    return Code(database, f"view {database}.{name}", str(row[1]), collation=str(row[3]))


def triggers(link: Link, names: Sequence[str]) -> list[Code]:
    """Return triggers, in the order in which they were made."""
    return [_trigger(link, str(database), str(name)) for database, name in link.rows(_TRIGGERS, tuple(names))]


def events(link: Link, names: Sequence[str]) -> list[Code]:
    """Return scheduled events."""
    return [_event(link, str(database), str(name)) for database, name in link.rows(_EVENTS, tuple(names))]


def _trigger(link: Link, database: str, name: str) -> Code:
    row: Row = link.rows(f"SHOW CREATE TRIGGER {quoted(database)}.{quoted(name)}")[0]
    return Code(database, f"trigger {database}.{name}", str(row[2]), sql_mode=str(row[1]), collation=str(row[4]))


def _event(link: Link, database: str, name: str) -> Code:
    row: Row = link.rows(f"SHOW CREATE EVENT {quoted(database)}.{quoted(name)}")[0]
    what = f"event {database}.{name}"
    return Code(database, what, str(row[3]), sql_mode=str(row[1]), collation=str(row[5]), time_zone=str(row[2]))
