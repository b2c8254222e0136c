"""The schema of a database, and some values of each column, as discovery wants to know them.

Called by ``session`` for a build that is thrown away. Reads only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.mysql.link import quoted
from reconciler.masking.classify.profiles import DOCUMENT_LENGTH, LENGTH, VALUES, DatabaseProfile, Drawn
from reconciler.masking.schema import Column, DatabaseSchema, Family, ForeignKey, Table, TableName

if TYPE_CHECKING:
    from reconciler.engines.mysql.link import Link
    from reconciler.proc import CancelToken

_FAMILIES = {
    Family.TEXT: "char varchar tinytext text mediumtext longtext inet6 inet4",
    Family.INTEGER: "tinyint smallint mediumint int bigint",
    Family.NUMBER: "decimal float double",
    Family.DATE: "date",
    Family.TIME: "datetime timestamp",
    Family.BYTES: "binary varbinary tinyblob blob mediumblob longblob bit",
    Family.JSON: "json",
    Family.UUID: "uuid",
    Family.ENUM: "enum",
}
_FAMILY = {word: family for family, words in _FAMILIES.items() for word in words.split()}
_INTEGER_BYTES = {"tinyint": 1, "smallint": 2, "mediumint": 3, "int": 4, "bigint": 8}
_COLUMNS = """
SELECT c.table_name, c.column_name, c.column_type, c.data_type, c.character_maximum_length, c.numeric_precision,
    c.numeric_scale, c.is_nullable, c.generation_expression, c.collation_name, t.table_rows, t.data_length
FROM information_schema.columns c
JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
WHERE c.table_schema = %s AND t.table_type = 'BASE TABLE' ORDER BY c.table_name, c.ordinal_position
"""
_UNIQUE = """
SELECT table_name, index_name, column_name FROM information_schema.statistics
WHERE table_schema = %s AND non_unique = 0
"""
_FOREIGN = """
SELECT table_name, constraint_name, column_name, referenced_table_schema, referenced_table_name, referenced_column_name
FROM information_schema.key_column_usage
WHERE table_schema = %s AND referenced_table_name IS NOT NULL ORDER BY table_name, constraint_name, ordinal_position
"""


def profile_database(admin: Link, database: str, cancel: CancelToken) -> DatabaseProfile:
    """Return what discovery is given of a database; its tables have it as their schema."""
    schema = schema_of(admin, database)
    drawn: dict[tuple[TableName, str], Drawn] = {}
    for table in schema.tables:
        cancel.check()
        drawn.update(_draw(admin, table))
    return DatabaseProfile(schema, drawn)


def schema_of(admin: Link, database: str) -> DatabaseSchema:
    """Return the tables of a database."""
    columns: dict[str, list[Column]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for row in admin.rows(_COLUMNS, database):
        columns.setdefault(str(row[0]), []).append(_column(row))
        sizes[str(row[0])] = (int(row[10] or 0), int(row[11] or 0))
    unique, foreign = _unique(admin, database), _foreign(admin, database)
    return DatabaseSchema(
        database,
        tuple(
            Table(
                name=TableName(database, name),
                columns=tuple(found),
                unique=unique.get(name, ()),
                foreign_keys=foreign.get(name, ()),
                estimated_rows=sizes[name][0],
                bytes=sizes[name][1],
            )
            for name, found in sorted(columns.items())
        ),
    )


def _column(row: tuple[object, ...]) -> Column:
    _table, name, kind, data_type, length, precision, scale, nullable, expression, collation, *_sizes = row
    word = str(data_type)
    return Column(
        name=str(name),
        type=str(kind),
        family=_FAMILY.get(word, Family.OTHER),
        length=_number(length) if word in ("char", "varchar") else None,
        digits=(_number(precision) or 0, _number(scale) or 0) if word == "decimal" else None,
        integer_bytes=_INTEGER_BYTES.get(word),
        fixed_length=word == "char",
        folds_case=str(collation or "").endswith("_ci"),
        nullable=nullable == "YES",
        generated=bool(expression),
    )


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _unique(admin: Link, database: str) -> dict[str, tuple[frozenset[str], ...]]:
    found: dict[tuple[str, str], set[str]] = {}
    for table, index, column in admin.rows(_UNIQUE, database):
        found.setdefault((str(table), str(index)), set()).add(str(column))
    tables: dict[str, tuple[frozenset[str], ...]] = {}
    for (table, _index), names in found.items():
        tables[table] = (*tables.get(table, ()), frozenset(names))
    return tables


def _foreign(admin: Link, database: str) -> dict[str, tuple[ForeignKey, ...]]:
    found: dict[tuple[str, str], tuple[TableName, list[tuple[str, str]]]] = {}
    for table, name, column, schema, target, target_column in admin.rows(_FOREIGN, database):
        entry = found.setdefault((str(table), str(name)), (TableName(str(schema), str(target)), []))
        entry[1].append((str(column), str(target_column)))
    tables: dict[str, tuple[ForeignKey, ...]] = {}
    for (table, name), (target_name, pairs) in found.items():
        own, other = (tuple(names) for names in zip(*pairs, strict=True))
        tables[table] = (*tables.get(table, ()), ForeignKey(own, target_name, other, name))
    return tables


def _draw(admin: Link, table: Table) -> dict[tuple[TableName, str], Drawn]:
    wanted = [column for column in table.columns if column.family not in (Family.BYTES, Family.OTHER)]
    if not wanted:
        return {}
    words = ", ".join(f"LEFT(CAST({quoted(column.name)} AS CHAR), {_length(column)})" for column in wanted)
    place = f"{quoted(table.name.schema)}.{quoted(table.name.name)}"
    rows = admin.rows(f"SELECT {words} FROM {place} LIMIT {VALUES}")  # noqa: S608 - quoted names
    return {
        (table.name, column.name): Drawn(tuple(str(row[at]) for row in rows if row[at] is not None), len(rows))
        for at, column in enumerate(wanted)
    }


def _length(column: Column) -> int:
    return DOCUMENT_LENGTH if column.family in (Family.JSON, Family.TEXT) and column.length is None else LENGTH
