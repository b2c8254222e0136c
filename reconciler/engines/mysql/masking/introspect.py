"""What a database holds that masking and discovery have to know of, read from its catalogs.

Called by the session before the policies are matched with it. It reads no row and changes
nothing. A database is its own schema: tables are named ``database.table``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.masking.schema import Column, DatabaseSchema, Family, ForeignKey, Table, TableName, View

if TYPE_CHECKING:
    from reconciler.engines.mysql.link import Link

_FAMILIES = {
    Family.TEXT: "char varchar tinytext text mediumtext longtext inet6 inet4",
    Family.INTEGER: "tinyint smallint mediumint int bigint",
    Family.NUMBER: "decimal float double",
    Family.DATE: "date",
    Family.TIME: "datetime timestamp",
    Family.BYTES: "binary varbinary tinyblob blob mediumblob longblob",
    Family.JSON: "json",
    Family.UUID: "uuid",
    Family.ENUM: "enum",
}
_FAMILY = {word: family for family, words in _FAMILIES.items() for word in words.split()}
_INTEGER_BYTES = {"tinyint": 1, "smallint": 2, "mediumint": 3, "int": 4, "bigint": 8}
_WITHOUT_SIGN = {1: 2, 2: 4, 3: 4, 4: 8, 8: 8}
"""Bytes of a type with a sign that holds all of one without."""
_LABEL = re.compile(r"'((?:[^']|'')*)'")
_NAMED = re.compile(r"`((?:[^`]|``)+)`")
TABLE_TYPES = ("BASE TABLE", "SYSTEM VERSIONED")
_COLUMNS = """
SELECT c.table_name, c.column_name, c.column_type, c.data_type, c.character_maximum_length, c.numeric_precision,
    c.numeric_scale, c.is_nullable, c.generation_expression, c.collation_name, t.table_rows, t.data_length
FROM information_schema.columns c
JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
WHERE c.table_schema = %s AND t.table_type IN %s ORDER BY c.table_name, c.ordinal_position
"""
_UNIQUE = """
SELECT table_name, index_name, column_name, sub_part IS NOT NULL FROM information_schema.statistics
WHERE table_schema = %s AND non_unique = 0
"""
_FOREIGN = """
SELECT table_name, constraint_name, column_name, referenced_table_name, referenced_column_name
FROM information_schema.key_column_usage
WHERE table_schema = %s AND referenced_table_schema = table_schema
ORDER BY table_name, constraint_name, ordinal_position
"""
_VIEWS = "SELECT table_name FROM information_schema.views WHERE table_schema = %s ORDER BY table_name"
_PARTITIONS = """
SELECT DISTINCT table_name, partition_expression, subpartition_expression FROM information_schema.partitions
WHERE table_schema = %s AND partition_expression IS NOT NULL
"""
_DOCUMENTS = """
SELECT table_name, check_clause FROM information_schema.check_constraints
WHERE constraint_schema = %s AND check_clause LIKE 'json_valid(%%'
"""


def read_schema(admin: Link, database: str) -> DatabaseSchema:
    """Return the tables of a database."""
    facts = _Facts(admin, database)
    columns: dict[str, list[Column]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for row in admin.rows(_COLUMNS, database, TABLE_TYPES):
        name = str(row[0])
        columns.setdefault(name, []).append(_column(row, facts))
        sizes[name] = (int(row[10] or 0), int(row[11] or 0))
    return DatabaseSchema(
        database,
        tuple(
            Table(
                name=TableName(database, name),
                columns=tuple(found),
                unique=tuple(facts.unique.get(name, {})),
                identifying=facts.identifying(name, found),
                foreign_keys=facts.foreign.get(name, ()),
                estimated_rows=sizes[name][0],
                bytes=sizes[name][1],
            )
            for name, found in sorted(columns.items())
        ),
        views=tuple(View(TableName(database, str(name)), ()) for (name,) in admin.rows(_VIEWS, database)),
    )


class _Facts:
    """What the other catalogs say of the tables of a database."""

    def __init__(self, admin: Link, database: str) -> None:
        self.unique = _unique(admin, database)
        self.foreign = _foreign(admin, database)
        self.documents = {
            (str(table), name) for table, clause in admin.rows(_DOCUMENTS, database) for name in mentioned(str(clause))
        }
        self.partitioned: dict[str, set[str]] = {}
        for table, *expressions in admin.rows(_PARTITIONS, database):
            for expression in expressions:
                self.partitioned.setdefault(str(table), set()).update(mentioned(str(expression or "")))

    def identifying(self, table: str, columns: list[Column]) -> tuple[frozenset[str], ...]:
        """Return the sets that tell any two rows apart; an index of beginnings of values does not."""
        nullable = {column.name for column in columns if column.nullable}
        return tuple(one for one, whole in self.unique.get(table, {}).items() if whole and not one & nullable)


def mentioned(expression: str) -> tuple[str, ...]:
    """Return the columns that an expression of a catalog names; it quotes all of them."""
    return tuple(dict.fromkeys(name.replace("``", "`") for name in _NAMED.findall(expression)))


@dataclass(frozen=True, slots=True)
class _Kind:
    family: Family
    integer_bytes: int | None = None


def _kind(word: str, declared: str) -> _Kind:
    size = _INTEGER_BYTES.get(word)
    if size is not None and "unsigned" in declared:
        size = _WITHOUT_SIGN[size]
    return _Kind(_FAMILY.get(word, Family.OTHER), size)


def _column(row: tuple[object, ...], facts: _Facts) -> Column:
    table, name, declared, data_type, length, precision, scale, nullable, expression, collation, *_sizes = row
    word = str(data_type)
    kind = _kind(word, str(declared))
    document = (str(table), str(name)) in facts.documents and kind.family is Family.TEXT
    return Column(
        name=str(name),
        type="json" if document else str(declared),
        family=Family.JSON if document else kind.family,
        length=_number(length) if word in ("char", "varchar") and not document else None,
        digits=(_number(precision) or 0, _number(scale) or 0) if word == "decimal" else None,
        integer_bytes=kind.integer_bytes,
        fixed_length=word == "char",
        folds_case=str(collation or "").endswith("_ci") and not document,
        nullable=nullable == "YES",
        generated=bool(expression),
        computed_from=mentioned(str(expression)) if expression else (),
        partition_key=str(name) in facts.partitioned.get(str(table), ()),
        labels=tuple(label.replace("''", "'") for label in _LABEL.findall(str(declared))) if word == "enum" else (),
    )


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _unique(admin: Link, database: str) -> dict[str, dict[frozenset[str], bool]]:
    """Return the sets of columns that are unique, by table, each with whether it is of whole values."""
    found: dict[tuple[str, str], tuple[set[str], set[bool]]] = {}
    for table, index, column, part in admin.rows(_UNIQUE, database):
        names, parts = found.setdefault((str(table), str(index)), (set(), set()))
        names.add(str(column))
        parts.add(bool(part))
    tables: dict[str, dict[frozenset[str], bool]] = {}
    for (table, _index), (names, parts) in found.items():
        known = tables.setdefault(table, {})
        known[frozenset(names)] = known.get(frozenset(names), False) or True not in parts
    return tables


def _foreign(admin: Link, database: str) -> dict[str, tuple[ForeignKey, ...]]:
    found: dict[tuple[str, str], tuple[TableName, list[tuple[str, str]]]] = {}
    for table, name, column, target, target_column in admin.rows(_FOREIGN, database):
        entry = found.setdefault((str(table), str(name)), (TableName(database, str(target)), []))
        entry[1].append((str(column), str(target_column)))
    tables: dict[str, tuple[ForeignKey, ...]] = {}
    for (table, name), (target_name, pairs) in found.items():
        own, other = (tuple(names) for names in zip(*pairs, strict=True))
        tables[table] = (*tables.get(table, ()), ForeignKey(own, target_name, other, name))
    return tables
