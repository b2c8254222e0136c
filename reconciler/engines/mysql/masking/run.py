"""Masking of one build, from the first look at its tables to what has to be proved of it.

Called by the session. It puts the other modules in their order; decisions are made by
:mod:`reconciler.masking.coverage`, values by :mod:`.expressions` and :mod:`.computed`, rows
by :mod:`.rewrite`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.engines.mysql import scripts, server
from reconciler.engines.mysql.masking import external, keys, rewrite, sample, unruled
from reconciler.engines.mysql.masking.introspect import read_schema
from reconciler.errors import MaskingError
from reconciler.masking import keyed
from reconciler.masking.classify.proposal import personal_by_name
from reconciler.masking.coverage import cover
from reconciler.masking.report import Masked
from reconciler.state.desired import MaskerRef, Policy, Script

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.engines.base import BuildWork, MaskingWork
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.product import Product
    from reconciler.masking.assignment import DatabaseMasking
    from reconciler.masking.report import Sample, TableCounts
    from reconciler.masking.schema import DatabaseSchema


def mask_server(work: BuildWork, product: Product, masking: MaskingWork) -> Masked:
    """Mask the databases of a build; the steps in their order, all policies where the first one stands.

    Raises:
        MaskingError: the policies do not fit the schema (before anything is written), or
            the server or a masker refused.
        ScriptError: a script of a step failed.

    """
    done = _Build(work, product, masking)
    for step in masking.steps:
        work.cancel.check()
        done.perform(step)
    return done.masked


class _Build:
    """A build while it is masked."""

    def __init__(self, work: BuildWork, product: Product, masking: MaskingWork) -> None:
        self._work, self._product, self._masking = work, product, masking
        with server.connect(work) as admin:
            self._databases = server.user_databases(admin)
        if keys.SCHEMA in self._databases:
            raise MaskingError(
                f"there is a database {keys.SCHEMA}, a name that masking needs for its own",
                hint=f"move its tables, and DROP DATABASE {keys.SCHEMA}, in a script that runs before masking",
                reason="MaskingUncovered",
            )
        self._covered = False
        traces = (keyed.traces(key) for key in masking.keys.values.values())
        self.masked = Masked(traces=frozenset().union(*traces))

    def perform(self, step: Policy | MaskerRef | Script) -> None:
        match step:
            case Policy() if not self._covered:
                self._covered = True
                self._apply_policies()
            case Script():
                self._work.progress(f"running {step.origin}")
                named = [step.database] if step.database is not None else list(self._databases)
                with self._watched(step.origin):
                    for database in named:
                        scripts.run_script(self._work, self._product, replace(step, database=database))
            case MaskerRef(name=name):
                with self._watched(name):
                    known = self._masking.maskers[name]
                    external.run_masker(self._work, self._product, name, known, self._databases)
            case _:
                pass  # a policy that was taken together with the first one

    def _schemas(self) -> list[DatabaseSchema]:
        with server.connect(self._work) as admin:
            return [read_schema(admin, database) for database in self._databases]

    @contextmanager
    def _watched(self, by: str) -> Iterator[None]:
        """Draw before a step that only its author knows, and keep what it took away from its column."""
        with keys.connected(self._work) as link:
            drawn = [unruled.draw(link, schema, by) for schema in self._schemas()]
        yield
        with keys.connected(self._work) as link:
            gone = [one for samples in drawn for one in unruled.gone(link, samples)]
        idle = not gone and any(drawn)
        self._add((), tuple(gone), (f"{by} took away no text that was drawn before it",) if idle else ())

    def _apply_policies(self) -> None:
        policies = [step for step in self._masking.steps if isinstance(step, Policy)]
        covers = cover(policies, schemas := self._schemas())
        with keys.as_owner(self._work, self._product) as owner:
            drawn = [self._draw(owner, covered) for covered in covers]
            every = [one for samples in drawn for one in samples]
            left_out = {}
            for covered in covers:
                left_out.update(sample.left_out(owner, covered, every))
        counts = rewrite.mask_databases(self._work, self._product, covers, self._masking.keys)
        with keys.connected(self._work) as link:
            for covered in covers:
                every = list(sample.with_controls(link, covered, every))
        told = [text for pair in zip(schemas, covers, strict=True) for text in _told(*pair)]
        self._add(counts, tuple(every), (*told, *_idle(counts)))
        kept = frozenset((one.database, table, column) for one in covers for table, column in one.kept)
        known = self.masked
        self.masked = replace(known, kept=known.kept | kept, left_out={**known.left_out, **left_out})

    def _draw(self, owner: Link, masking: DatabaseMasking) -> tuple[Sample, ...]:
        self._work.progress(f"drawing originals of {masking.database}")
        return sample.draw(owner, masking)

    def _add(self, counts: tuple[TableCounts, ...], samples: tuple[Sample, ...], reports: tuple[str, ...]) -> None:
        known = self.masked
        self.masked = replace(
            known,
            tables=(*known.tables, *counts),
            samples=(*known.samples, *samples),
            reports=(*known.reports, *reports),
        )


def _told(schema: DatabaseSchema, masking: DatabaseMasking) -> Iterator[str]:
    yield from masking.reports
    names = personal_by_name(schema, masking)
    if names:
        yield f"{masking.database}: not masked, though the names look personal: {', '.join(names)}"


def _idle(counts: Sequence[TableCounts]) -> Iterator[str]:
    """Yield the rules whose condition took no row of a table that has some."""
    for table in counts:
        for column in table.columns:
            if column.rows and not column.selected:
                yield f"{table.database}: the condition of the rule for {table.table}.{column.column} takes no row"
