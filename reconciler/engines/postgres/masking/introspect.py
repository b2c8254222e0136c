"""What a PostgreSQL database holds that masking has to know of, read from its catalogs.

Called by the session before the policies are matched with it. It asks a fixed number of
queries, however many tables there are, reads no row of a table, and changes nothing.

The tables of users are all that were made after initdb (oids from 16384 on), wherever
they lie, but temporary ones and our own schema. Those that belong to an extension are
among them and say so. Catalogs are described in the manual's part "System Catalogs";
the columns that an expression mentions are read from its node tree (``:varattno``),
where a constant of the user cannot look like one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg.rows import namedtuple_row

from reconciler.engines.postgres.masking.datatypes import TypeRow, describe
from reconciler.masking.schema import Column, DatabaseSchema, ForeignKey, Table, TableName, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import LiteralString

    import psycopg

_USERS: LiteralString = """
ours AS MATERIALIZED (
    SELECT c.*, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('information_schema', 'reconciler_masking')
)
"""
_TABLES: LiteralString = f"""
WITH {_USERS}
SELECT c.oid, c.nspname AS schema, c.relname AS name, c.relkind::text AS kind, e.extname AS extension,
       c.reltuples::float8 AS tuples, c.relpages AS pages, c.relnatts AS width,
       CASE c.relkind WHEN 'r' THEN pg_relation_size(c.oid) ELSE 0 END AS heap,
       CASE c.relkind WHEN 'r' THEN pg_table_size(c.oid) ELSE 0 END AS bytes,
       p.partattrs::int2[] AS key_columns,
       ARRAY(SELECT m[1]::int FROM regexp_matches(p.partexprs::text, ':varattno (\\d+)', 'g') m) AS key_expressions
FROM ours c
LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid
LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e'
    AND d.refclassid = 'pg_extension'::regclass
LEFT JOIN pg_extension e ON e.oid = d.refobjid
ORDER BY c.nspname, c.relname
"""  # noqa: S608 - literals only
_COLUMNS: LiteralString = f"""
WITH {_USERS}
SELECT a.attrelid AS table, a.attnum AS number, a.attname AS name, a.atttypid AS type, a.atttypmod AS modifier,
       format_type(a.atttypid, a.atttypmod) AS type_name, a.attnotnull AS not_null, a.attgenerated <> '' AS generated,
       NOT coalesce(l.collisdeterministic, true) AS folds_case,
       CASE WHEN a.attgenerated <> ''
            THEN ARRAY(SELECT DISTINCT m[1]::int FROM regexp_matches(f.adbin::text, ':varattno (\\d+)', 'g') m)
       END AS computed_from
FROM ours c JOIN pg_attribute a ON a.attrelid = c.oid
LEFT JOIN pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""  # noqa: S608 - literals only
_TYPES: LiteralString = f"""
WITH RECURSIVE {_USERS}, reach(oid) AS (
    SELECT a.atttypid FROM ours c JOIN pg_attribute a ON a.attrelid = c.oid WHERE a.attnum > 0 AND NOT a.attisdropped
  UNION
    SELECT next FROM reach JOIN pg_type t ON t.oid = reach.oid, unnest(ARRAY[t.typbasetype, t.typelem]) next
    WHERE next <> 0
)
SELECT t.oid, t.typname AS name, t.typtype::text AS kind, t.oid < 16384 AS built_in, t.typbasetype AS base,
       t.typtypmod AS modifier, t.typnotnull AS not_null,
       CASE WHEN t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc AND t.typlen = -1
            THEN t.typelem ELSE 0 END AS element,
       ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder) AS labels
FROM reach JOIN pg_type t USING (oid)
"""  # noqa: S608 - literals only
_UNIQUE: LiteralString = f"""
WITH {_USERS}
SELECT i.indrelid AS table, (i.indkey::int2[])[0:i.indnkeyatts - 1] AS columns,
       ARRAY(SELECT m[1]::int FROM regexp_matches(i.indexprs::text, ':varattno (\\d+)', 'g') m) AS mentioned,
       i.indisunique AND NOT i.indisexclusion AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AS certain
FROM ours c JOIN pg_index i ON i.indrelid = c.oid
WHERE i.indisunique OR i.indisexclusion
ORDER BY i.indrelid, i.indexrelid
"""  # noqa: S608 - literals only
_FOREIGN_KEYS: LiteralString = f"""
WITH {_USERS}
SELECT f.conrelid AS table, f.conname AS name, f.conkey AS columns, f.confrelid AS target, f.confkey AS target_columns
FROM ours c JOIN pg_constraint f ON f.conrelid = c.oid
WHERE f.contype = 'f' AND f.conparentid = 0 AND f.confrelid IN (SELECT oid FROM ours)
ORDER BY f.conrelid, f.conname
"""  # noqa: S608 - literals only
_INHERITS: LiteralString = "SELECT inhrelid AS child, inhparent AS parent FROM pg_inherits ORDER BY inhrelid, inhseqno"
_VIEWS: LiteralString = """
SELECT v.oid, n.nspname AS schema, v.relname AS name, v.relkind = 'm' AS materialized,
       array_agg(DISTINCT d.refobjid) FILTER (WHERE d.refobjid <> v.oid) AS shows
FROM pg_class v JOIN pg_namespace n ON n.oid = v.relnamespace
JOIN pg_rewrite r ON r.ev_class = v.oid
LEFT JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
WHERE v.oid >= 16384 AND v.relkind IN ('v', 'm') AND v.relpersistence <> 't'
GROUP BY v.oid, n.nspname, v.relname, v.relkind
ORDER BY n.nspname, v.relname
"""
_LARGE_OBJECTS: LiteralString = "SELECT count(*) AS objects FROM pg_largeobject_metadata"

_PAGE_BYTES = 8192
_ROW_OVERHEAD, _COLUMN_BYTES = 28, 8
"""A row's header with its line pointer, and a guess of a column: for tables that were never analysed."""

Oid = int


class _Columns(NamedTuple):
    """The columns of every table: as masking sees them, and their names by number."""

    of: Mapping[Oid, tuple[Column, ...]]
    names: Mapping[Oid, Mapping[int, str]]

    def named(self, table: Oid, numbers: Iterable[int]) -> tuple[str, ...]:
        """Return names; the number 0 is an expression or the whole row, and has none."""
        return tuple(self.names[table][number] for number in numbers if number)


def read_schema(conn: psycopg.Connection, database: str) -> DatabaseSchema:
    """Return what the connected database holds; ``database`` is its name.

    A foreign key of a partitioned table, or one that refers to one, is listed once, at
    the top. Estimates of rows come from statistics, or from the size where there are none.
    """
    tables = _rows(conn, _TABLES)
    names = {row.oid: TableName(row.schema, row.name) for row in tables}
    ancestors = _ancestors(_rows(conn, _INHERITS))
    columns = _read_columns(conn, tables, ancestors)
    unique = _by_table(_rows(conn, _UNIQUE))
    foreign_keys = _by_table(_rows(conn, _FOREIGN_KEYS))
    return DatabaseSchema(
        database=database,
        tables=tuple(
            Table(
                name=names[row.oid],
                columns=columns.of.get(row.oid, ()),
                unique=_unique_sets(columns, unique[row.oid]),
                identifying=_identifying_sets(columns, unique[row.oid]),
                foreign_keys=tuple(_foreign_key(columns, names, key) for key in foreign_keys[row.oid]),
                parents=tuple(names[parent] for parent in ancestors.get(row.oid, ()) if parent in names),
                has_rows=row.kind != "p",
                foreign=row.kind == "f",
                extension=row.extension,
                estimated_rows=_estimate(row),
                bytes=row.bytes,
            )
            for row in tables
        ),
        large_objects=_rows(conn, _LARGE_OBJECTS)[0].objects,
        views=_views(_rows(conn, _VIEWS), names),
    )


def _rows(conn: psycopg.Connection, query: LiteralString) -> list[Any]:
    with conn.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(query).fetchall()


def _by_table(rows: Iterable[Any]) -> defaultdict[Oid, list[Any]]:
    found: defaultdict[Oid, list[Any]] = defaultdict(list)
    for row in rows:
        found[row.table].append(row)
    return found


def _ancestors(inherits: Iterable[Any]) -> dict[Oid, tuple[Oid, ...]]:
    """Return the ancestors of each child, nearest first."""
    parents: defaultdict[Oid, list[Oid]] = defaultdict(list)
    for row in inherits:
        parents[row.child].append(row.parent)
    found = {}
    for child in tuple(parents):
        above = dict.fromkeys(parents[child])
        queue = list(above)
        for one in queue:  # grows while it is walked
            more = [parent for parent in parents.get(one, ()) if parent not in above]
            above.update(dict.fromkeys(more))
            queue.extend(more)
        found[child] = tuple(above)
    return found


def _read_columns(
    conn: psycopg.Connection, tables: Iterable[Any], ancestors: Mapping[Oid, tuple[Oid, ...]]
) -> _Columns:
    types = {row.oid: TypeRow(*row) for row in _rows(conn, _TYPES)}
    rows = _by_table(_rows(conn, _COLUMNS))
    names = {table: {row.number: row.name for row in found} for table, found in rows.items()}
    keys = {
        row.oid: {names[row.oid][number] for number in (*(row.key_columns or ()), *row.key_expressions) if number}
        for row in tables
    }
    of = {}
    for table, found in rows.items():
        above = {name for one in ancestors.get(table, ()) for name in keys.get(one, ())}
        of[table] = tuple(_column(row, types, names[table], above) for row in found)
    return _Columns(of, names)


def _column(row: Any, types: Mapping[Oid, TypeRow], names: Mapping[int, str], keys: set[str]) -> Column:  # noqa: ANN401 - a row of a query
    form = describe(types, row.type, row.modifier)
    return Column(
        name=row.name,
        type=row.type_name,
        family=form.family,
        length=form.length,
        digits=form.digits,
        integer_bytes=form.integer_bytes,
        fixed_length=form.fixed_length,
        folds_case=row.folds_case or form.folds_case,
        array=form.array,
        nullable=not (row.not_null or form.not_null),
        generated=row.generated,
        computed_from=tuple(names[number] for number in sorted(row.computed_from or ()) if number),
        partition_key=row.name in keys,
        labels=form.labels,
    )


def _unique_sets(columns: _Columns, rows: Iterable[Any]) -> tuple[frozenset[str], ...]:
    sets = (frozenset(columns.named(row.table, (*row.columns, *row.mentioned))) for row in rows)
    return tuple(dict.fromkeys(one for one in sets if one))


def _identifying_sets(columns: _Columns, rows: Iterable[Any]) -> tuple[frozenset[str], ...]:
    """Return sets that hold for every row; NULLs are distinct from each other in a unique index."""
    sets = (frozenset(columns.named(row.table, row.columns)) for row in rows if row.certain)
    nullable = {table: {column.name for column in found if column.nullable} for table, found in columns.of.items()}
    tables = {row.table for row in rows}
    return tuple(dict.fromkeys(one for one in sets if not any(one & nullable[table] for table in tables)))


def _foreign_key(columns: _Columns, names: Mapping[Oid, TableName], row: Any) -> ForeignKey:  # noqa: ANN401 - a row of a query
    return ForeignKey(
        columns=columns.named(row.table, row.columns),
        target=names[row.target],
        target_columns=columns.named(row.target, row.target_columns),
        name=row.name,
    )


def _estimate(row: Any) -> int:  # noqa: ANN401 - a row of a query
    heap: int = row.heap
    if row.tuples >= 0 and row.pages > 0:
        return int(row.tuples * heap / (row.pages * _PAGE_BYTES))
    return heap // (_ROW_OVERHEAD + _COLUMN_BYTES * int(row.width))


def _views(rows: Iterable[Any], names: Mapping[Oid, TableName]) -> tuple[View, ...]:
    """Return views with the tables below them; a view can show another one, and itself never."""
    shows = {row.oid: tuple(row.shows or ()) for row in rows}
    found = []
    for row in rows:
        below = dict.fromkeys(shows[row.oid])
        queue = list(below)
        for one in queue:  # grows while it is walked
            more = [inner for inner in shows.get(one, ()) if inner not in below]
            below.update(dict.fromkeys(more))
            queue.extend(more)
        tables = tuple(sorted(names[one] for one in below if one in names))
        found.append(View(TableName(row.schema, row.name), tables, row.materialized))
    return tuple(found)
