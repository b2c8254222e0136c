"""Partition trees whose keys are masked: rows move to the partition of their new value.

Called by :mod:`.stage`, for all partitions of a root at once. Nothing is inserted, so
no trigger fires and no function of users runs as a superuser: all masked rows of the
tree are sorted by the partition that they belong to, by the conditions that the server
itself gives for each (pg_get_partition_constraintdef), and every partition takes its
part of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres.masking.query import finished_rows, unused_name
from reconciler.engines.postgres.masking.rewrite import empty_stage, fill_stage, make_stage, stage_name, take_over
from reconciler.errors import MaskingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import psycopg
    from psycopg.sql import Composable

    from reconciler.engines.postgres.masking.shape import Relation


def move_rows(
    conn: psycopg.Connection,
    root: int,
    staged: Sequence[tuple[Relation, sql.Identifier]],
    check: Callable[[Relation, sql.Identifier], None],
) -> None:
    """Give each partition of ``root`` its part of the staged rows of all, and drop those.

    ``check`` is called with each partition and the rows that it will have.

    Raises:
        MaskingError: there is no partition for a masked value, or ``check`` refuses.

    """
    everything = stage_name("p", root)
    number = sql.Identifier(unused_name(staged[0][0], "part"))
    make_stage(conn, everything, _sorted(staged, number), None)
    fill_stage(conn, everything, [])
    for _, stage in staged:
        empty_stage(conn, stage)
    _insist(conn, root, everything, number)
    conn.execute(sql.SQL("CREATE INDEX ON {} ({})").format(everything, number))
    conn.execute(sql.SQL("ANALYZE {}").format(everything))
    for place, (relation, _) in enumerate(staged):
        part = stage_name("l", relation.oid)
        make_stage(conn, part, _part(relation, everything, number, place), relation)
        fill_stage(conn, part, [])
        check(relation, part)
        take_over(conn, relation, part)
    for stage in (everything, *(stage for _, stage in staged)):
        conn.execute(sql.SQL("DROP MATERIALIZED VIEW {}").format(stage))


def _sorted(staged: Sequence[tuple[Relation, sql.Identifier]], number: sql.Identifier) -> Composable:
    names = [one.name for one in staged[0][0].attributes if one.written]
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    union = sql.SQL(" UNION ALL ").join(sql.SQL("SELECT {} FROM {}").format(columns, stage) for _, stage in staged)
    cases = sql.SQL(" ").join(
        sql.SQL("WHEN ") + sql.SQL(relation.bound or "true") + sql.SQL(f" THEN {place}")
        for place, (relation, _) in enumerate(staged)
    )
    return sql.SQL("SELECT {}, CASE {} END AS {} FROM ({}) AS f ORDER BY {}").format(
        columns, cases, number, union, number
    )


def _part(relation: Relation, everything: sql.Identifier, number: sql.Identifier, place: int) -> Composable:
    return finished_rows(relation, everything, sql.SQL("w.{} = {}").format(number, sql.SQL(str(place))))


def _insist(conn: psycopg.Connection, root: int, everything: sql.Identifier, number: sql.Identifier) -> None:
    query = sql.SQL("SELECT count(*) FROM {} WHERE {} IS NULL").format(everything, number)
    homeless = conn.execute(query).fetchall()[0][0]
    if homeless:
        name = conn.execute("SELECT %s::oid::regclass::text", [root]).fetchall()[0][0]
        raise MaskingError(
            f"database {conn.info.dbname}: {homeless} rows of {name} have a masked partition key for which there is"
            " no partition",
            hint="make a default partition in a script, or give the key a rule that stays within the partitions",
        )
