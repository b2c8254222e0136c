"""Schemas and policies in few words, and generated ones, for the tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from reconciler.ids import PolicyName
from reconciler.masking.schema import Column, DatabaseSchema, Family, ForeignKey, Table, TableName
from reconciler.spec.masking_policy import MaskingPolicySpec
from reconciler.state.desired import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TYPES: dict[str, dict[str, Any]] = {
    "text": {"family": Family.TEXT},
    "short": {"family": Family.TEXT, "length": 12},
    "citext": {"family": Family.TEXT, "folds_case": True},
    "int": {"family": Family.INTEGER, "integer_bytes": 4},
    "bigint": {"family": Family.INTEGER, "integer_bytes": 8},
    "date": {"family": Family.DATE},
    "uuid": {"family": Family.UUID},
    "bool": {"family": Family.BOOLEAN},
    "json": {"family": Family.JSON},
    "computed": {"family": Family.TEXT, "generated": True},
}


def name(text: str) -> TableName:
    return TableName(*text.split(".", 1))


def a_column(text: str) -> Column:
    """``name type``, then ``!`` for NOT NULL, ``/`` for a partition key, ``<a,b`` for what it is computed from."""
    word, kind, *marks = text.split()
    sources = next((mark[1:].split(",") for mark in marks if mark.startswith("<")), [])
    return Column(
        name=word,
        type=kind,
        nullable="!" not in marks,
        partition_key="/" in marks,
        computed_from=tuple(sources),
        **_TYPES[kind],
    )


def a_table(
    table: str,
    *columns: str,
    unique: Sequence[str] = (),
    key: str = "",
    refers: Mapping[str, str] | None = None,
    parents: Sequence[str] = (),
    **more: Any,  # noqa: ANN401 - fields of Table
) -> Table:
    """``key``: columns of the primary key; ``refers``: columns to ``schema.table(columns)``."""
    primary = (frozenset(key.split()),) if key else ()
    foreign = []
    for columns_, target in (refers or {}).items():
        where, _, targets = target.removesuffix(")").partition("(")
        foreign.append(ForeignKey(tuple(columns_.split()), name(where), tuple(targets.split()), f"{columns_}_fkey"))
    made = [a_column(text) for text in columns]
    return Table(
        name=name(table),
        columns=tuple(made),
        unique=(*primary, *(frozenset(one.split()) for one in unique)),
        identifying=primary,
        foreign_keys=tuple(foreign),
        parents=tuple(map(name, parents)),
        **more,
    )


def a_schema(*tables: Table, database: str = "shop", **more: Any) -> DatabaseSchema:  # noqa: ANN401 - fields of DatabaseSchema
    return DatabaseSchema(database, tuple(sorted(tables, key=lambda table: table.name)), **more)


def a_policy(
    *rules: Mapping[str, Any],
    policy: str = "pii",
    key: str = "key",
    **more: Any,  # noqa: ANN401 - fields of the spec
) -> Policy:
    spec = {"key": {"secret": key}, "rules": rules, "unclassified": "keep", "unlisted": "keep", **more}
    return Policy(PolicyName(policy), MaskingPolicySpec.model_validate(spec))


def a_rule(table: str, /, when: str | None = None, database: str | None = None, **columns: object) -> dict[str, Any]:
    more = {"when": when, "database": database}
    return {"table": table, "columns": columns} | {key: value for key, value in more.items() if value is not None}


METHODS: list[Any] = [
    "keep",
    "null",
    "hash",
    "email",
    "preserve",
    "shuffle",
    "text",
    {"hash": {"length": 12}},
    {"fixed": "x"},
    {"fixed": 1},
    {"fake": "first_name"},
    {"shift_days": 10},
    {"shift_days": 10, "by": "a"},
    {"noise": "10%"},
    {"bucket": 10},
    {"partial": {"first": 1}},
    {"sql": "now()"},
    {"json": {"$.a": "hash"}},
]
_NAMES = ("a", "b", "c", "d")
_PATTERNS = ("public.t0", "public.t1", "public.t2", "public.t*", "*.*", "other.t0", "public.t1_p")


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, ...]:
    """A few tables with keys, references between any of their columns, partitions and heirs."""
    made: list[Table] = []
    for number in range(draw(st.integers(1, 4))):
        words = draw(st.lists(st.sampled_from(_NAMES), min_size=1, unique=True))
        kinds = st.sampled_from(sorted(_TYPES))
        columns = [f"{word} {draw(kinds)}{draw(st.sampled_from(['', ' !']))}" for word in words]
        sets = draw(st.lists(st.sets(st.sampled_from(words), min_size=1), max_size=2))
        refers = {}
        for other in [*made, None]:
            if draw(st.booleans()):
                target = f"public.t{number}" if other is None else str(other.name)
                choice = words if other is None else [column.name for column in other.columns]
                refers[draw(st.sampled_from(words))] = f"{target}({draw(st.sampled_from(choice))})"
        made.append(
            a_table(
                f"public.t{number}",
                *columns,
                unique=[" ".join(one) for one in sets],
                refers=refers,
                has_rows=not draw(st.booleans()),
                foreign=draw(st.sampled_from([False] * 5 + [True])),
                extension=draw(st.sampled_from([None] * 5 + ["postgis"])),
            )
        )
        if draw(st.booleans()):
            made.append(a_table(f"public.t{number}_p", *columns, parents=[f"public.t{number}"]))
    return tuple(made)


@st.composite
def schemas(draw: st.DrawFn) -> tuple[DatabaseSchema, ...]:
    databases = draw(st.sampled_from([("shop",), ("shop", "crm")]))
    return tuple(
        a_schema(*draw(tables()), database=database, large_objects=draw(st.integers(0, 2))) for database in databases
    )


def _columns() -> st.SearchStrategy[dict[str, Any]]:
    keys = st.sampled_from([*_NAMES, "*", "[ab]", "e"])
    return st.dictionaries(keys, st.sampled_from(METHODS), min_size=1, max_size=4)


@st.composite
def policies(draw: st.DrawFn) -> tuple[Policy, ...]:
    def rule() -> dict[str, Any]:
        found: dict[str, Any] = {"table": draw(st.sampled_from(_PATTERNS)), "columns": draw(_columns())}
        if draw(st.sampled_from([False] * 4 + [True])):
            found["when"] = "true"
        if draw(st.sampled_from([False] * 4 + [True])):
            found["database"] = draw(st.sampled_from(["shop", "s*", "none"]))
        return found

    levels = st.sampled_from(["fail", "report", "keep"])
    references = [{"column": "public.t0.a", "to": "public.t1.b"}]
    return tuple(
        a_policy(
            *(rule() for _ in range(draw(st.integers(1, 3)))),
            policy=f"p{number}",
            key=draw(st.sampled_from(["one", "two"])),
            **{
                "unclassified": draw(levels),
                "unlisted": draw(levels),
                **draw(st.sampled_from([{}, {"largeObjects": "keep"}, {"largeObjects": "remove"}])),
                "references": references if draw(st.sampled_from([False] * 4 + [True])) else [],
            },
        )
        for number in range(draw(st.integers(1, 2)))
    )
