"""Rewriting the tables of a database so that nothing original stays, and everything around them stays as it was.

Called by :mod:`.run` for each database, on a private build server (fsync off, wal_level
minimal, nobody else connected) whose failed builds are thrown away: nothing here can be
resumed. Per table: masked rows beside it (:mod:`.beside`), exchanged with its own
(:mod:`.rewrite`); then all indexes, foreign keys, materialised views. The figures that
led to this are in docs/decisions/0011. It makes no rule and computes no value.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking import (
    beside,
    constraints,
    indexes,
    keys,
    partitions,
    query,
    rewrite,
    shape,
    views,
    written,
)
from reconciler.engines.postgres.masking.lanes import Lane, Lanes, Piece
from reconciler.engines.postgres.masking.refusals import building, refused
from reconciler.masking.assignment import TableMasking
from reconciler.masking.report import ColumnCounts, TableCounts
from reconciler.masking.schema import Table
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import psycopg

    from reconciler.engines.base import BuildWork
    from reconciler.masking.assignment import DatabaseMasking
    from reconciler.masking.schema import TableName

_FORGET = ("VACUUM (FULL, FREEZE) pg_catalog.pg_rewrite", "VACUUM (FULL, FREEZE) pg_catalog.pg_attribute")
"""Dead rows that quote values: staged rows were views with conditions, and columns had values for rows without any."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Tables that are rewritten together: one, or all partitions of a tree whose rows move."""

    root: int | None
    tables: tuple[tuple[shape.Relation, TableMasking], ...]

    @property
    def name(self) -> str:
        return str(self.tables[0][1].name)

    @property
    def bytes(self) -> int:
        return sum(relation.bytes for relation, _ in self.tables)

    @property
    def rows(self) -> int:
        return sum(relation.rows for relation, _ in self.tables)


def mask_database(
    work: BuildWork,
    masking: DatabaseMasking,
    express: query.Express,
    open_keys: Callable[[psycopg.Connection], None],
    *,
    report: Callable[[str], None] = lambda _text: None,
) -> tuple[TableCounts, ...]:
    """Mask all tables of a database; return the proof per table, in the order given.

    The builder can read every table meanwhile (pg_read_all_data). ``express`` gives the
    SQL of a column, ``open_keys`` is called on every connection that computes it and on
    no other, ``report`` gets what is worth telling beside the counts. The schema of
    ``express``'s functions exists.

    Raises:
        MaskingError: the schema is not as the policy was made for, or the database refuses a value.
        UnavailableError: the server cannot go on.
        CancelledError: the work became pointless.

    """
    return _Masking(work, masking, express, open_keys, report).run()


class _Masking:
    """One database while it is masked."""

    def __init__(
        self,
        work: BuildWork,
        masking: DatabaseMasking,
        express: query.Express,
        open_keys: Callable[[psycopg.Connection], None],
        report: Callable[[str], None],
    ) -> None:
        self._work = work
        self._masking = masking
        self._computing = beside.Computing(masking.database, express)
        self._report = report
        self._where = f"database {masking.database}"
        self._counts: dict[int, TableCounts] = {}
        self._lanes = Lanes(work, masking.database, keys.open_session, open_keys)

    def run(self) -> tuple[TableCounts, ...]:
        with server.connect(self._work, self._masking.database) as conn, refused(self._where):
            oids = shape.find(conn, [table.name for table in self._masking.tables])
            jobs = _jobs(conn, oids, self._masking)
            relations = {relation.oid: relation for job in jobs for relation, _ in job.tables}
            if jobs:
                with _quiet(conn):
                    self._rewrite(conn, jobs)
                    reports, computed = views.refresh_all(conn, relations)
                written.begin_anew(conn, {*relations, *computed})
                for text in reports:
                    self._report(text)
            if self._masking.remove_large_objects:
                self._work.progress(f"removing the large objects of {self._masking.database}")
                written.remove_large_objects(self._work, conn)
            if jobs:
                for statement in _FORGET:
                    conn.execute(statement)
        wanted = (self._counts.get(oids[table.name]) for table in self._masking.tables)
        return tuple(counts for counts in wanted if counts is not None)

    def _rewrite(self, conn: psycopg.Connection, jobs: Sequence[_Job]) -> None:
        tables = [table for job in jobs for table in job.tables]
        masked = {(relation.oid, column.column.name) for relation, masking in tables for column in masking.columns}
        references = constraints.masked_references(conn, masked)
        old = indexes.read(conn, [relation.oid for relation, _ in tables])
        beside.disarm(conn, [relation.oid for relation, _ in tables])
        _make_counters(conn, max(2 * len(masking.columns) for _, masking in tables))
        staged = [Piece(job.name, job.bytes, job, job.rows) for job in jobs]
        self._lanes.run("masking", "tables", staged, self._mask, anew=True)
        pieces = [Piece(str(index.table), index.bytes, index) for index in old]
        self._lanes.run("building indexes of", "indexes", pieces, self._build)
        keys = [Piece(str(reference.table), reference.bytes, reference) for reference in references]
        self._lanes.run("checking foreign keys of", "foreign keys", keys, self._check)

    def _mask(self, lane: Lane, piece: Piece[_Job]) -> None:
        job = piece.what
        moving = job.root is not None
        staged: list[tuple[shape.Relation, sql.Identifier]] = []
        below: list[sql.Identifier] = []
        for relation, masking in job.tables:
            made = self._computing.rows(lane, relation, masking, moving=moving)
            staged.append((relation, made.name))
            below += made.below
            self._count(lane, relation, masking, made, moving=moving)
        with refused(f"{self._where}: table {job.name} cannot be rewritten"):
            if job.root is None:
                rewrite.take_over(lane.admin, *staged[0])
            else:
                partitions.move_rows(lane.admin, job.root, staged, self._checking(lane, job))
            for name in below:
                beside.drop(lane.admin, name)

    def _count(
        self, lane: Lane, relation: shape.Relation, masking: TableMasking, staged: beside.Staged, *, moving: bool
    ) -> None:
        """Take the counts of a table, and ask its constraints, save for rows that have still to move."""
        counters = query.counters(masking)
        functions = [number for one in counters for number in (one.selected, one.equal) if number is not None]
        called = dict(zip(functions, staged.calls, strict=True))
        names = [column.column.name for column in masking.columns]
        if moving:
            rows, nulls = constraints.count_rows(lane.builder, staged.name, names)
        else:
            rows, nulls = self._check_rows(lane, relation, staged.name, names)
        self._counts[relation.oid] = TableCounts(
            self._masking.database,
            relation.name,
            tuple(_counts(one, rows, null, called) for one, null in zip(counters, nulls, strict=True)),
        )

    def _checking(self, lane: Lane, job: _Job) -> Callable[[shape.Relation, sql.Identifier], None]:
        """Return what asks the constraints of a partition that has got its rows, which can be masked in any column."""
        names = sorted({column.column.name for _, masking in job.tables for column in masking.columns})

        def check(relation: shape.Relation, stage: sql.Identifier) -> None:
            self._check_rows(lane, relation, stage, names)

        return check

    def _check_rows(
        self, lane: Lane, relation: shape.Relation, stage: sql.Identifier, names: Sequence[str]
    ) -> tuple[int, list[int]]:
        with refused(f"{self._where}: the constraints of {relation.name} cannot be asked"):
            return constraints.check_rows(lane.admin, lane.builder, relation, stage, names)

    def _build(self, lane: Lane, piece: Piece[indexes.Index]) -> None:
        with building(self._masking.database, piece.what):
            indexes.rebuild(lane.admin, piece.what)

    def _check(self, lane: Lane, piece: Piece[constraints.Reference]) -> None:
        with refused(f"{self._where}: the foreign key {piece.what.name} of {piece.name} cannot be checked"):
            constraints.check_reference(lane.builder, piece.what)


def _jobs(conn: psycopg.Connection, oids: Mapping[TableName, int], masking: DatabaseMasking) -> list[_Job]:
    """Put tables together whose rows have to move: all partitions of a root of which a key column is masked."""
    wanted = {oids[table.name]: table for table in masking.tables if table.columns}
    relations = shape.read(conn, wanted)
    moving = {
        root
        for oid, table in wanted.items()
        if oid in relations and any(column.column.partition_key for column in table.columns)
        for root in [relations[oid].root]
        if root is not None
    }
    jobs = [
        _Job(None, ((relation, wanted[oid]),)) for oid, relation in relations.items() if relation.root not in moving
    ]
    for root in sorted(moving):
        leaves = shape.read(conn, shape.leaves(conn, root))
        jobs.append(_Job(root, tuple((leaf, wanted.get(oid) or _unmasked(leaf)) for oid, leaf in leaves.items())))
    return jobs


def _unmasked(relation: shape.Relation) -> TableMasking:
    return TableMasking(Table(name=relation.name, columns=()), ())


def _counts(counter: query.Counter, rows: int, nulls: int, called: Mapping[int, int]) -> ColumnCounts:
    column = counter.column
    origin = f" (from {column.inherited_from})" if column.inherited_from else ""
    return ColumnCounts(
        column=column.column.name,
        method=name_of(column.method) + origin,
        policy=column.policy,
        rows=rows,
        selected=rows if counter.selected is None else called[counter.selected],
        nulls=nulls,
        equal=called[counter.equal],
    )


def _make_counters(conn: psycopg.Connection, number: int) -> None:
    """Make the functions that count, in our schema, and let the builder use all that lies there."""
    names = {"schema": sql.Identifier(query.SCHEMA), "builder": sql.Identifier(server.BUILDER)}
    conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {schema}").format(**names))
    rewrite.make_counting_functions(conn, number)
    conn.execute(sql.SQL("GRANT USAGE ON SCHEMA {schema} TO {builder}").format(**names))
    conn.execute(sql.SQL("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {builder}").format(**names))


@contextmanager
def _quiet(conn: psycopg.Connection) -> Iterator[None]:
    """Let no event trigger fire in the sessions of a replica; before version 17 no setting turns them off."""
    rows = conn.execute(
        "UPDATE pg_event_trigger t SET evtenabled = 'D' FROM pg_event_trigger o"
        " WHERE o.oid = t.oid AND o.evtenabled IN ('A', 'R') RETURNING t.oid::int8, o.evtenabled::text"
    ).fetchall()
    yield
    for oid, enabled in rows:
        conn.execute("UPDATE pg_event_trigger SET evtenabled = %s WHERE oid = %s", [enabled, oid])
