"""Computes the masked rows of a table beside it, and lets nothing that users made see the keys.

Called by :mod:`.stage`. PostgreSQL lets whatever runs in a session read the session's
settings, and keys are settings. So the work is divided:

1. Conditions and expressions of policies give columns of a copy of the table (without keys;
   only if there are some).
2. Masked values are computed by our own expressions, over built-in types, in a process of
   its own that does nothing else (with keys). :func:`_insist_ours` asks the server what
   the query depends on, and refuses whatever users made.
3. Casts to types of users and generated columns that run code of users (without keys; only
   if there are some).

Everything after that (constraints, indexes, exchange) has no keys either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres.masking import query, rewrite
from reconciler.engines.postgres.masking.refusals import condition_of, refused
from reconciler.errors import MaskingError
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import psycopg

    from reconciler.engines.postgres.masking.lanes import Lane
    from reconciler.engines.postgres.masking.shape import Relation
    from reconciler.masking.assignment import TableMasking

# Tables and our own functions aside. Collations are code of libraries, and made of words.
_MADE_BY_USERS = """
SELECT string_agg(DISTINCT pg_describe_object(d.refclassid, d.refobjid, 0), ', ')
FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.deptype = 'n'
LEFT JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid
LEFT JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
WHERE r.ev_class = %(stage)s::regclass AND d.refobjid >= 16384 AND d.refclassid <> 'pg_collation'::regclass
    AND c.oid IS DISTINCT FROM %(table)s::oid
    AND NOT (coalesce(c.relkind IN ('r', 'm'), true)
             AND coalesce(c.relnamespace, p.pronamespace, 0) = %(schema)s::regnamespace)
"""
# No plan of a query of these tables looks at an index, and so at no expression of one.
_DISARM = "UPDATE pg_index SET indisready = false, indisvalid = false WHERE indrelid = ANY(%s::oid[])"


@dataclass(frozen=True, slots=True)
class Staged:
    """Rows beside a table; ``calls`` of the counting functions in their order.

    ``below``: what they were computed from, emptied; to be dropped after them.
    """

    name: sql.Identifier
    calls: list[int]
    below: tuple[sql.Identifier, ...] = ()


def disarm(conn: psycopg.Connection, tables: list[int]) -> None:
    """Take the indexes of tables that will be rewritten out of use, until they are built anew."""
    conn.execute(_DISARM, [tables])


@dataclass(frozen=True, slots=True)
class Computing:
    """How the rows of a database's tables are computed."""

    database: str
    express: query.Express

    def rows(self, lane: Lane, relation: Relation, masking: TableMasking, *, moving: bool) -> Staged:
        """Compute the masked rows of a table, complete unless they are ``moving``: then their written columns alone.

        Raises:
            MaskingError: an expression cannot be evaluated, or would run code of users beside the keys.

        """
        query.insist(relation, masking)
        copied = query.needs_copy(relation, masking, self.express)
        rows = query.table_rows(relation.name) if copied is None else self._prepared(lane, relation, masking, copied)
        finished = not (moving or query.needs_finish(relation, masking))
        try:
            staged = self._masked(lane, relation, masking, rows, finished=finished)
        except MaskingError as error:
            raise self._blamed(lane, relation, masking, rows, error) from None
        if copied is not None:
            copy = rewrite.stage_name("f", relation.oid)
            rewrite.empty_stage(lane.admin, copy)
            staged = replace(staged, below=(copy,))
        return staged if finished or moving else self._finished(lane, relation, staged)

    def _prepared(self, lane: Lane, relation: Relation, masking: TableMasking, names: query.Rows) -> query.Rows:
        """Copy a table together with what expressions of users say about its rows."""
        copy = rewrite.stage_name("f", relation.oid)
        try:
            with self._told(relation):
                select = query.prepared_rows(relation, masking, self.express, names)
                rewrite.make_stage(lane.admin, copy, select, None)
                rewrite.fill_stage(lane.admin, copy, [])
        except MaskingError as error:
            self._blame_users(lane, relation, masking, names)
            raise error from None
        return replace(names, source=copy)

    def _blame_users(self, lane: Lane, relation: Relation, masking: TableMasking, names: query.Rows) -> None:
        """Raise for the first expression that fails by itself: that of a policy, which may be shown."""
        for column in masking.columns:
            expressions = [(column.when, condition_of(relation.name, column))] if column.when is not None else []
            if column.column.name in names.given:
                rule = f"the rule {name_of(column.method)} for {relation.name}.{column.column.name}"
                expressions.append((column.column.name, f"{rule} (policy {column.policy})"))
            for only, what in expressions:
                alone = rewrite.stage_name("x", relation.oid)
                drop(lane.admin, alone)
                with self._told(relation, what):
                    select = query.prepared_rows(relation, masking, self.express, names, only=only)
                    rewrite.make_stage(lane.admin, alone, select, None)
                    rewrite.fill_stage(lane.admin, alone, [])
                drop(lane.admin, alone)

    def _masked(
        self,
        lane: Lane,
        relation: Relation,
        masking: TableMasking,
        rows: query.Rows,
        *,
        finished: bool,
        name: str = "s",
    ) -> Staged:
        stage = rewrite.stage_name(name, relation.oid)
        select = query.staged_rows(relation, masking, self.express, rows, finished=finished)
        counters = query.counters(masking)
        functions = [number for one in counters for number in (one.selected, one.equal) if number is not None]
        with self._told(relation):
            rewrite.make_stage(lane.admin, stage, select, relation if finished else None)
            if not masking.columns:
                return Staged(stage, rewrite.fill_stage(lane.admin, stage, functions))
            self._insist_ours(lane.admin, stage, relation)
            return Staged(stage, rewrite.fill_stage(lane.keyed, stage, functions))

    def _insist_ours(self, conn: psycopg.Connection, stage: sql.Identifier, relation: Relation) -> None:
        facts = {"stage": stage.as_string(conn), "table": relation.oid, "schema": query.SCHEMA}
        ((made,),) = conn.execute(_MADE_BY_USERS, facts).fetchall()
        if made is not None:
            raise MaskingError(
                f"database {self.database}: masking table {relation.name} would run what the source defines beside the"
                f" masking key: {made}",
                hint="write an sql of your own for the column, which runs without the key, or drop it in a script",
            )

    def _finished(self, lane: Lane, relation: Relation, staged: Staged) -> Staged:
        stage = rewrite.stage_name("g", relation.oid)
        with self._told(relation):
            rewrite.make_stage(lane.admin, stage, query.finished_rows(relation, staged.name), relation)
            rewrite.fill_stage(lane.admin, stage, [])
        rewrite.empty_stage(lane.admin, staged.name)
        return Staged(stage, staged.calls, (staged.name, *staged.below))

    def _blamed(
        self, lane: Lane, relation: Relation, masking: TableMasking, rows: query.Rows, error: MaskingError
    ) -> MaskingError:
        """Return the error with the columns that it is about: those that fail by themselves as well."""
        guilty = []
        for column in masking.columns if len(masking.columns) > 1 else ():
            alone = replace(masking, columns=(column,))
            try:
                self._masked(lane, relation, alone, rows, finished=False, name="x")
            except MaskingError:
                guilty.append(column.column.name)
            drop(lane.admin, rewrite.stage_name("x", relation.oid))
        names = guilty or [column.column.name for column in masking.columns]
        return MaskingError(f"{error.message}, columns: {', '.join(names)}", hint=error.hint)

    def _told(self, relation: Relation, what: str = "") -> AbstractContextManager[None]:
        where = f"database {self.database}: values of table {relation.name} cannot be masked"
        return refused(f"{where}: {what}" if what else where, advise=True)


def drop(conn: psycopg.Connection, stage: sql.Identifier) -> None:
    """Drop staged rows, if they are there."""
    conn.execute(sql.SQL("DROP MATERIALIZED VIEW IF EXISTS {}").format(stage))
