"""The SELECTs that a masked table is made of: its rows as they are to be, in the order of its attributes.

Called by :mod:`.beside`. What expressions of users say (``when``, ``sql``) is computed
first, as columns of a copy of the table (:func:`prepared_rows`). The SELECT of the
masked rows has three levels: the innermost computes every masked value once, beside the
original; the middle one computes generated columns from them and a bit mask that says
which rows ``when`` selected and which values stayed the same; the outermost passes rows
on and counts set bits by calling a function for each. The two inner ones run in
parallel workers, beside the keys: masked values are of types that nobody made
(:mod:`.storage`), and what they have to be cast to, or is computed from them by code of
users, is left to :func:`finished_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from psycopg import sql

from reconciler.errors import MaskingError
from reconciler.masking.schema import Family

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from psycopg.sql import Composable

    from reconciler.engines.postgres.masking.shape import Attribute, Relation
    from reconciler.masking.assignment import ColumnMasking, TableMasking
    from reconciler.masking.schema import TableName

SCHEMA = "reconciler_masking"
"""Holds functions, dictionaries and staged rows while a database is masked."""
_ALL = sql.SQL("true")
_COLUMNS_PER_WORD = 31
_COMPARED = frozenset(
    {Family.INTEGER, Family.NUMBER, Family.DATE, Family.TIME, Family.BOOLEAN, Family.UUID, Family.BYTES}
)
"""Types whose ``=`` of pg_catalog says whether a value is the same; of others the bytes are compared."""
_FENCE = "CASE WHEN t.tableoid = 0 THEN pg_catalog.clock_timestamp() END"
"""Is never computed, but volatile and allowed in parallel workers: the planner then merges no level with the next,
which would compute every masked value twice."""


class Valued(Protocol):
    """What a column gets: ``sql`` is a scalar over the row ``t``, ``joins`` find at most one row each for it.

    ``users``: it is an expression of users, and needs no key. ``typed``: it has the
    column's own type; else it is cast.
    """

    @property
    def sql(self) -> Composable: ...
    @property
    def joins(self) -> tuple[Composable, ...]: ...
    @property
    def users(self) -> bool: ...
    @property
    def typed(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Rows:
    """Where values are computed from, as the row ``t``: a table, or its copy with what expressions of users said.

    ``source`` stands behind FROM. ``selected`` are the columns that say for a condition
    which rows it takes, ``given`` those that hold the value of a column, by its name.
    """

    source: Composable
    selected: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)


Express = Callable[["ColumnMasking", "TableMasking", Rows], Valued]


def table_rows(name: TableName) -> Rows:
    """Return a table as it is."""
    return Rows(sql.SQL("ONLY {}").format(sql.Identifier(*name)))


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


def insist(relation: Relation, masking: TableMasking) -> None:
    """Insist that a table has the columns that are to be masked.

    Raises:
        MaskingError: it lacks one, or computes it by itself.

    """
    for column in masking.columns:
        attribute = relation.attribute(column.column.name)
        if attribute is None or not attribute.written:
            why = "has no column" if attribute is None else "computes by itself the column"
            raise MaskingError(f"table {relation.name} {why} {column.column.name}, which was to be masked")


def needs_copy(relation: Relation, masking: TableMasking, express: Express) -> Rows | None:
    """Return the names of what users' expressions give, if there are any; None where the table is read as it is.

    Its ``source`` is still the table.
    """
    prefix = _unused_prefix(relation)
    conditions = dict.fromkeys(column.when for column in masking.columns if column.when is not None)
    rows = replace(
        table_rows(relation.name),
        selected={when: f"{prefix}selected_{place}" for place, when in enumerate(conditions)},
    )
    values = ((column, express(column, masking, rows)) for column in masking.columns)
    given = [column.column.name for column, value in values if _is_given(relation, column, value)]
    if not (conditions or given or (relation.planned and masking.columns)):
        return None
    return replace(rows, given={name: f"{prefix}given_{place}" for place, name in enumerate(given)})


def _is_given(relation: Relation, column: ColumnMasking, value: Valued) -> bool:
    """Tell whether a value is computed without keys: by an expression of users, or as a value of a type of theirs."""
    return value.users or (_attribute(relation, column).stored.own and not value.typed)


def prepared_rows(
    relation: Relation, masking: TableMasking, express: Express, rows: Rows, *, only: str | None = None
) -> sql.Composed:
    """Return the SELECT of a table's rows with what expressions of users say about each, named by :func:`needs_copy`.

    ``only``: of them the one condition, or the value of the one column, with nothing
    else; to find out which one fails.
    """
    chosen: list[Composable] = []
    if only is None:
        names = [one.name for one in relation.attributes if one.written]
        chosen += [_named(sql.Identifier("t", name), sql.Identifier(name)) for name in names]
    for when, name in rows.selected.items():
        if only in {None, when}:
            chosen.append(_named(sql.SQL("coalesce(({}\n), false)").format(sql.SQL(when)), sql.Identifier(name)))
    for column in masking.columns:
        if column.column.name not in rows.given or only not in {None, column.column.name}:
            continue
        value = _cast(express(column, masking, rows), _attribute(relation, column))
        if column.when is not None:
            value = sql.SQL("CASE WHEN ({}\n) THEN {} END").format(sql.SQL(column.when), value)
        chosen.append(_named(value, sql.Identifier(rows.given[column.column.name])))
    return sql.SQL("SELECT {} FROM {} AS t").format(_list(chosen), rows.source)


def needs_finish(relation: Relation, masking: TableMasking) -> bool:
    """Tell whether rows that were computed beside the keys are not yet those of the table."""
    inexact = any(not _attribute(relation, column).stored.same for column in masking.columns)
    return inexact or any(one.generated == "s" and one.by_users and not one.dropped for one in relation.attributes)


def staged_rows(
    relation: Relation, masking: TableMasking, express: Express, rows: Rows, *, finished: bool = True
) -> sql.Composed:
    """Return the SELECT of a table's masked rows; of their written columns alone, if others are left to finish."""
    prefix = _unused_prefix(relation)
    inner = _values(relation, masking, express, rows)
    words = _words(masking, prefix)
    flags = [sql.Identifier(f"{prefix}flags_{number}") for number in range(len(words))]
    written = [one.name for one in relation.attributes if one.written]
    names = layout_names(relation) if finished else written
    columns = layout(relation) if finished else list(map(sql.Identifier, written))
    middle = sql.SQL("SELECT {} FROM ({}) AS i").format(
        _list([*columns, *(_named(word, flag) for word, flag in zip(words, flags, strict=True))]), inner
    )
    return sql.SQL("SELECT {} FROM ({}) AS f WHERE {}").format(
        _list(sql.Identifier("f", name) for name in names), middle, _counted(masking, flags)
    )


def finished_rows(relation: Relation, source: Composable, condition: Composable = _ALL) -> sql.Composed:
    """Return the SELECT of a table's rows from those of their written columns; it may run code of users."""
    computing = any(one.by_users for one in relation.attributes)
    written = [
        _named(
            sql.SQL("CAST(w.{} AS {})").format(sql.Identifier(one.name), sql.SQL(one.type))
            if one.stored.type != one.type and (computing or not one.stored.same)
            else sql.Identifier("w", one.name),
            sql.Identifier(one.name),
        )
        for one in relation.attributes
        if one.written
    ]
    return sql.SQL("SELECT {} FROM (SELECT {} FROM {} AS w WHERE {} OFFSET 0) AS f").format(
        _list(layout(relation)), _list(written), source, condition
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
        type_ = attribute.stored.type if attribute.stored.same else attribute.type
        return _collated(sql.SQL(f"CAST(({attribute.expression}) AS {type_})"), attribute)
    return sql.Identifier(attribute.name)


def _values(relation: Relation, masking: TableMasking, express: Express, rows: Rows) -> sql.Composed:
    prefix = _unused_prefix(relation)
    masked = {column.column.name: (place, column) for place, column in enumerate(masking.columns)}
    chosen: list[Composable] = []
    joins: dict[str, Composable] = {}
    for attribute in relation.attributes:
        if not attribute.written:
            continue
        name: Composable = sql.Identifier(attribute.name)
        original: Composable = sql.Identifier("t", attribute.name)
        if attribute.name not in masked:
            chosen.append(_named(original, name))
            continue
        place, column = masked[attribute.name]
        value = express(column, masking, rows)
        if not value.typed and attribute.stored.type != attribute.type:
            original = sql.SQL("CAST({} AS {})").format(original, sql.SQL(attribute.stored.type))
        if attribute.name in rows.given:
            result: Composable = sql.Identifier("t", rows.given[attribute.name])
        else:
            joins |= {join.as_string(None): join for join in value.joins}
            result = _cast(value, attribute)
        if column.when is not None:
            selected = sql.Identifier("t", rows.selected[column.when])
            result = sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(selected, result, original)
            chosen.append(_named(selected, sql.Identifier(f"{prefix}took_{place}")))
        chosen.append(_named(_collated(result, attribute), name))
        chosen.append(_named(original, sql.Identifier(f"{prefix}was_{place}")))
    chosen.append(_named(sql.SQL(_FENCE), sql.Identifier(f"{prefix}fence")))
    return sql.SQL("SELECT {} FROM {} AS t {}").format(_list(chosen), rows.source, sql.SQL(" ").join(joins.values()))


def _attribute(relation: Relation, column: ColumnMasking) -> Attribute:
    found = relation.attribute(column.column.name)
    assert found is not None  # noqa: S101 - see insist
    return found


def _cast(value: Valued, attribute: Attribute) -> Composable:
    if value.typed:
        return value.sql
    return sql.SQL("CAST({} AS {})").format(value.sql, sql.SQL(attribute.stored.type))


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
        sql.Identifier(f"{prefix}took_{place}"), sql.SQL(str(equal >> 1)), same
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
