"""Which masked columns must keep their values distinct; the third step of :mod:`.coverage`.

Two rows that differ in a unique set before masking have to differ in it afterwards. That
holds if every masked column of the set gives different values different results. A
column that does not is let through only if what remains of the set holds another one
that identifies every row by itself (a primary key of ``id`` inside ``(id, note)``). The
other columns of a set are never trusted beyond that: ``fake`` in a key of
``(tenant, name)`` is refused, though no two names of a tenant may happen to meet.

What a catalog does not tell in columns (conditions of partial indexes, expressions,
operators of exclusion constraints) is left to the index that is built after masking: it
stops the build if values meet.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.masking.matching import Cell
from reconciler.masking.mismatches import Finding
from reconciler.masking.vocabulary import can_repeat, distinct_methods, name_of, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reconciler.masking.matching import Decision
    from reconciler.masking.references import Decisions
    from reconciler.masking.schema import Column, DatabaseSchema, Table


def unique_cells(schema: DatabaseSchema, decisions: Decisions) -> tuple[frozenset[Cell], tuple[Finding, ...]]:
    """Return columns whose masked values must stay distinct, whole keys at a time.

    Findings are those that the method and the column alone do not tell; the others come
    from :func:`~reconciler.masking.vocabulary.why_not`.
    """
    found: set[Cell] = set()
    findings: list[Finding] = []
    for table in schema.tables:
        masked = _masked(table, decisions)
        for one in table.unique if masked else ():
            members = {name: masked[name] for name in sorted(one) if name in masked}
            meeting = {name for name, decision in members.items() if _meets(table, name, decision, one)}
            spared = any(other <= one - meeting for other in table.identifying)
            found.update(Cell(table.name, name) for name in members if not (spared and name in meeting))
            if meeting and not spared:
                findings.extend(_refusals(schema.database, table, one, members))
    keys = {decisions.keys[cell].lead: decisions.keys[cell] for cell in found if cell in decisions.keys}
    return frozenset(found).union(*(key.cells for key in keys.values())), tuple(findings)


def _masked(table: Table, decisions: Decisions) -> dict[str, Decision]:
    of = ((column.name, decisions.of.get(Cell(table.name, column.name))) for column in table.columns)
    return {name: decision for name, decision in of if decision is not None and not decision.keeps}


def _meets(table: Table, name: str, decision: Decision, together: frozenset[str]) -> bool:
    """Tell whether two different values can get the same result."""
    column = next(replace(column, partition_key=False) for column in table.columns if column.name == name)
    if _special(decision, together, column) is not None:
        return True
    return why_not(decision.method, column, unique=True) != why_not(decision.method, column, unique=False)


def _special(decision: Decision, together: frozenset[str], column: Column) -> str | None:
    """Return a reason that lies in the set or in the rule, not in the column."""
    names = ", ".join(sorted(together))
    if name_of(decision.method) == "shuffle" and len(together) > 1:
        instead = " or ".join(distinct_methods(column)) or "keep"
        return f"is part of a unique set ({names}), where shuffle can give two rows the same: write {instead}"
    if decision.when is not None and can_repeat(decision.method):
        return (
            f"must stay unique ({names}), but with when a result can be what a row that is not masked has: "
            "write hash, or the rule without when"
        )
    return None


def _refusals(
    database: str, table: Table, together: frozenset[str], members: Mapping[str, Decision]
) -> Iterator[Finding]:
    columns = {column.name: column for column in table.columns}
    for name, decision in members.items():
        reason = _special(decision, together, columns[name])
        if reason is not None:
            yield Finding(reason, database, table.name, name)
