"""Masking of one build, from the first look at its tables to what has to be proved of it.

Called by the session. It puts the other modules in their order; decisions are made by
:mod:`reconciler.masking.coverage`, values by :mod:`.functions`, rows by :mod:`.rewrite`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines import maskers, masking_steps
from reconciler.engines.sqlite import scripts, sealing
from reconciler.engines.sqlite.databases import connect, databases_in, file_of
from reconciler.engines.sqlite.masking import rewrite, sample, unruled, virtual
from reconciler.engines.sqlite.masking.introspect import read_schema
from reconciler.masking import keyed
from reconciler.masking.classify.proposal import look_personal
from reconciler.masking.coverage import cover
from reconciler.masking.report import Masked, idle

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from reconciler.engines.base import BuildWork, MaskingWork
    from reconciler.masking.assignment import DatabaseMasking
    from reconciler.masking.report import Sample
    from reconciler.masking.schema import DatabaseSchema
    from reconciler.state.desired import Policy, Script

_ASIDE = "aside.db"
"""Beside the databases, and gone before anything looks at the build's files."""


def mask_databases(work: BuildWork, masking: MaskingWork) -> Masked:
    """Mask the databases of a build; the steps in their order, all policies where the first one stands.

    Raises:
        MaskingError: the policies do not fit the schema (before anything is written), or
            a database or a masker refused.
        ScriptError: a script of a step failed.

    """
    return masking_steps.perform(work, masking, _Build(work, masking))


class _Build:
    """A build while it is masked."""

    def __init__(self, work: BuildWork, masking: MaskingWork) -> None:
        self._work, self._masking = work, masking
        self.databases = databases_in(work.directory)
        traces = (keyed.traces(key) for key in masking.keys.values.values())
        self.masked = Masked(traces=frozenset().union(*traces))

    def apply_policies(self, policies: Sequence[Policy]) -> None:
        covers = cover(policies, schemas := [self._schema(database) for database in self.databases])
        drawn = [self._draw(covered) for covered in covers]
        every = [one for samples in drawn for one in samples]
        for schema, covered, samples in zip(schemas, covers, drawn, strict=True):
            with self._connect(covered.database) as conn:
                left_out = sample.left_out(conn, covered, every)
            self._mask(covered, samples, (*covered.reports, *look_personal(schema, covered)))
            kept = frozenset((covered.database, table, column) for table, column in covered.kept)
            self.masked = self.masked.added(kept=kept, left_out=left_out)

    def run_script(self, script: Script) -> None:
        scripts.run_script(self._work, script)

    def run_masker(self, name: str) -> None:
        masker = self._masking.maskers[name]
        for database in self.databases:
            environment = {"SQLITE_DATABASE": str(file_of(self._work.directory, database))}
            maskers.run(self._work, name, masker, database, environment)

    def draw(self, by: str) -> tuple[Sample, ...]:
        drawn: list[Sample] = []
        for database in self.databases:
            with self._connect(database) as conn:
                drawn += unruled.draw(conn, read_schema(conn, database), by)
        return tuple(drawn)

    def gone(self, drawn: Sequence[Sample]) -> tuple[Sample, ...]:
        gone: list[Sample] = []
        for database in self.databases:
            with self._connect(database) as conn:
                gone += unruled.gone(conn, [one for one in drawn if one.database == database])
        return tuple(gone)

    def _connect(self, database: str) -> AbstractContextManager[sqlite3.Connection]:
        return connect(file_of(self._work.directory, database), cancel=self._work.cancel)

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
        self.masked = self.masked.added(counts, samples, (*reports, *idle(counts)))
