"""Draws what a proof looks for: originals before masking, masked values (controls) after it.

Called by the session's ``mask``. It only reads. Each table is read once, in part when it
is large, and once more for every few masked columns that it has; whole rows never leave the
server, which cuts every value before it sends it. So memory is bounded.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import sql

from reconciler.engines.postgres.masking.refusals import about_code, condition_told
from reconciler.errors import MaskingError
from reconciler.masking import sampling
from reconciler.masking.originals import (
    READ,
    Picker,
    drawn,
    json_paths,
    personal_parts,
    searchable,
)
from reconciler.masking.report import Sample
from reconciler.masking.schema import Family
from reconciler.masking.vault import Vault
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, TableMasking
    from reconciler.masking.schema import Column, TableName

_T = TypeVar("_T")

_PAGES = 250
"""A table of more pages is read in part, so many of them: some 20,000 rows."""
_PARTS = 16
"""Values that are read of one array or document."""
_FREE_TEXT = 2000
TOGETHER = 25
"""Columns of a table that are read together; more are read in turns, so that memory does not grow with them."""
_ROOM = 50_000
"""Distinct values that are kept of these columns while they are read: some 25 MB of long ones."""
_AT_ONCE = 1 << 20
"""Characters that one fetch brings."""
_SQL_ASCII = "SQL_ASCII"


@dataclass(frozen=True, slots=True)
class Probe:
    """What is read of one column: ``expression`` (over the alias ``t``) gives text, an array of text, or NULL."""

    masking: ColumnMasking
    expression: sql.Composable
    characters: int = READ
    """Of one row's answer, at most."""

    def texts(self, value: Any) -> Iterator[str]:  # noqa: ANN401 - what psycopg makes of text and of text[]
        """Yield the values that must be gone."""
        for text in value if isinstance(value, list) else (value,):
            if text is None:
                continue
            if name_of(self.masking.method) == "text":
                yield from personal_parts(self.masking.method, text)
            elif self.masking.column.family is Family.BYTES:
                yield bytes.fromhex(text).decode("latin-1")
            else:
                yield text


def probe(masking: ColumnMasking, *, selected: bool = True) -> Probe:
    """Return how to read the values of a column; ``selected``: only of rows that its rule selects."""
    column = sql.Identifier("t", masking.column.name)
    expression, characters = _expression(masking, column)
    if selected and masking.when is not None:
        expression = sql.SQL("CASE WHEN ({}\n) THEN {} END").format(sql.SQL(masking.when), expression)
    return Probe(masking, expression, characters)


def draw(conn: psycopg.Connection, masking: DatabaseMasking, *, wanted: int = sampling.WANTED) -> tuple[Sample, ...]:
    """Return a sample of every column whose originals must be gone: ``wanted`` distinct ones, or all.

    Long and rare values come first, with those that the source's statistics repeat
    and some frequent ones among them.

    Raises:
        MaskingError: a table cannot be read, for example because of the predicate of a rule.

    """
    encoding, binary = speak(conn)
    vault, found = Vault(), list[Sample]()
    for table in masking.tables:
        unread = guarded(masking.database, table.name, "originals cannot be read")
        with unread, condition_told(conn, masking.database, table):
            for sample in _draw(conn, masking.database, table, wanted):
                raw = binary or sample.masking.column.family is Family.BYTES
                kept = vault.keep(sample.originals)
                found.append(replace(sample, originals=kept, encoding=encoding, binary=raw))
    return tuple(found)


def with_controls(conn: psycopg.Connection, masking: DatabaseMasking, samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return the samples of this database with masked values of their columns; called when it is masked.

    Raises:
        MaskingError: a table cannot be read.

    """
    speak(conn)
    controls: dict[tuple[TableName, str], tuple[str, ...]] = {}
    for table in masking.tables:
        with guarded(masking.database, table.name, "masked values cannot be read"):
            controls |= _controls(conn, table)
    return sampling.with_controls(samples, masking.database, controls)


def quoted(*names: str) -> sql.SQL:
    """Return an identifier for a statement with parameters, in which psycopg wants percent signs doubled."""
    return sql.SQL(sql.Identifier(*names).as_string().replace("%", "%%"))


def as_text(column: Column, value: sql.Composable) -> sql.Composable:
    """Return a value's text; of types that users can make by their output function: casts are code of theirs."""
    if column.folds_case or column.family in {Family.ENUM, Family.OTHER}:
        return sql.SQL("format('%s', {})").format(value)
    return sql.SQL("{}::text").format(value)


@contextmanager
def guarded(database: str, table: object, what: str) -> Iterator[None]:
    """Translate an error of the database; its text may show a row, so that only its class is told."""
    try:
        yield
    except psycopg.Error as error:
        raise MaskingError(f"{database}: {table}: {what}: {type(error).__name__}", hint=about_code(error)) from None


def _expression(masking: ColumnMasking, column: sql.Identifier) -> tuple[sql.Composable, int]:
    paths = json_paths(masking.method)
    if paths:
        query = sql.SQL(
            "ARRAY(SELECT left(x #>> '{{}}', {read}) FROM unnest({paths}::text[]) p,"
            " jsonb_path_query({column}::jsonb, p::jsonpath, silent => true) x WHERE jsonb_typeof(x) = 'string'"
            " LIMIT {parts})"
        )
        found = query.format(column=column, paths=sql.Literal(list(paths)), read=sql.Literal(READ), parts=_PARTS)
        return found, READ * _PARTS
    characters = _FREE_TEXT if name_of(masking.method) == "text" else READ
    if masking.column.array:
        query = sql.SQL("ARRAY(SELECT {one} FROM unnest({column}) e LIMIT {parts})")
        return query.format(one=_cut(masking, sql.SQL("e"), characters), column=column, parts=_PARTS), READ * _PARTS
    return _cut(masking, column, characters), characters


def _cut(masking: ColumnMasking, value: sql.Composable, characters: int) -> sql.Composable:
    if masking.column.family is Family.BYTES:
        return sql.SQL("encode(substr({}, 1, {}), 'hex')").format(value, sql.Literal(characters // 2))
    return sql.SQL("left({}, {})").format(as_text(masking.column, value), sql.Literal(characters))


def speak(conn: psycopg.Connection) -> tuple[str, bool]:
    """Agree on the database's encoding; return its Python name, and whether text is to be taken byte by byte.

    Names mean what pg_catalog means by them: a function of users called ``format`` must not
    decide what is drawn.
    """
    conn.execute("SELECT set_config('search_path', 'pg_catalog', false)")
    if conn.info.parameter_status("server_encoding") == _SQL_ASCII:  # any bytes, which nobody converts
        conn.execute("SET client_encoding TO LATIN1")
        return "latin-1", True
    conn.execute("SELECT set_config('client_encoding', current_setting('server_encoding'), false)")
    return conn.info.encoding, False


def _draw(conn: psycopg.Connection, database: str, table: TableMasking, wanted: int) -> Iterator[Sample]:
    for probes in together([probe(column) for column in table.columns if drawn(column.method)]):
        for one, (originals, complete) in zip(probes, _pick(conn, table.name, probes, wanted), strict=True):
            yield Sample(database, table.name, one.masking, originals, complete)


def together(columns: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Yield as many of a table's columns as are read together."""
    return (columns[start : start + TOGETHER] for start in range(0, len(columns), TOGETHER))


def _pick(
    conn: psycopg.Connection, table: TableName, probes: Sequence[Probe], wanted: int
) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield the originals of some columns, and whether they are all."""
    room = min(max(_ROOM // len(probes), 2 * wanted), 10 * wanted)
    pickers = [Picker(wanted, room) for _ in probes]
    pages = _pages(conn, table)
    in_part = pages > 2 * _PAGES
    for row in _rows(conn, _some(table, probes, 100 * _PAGES / pages if in_part else None), probes):
        for one, picker, value in zip(probes, pickers, row, strict=True):
            for text in one.texts(value):
                picker.add(text)
    lacking = [pair for pair in zip(probes, pickers, strict=True) if in_part and not pair[1].enough]
    _read_all(conn, table, lacking)
    _prefer_statistics(conn, table, probes, pickers)
    for picker in pickers:
        yield picker.pick(), picker.all_taken and (not in_part or any(picker is other for _, other in lacking))


def _read_all(conn: psycopg.Connection, table: TableName, lacking: Sequence[tuple[Probe, Picker]]) -> None:
    """Read all distinct values of the columns of which a part of the table had too few, in one pass."""
    if not lacking:
        return
    probes = [one for one, _ in lacking]
    for *row, count in _rows(conn, _distinct(table, probes), probes):
        for (one, picker), value in zip(lacking, row, strict=True):
            for text in one.texts(value):
                picker.add(text, count)


def _some(table: TableName, probes: Sequence[Probe], percent: float | None) -> sql.Composed:
    query = sql.SQL("SELECT {} FROM ONLY {} t").format(
        sql.SQL(", ").join(one.expression for one in probes), sql.Identifier(*table)
    )
    return query if percent is None else query + sql.SQL(" TABLESAMPLE SYSTEM ({})").format(sql.Literal(percent))


def _distinct(table: TableName, probes: Sequence[Probe]) -> sql.Composed:
    names = [sql.Identifier(f"v{number}") for number in range(len(probes))]
    inner = [sql.SQL("{} AS {}").format(one.expression, name) for one, name in zip(probes, names, strict=True)]
    return sql.SQL("SELECT {names}, count(*) FROM (SELECT {inner} FROM ONLY {table} t) s GROUP BY {groups}").format(
        names=sql.SQL(", ").join(names),
        inner=sql.SQL(", ").join(inner),
        table=sql.Identifier(*table),
        groups=names[0] if len(names) == 1 else sql.SQL("GROUPING SETS ({})").format(_each_alone(names)),
    )


def _each_alone(names: Sequence[sql.Identifier]) -> sql.Composable:
    return sql.SQL(", ").join(sql.SQL("({})").format(name) for name in names)


def _rows(conn: psycopg.Connection, query: sql.Composed, probes: Sequence[Probe]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query, some at a time."""
    with conn.transaction(), conn.cursor(name="reconciler_sample") as cursor:
        cursor.itersize = max(10, _AT_ONCE // sum(one.characters for one in probes))
        yield from cursor.execute(query)


def _pages(conn: psycopg.Connection, table: TableName) -> int:
    query = sql.SQL("SELECT pg_relation_size({}::regclass) / current_setting('block_size')::int")
    row = conn.execute(query.format(_quoted(table))).fetchone()
    return int(row[0]) if row else 0


def _quoted(table: TableName) -> sql.Literal:
    return sql.Literal(sql.Identifier(*table).as_string())


def _prefer_statistics(
    conn: psycopg.Connection, table: TableName, probes: Sequence[Probe], pickers: Sequence[Picker]
) -> None:
    """Let a sample have values that the source's own statistics hold, so that old statistics are noticed.

    Of a million rows some hundred values are in pg_statistic: a sample without them would hardly meet one.
    """
    rows = conn.execute(
        "SELECT attname, left(v, %s) FROM pg_stats, unnest(histogram_bounds::text::text[]"
        " || most_common_vals::text::text[]) v WHERE schemaname = %s AND tablename = %s AND NOT inherited"
        " AND attname = ANY(%s)",
        [READ, *table, [one.masking.column.name for one in probes if _plain(one.masking)]],
    ).fetchall()
    by_name = {one.masking.column.name: picker for one, picker in zip(probes, pickers, strict=True)}
    for name, text in rows:
        by_name[name].prefer(text)


def _plain(masking: ColumnMasking) -> bool:
    column = masking.column
    return (
        masking.when is None
        and not column.array
        and column.family not in {Family.BYTES, Family.JSON}
        and name_of(masking.method) not in {"text", "json"}
    )


def _controls(conn: psycopg.Connection, table: TableMasking) -> dict[tuple[TableName, str], tuple[str, ...]]:
    probes = [
        probe(column, selected=False)
        for column in table.columns
        if drawn(column.method) and name_of(column.method) != "null"
    ]
    controls: dict[tuple[TableName, str], tuple[str, ...]] = {}
    for some in together(probes):
        controls |= _controls_of(conn, table.name, some)
    return controls


def _controls_of(
    conn: psycopg.Connection, table: TableName, probes: Sequence[Probe]
) -> dict[tuple[TableName, str], tuple[str, ...]]:
    found: dict[int, dict[str, None]] = {number: {} for number in range(len(probes))}
    limited = _some(table, probes, None) + sql.SQL(" LIMIT {}").format(sql.Literal(sampling.CONTROL_ROWS))
    for row in _rows(conn, limited, probes):
        for number, value in enumerate(row):
            found[number] |= dict.fromkeys(filter(searchable, probes[number].texts(value)))
    for number, one in enumerate(probes):
        if not found[number]:  # most rows have none
            for (value,) in _rows(conn, _present(table, one), [one]):
                found[number] |= dict.fromkeys(filter(searchable, one.texts(value)))
    names = [(table, one.masking.column.name) for one in probes]
    return {name: sampling.chosen(found[number]) for number, name in enumerate(names)}


def _present(table: TableName, one: Probe) -> sql.Composed:
    return _some(table, [one], None) + sql.SQL(" WHERE {} IS NOT NULL LIMIT {}").format(
        sql.Identifier("t", one.masking.column.name), sql.Literal(sampling.CONTROL_ROWS)
    )
