"""What is wrong between policies and a real schema: collected first, then said in one error.

Written to by the steps of :mod:`.coverage`. What is found at a partition root or at a
parent of an inheritance tree is not said again for each table below it. Messages name
databases, tables, columns and rules; nothing else is known here.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.errors import MaskingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from reconciler.masking.schema import DatabaseSchema, TableName

REASON = "MaskingUncovered"
_SHOWN_TABLES = 100
"""Tables whose lines are written out; the names of more are listed."""
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_WORDS = frozenset({"null", "true", "false"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to put right. ``text`` goes on a sentence that names the place: ``is …``, ``has …``."""

    text: str
    database: str | None = None
    table: TableName | None = None
    column: str | None = None

    def __str__(self) -> str:
        place = "" if self.table is None else f"{self.table}{'' if self.column is None else f'.{self.column}'}"
        return (f"{self.database}: " if self.database is not None else "") + (f"{place} " if place else "") + self.text


@dataclass(frozen=True, slots=True)
class Gap:
    """Columns of a table that a policy has to decide about, each with methods that fit, as they are written."""

    database: str
    table: TableName
    columns: tuple[tuple[str, tuple[str, ...]], ...]
    policy: str
    why: str
    """``unclassified`` or ``unlisted``."""


def uncovered(findings: Sequence[Finding], gaps: Sequence[Gap], schemas: Sequence[DatabaseSchema]) -> MaskingError:
    """Return the error that says everything, in a stable order."""
    parts = [f"- {finding}" for finding in _topmost(findings, schemas)]
    count = len(parts) + len(gaps)
    parts.extend(_additions(gaps, several=len(schemas) > 1))
    things = "1 thing" if count == 1 else f"{count} things"
    return MaskingError(f"policy and schema do not fit: {things} to put right\n" + "\n".join(parts), reason=REASON)


def _topmost(findings: Iterable[Finding], schemas: Iterable[DatabaseSchema]) -> list[Finding]:
    """Return findings once each, without those that stand at a parent of their table already."""
    parents = {(schema.database, table.name): table.parents for schema in schemas for table in schema.tables}
    unique = dict.fromkeys(findings)
    said = {(one.database, one.table, one.column, one.text) for one in unique}

    def repeats(one: Finding) -> bool:
        if one.database is None or one.table is None:
            return False
        above = parents.get((one.database, one.table), ())
        return any((one.database, parent, one.column, one.text) in said for parent in above)

    return [one for one in unique if not repeats(one)]


def _additions(gaps: Sequence[Gap], *, several: bool) -> Iterable[str]:
    """Yield a paragraph for each policy and kind of gap: a sentence, then YAML that fits under ``rules:``."""
    grouped: defaultdict[tuple[str, str], list[Gap]] = defaultdict(list)
    for gap in gaps:
        grouped[gap.policy, gap.why].append(gap)
    for (policy, why), found in grouped.items():
        what = "columns that no rule names" if why == "unclassified" else "tables that no rule matches"
        shown, more = found[:_SHOWN_TABLES], found[_SHOWN_TABLES:]
        yield f"- {what} ({why}: fail); decide about each under rules of the policy {policy}:\n" + "\n".join(
            as_rule(gap.table, dict(gap.columns), gap.database if several else None) for gap in shown
        )
        if more:
            yield f"  and the same for {', '.join(f'{gap.database}: {gap.table}' for gap in more)}"


def as_rule(table: TableName, columns: Mapping[str, Sequence[str]], database: str | None) -> str:
    """Return a rule in YAML that keeps every column, with other methods in comments."""
    lines = [f"    - table: {_quoted(str(table))}"]
    if database is not None:
        lines.append(f"      database: {_quoted(database)}")
    lines.append("      columns:")
    entries = [(f"        {_quoted(name)}: keep", fitting) for name, fitting in columns.items()]
    width = max(len(entry) for entry, _ in entries)
    lines.extend(
        f"{entry:<{width}}  # or {', '.join((*fitting, '…'))}" if fitting else entry for entry, fitting in entries
    )
    return "\n".join(lines)


def _quoted(name: str) -> str:
    plain = _PLAIN.fullmatch(name) and name.lower() not in _WORDS
    return name if plain else json.dumps(name, ensure_ascii=False)
