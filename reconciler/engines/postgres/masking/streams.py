"""Hands the text of live rows to a search, decompressed, in bounded memory.

Used by the proofs that go through SQL. Values leave the server in pieces of a MiB at
most, and small ones many at once, so that neither huge values nor millions of rows cost
the reconciler memory or time.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.masking.schema import TableName

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import psycopg

    from reconciler.fiemap import Part
    from reconciler.masking.matcher import Search, ValueId

    Found = Mapping[str, frozenset[ValueId]]
    """What was found, by column."""

_FIRST_OF_USERS = 16384
LARGE_OBJECTS = 2613
"""The catalog that holds the bytes of large objects, which are of users, compressed or not."""
_WRITTEN = "'pg_proc'::regclass, 'pg_description'::regclass, 'pg_shdescription'::regclass"
"""Catalogs with long texts that people wrote: bodies of functions, comments."""
LARGE_OBJECTS_DATA = TableName("pg_catalog", "pg_largeobject"), "data"
PIECE = 1 << 20
SMALL = 2000
"""Bytes below which a value is sent with many others; a larger one may lie outside of its row."""
_AT_ONCE = 2 << 20
"""Bytes of a table whose rows are sent at once, with what of them lies outside of its pages."""
_EVERY = sql.SQL("true")
_RANGES = 100
"""Parts of a table that are read by one query."""
_BLOCKS = 128
"""Pages, at most: a MiB."""

_RELATIONS = f"""
SELECT c.oid, n.nspname, c.relname, c.relkind = 'm' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (c.relkind = 'r' OR c.relkind = 'm' AND c.relispopulated) AND c.relpersistence <> 't'
    AND (c.oid >= 16384 AND c.reltoastrelid <> 0 OR c.oid IN ({LARGE_OBJECTS}, {_WRITTEN}))
    AND n.nspname !~ '^pg_toast' ORDER BY c.relkind = 'm', c.oid
"""  # noqa: S608 - literals only
_COLUMNS = """
SELECT attname::text, CASE WHEN atttypid = 'bytea'::regtype THEN '{}' WHEN t.oid < 16384 OR typtype = 'd'
        AND typbasetype < 16384 THEN 'textsend({}::text)' ELSE 'textsend(format(''%%s'', {}))' END
FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
WHERE attrelid = %s AND typcategory <> ALL('{N,D,B,T,G,I,R,V}')
    AND attnum > 0 AND NOT attisdropped AND attgenerated <> 'v'
    AND (attlen = -1 OR atttypid IN ('name'::regtype, '"char"'::regtype)) ORDER BY attnum
"""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, or a materialised view."""

    oid: int
    name: TableName
    materialised: bool = False

    @property
    def is_catalog(self) -> bool:
        """Whether what it holds is the database's own."""
        return self.oid < _FIRST_OF_USERS and self.oid != LARGE_OBJECTS


def relations(conn: psycopg.Connection) -> list[Relation]:
    """Return every table, then every materialised view that can hold compressed values of users."""
    rows = conn.execute(_RELATIONS).fetchall()
    return [Relation(oid, TableName(schema, name), materialised) for oid, schema, name, materialised in rows]


def compressed(
    conn: psycopg.Connection,
    relation: Relation,
    search: Search,
    overlap: int,
    pages: Sequence[Part] | None = None,
) -> Found:
    """Search the values of a table that are compressed, which files do not show; or those in some pages alone."""
    columns = _columns(conn, relation.oid)
    tests = [sql.SQL("pg_column_compression({}) IS NOT NULL").format(sql.Identifier("t", one)) for one, _ in columns]
    if pages is None:
        return _pieces(conn, relation.name, columns, tests, search, overlap)
    found: dict[str, frozenset[ValueId]] = {}
    for start in range(0, len(pages), _RANGES):
        source = _rows_of(relation.name, [column for column, _ in columns], pages[start : start + _RANGES])
        for column, ids in _pieces(conn, relation.name, columns, tests, search, overlap, source=source).items():
            found[column] = found.get(column, frozenset()) | ids
    return found


def _rows_of(table: TableName, columns: Sequence[str], pages: Sequence[Part]) -> sql.Composable:
    """Return what stands for a table in FROM: its rows in some pages, which are read without the others."""
    query = sql.SQL("SELECT {} FROM ONLY {} WHERE ctid >= {}::tid AND ctid < {}::tid")
    names, name = sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(*table)
    ranges = (query.format(names, name, *(sql.Literal(f"({page},0)") for page in part)) for part in pages)
    return sql.SQL("({})").format(sql.SQL(" UNION ALL ").join(ranges))


def live(
    conn: psycopg.Connection,
    relation: Relation,
    search: Search,
    overlap: int,
    only: Collection[str] | None = None,
    rows: sql.Composable = _EVERY,
) -> Found:
    """Search all values of a table that have text; or of some columns alone, in some rows (a condition over ``t``)."""
    columns = [one for one in _columns(conn, relation.oid) if only is None or one[0] in only]
    if not columns:
        return {}
    found: dict[str, set[ValueId]] = defaultdict(set)
    query = sql.SQL("SELECT {} FROM ONLY {} t WHERE t.ctid >= {}::tid AND t.ctid < {}::tid AND ({})")
    gathered = sql.SQL(", ").join(_gathered(*column) for column in columns)
    pages, step = _pages(conn, relation.oid)
    for block in range(0, pages, step):
        first, last = (sql.Literal(f"({number},0)") for number in (block, block + step))
        row = (
            conn.execute(
                query.format(gathered, sql.Identifier(*relation.name), first, last, rows), binary=True
            ).fetchone()
            or ()
        )
        for (column, _), data in zip(columns, row, strict=True):
            if data:
                found[column] |= search.find(data)
    tests = [sql.SQL("octet_length({}) > {}").format(_bytes(*column), sql.Literal(SMALL)) for column in columns]
    large = _pieces(conn, relation.name, columns, tests, search, overlap, rows)
    return {column: frozenset(found[column] | large.get(column, frozenset())) for column, _ in columns}


def statistics(conn: psycopg.Connection, search: Search) -> Iterator[tuple[Relation, list[str], frozenset[ValueId]]]:
    """Search the statistics of the planner; yield the relation, its columns that are meant, and what was found.

    Their arrays are compressed once they have some kB, and extended ones are packed.
    """
    for query in (_STATISTICS, _EXTENDED):
        with conn.transaction(), conn.cursor(name="reconciler_statistics", binary=True) as cursor:
            cursor.itersize = 4  # each may have megabytes
            for oid, schema, name, materialised, columns, data in cursor.execute(query):
                found = search.find(data) if data else set()
                if found:
                    yield Relation(oid, TableName(schema, name), materialised), columns, frozenset(found)


_STATISTICS = """
SELECT c.oid, n.nspname, c.relname, c.relkind = 'm', ARRAY[a.attname::text],
    textsend(concat_ws(' ', stavalues1::text, stavalues2::text, stavalues3::text, stavalues4::text, stavalues5::text))
FROM pg_statistic s JOIN pg_attribute a ON a.attrelid = s.starelid AND a.attnum = s.staattnum
JOIN pg_class c ON c.oid = s.starelid JOIN pg_namespace n ON n.oid = c.relnamespace
"""
_EXTENDED = """
SELECT c.oid, n.nspname, c.relname, c.relkind = 'm', ARRAY(SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = e.stxrelid AND a.attnum > 0 AND (a.attnum = ANY(e.stxkeys) OR e.stxexprs IS NOT NULL)),
    textsend(concat_ws(' ', d.stxdexpr::text,
        (SELECT string_agg(m.values::text, ' ') FROM pg_mcv_list_items(d.stxdmcv) m)))
FROM pg_statistic_ext e JOIN pg_statistic_ext_data d ON d.stxoid = e.oid
JOIN pg_class c ON c.oid = e.stxrelid JOIN pg_namespace n ON n.oid = c.relnamespace
"""


def _columns(conn: psycopg.Connection, relation: int) -> list[tuple[str, str]]:
    """Return the columns whose values have text, and how it is had: casts of users' types are code of theirs."""
    return conn.execute(_COLUMNS, [relation]).fetchall()


def _bytes(column: str, form: str) -> sql.Composable:
    return sql.SQL(form).format(sql.Identifier("t", column))


def _gathered(column: str, form: str) -> sql.Composable:
    query = sql.SQL("string_agg(CASE WHEN octet_length({value}) <= {small} THEN {value} END, {zero}::bytea)")
    return query.format(value=_bytes(column, form), small=sql.Literal(SMALL), zero=sql.Literal("\\x00"))


def _pieces(
    conn: psycopg.Connection,
    name: TableName,
    columns: Sequence[tuple[str, str]],
    tests: Sequence[sql.Composable],
    search: Search,
    overlap: int,
    rows: sql.Composable = _EVERY,
    source: sql.Composable | None = None,
) -> Found:
    """Search the values that pass their column's test, piece by piece; each value is decompressed once."""
    found: dict[str, set[ValueId]] = defaultdict(set)
    if not columns:
        return {}
    values = [
        sql.SQL("({}, CASE WHEN {} THEN {} END)").format(sql.Literal(number), test, _bytes(*column))
        for number, (column, test) in enumerate(zip(columns, tests, strict=True))
    ]
    query = sql.SQL(
        "COPY (SELECT v.n, substr(v.b, 1 + g.piece * {piece}, {length}) FROM {table} t,"
        " LATERAL (VALUES {values} OFFSET 0) v(n, b),"
        " LATERAL generate_series(0, (octet_length(v.b) - 1) / {piece}) g(piece)"
        " WHERE ({tests}) AND ({rows})) TO STDOUT (FORMAT BINARY)"
    ).format(
        piece=sql.Literal(PIECE),
        length=sql.Literal(PIECE + overlap),
        table=source or sql.SQL("ONLY ") + sql.Identifier(*name),
        values=sql.SQL(", ").join(values),
        tests=sql.SQL(" OR ").join(tests),
        rows=rows,
    )
    with conn.cursor() as cursor, cursor.copy(query) as copy:
        copy.set_types(["int4", "bytea"])
        for number, data in copy.rows():
            found[columns[number][0]] |= search.find(data)
    return {column: frozenset(values) for column, values in found.items()}


def _pages(conn: psycopg.Connection, relation: int) -> tuple[int, int]:
    """Return the pages of a table, and how many are read at once: few, where rows lie mostly outside of them."""
    query = (
        "SELECT pg_relation_size(oid) / current_setting('block_size')::int, pg_table_size(oid)"
        " FROM (SELECT %s::oid::regclass AS oid) t"
    )
    pages, size = conn.execute(query, [relation]).fetchone() or (0, 0)
    return pages, max(1, min(_BLOCKS, _AT_ONCE * pages // max(size, 1)))
