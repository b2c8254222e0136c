"""The one SELECT that a masked table is made of: its rows as they are to be, in the order of its attributes.

Called by :mod:`.stage`. Three levels: the innermost computes every masked value once,
beside the original; the middle one computes generated columns from them and a bit
mask that says which rows ``when`` selected and which values stayed the same; the
outermost passes rows on and counts set bits by calling a function for each. The two
inner ones run in parallel workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from psycopg import sql

from reconciler.errors import MaskingError
from reconciler.masking.schema import Family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from psycopg.sql import Composable

    from reconciler.engines.postgres.masking.shape import Attribute, Relation
    from reconciler.masking.assignment import ColumnMasking, TableMasking

SCHEMA = "reconciler_masking"
"""Holds functions, dictionaries and staged rows while a database is masked."""
_COLUMNS_PER_WORD = 31
_COMPARED = frozenset(
    {Family.INTEGER, Family.NUMBER, Family.DATE, Family.TIME, Family.BOOLEAN, Family.UUID, Family.BYTES}
)
"""Types whose ``=`` of pg_catalog says whether a value is the same; of others the bytes are compared."""
_FENCE = "CASE WHEN t.tableoid = 0 THEN pg_catalog.clock_timestamp() END"
"""Is never computed, but volatile and allowed in parallel workers: the planner then merges no level with the next,
which would compute every masked value twice."""


class Valued(Protocol):
    """What a column gets: ``sql`` is a scalar over the row ``t``, ``joins`` find at most one row each for it."""

    @property
    def sql(self) -> Composable: ...
    @property
    def joins(self) -> tuple[Composable, ...]: ...


@dataclass(frozen=True, slots=True)
class Counter:
    """``bit`` is the number of the function that is called for each row that counts."""

    column: ColumnMasking
    selected: int | None
    equal: int


def counters(masking: TableMasking) -> tuple[Counter, ...]:
    """Return which function counts what: rows that ``when`` selects, and values that are the same as before."""
    return tuple(
        Counter(column, None if column.when is None else 2 * place, 2 * place + 1)
        for place, column in enumerate(masking.columns)
    )


def counting_function(number: int) -> sql.Identifier:
    """Return the name of a counting function."""
    return sql.Identifier(SCHEMA, f"count_{number}")


def staged_rows(
    relation: Relation, masking: TableMasking, express: Callable[[ColumnMasking, TableMasking], Valued]
) -> sql.Composed:
    """Return the SELECT of a table's masked rows.

    Raises:
        MaskingError: the table lacks a column, or it is a generated one.

    """
    for column in masking.columns:
        attribute = relation.attribute(column.column.name)
        if attribute is None or not attribute.written:
            why = "has no column" if attribute is None else "computes by itself the column"
            raise MaskingError(f"table {relation.name} {why} {column.column.name}, which was to be masked")
    prefix = _unused_prefix(relation)
    inner = _values(relation, masking, express, prefix)
    words = _words(masking, prefix)
    flags = [sql.Identifier(f"{prefix}flags_{number}") for number in range(len(words))]
    middle = sql.SQL("SELECT {} FROM ({}) AS i").format(
        _list([*layout(relation), *(_named(word, flag) for word, flag in zip(words, flags, strict=True))]), inner
    )
    return sql.SQL("SELECT {} FROM ({}) AS f WHERE {}").format(
        _list(sql.Identifier("f", name) for name in layout_names(relation)), middle, _counted(masking, flags)
    )


def layout_names(relation: Relation) -> tuple[str, ...]:
    """Return what staged columns are called: as in the table; dropped ones have to be called something."""
    prefix = _unused_prefix(relation)
    return tuple(f"{prefix}dropped_{one.number}" if one.dropped else one.name for one in relation.attributes)


def layout(relation: Relation) -> list[Composable]:
    """Return the columns of a SELECT list in the order of the table's attributes, from written ones by their names.

    Dropped columns and virtual ones are NULL in the rows of a table.
    """
    return [
        _named(_laid_out(attribute), sql.Identifier(name))
        for attribute, name in zip(relation.attributes, layout_names(relation), strict=True)
    ]


def _laid_out(attribute: Attribute) -> Composable:
    if attribute.dropped:
        return sql.SQL("NULL::pg_catalog.text" if attribute.varying else "NULL::pg_catalog.bool")
    if attribute.generated == "v":
        return sql.SQL(f"NULL::{attribute.type}")
    if attribute.expression is not None and attribute.generated:
        return _collated(sql.SQL(f"CAST(({attribute.expression}) AS {attribute.type})"), attribute)
    return sql.Identifier(attribute.name)


def _values(
    relation: Relation,
    masking: TableMasking,
    express: Callable[[ColumnMasking, TableMasking], Valued],
    prefix: str,
) -> sql.Composed:
    masked = {column.column.name: (place, column) for place, column in enumerate(masking.columns)}
    chosen: list[Composable] = []
    joins: dict[str, Composable] = {}
    for attribute in relation.attributes:
        if not attribute.written:
            continue
        name, original = sql.Identifier(attribute.name), sql.Identifier("t", attribute.name)
        if attribute.name not in masked:
            chosen.append(_named(original, name))
            continue
        place, column = masked[attribute.name]
        value = express(column, masking)
        joins |= {join.as_string(None): join for join in value.joins}
        chosen.append(_named(_collated(value.sql, attribute), name))
        chosen.append(_named(original, sql.Identifier(f"{prefix}was_{place}")))
        if column.when is not None:
            selected = sql.SQL("coalesce(({}\n), false)").format(sql.SQL(column.when))
            chosen.append(_named(selected, sql.Identifier(f"{prefix}selected_{place}")))
    chosen.append(_named(sql.SQL(_FENCE), sql.Identifier(f"{prefix}fence")))
    return sql.SQL("SELECT {} FROM ONLY {} AS t {}").format(
        _list(chosen), sql.Identifier(*relation.name), sql.SQL(" ").join(joins.values())
    )


def _collated(value: Composable, attribute: Attribute) -> Composable:
    """Give a computed value the collation of its column: that of several inputs may be undecided."""
    if attribute.collation_schema is None or attribute.collation_name is None:
        return value
    collation = sql.Identifier(attribute.collation_schema, attribute.collation_name)
    return sql.SQL("({}) COLLATE {}").format(value, collation)


def _words(masking: TableMasking, prefix: str) -> list[Composable]:
    """Return the bit masks; as expressions that the planner leaves where they are."""
    still = sql.SQL(
        "CASE WHEN i.{} IS NULL THEN 0::bigint ELSE extract(epoch FROM pg_catalog.clock_timestamp())::bigint END"
    ).format(sql.Identifier(f"{prefix}fence"))
    words: list[list[Composable]] = []
    for place, column in enumerate(masking.columns):
        if place % _COLUMNS_PER_WORD == 0:
            words.append([still])
        words[-1].append(_bits(place, column, prefix))
    return [sql.SQL(" | ").join(word) for word in words]


def _bits(place: int, column: ColumnMasking, prefix: str) -> Composable:
    was, now = sql.Identifier("i", f"{prefix}was_{place}"), sql.Identifier("i", column.column.name)
    equal = 1 << (2 * (place % _COLUMNS_PER_WORD) + 1)
    same = sql.SQL("CASE WHEN {} THEN {}::bigint ELSE 0::bigint END").format(
        _same(column, was, now), sql.SQL(str(equal))
    )
    if column.when is None:
        return same
    return sql.SQL("CASE WHEN i.{} THEN {}::bigint | {} ELSE 0::bigint END").format(
        sql.Identifier(f"{prefix}selected_{place}"), sql.SQL(str(equal >> 1)), same
    )


def _same(column: ColumnMasking, was: Composable, now: Composable) -> Composable:
    """Tell whether a value is the same as before, and not NULL; whatever operators and collations users made."""
    family = Family.OTHER if column.column.array else column.column.family
    if family is Family.TEXT:
        compare = '{}::pg_catalog.text COLLATE pg_catalog."C" = {}::pg_catalog.text COLLATE pg_catalog."C"'
    elif family in _COMPARED:
        compare = "{} = {}"
    else:
        compare = "{0} IS NOT NULL AND pg_catalog.record_image_eq(ROW({0}), ROW({1}))"
    return sql.SQL(compare).format(was, now)


def _counted(masking: TableMasking, flags: Sequence[sql.Identifier]) -> Composable:
    if not flags:
        return sql.SQL("true")
    calls: list[Composable] = []
    for place, counter in enumerate(counters(masking)):
        word, shift = divmod(place, _COLUMNS_PER_WORD)
        for number, bit in ((counter.selected, 2 * shift), (counter.equal, 2 * shift + 1)):
            if number is not None:
                calls.append(
                    sql.SQL("(f.{} & {}::bigint = 0 OR {}())").format(
                        flags[word], sql.SQL(str(1 << bit)), counting_function(number)
                    )
                )
    nothing = sql.SQL(" AND ").join(sql.SQL("f.{} = 0").format(flag) for flag in flags)
    return sql.SQL("({}) OR ({})").format(nothing, sql.SQL(" AND ").join(calls))


def unused_name(relation: Relation, word: str) -> str:
    """Return a name that no column of the table has."""
    return _unused_prefix(relation) + word


def _unused_prefix(relation: Relation) -> str:
    prefix = "reconciler_"
    while any(attribute.name.startswith(prefix) for attribute in relation.attributes):
        prefix += "_"
    return prefix


def _named(value: Composable, name: Composable) -> Composable:
    return sql.SQL("{} AS {}").format(value, name)


def _list(items: Iterable[Composable]) -> Composable:
    return sql.SQL(", ").join(items)
