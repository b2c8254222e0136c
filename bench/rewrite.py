"""Masking of four columns of a large table with two indexes, against what a person would write by hand.

Floors on the same server, with the same expressions: one ``ALTER TABLE`` with ``USING``
for each column, which is the fastest single statement, and ``UPDATE`` followed by
``VACUUM FULL``, which is what most people would do. All three get a fresh copy of the
table and take turns. Ours counts rows, NULLs and equal values as well.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from bench.figures import Figure, Options, in_turns
from bench.restore import build_server
from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking.introspect import read_schema
from reconciler.engines.postgres.masking.stage import mask_database
from reconciler.ids import PolicyName, SecretName
from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, TableMasking

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composable

    from reconciler.engines.base import BuildWork
    from reconciler.engines.postgres.masking.query import Rows

_ROWS = {"quick": 20_000, "default": 1_000_000, "full": 5_000_000}
_COLUMNS = ("email", "first_name", "last_name", "phone")
_SOURCE = """
CREATE TABLE public.source AS SELECT i AS id, now() - i * interval '1 s' AS created,
    'user' || i || '@corp.example' AS email, 'first' || i AS first_name,
    'last' || i % 1000 AS last_name, '+49 ' || i * 7 AS phone,
    repeat('n', (i % 50)::int) AS note
FROM generate_series(1::bigint, {}) i
"""


@dataclass(frozen=True, slots=True)
class _Value:
    sql: Composable
    joins: tuple[Composable, ...] = ()
    users: bool = False
    typed: bool = False


def run(options: Options) -> list[Figure]:
    """Measure the rewriting of tables."""
    rows = _ROWS["quick" if options.quick else "full" if options.full else "default"]
    with build_server() as work:
        with server.connect(work, "postgres") as conn:
            server.ensure_builder(conn)
            conn.execute(sql.SQL("GRANT pg_read_all_data TO {}").format(sql.Identifier(server.BUILDER)))
            conn.execute(sql.SQL(_SOURCE).format(sql.Literal(rows)))
        ours, alter, update = in_turns(
            1 if options.quick else max(3, options.repetitions // 2),
            lambda: _ours(work),
            lambda: _by_hand(work, _altered()),
            lambda: _by_hand(work, _updated()),
        )
    name = f"masking 4 columns of {rows:,} rows with 2 indexes"
    note = f"{work.jobs} jobs, md5() of each column"
    return [
        Figure(f"{name}, against ALTER … USING", ours, alter, 1.3, note=note),
        Figure(f"{name}, against UPDATE and VACUUM FULL", ours, update, 0.33),
    ]


def _fresh(conn: psycopg.Connection) -> None:
    conn.execute("DROP TABLE IF EXISTS public.customer")
    conn.execute("DROP SCHEMA IF EXISTS reconciler_masking CASCADE")
    conn.execute("CREATE TABLE public.customer AS SELECT * FROM public.source")
    conn.execute("ALTER TABLE public.customer ADD PRIMARY KEY (id)")
    conn.execute("CREATE INDEX ON public.customer (email)")
    conn.execute("CHECKPOINT")


def _ours(work: BuildWork) -> float:
    with server.connect(work, "postgres") as conn:
        _fresh(conn)
        table = next(one for one in read_schema(conn, "postgres").tables if one.name.name == "customer")
    columns = tuple(
        ColumnMasking(column, "hash", PolicyName("bench"), SecretName("bench"))
        for column in table.columns
        if column.name in _COLUMNS
    )
    masking = DatabaseMasking("postgres", (TableMasking(table, columns),))
    start = time.perf_counter()
    mask_database(work, masking, _express, lambda _conn: None)
    return time.perf_counter() - start


def _express(column: ColumnMasking, _table: TableMasking, _rows: Rows) -> _Value:
    return _Value(sql.SQL("md5({})").format(sql.Identifier("t", column.column.name)))


def _by_hand(work: BuildWork, statements: tuple[str, ...]) -> float:
    with server.connect(work, "postgres") as conn:
        _fresh(conn)
        start = time.perf_counter()
        for statement in statements:
            conn.execute(statement.encode())
        return time.perf_counter() - start


def _altered() -> tuple[str, ...]:
    return (
        "ALTER TABLE public.customer " + ", ".join(f"ALTER {name} TYPE text USING md5({name})" for name in _COLUMNS),
    )


def _updated() -> tuple[str, ...]:
    changes = ", ".join(f"{name} = md5({name})" for name in _COLUMNS)
    return f"UPDATE public.customer SET {changes}", "VACUUM FULL public.customer"
