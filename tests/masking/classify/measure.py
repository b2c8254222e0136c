"""How well columns are recognised: the labelled schemas, as an engine would profile them, against their labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.masking.classify.profiles import DatabaseProfile, Drawn
from reconciler.masking.classify.verdict import Verdict, judge
from reconciler.masking.schema import Column, DatabaseSchema, Family, Table, TableName
from tests.masking.classify.samples import ROWS, Labelled, labelled, schema_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_FAMILIES = {
    "text": Family.TEXT, "varchar": Family.TEXT, "char": Family.TEXT, "citext": Family.TEXT, "integer": Family.INTEGER,
    "smallint": Family.INTEGER, "bigint": Family.INTEGER, "numeric": Family.NUMBER, "double precision": Family.NUMBER,
    "date": Family.DATE, "timestamp": Family.TIME, "timestamptz": Family.TIME, "boolean": Family.BOOLEAN,
    "jsonb": Family.JSON, "uuid": Family.UUID, "bytea": Family.BYTES,
}  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """One column, its label and what was said about it."""

    column: Labelled
    verdict: Verdict


@dataclass(frozen=True)
class Score:
    """Figures over columns: personal or not, and the kinds of those that were found."""

    scored: tuple[Scored, ...]

    @property
    def missed(self) -> list[str]:
        return [
            f"{one.column.name} ({one.column.kind}): {one.verdict.reason}"
            for one in self.scored
            if one.column.personal and not one.verdict.personal
        ]

    @property
    def wrong(self) -> list[str]:
        return [
            f"{one.column.name} ({one.verdict.kind}): {one.verdict.reason}"
            for one in self.scored
            if one.verdict.personal and not one.column.personal
        ]

    @property
    def recall(self) -> float:
        return 1 - len(self.missed) / sum(one.column.personal for one in self.scored)

    @property
    def precision(self) -> float:
        return 1 - len(self.wrong) / sum(one.verdict.personal for one in self.scored)


def column_of(one: Labelled) -> Column:
    name, _, limit = one.type.removesuffix("[]").partition("(")
    length = int(limit.rstrip(")")) if limit and name in {"varchar", "char"} else None
    return Column(
        name=one.column,
        type=one.type,
        family=_FAMILIES.get(name, Family.OTHER),
        length=length,
        array=one.type.endswith("[]"),
    )


def profile_of(columns: Iterable[Labelled], *, with_values: bool = True) -> DatabaseProfile:
    """Return what an engine would tell of a labelled schema."""
    tables: dict[str, list[Labelled]] = {}
    for one in columns:
        tables.setdefault(one.table, []).append(one)
    schema = DatabaseSchema(
        "app",
        tuple(Table(name=TableName("public", name), columns=tuple(map(column_of, of))) for name, of in tables.items()),
    )
    drawn = {
        (TableName("public", one.table), one.column): Drawn(one.values, ROWS if one.values else 0)
        for of in tables.values()
        for one in of
    }
    return DatabaseProfile(schema, drawn if with_values else {})


def score(files: Iterable[Path], *, with_values: bool = True) -> Score:
    """Classify schemas and compare."""
    scored = []
    for path in files:
        columns = labelled(path)
        profile = profile_of(columns, with_values=with_values)
        verdicts = {
            (t.name.name, name): found for t in profile.schema.tables for name, found in judge(t, profile).items()
        }
        scored += [Scored(one, verdicts[one.table, one.column]) for one in columns]
    return Score(tuple(scored))


def tuning() -> list[Path]:
    """The schemas that rules may be tuned with: those with odd numbers."""
    return [path for path in schema_files() if int(re.findall(r"\d+", path.stem)[0]) % 2]


def held_out() -> list[Path]:
    """The others: looked at only to report figures."""
    return [path for path in schema_files() if path not in tuning()]
