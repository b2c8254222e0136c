"""What a database holds that masking has to know of, read from its schema.

Called before the policies are matched with it. It reads no row and changes nothing. The
tables of a database are those of the schema ``main``. Virtual tables are tables here, with
the columns that they show; the shadow tables below them
(https://sqlite.org/vtab.html, section 2.6) hold what those have and are no tables of their
own. Full-text indexes of another table's rows are none either: they are made anew.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.engines.sqlite.databases import quoted
from reconciler.engines.sqlite.masking.types import kind_of
from reconciler.engines.sqlite.masking.virtual import virtual_tables
from reconciler.masking.schema import Column, DatabaseSchema, ForeignKey, Table, TableName, View

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = "main"
_HIDDEN_VIRTUAL, _GENERATED = 1, (2, 3)
_FOLDING = "NOCASE"


@dataclass(frozen=True, slots=True)
class Listed:
    """A table as PRAGMA table_list has it."""

    name: str
    kind: str
    """table, virtual, shadow or view."""
    without_rowid: bool


def listed(conn: sqlite3.Connection) -> tuple[Listed, ...]:
    """Return every table and view of the schema ``main``, by name; the library's own are left out."""
    rows = conn.execute("SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' ORDER BY name")
    return tuple(Listed(name, kind, bool(wr)) for name, kind, wr in rows if not name.lower().startswith("sqlite_"))


def read_schema(conn: sqlite3.Connection, database: str) -> DatabaseSchema:
    """Return the tables of users."""
    everything = listed(conn)
    derived = {one.name for one in virtual_tables(conn) if one.derived}
    tables = [one for one in everything if one.kind in ("table", "virtual") and one.name not in derived]
    names = {one.name.lower(): one.name for one in tables}
    return DatabaseSchema(
        database,
        tuple(_table(conn, one, names) for one in tables),
        views=tuple(View(TableName(SCHEMA, one.name), ()) for one in everything if one.kind == "view"),
    )


def _table(conn: sqlite3.Connection, one: Listed, names: dict[str, str]) -> Table:
    columns = tuple(_columns(conn, one))
    unique, identifying = _unique(conn, one, columns)
    rows = conn.execute(f"SELECT count(*) FROM {quoted(one.name)}").fetchone()[0]
    return Table(
        name=TableName(SCHEMA, one.name),
        columns=columns,
        unique=unique,
        identifying=identifying,
        foreign_keys=tuple(_foreign_keys(conn, one.name, names)),
        estimated_rows=int(rows),
    )


def _columns(conn: sqlite3.Connection, one: Listed) -> Iterator[Column]:
    folding = _folding(conn, one)
    for _number, name, declared, not_null, _default, key, hidden in conn.execute(
        f"PRAGMA table_xinfo({quoted(one.name)})"
    ):
        if hidden == _HIDDEN_VIRTUAL:
            continue
        kind = kind_of(declared or "")
        yield Column(
            name=name,
            type=declared or "(none)",
            family=kind.family,
            length=kind.length,
            digits=kind.digits,
            integer_bytes=kind.integer_bytes,
            folds_case=name in folding,
            nullable=not not_null and not (key and (one.without_rowid or kind.integer_bytes is not None)),
            generated=hidden in _GENERATED,
        )


def _folding(conn: sqlite3.Connection, one: Listed) -> frozenset[str]:
    """Return the columns that ignore case: an index on one has its collation, so a copy of the table gets some."""
    if one.kind != "table":
        return frozenset()
    row = conn.execute("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (one.name,)).fetchone()
    names = [row[1] for row in conn.execute(f"PRAGMA table_info({quoted(one.name)})")]
    if row is None or _FOLDING not in (row[0] or "").upper():
        return frozenset()
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
        try:
            copy.execute(row[0])
        except sqlite3.Error:  # it calls a function that only its application has
            return frozenset(names)
        found = set()
        for number, name in enumerate(names):
            copy.execute(f"CREATE INDEX {quoted(f'reconciler {number}')} ON {quoted(one.name)} ({quoted(name)})")
            keys = copy.execute(f"PRAGMA index_xinfo({quoted(f'reconciler {number}')})").fetchall()
            if keys[0][4].upper() == _FOLDING:
                found.add(name)
    return frozenset(found)


def _unique(
    conn: sqlite3.Connection, one: Listed, columns: tuple[Column, ...]
) -> tuple[tuple[frozenset[str], ...], tuple[frozenset[str], ...]]:
    unique: dict[frozenset[str], None] = {}
    partial: set[frozenset[str]] = set()
    key = [row[1] for row in conn.execute(f"PRAGMA table_info({quoted(one.name)})") if row[5]]
    if key:
        unique[frozenset(key)] = None
    for _number, name, is_unique, _origin, is_partial in conn.execute(f"PRAGMA index_list({quoted(one.name)})"):
        names = [row[2] for row in conn.execute(f"PRAGMA index_info({quoted(name)})")]
        found = frozenset(column for column in names if column is not None)
        if is_unique and found:
            unique.setdefault(found)
            if is_partial or None in names:
                partial.add(found)
    nullable = {column.name for column in columns if column.nullable}
    return tuple(unique), tuple(found for found in unique if found not in partial and not found & nullable)


def _foreign_keys(conn: sqlite3.Connection, table: str, names: dict[str, str]) -> Iterator[ForeignKey]:
    """Yield the references of a table to tables that exist; one without columns refers to a primary key."""
    found: dict[int, tuple[str, list[tuple[str, str | None]]]] = {}
    for number, _seq, target, source, to, *_rest in conn.execute(f"PRAGMA foreign_key_list({quoted(table)})"):
        found.setdefault(number, (target, []))[1].append((source, to))
    for number, (target, pairs) in sorted(found.items()):
        real = names.get(target.lower())
        if real is None:
            continue
        info = conn.execute(f"PRAGMA table_info({quoted(real)})").fetchall()
        spelled = {row[1].lower(): row[1] for row in info}
        key = [row[1] for row in sorted(info, key=lambda row: row[5]) if row[5]]
        targets = [to if to is not None else key[at] if at < len(key) else None for at, (_, to) in enumerate(pairs)]
        resolved = [spelled.get((to or "").lower()) for to in targets]
        if all(to is not None for to in resolved):
            sources = _spelled(conn, table, [source for source, _ in pairs])
            yield ForeignKey(
                sources, TableName(SCHEMA, real), tuple(to for to in resolved if to is not None), f"{table}_{number}"
            )


def _spelled(conn: sqlite3.Connection, table: str, names: list[str]) -> tuple[str, ...]:
    known = {row[1].lower(): row[1] for row in conn.execute(f"PRAGMA table_xinfo({quoted(table)})")}
    return tuple(known.get(name.lower(), name) for name in names)
