"""Columns that refer to each other are masked alike; the second step of :mod:`.coverage`.

A key is what foreign keys and the references of policies link, pairwise, also through
several tables and back to the same one. The columns of a partitioned table and of its
partitions are one column here. One rule for any column of a key holds for all of it. A
referring column can be "null" by a rule of its own: that ends the reference, and leaves
what it refers to as it is. What the parent of an inheritance tree gets this way its heirs
get as well; foreign keys of a parent do not speak of them otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from reconciler.masking.matching import Cell, Decision, difference
from reconciler.masking.mismatches import Finding
from reconciler.masking.schema import Family, TableName
from reconciler.masking.vocabulary import deterministic, distinct_methods, name_of
from reconciler.spec.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from reconciler.masking.schema import Column, DatabaseSchema, Table
    from reconciler.spec.masking_policy import Reference
    from reconciler.state.desired import Policy

_NUMBERS = frozenset({Family.INTEGER, Family.NUMBER})


@dataclass(frozen=True, slots=True)
class Link:
    """``source`` refers to ``target``; ``why`` says what knows of it."""

    source: Cell
    target: Cell
    why: str


@dataclass(frozen=True, slots=True)
class Key:
    """Columns that have to be masked alike, in a stable order, and what links them."""

    cells: tuple[Cell, ...]
    links: tuple[Link, ...]
    length: int | None = None
    """In characters: what every column has room for."""
    folds_case: bool = False
    """Whether values that differ in case are equal to any of the columns."""

    @property
    def lead(self) -> Cell:
        """The first column, which belongs to no other key."""
        return self.cells[0]


@dataclass(slots=True)
class Decisions:
    """What is decided for the columns of a database. ``origins``: from where, for those that no rule names."""

    of: dict[Cell, Decision] = field(default_factory=dict)
    origins: dict[Cell, Cell] = field(default_factory=dict)
    keys: dict[Cell, Key] = field(default_factory=dict)


def declared_links(
    policies: Sequence[Policy], schemas: Sequence[DatabaseSchema]
) -> tuple[dict[str, list[Link]], tuple[Finding, ...]]:
    """Return the references of the policies by database, and those that are nowhere in the real schema."""
    cells = {
        schema.database: {Cell(table.name, column.name) for table in schema.tables for column in table.columns}
        for schema in schemas
    }
    links: dict[str, list[Link]] = {schema.database: [] for schema in schemas}
    findings = []
    for policy in policies:
        for reference in policy.spec.references:
            asked = [one for one in cells if reference.database is None or fnmatchcase(one, reference.database)]
            source, target = (_cell(text) for text in (reference.column, reference.to))
            complete = [one for one in asked if {source, target} <= cells[one]]
            for database in complete:
                links[database].append(Link(source, target, f"a reference of the policy {policy.name}"))
            if not complete:
                findings.append(_nowhere(policy, reference, {one: cells[one] for one in asked}, cells))
    return links, tuple(findings)


def _cell(text: str) -> Cell:
    schema, table, column = text.split(".")
    return Cell(TableName(schema, table), column)


def _nowhere(policy: Policy, reference: Reference, asked: Mapping[str, set[Cell]], databases: Iterable[str]) -> Finding:
    text = f"the policy {policy.name} has a reference from {reference.column} to {reference.to}, but "
    if not asked:
        hint = did_you_mean(reference.database or "", databases)
        return Finding(f"{text}the image has no database {reference.database}{f'; {hint}' if hint else ''}")
    known = [str(cell) for found in asked.values() for cell in sorted(found)]
    where = f" in {', '.join(asked)}" if reference.database is not None else ""
    for name in (reference.column, reference.to):
        if name not in known:
            hint = did_you_mean(name, known)
            return Finding(f"{text}there is no column {name}{where}{f'; {hint}' if hint else ''}")
    return Finding(f"{text}they are in different databases; write database: and rules for both")


def decide(
    schema: DatabaseSchema, rules: Mapping[Cell, Decision], declared: Iterable[Link]
) -> tuple[Decisions, tuple[Finding, ...]]:
    """Return decisions for the columns of rules and of keys, and every key that they do not fit."""
    tables = {table.name: table for table in schema.tables}
    decisions, findings = Decisions(dict(rules)), list[Finding]()
    links = (*_foreign_links(schema), *declared)
    found = _keys(schema, tables, [link for link in links if not _ends(link, rules)])
    for key in found:
        decisions.keys.update(dict.fromkeys(key.cells, key))
        findings.extend(_settle(decisions, schema.database, key, rules))
    for table in sorted(schema.tables, key=lambda one: len(one.parents)):
        _inherit(decisions, table)
    for key in found:
        findings.extend(_check(decisions, schema.database, key, tables, rules))
    findings.extend(_check_ended(decisions, schema.database, links))
    findings.extend(_check_trees(decisions, schema, rules, tables))
    return decisions, tuple(findings)


def _ends(link: Link, rules: Mapping[Cell, Decision]) -> bool:
    return link.source in rules and rules[link.source].method == "null"


def _keys(schema: DatabaseSchema, tables: Mapping[TableName, Table], links: Sequence[Link]) -> list[Key]:
    neighbours: defaultdict[Cell, set[Cell]] = defaultdict(set)
    for one, other in (*((link.source, link.target) for link in links), *_partition_links(schema, tables)):
        neighbours[one].add(other)
        neighbours[other].add(one)
    by_cell: defaultdict[Cell, list[Link]] = defaultdict(list)
    for link in links:
        by_cell[link.source].append(link)
    keys, seen = [], set()
    for link in links:
        if link.source not in seen:
            cells = _reachable(link.source, neighbours)
            seen |= cells
            ordered = tuple(sorted(cells, key=lambda cell: (len(tables[cell.table].parents), cell)))
            columns = [_column(tables, cell) for cell in ordered]
            keys.append(
                Key(
                    ordered,
                    tuple(link for cell in ordered for link in by_cell[cell]),
                    length=min((one.length for one in columns if one.length is not None), default=None),
                    folds_case=any(one.folds_case for one in columns),
                )
            )
    return keys


def _foreign_links(schema: DatabaseSchema) -> Iterator[Link]:
    for table in schema.tables:
        for key in table.foreign_keys:
            for column, target in zip(key.columns, key.target_columns, strict=True):
                yield Link(Cell(table.name, column), Cell(key.target, target), f"the foreign key {key.name}")


def _partition_links(schema: DatabaseSchema, tables: Mapping[TableName, Table]) -> Iterator[tuple[Cell, Cell]]:
    for table in schema.tables:
        for parent in table.parents:
            if parent in tables and not tables[parent].has_rows:
                names = {column.name for column in tables[parent].columns}
                for column in table.columns:
                    if column.name in names:
                        yield Cell(table.name, column.name), Cell(parent, column.name)


def _reachable(start: Cell, neighbours: Mapping[Cell, set[Cell]]) -> set[Cell]:
    found, queue = {start}, [start]
    while queue:
        more = neighbours[queue.pop()] - found
        found |= more
        queue.extend(more)
    return found


def _settle(decisions: Decisions, database: str, key: Key, rules: Mapping[Cell, Decision]) -> Iterator[Finding]:
    """Give a key the decision of the rules that name its columns; yield those that contradict the first."""
    named = [cell for cell in key.cells if cell in rules]
    if not named:
        return
    lead = named[0]
    for cell in key.cells:
        if cell not in rules:
            decisions.of[cell] = rules[lead]
            decisions.origins[cell] = lead
    if _all_sql(key, rules):
        return
    for cell in named[1:]:
        if not rules[cell].same(rules[lead]):
            unlike = difference(rules[cell], rules[lead])
            text = f"is {rules[cell]}, but {lead} is {rules[lead]}{unlike}, and {_path(key, cell, lead)}"
            yield Finding(f"{text}: write the same for both, or for one of them only", database, *cell)


def _all_sql(key: Key, rules: Mapping[Cell, Decision]) -> bool:
    """Tell whether every column has an expression of its own: they name other columns, and their author knows."""
    return all(cell in rules and name_of(rules[cell].method) == "sql" for cell in key.cells)


def _path(key: Key, start: Cell, end: Cell) -> str:
    """Say how two columns are linked: directly, or through which others."""
    for link in key.links:
        if {link.source, link.target} == {start, end}:
            return f"{link.source} refers to {link.target} ({link.why})"
    through = [cell for cell in key.cells if cell not in {start, end}]
    between = ", ".join(map(str, through[:5])) + (", …" if len(through) > 5 else "")  # noqa: PLR2004 - bounds the line
    return f"both belong to one key{f' with {between}' if through else ''} ({key.links[0].why})"


def _inherit(decisions: Decisions, table: Table) -> None:
    """Give an heir's columns what a key decided for the parent's; heirs are visited after their parents."""
    for column in table.columns:
        cell = Cell(table.name, column.name)
        if cell in decisions.of or column.generated:
            continue
        parents = [above for name in table.parents if (above := Cell(name, column.name)) in decisions.of]
        if parents:
            above = min(parents, key=lambda one: decisions.of[one].keeps)
            origin = decisions.origins.get(above, above)
            for one in decisions.keys[cell].cells if cell in decisions.keys else (cell,):
                decisions.of[one] = decisions.of[above]
                decisions.origins[one] = origin


def _check(
    decisions: Decisions,
    database: str,
    key: Key,
    tables: Mapping[TableName, Table],
    rules: Mapping[Cell, Decision],
) -> Iterator[Finding]:
    """Yield why a key cannot be masked as it was decided."""
    decision = decisions.of.get(key.lead)
    if decision is None or decision.keeps:
        return
    place = (database, *next((cell for cell in key.cells if cell in rules), key.lead))
    link = key.links[0]
    because = f"and {link.source} refers to {link.target} ({link.why})"
    if decision.when is not None:
        text = f"has the condition when, {because}: equal values in other tables cannot be told by it"
        yield Finding(f"{text}; write the rule without when, or keep", *place)
    if not deterministic(decision.method) and not _all_sql(key, rules):
        yield Finding(f"is {decision}, {because}: {_not_alike(decision, _column(tables, key.lead))}", *place)
    columns = {cell: _column(tables, cell) for cell in key.cells}
    for cell, column in columns.items():
        if column.generated:
            text = f"is computed by the database and belongs to a key that is {decision}, {because}"
            yield Finding(f"{text}: write keep for the key and for what it is computed from", database, *cell)
    if not _all_sql(key, rules):
        yield from _unlike_types(database, key, name_of(decision.method), columns)


def _not_alike(decision: Decision, column: Column) -> str:
    methods = distinct_methods(column)
    instead = f"write {', '.join(methods)}{' or ' if methods else ''}keep"
    if name_of(decision.method) == "sql":
        return (
            f"an expression can give equal values different results; {instead}, or an expression for each column "
            "of the key"
        )
    return f"equal values get different results; {instead}"


def _unlike_types(database: str, key: Key, method: str, columns: Mapping[Cell, Column]) -> Iterator[Finding]:
    """Equal values of different types look different once masked; of text, the shortest length counts."""
    first, column = next(iter(columns.items()))
    for cell, other in columns.items():
        if _kind(other, method) != _kind(column, method):
            text = f"has the type {other.type} and {first} has {column.type}, but {_path(key, cell, first)}"
            instead = "preserve or keep" if {other.family, column.family} <= _NUMBERS else "keep"
            yield Finding(f"{text}: write {instead}, or make their types equal before masking", database, *cell)


def _kind(column: Column, method: str) -> tuple[object, ...]:
    """Return what has to be equal; ``preserve`` gives a whole number the same result in every type that holds it."""
    if method == "preserve" and column.family in _NUMBERS:
        return ()
    return column.family, column.integer_bytes, column.digits, column.labels


def _column(tables: Mapping[TableName, Table], cell: Cell) -> Column:
    return next(column for column in tables[cell.table].columns if column.name == cell.column)


def _check_ended(decisions: Decisions, database: str, links: Sequence[Link]) -> Iterator[Finding]:
    """Yield references that end in some rows only, while what the others refer to is masked."""
    for link in links:
        decision, target = decisions.of.get(link.source), decisions.of.get(link.target)
        if decision is None or decision.method != "null" or decision.when is None or target is None or target.keeps:
            continue
        text = f'is "null" where a condition is true, and refers to {link.target} elsewhere ({link.why}), which is'
        yield Finding(f"{text} {target}: write it without when, or keep for {link.target}", database, *link.source)


def _check_trees(
    decisions: Decisions, schema: DatabaseSchema, rules: Mapping[Cell, Decision], tables: Mapping[TableName, Table]
) -> Iterator[Finding]:
    """Yield rules for a partition or heir that contradict the rule for what it is part of."""
    for table in schema.tables:
        for column in table.columns:
            cell = Cell(table.name, column.name)
            for parent in table.parents:
                above = Cell(parent, column.name)
                one_key = cell in decisions.keys and decisions.keys[cell] is decisions.keys.get(above)
                if cell in rules and above in rules and not one_key and not rules[cell].same(rules[above]):
                    what = "inherits from" if tables[parent].has_rows else "is a partition of"
                    text = (
                        f"is {rules[cell]}, but {table.name} {what} {parent}, whose rule holds for it: {rules[above]}"
                    )
                    yield Finding(f"{text}{difference(rules[cell], rules[above])}", schema.database, *cell)
                    break
