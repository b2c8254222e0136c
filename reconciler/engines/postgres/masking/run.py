"""Masking of one build, from the first look at its tables to what has to be proved of it.

Called by the session. It puts the other modules in their order; decisions are made by
:mod:`reconciler.masking.coverage`, values by :mod:`.expressions`, rows by :mod:`.stage`.
What calls functions of users or expressions of policies runs as the builder, without
superuser rights.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines import maskers
from reconciler.engines.postgres import scripts, server
from reconciler.engines.postgres.masking import (
    conditions,
    expressions,
    orphans,
    query,
    sample,
    sequences,
    stage,
    unruled,
    written,
)
from reconciler.engines.postgres.masking.introspect import read_schema
from reconciler.engines.postgres.masking.streams import LARGE_OBJECTS_DATA
from reconciler.errors import MaskingError
from reconciler.masking import keyed
from reconciler.masking.classify.proposal import personal_by_name
from reconciler.masking.coverage import cover
from reconciler.masking.report import Masked
from reconciler.state.desired import MaskerRef, Policy, Script

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.engines.base import BuildWork, MaskingWork
    from reconciler.masking.assignment import DatabaseMasking, Keys
    from reconciler.masking.report import Place, Sample, TableCounts
    from reconciler.masking.schema import DatabaseSchema


def mask_cluster(work: BuildWork, masking: MaskingWork, databases: Sequence[str]) -> Masked:
    """Mask the user databases of a build; the steps in their order, all policies where the first one stands.

    Raises:
        MaskingError: the policies do not fit the schema (before anything is written), or
            the database or a masker refused.
        ScriptError: a script of a step failed.

    """
    done = _Cluster(work, masking, databases)
    with server.connect(work, "template1") as conn:
        names = server.connectable_databases(conn)
    _refuse_reserved(work, names)
    with _builder_reads(work):
        for step in masking.steps:
            work.cancel.check()
            done.perform(step)
    return done.masked


def scrub_cluster(work: BuildWork) -> None:
    """Rewrite what scripts and maskers wrote, and remove files that belong to nothing; after the last of them.

    Raises:
        UnavailableError: a session that wrote does not end.

    """
    with server.connect(work, "template1") as conn:
        names = server.connectable_databases(conn)
    for database in names:
        with server.connect(work, database) as conn:
            written.scrub_written(work, conn)
    orphans.remove_orphans(work)


class _Cluster:
    """A build while it is masked."""

    def __init__(self, work: BuildWork, masking: MaskingWork, databases: Sequence[str]) -> None:
        self._work = work
        self._masking = masking
        self._databases = databases or ("postgres",)  # where scripts of such an image made what it has
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
                        scripts.run_script(self._work, replace(step, database=database), databases=self._databases)
            case MaskerRef(name=name):
                with self._watched(name):
                    self._run_masker(name)
            case _:
                pass  # a policy that was taken together with the first one

    def _run_masker(self, name: str) -> None:
        """Run a masker once per database as the builder, over the private socket."""
        for database in self._databases:
            environment = server.socket_environment(self._work, database, server.BUILDER)
            maskers.run(self._work, name, self._masking.maskers[name], database, environment)

    @contextmanager
    def _watched(self, by: str) -> Iterator[None]:
        """Draw before a step that only its author knows, and keep what it took away from its column."""
        drawn: dict[str, tuple[Sample, ...]] = {}
        for database in self._databases:
            with server.connect(self._work, database) as conn:
                schema = read_schema(conn, database)
            with server.connect(self._work, database, role=server.BUILDER) as conn:
                drawn[database] = unruled.draw(conn, schema, by)
        yield
        gone: list[Sample] = []
        for database, samples in drawn.items():
            with server.connect(self._work, database, role=server.BUILDER) as conn:
                gone += unruled.gone(conn, samples)
        idle = not gone and any(drawn.values())
        self._add((), tuple(gone), (f"{by} took away no text that was drawn before it",) if idle else ())

    def _apply_policies(self) -> None:
        policies = [step for step in self._masking.steps if isinstance(step, Policy)]
        schemas = self._schemas()
        covers = cover(policies, schemas)
        drawn = [_draw(self._work, covered) for covered in covers]
        every = [sample for samples in drawn for sample in samples]
        for schema, covered, samples in zip(schemas, covers, drawn, strict=True):
            left_out = _left_out(self._work, covered, every)
            told = (*covered.reports, *_look_personal(schema, covered))
            self._add(*_mask_database(self._work, replace(covered, reports=told), self._masking.keys, samples))
            cells = covered.kept | ({LARGE_OBJECTS_DATA} if covered.keep_large_objects else frozenset())
            kept = frozenset((covered.database, table, column) for table, column in cells)
            known = self.masked
            self.masked = replace(known, kept=known.kept | kept, left_out={**known.left_out, **left_out})

    def _schemas(self) -> list[DatabaseSchema]:
        """Return what policies decide about: with the maintenance databases, if somebody keeps rows in them."""
        with server.connect(self._work, "template1") as conn:
            names = server.connectable_databases(conn)
        found = []
        for database in (*self._databases, *(name for name in names if name not in self._databases)):
            with server.connect(self._work, database) as conn:
                schema = read_schema(conn, database)
            rows = schema.large_objects or any(table.extension is None for table in schema.tables)
            if database in self._databases or rows:
                found.append(schema)
        return found

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


def _draw(work: BuildWork, masking: DatabaseMasking) -> tuple[Sample, ...]:
    work.progress(f"drawing originals of {masking.database}")
    with server.connect(work, masking.database, role=server.BUILDER) as conn:
        return sample.draw(conn, masking)


def _left_out(work: BuildWork, masking: DatabaseMasking, samples: Sequence[Sample]) -> dict[Place, frozenset[str]]:
    """Return which originals stay in rows that rules do not select; of any database, as they are known by now."""
    if not any(column.when for table in masking.tables for column in table.columns):
        return {}
    work.progress(f"reading rows of {masking.database} that rules do not select")
    with server.connect(work, masking.database, role=server.BUILDER) as conn:
        return conditions.left_out(conn, masking, samples)


def _mask_database(
    work: BuildWork, masking: DatabaseMasking, keys: Keys, samples: tuple[Sample, ...]
) -> tuple[tuple[TableCounts, ...], tuple[Sample, ...], tuple[str, ...]]:
    """Return what was done in one database, what to look for afterwards, and what is worth telling."""
    reports = list(masking.reports)
    with server.connect(work, masking.database) as conn:
        expressions.install(conn, keys, masking)
    counts = stage.mask_database(
        work,
        masking,
        expressions.express,
        lambda conn: expressions.open_keys(conn, keys, masking),
        report=reports.append,
    )
    reports += _idle(counts)
    with server.connect(work, masking.database) as conn:
        expressions.remove(conn)
        sequences.catch_up(conn, masking)
    with server.connect(work, masking.database, role=server.BUILDER) as conn:
        samples = sample.with_controls(conn, masking, samples)
    return counts, samples, tuple(reports)


def _refuse_reserved(work: BuildWork, names: Sequence[str]) -> None:
    """Refuse sources with a schema of our name, before anything is made in it or read without it."""
    for name in names:
        with server.connect(work, name) as conn:
            if conn.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [query.SCHEMA]).fetchone() is not None:
                raise MaskingError(
                    f"database {name} has a schema {query.SCHEMA}, a name that masking needs for its own",
                    hint=f"ALTER SCHEMA {query.SCHEMA} RENAME TO … in a script that runs before masking",
                    reason="MaskingUncovered",
                )


@contextmanager
def _builder_reads(work: BuildWork) -> Iterator[None]:
    """Let the builder read every table meanwhile, also those of superusers."""
    builder = sql.Identifier(server.BUILDER)
    with server.connect(work, "template1") as conn:
        conn.execute(sql.SQL("GRANT pg_read_all_data TO {}").format(builder))
    yield
    with server.connect(work, "template1") as conn:
        conn.execute(sql.SQL("REVOKE pg_read_all_data FROM {}").format(builder))
