"""Masking of four columns of a large table of MariaDB, against the best rebuild that a person would write by hand.

The floor has the same expressions on the same server: ``CREATE TABLE … LIKE`` without
secondary keys, ``INSERT … SELECT``, the keys, ``DROP``, ``RENAME``. Both get a fresh copy of
the table and take turns. Ours counts rows, NULLs and equal values as well. What a build does
after that, once for all its tables, is shown beside it: the move into a fresh data directory.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.figures import Figure, Options, SkippedError, in_turns
from bench.restore import served_build
from reconciler.engines.mysql import accounts, server
from reconciler.engines.mysql.engine import MariaDbEngine
from reconciler.engines.mysql.masking import expressions, fresh, keys, rewrite
from reconciler.engines.mysql.masking.introspect import read_schema
from reconciler.engines.mysql.product import MARIADB
from reconciler.ids import PolicyName, SecretName
from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, Keys, TableMasking
from reconciler.spec.masking_policy import Fake, Pattern

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reconciler.engines.base import BuildWork
    from reconciler.spec.masking_policy import Column as Method

_ROWS = {"quick": 5_000, "default": 500_000, "full": 2_000_000}
_KEYS = Keys({SecretName("bench"): b"a key of the benchmark"})
_METHODS: Mapping[str, Method] = {
    "email": "email",
    "first_name": Fake.model_validate({"fake": "first_name"}),
    "last_name": "hash",
    "phone": Pattern.model_validate({"pattern": "+49 ### #######"}),
}
_SOURCE = """
CREATE TABLE bench.source (id bigint PRIMARY KEY, created datetime, email varchar(60), first_name varchar(40),
    last_name varchar(40), phone varchar(24), note varchar(60), KEY (email), KEY (created)) COLLATE utf8mb4_bin
"""
_FILL = """
INSERT INTO bench.source SELECT seq, '2026-01-01' - INTERVAL seq SECOND, concat('user', seq, '@corp.example'),
    concat('First', seq), concat('Last', seq % 1000), concat('+49 ', seq * 7), repeat('n', seq % 50) FROM seq_1_to_{}
"""


def run(options: Options) -> list[Figure]:
    """Measure the rewriting of a table, and the move."""
    if not server.installed_servers(MARIADB):
        raise SkippedError("needs MariaDB (packages mariadb-server-core, mariadb-client-core)")
    rows = _ROWS["quick" if options.quick else "full" if options.full else "default"]
    with served_build(MariaDbEngine()) as (work, runtime, spec):
        with server.connect(work) as admin:
            accounts.ensure_owner(admin, MARIADB)
            for statement in ("CREATE DATABASE bench", "USE bench", _SOURCE, _FILL.format(rows)):
                admin.rows(statement)
        turns = 1 if options.quick else max(3, options.repetitions // 2)
        ours, floor = in_turns(turns, lambda: _ours(work, _METHODS), lambda: _by_hand(work))
        (preserved,) = in_turns(1, lambda: _ours(work, {"phone": "preserve"}))

        @contextmanager
        def stopped() -> Iterator[None]:
            runtime.stop(work.server, spec=spec)
            yield
            runtime.start(spec)

        copied = _copied(work)
        start = time.perf_counter()
        fresh.move(work, MARIADB, frozenset({("bench", "source"), ("bench", "customer")}), stopped)
        moved = time.perf_counter() - start
    name = f"masking 4 columns of {rows:,} rows with 2 keys on MariaDB"
    return [
        Figure(f"{name}, against a rebuild by hand", ours, floor, 1.3),
        Figure(
            f"masking 1 column of {rows:,} rows of text by preserve, which SQL does not compute", preserved, None, None
        ),
        Figure("moving both tables into a fresh data directory, against copying their files", moved, copied, None),
    ]


def _fresh(work: BuildWork) -> None:
    with server.connect(work, patient=True) as admin:
        admin.rows("DROP TABLE IF EXISTS bench.customer")
        admin.rows("CREATE TABLE bench.customer LIKE bench.source")
        admin.rows("INSERT INTO bench.customer SELECT * FROM bench.source")


def _masking(work: BuildWork, methods: Mapping[str, Method]) -> TableMasking:
    with server.connect(work) as admin:
        table = next(one for one in read_schema(admin, "bench").tables if one.name.name == "customer")
    return TableMasking(
        table,
        tuple(
            ColumnMasking(column, methods[column.name], PolicyName("bench"), SecretName("bench"))
            for column in table.columns
            if column.name in methods
        ),
    )


def _ours(work: BuildWork, methods: Mapping[str, Method]) -> float:
    _fresh(work)
    table = _masking(work, methods)
    start = time.perf_counter()
    rewrite.mask_databases(work, MARIADB, [DatabaseMasking("bench", (table,))], _KEYS)
    return time.perf_counter() - start


def _by_hand(work: BuildWork) -> float:
    _fresh(work)
    table = _masking(work, _METHODS)
    masked = {one.column.name: str(expressions.express(one, table)) for one in table.columns}
    values = ", ".join(masked.get(column.name, f"t.{column.name}") for column in table.table.columns)
    with keys.with_keys(work, _KEYS) as link:
        start = time.perf_counter()
        link.rows("CREATE TABLE bench.rebuilt LIKE bench.customer")
        link.rows("ALTER TABLE bench.rebuilt DROP KEY email, DROP KEY created")
        link.rows(f"INSERT INTO bench.rebuilt SELECT {values} FROM bench.customer AS t")
        link.rows("ALTER TABLE bench.rebuilt ADD KEY (email), ADD KEY (created)")
        link.rows("DROP TABLE bench.customer")
        link.rows("RENAME TABLE bench.rebuilt TO bench.customer")
        return time.perf_counter() - start


def _copied(work: BuildWork) -> float:
    target = work.directory / "copied"
    start = time.perf_counter()
    subprocess.run(["cp", "-a", "--reflink=never", server.data_directory(work) / "bench", target], check=True)
    seconds = time.perf_counter() - start
    subprocess.run(["rm", "-r", target], check=True)
    return seconds
