"""The form of a table that is rewritten: its columns with their numbers, storage and expressions, its checks.

Called by :mod:`.stage`. Reads catalogs only, a fixed number of queries whatever the
number of tables. Expressions come with every name qualified, as the session resolves
names in pg_catalog alone.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.engines.postgres.masking.storage import Stored, stored
from reconciler.errors import MaskingError
from reconciler.masking.schema import TableName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import psycopg

_OIDS = """
SELECT n.nspname, c.relname, c.oid::int8 FROM unnest(%s::text[], %s::text[]) AS w(schema, name)
JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
WHERE c.relkind IN ('r', 'p')
"""
_LEAVES = """
SELECT l.relid::oid::int8 FROM pg_partition_tree(%s::oid) l JOIN pg_class c ON c.oid = l.relid
WHERE l.isleaf AND c.relkind = 'r' ORDER BY 1
"""
_RELATIONS = """
SELECT c.oid::int8, n.nspname, c.relname, c.relpersistence::text, a.amname, s.spcname, coalesce(c.reloptions, '{}'),
    pg_table_size(c.oid), greatest(c.reltuples, 0)::int8,
    CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid::int8 END,
    CASE WHEN c.relispartition THEN pg_get_partition_constraintdef(c.oid) END,
    EXISTS (SELECT FROM pg_statistic_ext e WHERE e.stxrelid = c.oid AND e.stxexprs IS NOT NULL)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_am a ON a.oid = c.relam LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
WHERE c.oid = ANY(%s::oid[]) AND c.relkind = 'r'
"""
# Before version 15 what an expression depends on is noted of its column.
_ATTRIBUTES = """
SELECT a.attrelid::int8, a.atttypid::int8, a.atttypmod, a.attnum, a.attname, a.attisdropped,
    format_type(a.atttypid, a.atttypmod), a.attgenerated::text,
    CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END,
    a.attlen = -1, CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage::text END, a.attcompression::text,
    n.nspname, l.collname, a.attgenerated <> '' AND EXISTS (
        SELECT FROM pg_depend p WHERE (p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
            OR p.classid = 'pg_class'::regclass AND p.objid = a.attrelid AND p.objsubid = a.attnum)
        AND p.refobjid >= 16384 AND p.refclassid NOT IN ('pg_class'::regclass, 'pg_collation'::regclass))
FROM pg_attribute a LEFT JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_collation l ON l.oid = a.attcollation LEFT JOIN pg_namespace n ON n.oid = l.collnamespace
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 ORDER BY a.attrelid, a.attnum
"""
# Constraints that held for the rows as they were; a table's inherited ones stand in the catalog as its own.
_CHECKS = """
SELECT conrelid::int8, conname, pg_get_expr(conbin, conrelid), coalesce(conkey, '{}') FROM pg_constraint
WHERE contype = 'c' AND convalidated AND conrelid = ANY(%s::oid[]) ORDER BY conname
"""
# A column that is not null although rows have not been checked for it: since version 18.
_NOT_NULL = """
SELECT a.attrelid::int8, a.attname FROM pg_attribute a
WHERE a.attnotnull AND a.attnum > 0 AND NOT a.attisdropped AND a.attrelid = ANY(%s::oid[])
  AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = a.attrelid AND c.contype = 'n'
                  AND NOT c.convalidated AND a.attnum = ANY(c.conkey))
"""

_DROPPED = Stored("", 0, same=True, own=False)


@dataclass(frozen=True, slots=True)
class Attribute:
    """A column, also a dropped one. ``storage`` is None where it is the type's own."""

    number: int
    name: str
    dropped: bool
    type: str
    generated: str
    """Empty, ``s`` (stored) or ``v`` (virtual)."""
    expression: str | None
    varying: bool
    storage: str | None
    compression: str
    collation_schema: str | None
    collation_name: str | None
    by_users: bool
    """Whether its expression runs what users made."""
    stored: Stored

    @property
    def written(self) -> bool:
        """Whether rows carry a value of it that does not follow from the others."""
        return not self.dropped and not self.generated


@dataclass(frozen=True, slots=True)
class RowCheck:
    """A CHECK constraint; ``columns`` are attribute numbers."""

    name: str
    expression: str
    columns: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table with rows.

    ``bytes`` counts its TOAST, not its indexes; ``rows`` is the server's estimate, 0 when
    it has none; ``root`` is that of its partition tree.
    """

    oid: int
    name: TableName
    persistence: str
    access_method: str
    tablespace: str | None
    options: tuple[str, ...]
    bytes: int
    rows: int
    root: int | None
    bound: str | None
    """Condition for rows of this partition; None for a table, and for the default partition of an empty tree."""
    planned: bool
    """Whether the planner evaluates expressions of users when it plans a query of this table (extended statistics)."""
    attributes: tuple[Attribute, ...]
    checks: tuple[RowCheck, ...]
    not_null: frozenset[str]

    def attribute(self, name: str) -> Attribute | None:
        """Return the column of that name."""
        return next((one for one in self.attributes if one.name == name and not one.dropped), None)


def find(conn: psycopg.Connection, names: Sequence[TableName]) -> dict[TableName, int]:
    """Return the oids of tables.

    Raises:
        MaskingError: there is no such table.

    """
    rows = conn.execute(_OIDS, [[name.schema for name in names], [name.name for name in names]]).fetchall()
    found = {TableName(schema, name): oid for schema, name, oid in rows}
    missing = ", ".join(str(name) for name in names if name not in found)
    if missing:
        raise MaskingError(f"database {conn.info.dbname} has no table {missing}, which was to be masked")
    return found


def leaves(conn: psycopg.Connection, root: int) -> list[int]:
    """Return the oids of the partitions with rows of their own below a root."""
    return [row[0] for row in conn.execute(_LEAVES, [root]).fetchall()]


def read(conn: psycopg.Connection, oids: Iterable[int]) -> dict[int, Relation]:
    """Return the tables with rows of their own among ``oids``."""
    wanted = list(oids)
    attributes: defaultdict[int, list[Attribute]] = defaultdict(list)
    rows = conn.execute(_ATTRIBUTES, [wanted]).fetchall()
    forms = stored(conn, ((type_, modifier) for _, type_, modifier, *_ in rows if type_))
    for oid, type_, modifier, *fields in rows:
        attributes[oid].append(Attribute(*(*fields, forms.get((type_, modifier), _DROPPED))))
    checks: defaultdict[int, list[RowCheck]] = defaultdict(list)
    for oid, name, expression, columns in conn.execute(_CHECKS, [wanted]).fetchall():
        checks[oid].append(RowCheck(name, expression, frozenset(columns)))
    not_null: defaultdict[int, set[str]] = defaultdict(set)
    for oid, name in conn.execute(_NOT_NULL, [wanted]).fetchall():
        not_null[oid].add(name)
    return {
        oid: Relation(
            oid=oid,
            name=TableName(schema, name),
            persistence=persistence,
            access_method=method,
            tablespace=tablespace,
            options=tuple(options),
            bytes=size,
            rows=rows,
            root=root,
            bound=bound,
            planned=planned,
            attributes=tuple(attributes[oid]),
            checks=tuple(checks[oid]),
            not_null=frozenset(not_null[oid]),
        )
        for (
            oid,
            schema,
            name,
            persistence,
            method,
            tablespace,
            options,
            size,
            rows,
            root,
            bound,
            planned,
        ) in conn.execute(_RELATIONS, [wanted]).fetchall()
    }
