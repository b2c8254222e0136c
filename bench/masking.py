"""Methods of masking evaluated inside the database, per core, against ``md5()`` of the same column.

Each is one sequential scan of one process; what counts is the CPU time of that process,
so that neighbours do not matter. Every version on this host is measured. Targets hold for
servers built with OpenSSL, as distributions build them: one built without has its own
``md5()``, three times as fast, but no such ``sha256()``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
from psycopg import sql
from pydantic import TypeAdapter

from bench.figures import Figure, Options, SkippedError, in_turns
from bench.restore import build_server
from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking import expressions
from reconciler.ids import PolicyName, SecretName
from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, Keys, TableMasking
from reconciler.masking.schema import Column, Family, Table, TableName
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composable

_ROWS = {"quick": 100_000, "default": 1_000_000, "full": 2_000_000}
_TARGET = 4
_PERSON = """
CREATE TABLE public.person AS SELECT i AS id, 'user' || i || '@mail' || i % 100 || '.com' AS email,
    '+49 ' || 150 + i % 30 || ' ' || lpad((i::bigint * 7919 % 10000000)::text, 8, '0') AS phone
FROM generate_series(1, {}) AS i
"""
_NAIVE = """
(SELECT string_agg(CASE WHEN c ~ '[0-9]' THEN chr(48 + (ascii(c) - 48 + get_byte(h.v, i::int % 32)) % 10)
    WHEN c ~ '[a-z]' THEN chr(97 + (ascii(c) - 97 + get_byte(h.v, i::int % 32)) % 26) ELSE c END, '' ORDER BY i)
 FROM (SELECT sha256(convert_to(t.phone, 'UTF8')) AS v) AS h,
      regexp_split_to_table(t.phone, '') WITH ORDINALITY AS s(c, i))
"""
"""Digits and letters moved one by one: not even a permutation."""
_TEXT = Column(name="email", type="text", family=Family.TEXT)
_PHONE = Column(name="phone", type="text", family=Family.TEXT)
_ID = Column(name="id", type="integer", family=Family.INTEGER, integer_bytes=4)
_TABLE = Table(name=TableName("public", "person"), columns=(_ID, _TEXT, _PHONE))
_METHODS: tuple[tuple[Column, object, int | None], ...] = (
    (_TEXT, "hash", _TARGET),
    (_TEXT, "email", _TARGET),
    (_TEXT, {"fake": "first_name"}, _TARGET),
    (_TEXT, {"fake": "full_name", "locale": "de_DE"}, _TARGET),
    (_TEXT, {"pattern": "??-####"}, None),
    (_TEXT, {"partial": {"first": 2, "last": 2}}, None),
    (_TEXT, "text", None),
    (_PHONE, "preserve", None),
    (_ID, "preserve", None),
    (_ID, {"noise": 10}, None),
)
"""Column, method and target."""


def run(options: Options) -> list[Figure]:
    """Measure every method on every version."""
    majors = sorted({one.major for one in server.installed_servers()}, key=int)
    if not majors:
        raise SkippedError("needs PostgreSQL")
    return [figure for major in majors for figure in _of_version(options, major)]


def _of_version(options: Options, major: str) -> list[Figure]:
    with build_server(major) as work, server.connect(work, "postgres") as conn:
        rows = _ROWS["quick" if options.quick else "full" if options.full else "default"]
        conn.execute(sql.SQL(_PERSON).format(sql.Literal(rows)))
        conn.execute("VACUUM (ANALYZE) public.person")
        conn.execute("SET max_parallel_workers_per_gather = 0")
        maskings = [_masking(column, method) for column, method, _ in _METHODS]
        tables = DatabaseMasking("postgres", tuple(TableMasking(_TABLE, (one,)) for one in maskings))
        keys = Keys({SecretName("masking-key"): b"key of the benchmark"})
        expressions.install(conn, keys, tables)
        expressions.open_keys(conn, keys, tables)
        row = conn.execute("SELECT current_setting('ssl_library') <> ''").fetchone()
        openssl = row is not None and bool(row[0])
        return [*_figures(options, conn, maskings, openssl=openssl), _against_naive(options, conn)]


def _masking(column: Column, method: object) -> ColumnMasking:
    adapter: TypeAdapter[spec.Column] = TypeAdapter(spec.Column)
    return ColumnMasking(column, adapter.validate_python(method), PolicyName("bench"), SecretName("masking-key"))


def _figures(
    options: Options, conn: psycopg.Connection, maskings: list[ColumnMasking], *, openssl: bool
) -> list[Figure]:
    figures = []
    for masking, (column, method, target) in zip(maskings, _METHODS, strict=True):
        value = expressions.express(masking, TableMasking(_TABLE, (masking,))).sql
        md5 = sql.SQL("md5(t.{}::text)").format(sql.Identifier(column.name))
        ours, floor = _in_turns(options, conn, value, md5)
        name = f"PostgreSQL {conn.info.server_version // 10000}: {label(method)} of {column.name}"
        note = "" if openssl or target is None else "built without OpenSSL: its md5() is another"
        figures.append(Figure(name, ours, floor, target if openssl else None, note=note))
    return figures


def label(method: object) -> str:
    """Return a method as a figure names it: ``fake first_name``."""
    if not isinstance(method, dict):
        return str(method)
    name, argument = next(iter(method.items()))
    return name if isinstance(argument, dict) else f"{name} {argument}"


def _against_naive(options: Options, conn: psycopg.Connection) -> Figure:
    masking = _masking(_PHONE, "preserve")
    value = expressions.express(masking, TableMasking(_TABLE, (masking,))).sql
    ours, floor = _in_turns(options, conn, value, sql.SQL(_NAIVE))
    name = f"PostgreSQL {conn.info.server_version // 10000}: preserve of phone against string_agg by hand"
    return Figure(name, ours, floor, 1)


def _in_turns(options: Options, conn: psycopg.Connection, *values: Composable) -> list[float]:
    repetitions = 1 if options.quick else max(3, options.repetitions // 2)
    return in_turns(repetitions, *(lambda value=value: _cpu_seconds(conn, value) for value in values))


def _cpu_seconds(conn: psycopg.Connection, value: Composable) -> float:
    process = psutil.Process(conn.info.backend_pid)
    before = process.cpu_times()
    conn.execute(sql.SQL("SELECT count({}) FROM ONLY public.person AS t").format(value))
    after = process.cpu_times()
    return (after.user - before.user) + (after.system - before.system)
