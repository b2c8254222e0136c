"""From policies and the real schema to what happens to every column, or one error that says everything.

Called by an engine's session, with what its introspection read, before the first write.
It reads no rows and changes nothing. In order: rules are matched with tables and columns
(:mod:`.matching`), keys are masked alike (:mod:`.references`), unique columns stay unique
(:mod:`.uniqueness`), each method has to fit its column (:mod:`.vocabulary`), and what is
left open is treated as ``unclassified`` and ``unlisted`` say; of several policies the
strictest (``fail``, ``report``, ``keep``) decides.

A table is listed if a rule's pattern matches it, whatever columns the rule has: a table
that appears under ``public.*`` tomorrow is not let through because it has none of them.
Tables that belong to an extension (``spatial_ref_sys``) are left as they are and
reported, unless a rule names them exactly; foreign tables hold no rows here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, TableMasking
from reconciler.masking.matching import Cell, Decision, Matched, match
from reconciler.masking.mismatches import Finding, Gap, uncovered
from reconciler.masking.references import decide, declared_links
from reconciler.masking.uniqueness import unique_cells
from reconciler.masking.vocabulary import why_not
from reconciler.spec.masking_policy import Fake, Json, Noise, ShiftDays, Shuffle
from reconciler.spec.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.masking.references import Link
    from reconciler.masking.schema import Column, DatabaseSchema, Table, TableName
    from reconciler.spec.masking_policy import Column as Method
    from reconciler.state.desired import Policy

_LEVELS = ("keep", "report", "fail")
_PROPOSALS: tuple[tuple[str, Method], ...] = (
    ("email", "email"),
    ("hash", "hash"),
    ("{fake: first_name}", Fake.model_validate({"fake": "first_name"})),
    ("preserve", "preserve"),
    ("{shift_days: 180}", ShiftDays.model_validate({"shift_days": 180})),
    ("{noise: 10%}", Noise.model_validate({"noise": "10%"})),
    ("shuffle", "shuffle"),
    ('"null"', "null"),
)
"""Methods that are proposed where they fit, as they are written."""
_PROPOSED = 3


def cover(policies: Sequence[Policy], schemas: Sequence[DatabaseSchema]) -> tuple[DatabaseMasking, ...]:
    """Return what is masked in each database, in the order of ``schemas``.

    Raises:
        MaskingError: a rule names what is not there, contradicts another or does not fit;
            a column or a table is not decided about. All of it at once, with what to write.

    """
    matched, findings = match(policies, schemas)
    links, nowhere = declared_links(policies, schemas)
    covers = [_Cover(policies, schema, matched[schema.database], links[schema.database]) for schema in schemas]
    found = [*findings, *nowhere, *(finding for one in covers for finding in one.findings())]
    gaps = [gap for one in covers for gap in one.gaps()]
    if found or gaps:
        raise uncovered(found, gaps, schemas)
    return tuple(one.masking() for one in covers)


class _Level(NamedTuple):
    """What happens to columns of a table that nothing decides about."""

    level: str
    why: str
    """``unclassified`` or ``unlisted``."""
    policy: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """A column that is masked; ``column`` is levelled with the others of its key."""

    cell: Cell
    column: Column
    decision: Decision
    unique: bool
    named: bool


class _Cover:
    """One database."""

    def __init__(
        self, policies: Sequence[Policy], schema: DatabaseSchema, matched: Matched, links: Sequence[Link]
    ) -> None:
        self._policies, self._schema, self._matched = policies, schema, matched
        self._tables = {table.name: table for table in schema.tables}
        self._columns = {Cell(table.name, one.name): one for table in schema.tables for one in table.columns}
        self._decisions, self._key_findings = decide(schema, matched.rules, links)
        self._unique, self._unique_findings = unique_cells(schema, self._decisions)
        self._open = {table.name: self._undecided(table) for table in schema.tables}

    def _undecided(self, table: Table) -> tuple[Column, ...]:
        if table.foreign:
            return ()
        of = self._decisions.of
        return tuple(one for one in table.columns if not one.generated and Cell(table.name, one.name) not in of)

    def findings(self) -> Iterator[Finding]:
        yield from self._key_findings
        yield from self._unique_findings
        yield from self._misfits()
        objects = self._schema.large_objects
        if objects and self._large_objects() is None and self._unlisted().level == "fail":
            text = f"has {objects} large objects, which no policy decides about (unlisted: fail)"
            instead = "write largeObjects: remove, or largeObjects: keep,"
            yield Finding(f"{text}; {instead} in the policy {self._unlisted().policy}", self._schema.database)

    def _misfits(self) -> Iterator[Finding]:
        """Yield methods that do not fit their columns; of a key, once where a rule says so."""
        said = set()
        for entry in sorted(self._entries(), key=lambda one: not one.named):
            key = self._decisions.keys.get(entry.cell)
            lead = entry.cell if key is None else key.lead
            for text in self._objections(entry):
                if (lead, text) not in said:
                    said.add((lead, text))
                    yield Finding(text + self._why_here(entry), self._schema.database, *entry.cell)

    def _objections(self, entry: _Entry) -> Iterator[str]:
        column = replace(entry.column, partition_key=False)  # rows move to the partition of their new value
        reason = why_not(entry.decision.method, column, unique=entry.unique)
        if reason is not None:
            yield reason
        names = [one.name for one in self._tables[entry.cell.table].columns]
        for option, name in _named_columns(entry.decision.method):
            if name not in names:
                hint = did_you_mean(name, names)
                yield f"has {option}: {name}, but there is no such column{f'; {hint}' if hint else ''}"

    def _why_here(self, entry: _Entry) -> str:
        """Say where a method or a length comes from, if not from the column itself."""
        origin, key = self._decisions.origins.get(entry.cell), self._decisions.keys.get(entry.cell)
        if origin is not None:
            return f" (it is masked as {origin}, which it is linked with)"
        if key is None or self._columns[entry.cell].length == key.length:
            return ""
        shortest = next(cell for cell in key.cells if self._columns[cell].length == key.length)
        return f" (with {shortest}, which it is linked with: of both, the shorter length counts)"

    def _entries(self) -> Iterator[_Entry]:
        for table in self._schema.tables:
            if table.foreign:
                continue
            for column in table.columns:
                cell = Cell(table.name, column.name)
                decision = self._decisions.of.get(cell)
                if decision is None or decision.keeps or column.generated:
                    continue
                unique, named = cell in self._unique, cell not in self._decisions.origins
                yield _Entry(cell, self._levelled(cell, column), decision, unique, named)

    def _levelled(self, cell: Cell, column: Column) -> Column:
        key = self._decisions.keys.get(cell)
        return column if key is None else replace(column, length=key.length, folds_case=key.folds_case)

    def _level(self, table: Table) -> _Level:
        listing = self._matched.listed.get(table.name)
        if listing is None:
            level = self._unlisted()
            return level._replace(level="report") if table.extension and level.level == "fail" else level
        strictest = max(listing, key=lambda policy: _LEVELS.index(policy.spec.unclassified))
        return _Level(strictest.spec.unclassified, "unclassified", strictest.name)

    def _unlisted(self) -> _Level:
        if not self._policies:
            return _Level("keep", "unlisted", "")
        strictest = max(self._policies, key=lambda policy: _LEVELS.index(policy.spec.unlisted))
        return _Level(strictest.spec.unlisted, "unlisted", strictest.name)

    def _left(self, level: str) -> Iterator[tuple[Table, _Level, tuple[Column, ...]]]:
        """Yield tables with what is open in them under that level, save for what is open in a parent as well."""
        for table in self._schema.tables:
            mine = self._level(table)
            if mine.level != level:
                continue
            parents = [self._tables[name] for name in table.parents if name in self._tables]
            above = {
                one.name for parent in parents if self._level(parent).level == level for one in self._open[parent.name]
            }
            columns = tuple(one for one in self._open[table.name] if one.name not in above)
            if columns:
                yield table, mine, columns

    def gaps(self) -> Iterator[Gap]:
        for table, mine, columns in self._left("fail"):
            fitting = tuple((column.name, _fitting(table, column)) for column in columns)
            yield Gap(self._schema.database, table.name, fitting, mine.policy, mine.why)

    def masking(self) -> DatabaseMasking:
        by_table: dict[TableName, list[ColumnMasking]] = {}
        for entry in self._entries():
            by_table.setdefault(entry.cell.table, []).append(self._column(entry))
        tables = [table for table in self._schema.tables if table.has_rows and table.name in by_table]
        return DatabaseMasking(
            database=self._schema.database,
            tables=tuple(TableMasking(table, tuple(by_table[table.name])) for table in tables),
            kept=frozenset(
                (cell.table, cell.column) for cell, decision in self._decisions.of.items() if decision.keeps
            ),
            remove_large_objects=bool(self._schema.large_objects) and self._large_objects() == "remove",
            keep_large_objects=self._large_objects() == "keep",
            reports=tuple(f"{self._schema.database}: {text}" for text in self._reports()),
        )

    def _column(self, entry: _Entry) -> ColumnMasking:
        origin = self._decisions.origins.get(entry.cell)
        return ColumnMasking(
            column=entry.column,
            method=entry.decision.method,
            policy=entry.decision.policy,
            key=entry.decision.key,
            when=entry.decision.when,
            unique=entry.unique,
            inherited_from=None if origin is None else str(origin),
        )

    def _reports(self) -> Iterator[str]:
        yield from self._matched.reports
        left = list(self._left("report"))
        for table, mine, columns in left:
            if mine.why == "unclassified":
                yield f"no rule names {', '.join(f'{table.name}.{column.name}' for column in columns)}"
        unlisted = [table for table, mine, _ in left if mine.why == "unlisted"]
        if unlisted:
            names = [f"{one.name} (of {one.extension})" if one.extension else str(one.name) for one in unlisted]
            yield f"no rule matches {', '.join(names)}"
        objects = self._schema.large_objects
        if objects and self._large_objects() is None and self._unlisted().level == "report":
            yield f"{objects} large objects stay as they are: no policy decides about them"

    def _large_objects(self) -> str | None:
        """Return what the first policy that speaks of them says."""
        return next((one.spec.large_objects for one in self._policies if one.spec.large_objects is not None), None)


def _named_columns(method: Method) -> Iterator[tuple[str, str]]:
    """Yield the columns that a method reads besides its own, with the option that names them."""
    by = getattr(method, "by", None)
    if by is not None:
        yield "by", by
    yield from (("names", name) for name in getattr(method, "names", ()))
    if isinstance(method, Shuffle):
        yield "within", method.shuffle.within
    if isinstance(method, Json):
        for inner in method.json_.values():
            yield from _named_columns(inner)


def _fitting(table: Table, column: Column) -> tuple[str, ...]:
    sets = [one for one in table.unique if column.name in one]
    movable = replace(column, partition_key=False)
    fits = (
        text
        for text, method in _PROPOSALS
        if why_not(method, movable, unique=bool(sets)) is None
        and not (method == "shuffle" and any(len(one) > 1 for one in sets))
    )
    return tuple(islice(fits, _PROPOSED))
