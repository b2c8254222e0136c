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

from reconciler.engines import maskers, masking_steps
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
from reconciler.masking.classify.proposal import look_personal
from reconciler.masking.coverage import cover
from reconciler.masking.report import Masked, idle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.engines.base import BuildWork, MaskingWork
    from reconciler.masking.assignment import DatabaseMasking, Keys
    from reconciler.masking.report import Place, Sample, TableCounts
    from reconciler.masking.schema import DatabaseSchema
    from reconciler.state.desired import Policy, Script


def mask_cluster(work: BuildWork, masking: MaskingWork, databases: Sequence[str]) -> Masked:
    """Mask the user databases of a build; the steps in their order, all policies where the first one stands.

    Raises:
        MaskingError: the policies do not fit the schema (before anything is written), or
            the database or a masker refused.
        ScriptError: a script of a step failed.

    """
    build = _Cluster(work, masking, databases)
    with server.connect(work, "template1") as conn:
        names = server.connectable_databases(conn)
    _refuse_reserved(work, names)
    with _builder_reads(work):
        return masking_steps.perform(work, masking, build)


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
        self.databases = databases or ("postgres",)  # where scripts of such an image made what it has
        traces = (keyed.traces(key) for key in masking.keys.values.values())
        self.masked = Masked(traces=frozenset().union(*traces))

    def apply_policies(self, policies: Sequence[Policy]) -> None:
        schemas = self._schemas()
        covers = cover(policies, schemas)
        drawn = [_draw(self._work, covered) for covered in covers]
        every = [sample for samples in drawn for sample in samples]
        for schema, covered, samples in zip(schemas, covers, drawn, strict=True):
            left_out = _left_out(self._work, covered, every)
            told = (*covered.reports, *look_personal(schema, covered))
            done = _mask_database(self._work, replace(covered, reports=told), self._masking.keys, samples)
            cells = covered.kept | ({LARGE_OBJECTS_DATA} if covered.keep_large_objects else frozenset())
            kept = frozenset((covered.database, table, column) for table, column in cells)
            self.masked = self.masked.added(*done, kept=kept, left_out=left_out)

    def run_script(self, script: Script) -> None:
        scripts.run_script(self._work, script, databases=self.databases)

    def run_masker(self, name: str) -> None:
        """Run a masker once per database as the builder, over the private socket."""
        for database in self.databases:
            environment = server.socket_environment(self._work, database, server.BUILDER)
            maskers.run(self._work, name, self._masking.maskers[name], database, environment)

    def draw(self, by: str) -> tuple[Sample, ...]:
        drawn: list[Sample] = []
        for database in self.databases:
            with server.connect(self._work, database) as conn:
                schema = read_schema(conn, database)
            with server.connect(self._work, database, role=server.BUILDER) as conn:
                drawn += unruled.draw(conn, schema, by)
        return tuple(drawn)

    def gone(self, drawn: Sequence[Sample]) -> tuple[Sample, ...]:
        gone: list[Sample] = []
        for database in self.databases:
            with server.connect(self._work, database, role=server.BUILDER) as conn:
                gone += unruled.gone(conn, [one for one in drawn if one.database == database])
        return tuple(gone)

    def _schemas(self) -> list[DatabaseSchema]:
        """Return what policies decide about: with the maintenance databases, if somebody keeps rows in them."""
        with server.connect(self._work, "template1") as conn:
            names = server.connectable_databases(conn)
        found = []
        for database in (*self.databases, *(name for name in names if name not in self.databases)):
            with server.connect(self._work, database) as conn:
                schema = read_schema(conn, database)
            rows = schema.large_objects or any(table.extension is None for table in schema.tables)
            if database in self.databases or rows:
                found.append(schema)
        return found


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
    reports += idle(counts)
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
