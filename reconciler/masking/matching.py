"""Which rule names which column of the real schema; the first step of :mod:`.coverage`.

A rule matches tables by ``schema.table`` and columns by their names, both exactly or by
globs (``*``, ``?``, ``[ab]``; case counts). It also holds for what is a partition of a
table that it matches, or inherits from one. Where several rules name one column:

1. The more exact one wins: a name beats a glob, if it is not less exact in another part
   (database, schema, table, column).
2. Otherwise the policy that the image names first wins.
3. Within one policy they have to say the same: which of two lines was meant is not guessed.

Order of rules within a policy means nothing. Globs pass over generated columns, foreign
tables, and tables of extensions; to name one of these exactly is an error but for the last.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from reconciler.masking.mismatches import Finding
from reconciler.masking.schema import TableName
from reconciler.masking.vocabulary import name_of
from reconciler.spec.masking_policy import Email, Hash
from reconciler.spec.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from reconciler.ids import PolicyName, SecretName
    from reconciler.masking.schema import Column, DatabaseSchema, Table
    from reconciler.spec.masking_policy import Column as Method
    from reconciler.spec.masking_policy import Rule
    from reconciler.state.desired import Policy

_DEFAULTS: dict[str, Method] = {
    "hash": Hash.model_validate({"hash": {}}),
    "email": Email.model_validate({"email": {}}),
}
"""What the plain names stand for."""
_SYSTEM = frozenset({"pg_catalog", "pg_toast", "information_schema"})
"""Schemas of a server's own tables."""


class Cell(NamedTuple):
    """A column of a table."""

    table: TableName
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rule says of a column. ``rule`` names it for people."""

    method: Method
    policy: PolicyName
    key: SecretName
    when: str | None
    rule: str

    @property
    def keeps(self) -> bool:
        """Whether the values stay as they are."""
        return self.method == "keep"

    def same(self, other: Decision) -> bool:
        """Tell whether both give the same values: method, options, key and condition are equal."""
        if self.keeps or other.keeps:
            return self.keeps and other.keeps
        mine, theirs = (_DEFAULTS.get(str(one.method), one.method) for one in (self, other))
        return mine == theirs and self.key == other.key and self.when == other.when

    def __str__(self) -> str:
        return f"{name_of(self.method)} ({self.rule} of the policy {self.policy})"


class _Candidate(NamedTuple):
    order: int
    """Of the policy."""
    exact: tuple[bool, bool, bool, bool]
    """Database, schema, table, column."""
    decision: Decision


@dataclass(slots=True)
class Matched:
    """Rules of one database. ``listed`` are tables that rules match, with the policies that do."""

    rules: dict[Cell, Decision] = field(default_factory=dict)
    listed: dict[TableName, list[Policy]] = field(default_factory=dict)
    reports: list[str] = field(default_factory=list)


def match(
    policies: Sequence[Policy], schemas: Sequence[DatabaseSchema]
) -> tuple[dict[str, Matched], tuple[Finding, ...]]:
    """Return what rules say of each database, and every name that matches nothing or contradicts another."""
    findings: list[Finding] = []
    databases = [_Database(schema) for schema in schemas]
    for order, policy in enumerate(policies):
        for rule in policy.spec.rules:
            search = _Search(order, policy, rule, databases)
            search.run()
            findings.extend(search.findings)
    for database in databases:
        for cell, found in database.candidates.items():
            findings.extend(_choose(database.matched, database.name, cell, found))
    return {one.name: one.matched for one in databases}, tuple(findings)


class _Database:
    """One schema, indexed, and what the rules have found in it so far."""

    def __init__(self, schema: DatabaseSchema) -> None:
        self.name, self.schema, self.matched = schema.database, schema, Matched()
        self.tables = {table.name: table for table in schema.tables}
        self.heirs: defaultdict[TableName, list[Table]] = defaultdict(list)
        self.candidates: defaultdict[Cell, list[_Candidate]] = defaultdict(list)
        for table in schema.tables:
            for parent in table.parents if not table.foreign else ():
                self.heirs[parent].append(table)


class _Search:
    """One rule against all databases."""

    def __init__(self, order: int, policy: Policy, rule: Rule, databases: Sequence[_Database]) -> None:
        self._order, self._policy, self._rule, self._all = order, policy, rule, databases
        self._databases = [one for one in databases if rule.database is None or fnmatchcase(one.name, rule.database)]
        self._splits = _splits(rule.table)
        self._globs = [key for key in rule.columns if is_glob(key)]
        self._tables: list[Table] = []
        self._used: set[str] = set()
        self.findings: list[Finding] = []

    def run(self) -> None:
        for database in self._databases:
            for name in self._names(database):
                exact = self._exactness(name)
                if exact is not None:
                    self._match_table(database, database.tables[name], exact)
        self.findings.extend(self._unmatched())

    def _names(self, database: _Database) -> Iterable[TableName]:
        """Return the tables that can match: without a glob only those of that name."""
        if is_glob(self._rule.table):
            return database.tables
        return [name for name in self._splits if name in database.tables]

    def _match_table(self, database: _Database, table: Table, exact: tuple[bool, bool]) -> None:
        shared = {column.name for column in table.columns}
        own = () if self._passes_over(database.name, table, exact=all(exact)) else (table,)
        for one in (*own, *database.heirs[table.name]):
            policies = database.matched.listed.setdefault(one.name, [])
            policies.extend([self._policy] * (self._policy not in policies))
            self._tables.append(one)
            for column in one.columns:
                if column.name in shared:
                    self._match_column(database, one.name, column, exact)

    def _exactness(self, name: TableName) -> tuple[bool, bool] | None:
        """Return whether schema and table are named exactly; None when the pattern does not match."""
        for schema, table in self._splits:
            exact = name.schema == schema, name.name == table
            if (exact[0] or fnmatchcase(name.schema, schema)) and (exact[1] or fnmatchcase(name.name, table)):
                return exact
        return None

    def _passes_over(self, database: str, table: Table, *, exact: bool) -> bool:
        if table.foreign and exact:
            text = "is a foreign table: its rows are on another server, and nothing of them is in the image; remove"
            self.findings.append(Finding(f"{text} its rule from the policy {self._policy.name}", database, table.name))
            self._tables.append(table)
            self._used.update(self._rule.columns)
        return table.foreign or (table.extension is not None and not exact)

    def _match_column(
        self,
        database: _Database,
        table: TableName,
        column: Column,
        exact: tuple[bool, bool],
    ) -> None:
        named = column.name in self._rule.columns
        keys = [column.name] if named else [key for key in self._globs if fnmatchcase(column.name, key)]
        self._used.update(keys)
        if column.generated:
            if named:
                self.findings.append(Finding(_computed(column.computed_from), database.name, table, column.name))
            return
        for key in keys:
            place = (self._rule.database == database.name, *exact, named)
            candidate = _Candidate(self._order, place, self._decision(key, named=named))
            database.candidates[Cell(table, column.name)].append(candidate)

    def _decision(self, key: str, *, named: bool) -> Decision:
        rule = f"rule {self._rule.table}" if named else f"rule {self._rule.table}, {key}"
        return Decision(self._rule.columns[key], self._policy.name, self._policy.key, self._rule.when, rule)

    def _unmatched(self) -> Iterator[Finding]:
        where = f"the policy {self._policy.name} has a rule for"
        if not self._databases:
            hint = did_you_mean(self._rule.database or "", [one.name for one in self._all])
            yield Finding(f"{where} the database {self._rule.database}, which the image does not have{_tail(hint)}")
        elif not self._tables:
            yield Finding(f"{where} {self._rule.table}, {self._no_table()}")
        else:
            names = dict.fromkeys(column.name for table in self._tables for column in table.columns)
            for key in self._rule.columns:
                if key not in self._used:
                    hint = did_you_mean(key, names)
                    yield Finding(f"{where} {self._rule.table}, which has no column {key}{_tail(hint)}")

    def _no_table(self) -> str:
        """Say why a pattern matches no table that can be masked."""
        views = [view for one in self._databases for view in one.schema.views if self._exactness(view.name)]
        if views:
            shown = ", ".join(map(str, dict.fromkeys(name for view in views for name in view.tables)))
            what = "materialized view, filled again after masking" if views[0].materialized else "view"
            return f"which is a {what}: tables are masked" + (f"; write rules for {shown}" if shown else "")
        tables = [table for one in self._databases for name, table in one.tables.items() if self._exactness(name)]
        if tables and all(table.foreign for table in tables):
            return "which matches foreign tables only: their rows are on another server; remove the rule"
        if tables:
            return "which matches tables of extensions only: name such a table exactly"
        elsewhere = [one.name for one in self._all if any(map(self._exactness, one.tables))]
        if elsewhere:
            return f"which is in the database {elsewhere[0]} only"
        if self._splits[0].schema in _SYSTEM:
            return "which is the server's own: what it holds of rows and logins is scrubbed without a rule; remove it"
        names = [str(name) for one in self._databases for name in one.tables]
        return f"which matches no table{_tail(did_you_mean(self._rule.table, names))}"


def _splits(table: str) -> tuple[TableName, ...]:
    """Return the ways to read ``schema.table``: names with dots in them have several."""
    parts = table.split(".")
    ways = ((".".join(parts[:dot]), ".".join(parts[dot:])) for dot in range(1, len(parts)))
    return tuple(TableName(schema, name) for schema, name in ways if schema and name)


def _choose(matched: Matched, database: str, cell: Cell, found: Sequence[_Candidate]) -> Iterator[Finding]:
    """Enter the decision about a column; yield the contradiction, if there is one."""
    best = [one for one in found if not any(_more_exact(other.exact, one.exact) for other in found)]
    first = min(one.order for one in best)
    winners = [one.decision for one in best if one.order == first]
    chosen = winners[0]
    matched.rules[cell] = chosen
    for other in winners[1:]:
        if not chosen.same(other):
            text = f"is {chosen} and {other}{difference(chosen, other)}: leave one of them out"
            yield Finding(text, database, cell.table, cell.column)
            return
    if chosen.keeps:
        overruled = [one.decision for one in found if one.order != first and not one.decision.keeps]
        matched.reports.extend(f"{cell} stays as it is: {chosen} overrules {one}" for one in overruled[:1])


def _more_exact(one: tuple[bool, ...], other: tuple[bool, ...]) -> bool:
    return one != other and all(mine >= theirs for mine, theirs in zip(one, other, strict=True))


def difference(one: Decision, other: Decision) -> str:
    """Say what differs, where the names of the methods do not tell."""
    if name_of(one.method) != name_of(other.method):
        return ""
    if one.key != other.key:
        return ", with different keys"
    return ", with different conditions" if one.when != other.when else ", with different options"


def _computed(sources: Sequence[str]) -> str:
    if not sources:
        return "is computed by the database: write no rule for it"
    return f"is computed from {', '.join(sources)}; write rules for what it is computed from, and none for it"


def is_glob(pattern: str) -> bool:
    """Tell whether a pattern can match other names than itself."""
    return any(character in pattern for character in "*?[")


def _tail(hint: str | None) -> str:
    return f"; {hint}" if hint else ""
