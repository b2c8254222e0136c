"""What belongs to a table beside its rows and ``CREATE TABLE … LIKE`` leaves out: triggers, references, its counter.

Called by :mod:`.rewrite` before a table is dropped and after another has its name. It also
counts rows that refer to what is not there, which no masking may add to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.engines.mysql.failures import SqlError, interrupted
from reconciler.engines.mysql.link import quoted, text
from reconciler.errors import MaskingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from reconciler.engines.mysql.link import Link
    from reconciler.masking.assignment import DatabaseMasking
    from reconciler.masking.schema import TableName

_REFERENCE = re.compile(r"^  (CONSTRAINT `(?:[^`]|``)+` FOREIGN KEY .*?),?$", re.MULTILINE)
_TRIGGERS = """
SELECT trigger_name, sql_mode, character_set_client, collation_connection FROM information_schema.triggers
WHERE event_object_schema = %s AND event_object_table = %s ORDER BY event_manipulation, action_timing, action_order
"""
_REFERENCES = """
SELECT table_schema, table_name, constraint_name, column_name, referenced_table_schema, referenced_table_name,
    referenced_column_name
FROM information_schema.key_column_usage WHERE referenced_table_name IS NOT NULL
ORDER BY table_schema, table_name, constraint_name, ordinal_position
"""
_COUNTED = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = %s AND table_name = %s AND extra LIKE '%%auto_increment%%'
"""
_MODE = "SET SESSION sql_mode = {}, character_set_client = {}, collation_connection = {}"


@dataclass(frozen=True, slots=True)
class _Trigger:
    statement: str
    mode: str
    client: str
    connection: str


@dataclass(frozen=True, slots=True)
class Shape:
    """What is to be given to the table that takes another's place."""

    triggers: tuple[_Trigger, ...]
    references: tuple[str, ...]
    counter: int | None
    counted: frozenset[str]
    """The column that the counter is for."""


def read(link: Link, name: TableName) -> Shape:
    """Return what a table has."""
    triggers = []
    for trigger, mode, client, connection in link.rows(_TRIGGERS, name.schema, name.name):
        statement = link.rows(f"SHOW CREATE TRIGGER {quoted(name.schema)}.{quoted(str(trigger))}")[0][2]
        triggers.append(_Trigger(str(statement), str(mode), str(client), str(connection)))
    created = str(link.rows(f"SHOW CREATE TABLE {place(name)}")[0][1])
    counter = link.value(
        "SELECT auto_increment FROM information_schema.tables WHERE table_schema = %s AND table_name = %s",
        name.schema,
        name.name,
    )
    counted = frozenset(str(column) for (column,) in link.rows(_COUNTED, name.schema, name.name))
    references = tuple(_REFERENCE.findall(created))
    return Shape(tuple(triggers), references, None if counter is None else int(counter), counted)


def give(link: Link, name: TableName, shape: Shape, *, counting: bool) -> None:
    """Give a table what another had; ``counting``: its counter goes on where that one's stood."""
    changes = [f"ADD {reference}" for reference in shape.references]
    if counting and shape.counter is not None:
        changes.append(f"AUTO_INCREMENT = {shape.counter}")
    if changes:
        link.rows(f"ALTER TABLE {place(name)} {', '.join(changes)}")
    if not shape.triggers:
        return
    before = link.rows("SELECT @@SESSION.sql_mode, @@SESSION.character_set_client, @@SESSION.collation_connection")[0]
    link.rows(f"USE {quoted(name.schema)}")
    for one in shape.triggers:
        link.rows(_MODE.format(text(one.mode), text(one.client), text(one.connection)))
        link.execute(one.statement.encode(codec(one.client)))
    link.rows(_MODE.format(*(text(str(value)) for value in before)))


def codec(charset: str) -> str:
    """Return Python's name of a character set of the server; of one that it does not have, UTF-8."""
    return _CODECS.get(charset, "utf-8")


_CODECS = {
    "latin1": "cp1252",
    "latin2": "iso8859-2",
    "latin5": "iso8859-9",
    "latin7": "iso8859-13",
    "greek": "iso8859-7",
    "hebrew": "iso8859-8",
    "cp1250": "cp1250",
    "cp1251": "cp1251",
    "cp1256": "cp1256",
    "cp1257": "cp1257",
    "cp850": "cp850",
    "cp852": "cp852",
    "cp866": "cp866",
    "koi8r": "koi8-r",
    "koi8u": "koi8-u",
    "macroman": "mac-roman",
    "sjis": "shift_jis",
    "cp932": "cp932",
    "ujis": "euc_jp",
    "gbk": "gbk",
    "gb2312": "gb2312",
    "big5": "big5",
    "euckr": "euc_kr",
    "tis620": "tis-620",
    "ascii": "ascii",
}


def place(name: TableName) -> str:
    """Return a table as SQL names it."""
    return f"{quoted(name.schema)}.{quoted(name.name)}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key: pairs of columns."""

    name: str
    source: tuple[str, str]
    target: tuple[str, str]
    pairs: tuple[tuple[str, str], ...]

    def touches(self, cells: Iterable[tuple[str, str, str]]) -> bool:
        """Tell whether one of the columns (database, table, name) takes part in it."""
        mine = {(*self.source, own) for own, _ in self.pairs} | {(*self.target, other) for _, other in self.pairs}
        return any(cell in mine for cell in cells)


def all_references(link: Link) -> tuple[Reference, ...]:
    """Return all foreign keys of the server."""
    found: dict[tuple[str, str, str], tuple[tuple[str, str], list[tuple[str, str]]]] = {}
    for schema, table, name, column, to_schema, to_table, to_column in link.rows(_REFERENCES):
        entry = found.setdefault((str(schema), str(table), str(name)), ((str(to_schema), str(to_table)), []))
        entry[1].append((str(column), str(to_column)))
    return tuple(
        Reference(name, (schema, table), target, tuple(pairs))
        for (schema, table, name), (target, pairs) in found.items()
    )


def broken(link: Link, masking: Iterable[DatabaseMasking]) -> dict[Reference, int]:
    """Return how many rows refer to what is not there, by each reference that masked columns take part in."""
    cells = [
        (one.database, table.name.name, column.column.name)
        for one in masking
        for table in one.tables
        for column in table.columns
    ]
    return {one: _count(link, one) for one in all_references(link) if one.touches(cells)}


def _count(link: Link, one: Reference) -> int:
    joined = " AND ".join(f"p.{quoted(other)} = c.{quoted(own)}" for own, other in one.pairs)
    whole = " AND ".join(f"c.{quoted(own)} IS NOT NULL" for own, _ in one.pairs)
    source, target = (f"{quoted(schema)}.{quoted(table)}" for schema, table in (one.source, one.target))
    return int(
        link.value(
            f"SELECT COUNT(*) FROM {source} AS c LEFT JOIN {target} AS p ON {joined}"
            f" WHERE {whole} AND p.{quoted(one.pairs[0][1])} IS NULL"
        )
        or 0
    )


def require_whole(link: Link, before: Mapping[Reference, int], masking: Iterable[DatabaseMasking]) -> None:
    """Insist that masking has left no more rows than before that refer to what is not there.

    Raises:
        MaskingError: it has.

    """
    for one, count in broken(link, masking).items():
        if count > before.get(one, 0):
            raise MaskingError(
                f"{one.source[0]}: after masking, {count - before.get(one, 0)} rows of {one.source[1]} refer to rows of"
                f" {one.target[1]} that are not there",
                hint="write the same rule for both columns, or keep",
            )


def failed(error: SqlError, where: str) -> Exception:
    """Return the error of a statement that masks."""
    if interrupted(error):
        return error
    hint = "write a method whose values the constraint allows, or keep" if error.code in _CONSTRAINT else ""
    return MaskingError(f"{where}: masked values are refused: {error}", hint=hint or None)


_CONSTRAINT = frozenset({1022, 1048, 1062, 1169, 1451, 1452, 1526, 1586, 1761, 1859, 4025})
