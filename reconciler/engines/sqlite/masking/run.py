"""Masking of one build, from the first look at its tables to what has to be proved of it.

Called by the session. It puts the other modules in their order; decisions are made by
:mod:`reconciler.masking.coverage`, values by :mod:`.functions`, rows by :mod:`.rewrite`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.engines import maskers
from reconciler.engines.sqlite import scripts, sealing
from reconciler.engines.sqlite.databases import connect, databases_in, file_of
from reconciler.engines.sqlite.masking import rewrite, sample, unruled, virtual
from reconciler.engines.sqlite.masking.introspect import read_schema
from reconciler.masking import keyed
from reconciler.masking.classify.proposal import personal_by_name
from reconciler.masking.coverage import cover
from reconciler.masking.report import Masked
from reconciler.state.desired import MaskerRef, Policy, Script

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from reconciler.engines.base import BuildWork, MaskingWork
    from reconciler.masking.assignment import DatabaseMasking
    from reconciler.masking.report import Sample, TableCounts
    from reconciler.masking.schema import DatabaseSchema

_ASIDE = "aside.db"
"""Beside the databases, and gone before anything looks at the build's files."""


def mask_databases(work: BuildWork, masking: MaskingWork) -> Masked:
    """Mask the databases of a build; the steps in their order, all policies where the first one stands.

    Raises:
        MaskingError: the policies do not fit the schema (before anything is written), or
            a database or a masker refused.
        ScriptError: a script of a step failed.

    """
    done = _Build(work, masking)
    for step in masking.steps:
        work.cancel.check()
        done.perform(step)
    return done.masked


class _Build:
    """A build while it is masked."""

    def __init__(self, work: BuildWork, masking: MaskingWork) -> None:
        self._work, self._masking = work, masking
        self._databases = databases_in(work.directory)
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
                        scripts.run_script(self._work, replace(step, database=database))
            case MaskerRef(name=name):
                with self._watched(name):
                    self._run_masker(name)
            case _:
                pass  # a policy that was taken together with the first one

    def _connect(self, database: str) -> AbstractContextManager[sqlite3.Connection]:
        return connect(file_of(self._work.directory, database), cancel=self._work.cancel)

    @contextmanager
    def _watched(self, by: str) -> Iterator[None]:
        """Draw before a step that only its author knows, and keep what it took away from its column."""
        drawn: dict[str, tuple[Sample, ...]] = {}
        for database in self._databases:
            with self._connect(database) as conn:
                drawn[database] = unruled.draw(conn, read_schema(conn, database), by)
        yield
        gone: list[Sample] = []
        for database, samples in drawn.items():
            with self._connect(database) as conn:
                gone += unruled.gone(conn, samples)
        idle = not gone and any(drawn.values())
        self._add((), tuple(gone), (f"{by} took away no text that was drawn before it",) if idle else ())

    def _apply_policies(self) -> None:
        policies = [step for step in self._masking.steps if isinstance(step, Policy)]
        covers = cover(policies, schemas := [self._schema(database) for database in self._databases])
        drawn = [self._draw(covered) for covered in covers]
        every = [one for samples in drawn for one in samples]
        for schema, covered, samples in zip(schemas, covers, drawn, strict=True):
            with self._connect(covered.database) as conn:
                left_out = sample.left_out(conn, covered, every)
            self._mask(covered, samples, (*covered.reports, *_look_personal(schema, covered)))
            kept = frozenset((covered.database, table, column) for table, column in covered.kept)
            known = self.masked
            self.masked = replace(known, kept=known.kept | kept, left_out={**known.left_out, **left_out})

    def _schema(self, database: str) -> DatabaseSchema:
        with self._connect(database) as conn:
            virtual.refuse_unreadable(conn, database, virtual.virtual_tables(conn))
            return read_schema(conn, database)

    def _draw(self, masking: DatabaseMasking) -> tuple[Sample, ...]:
        self._work.progress(f"drawing originals of {masking.database}")
        with self._connect(masking.database) as conn:
            return sample.draw(conn, masking)

    def _mask(self, masking: DatabaseMasking, samples: tuple[Sample, ...], reports: tuple[str, ...]) -> None:
        with self._connect(masking.database) as conn:
            sealing.note_mode(self._work, masking.database, conn)
            conn.execute("PRAGMA journal_mode = OFF").fetchone()  # a build that fails is thrown away
            conn.execute("PRAGMA synchronous = OFF")
            aside = self._work.directory / _ASIDE
            counts = rewrite.mask_database(self._work, conn, masking, self._masking.keys, aside)
            samples = sample.with_controls(conn, masking, samples)
            conn.execute("PRAGMA journal_mode = DELETE").fetchone()
        self._add(counts, samples, (*reports, *_idle(counts)))

    def _run_masker(self, name: str) -> None:
        masker = self._masking.maskers[name]
        for database in self._databases:
            environment = {"SQLITE_DATABASE": str(file_of(self._work.directory, database))}
            maskers.run(self._work, name, masker, database, environment)

    def _add(self, counts: tuple[TableCounts, ...], samples: tuple[Sample, ...], reports: tuple[str, ...]) -> None:
        known = self.masked
        self.masked = replace(
            known,
            tables=(*known.tables, *counts),
            samples=(*known.samples, *samples),
            reports=(*known.reports, *reports),
        )


def _look_personal(schema: DatabaseSchema, masking: DatabaseMasking) -> tuple[str, ...]:
    names = personal_by_name(schema, masking)
    return (f"{masking.database}: not masked, though the names look personal: {', '.join(names)}",) if names else ()


def _idle(counts: Sequence[TableCounts]) -> Iterator[str]:
    """Yield the rules whose condition took no row of a table that has some."""
    for table in counts:
        for column in table.columns:
            if column.rows and not column.selected:
                yield f"{table.database}: the condition of the rule for {table.table}.{column.column} takes no row"
