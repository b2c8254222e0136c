"""Masks databases by expressions that a test writes itself, and looks at what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from psycopg import sql

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking.introspect import read_schema
from reconciler.engines.postgres.masking.run import scrub_cluster
from reconciler.engines.postgres.masking.stage import mask_database
from reconciler.ids import PolicyName, SecretName
from reconciler.masking.assignment import ColumnMasking, DatabaseMasking, TableMasking
from reconciler.masking.schema import Column, Family, Table, TableName
from reconciler.spec.masking_policy import Sql

if TYPE_CHECKING:
    from psycopg.sql import Composable

    from reconciler.engines.postgres.masking.query import Rows
    from reconciler.masking.report import ColumnCounts, TableCounts
    from tests.engines.postgres.conftest import Cluster

USERS = ("public.", "nowhere", "::int")
"""Words of expressions that a policy would have as ``sql``."""
Rules = Mapping[str, Mapping[str, str | tuple[str, str]]]
"""Table → column → expression over ``t``, or (expression, condition)."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a column gets; an expression that names something of the source is one of users, computed without keys."""

    sql: Composable
    joins: tuple[Composable, ...] = ()
    users: bool = False
    typed: bool = False


def make(cluster: Cluster, statements: str, database: str = "shop") -> None:
    """Make a database by a script, as a superuser."""
    cluster.tool("psql", "-X", "-q", "-c", f'CREATE DATABASE "{database}"')
    cluster.tool("psql", "-X", "-q", "-c", f"GRANT pg_read_all_data TO {server.BUILDER}")
    execute(cluster, statements, database)


def execute(cluster: Cluster, statements: str, database: str = "shop") -> None:
    cluster.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", database=database, stdin=statements.encode())


def masking_of(cluster: Cluster, rules: Rules, database: str = "shop", *, large: bool = False) -> DatabaseMasking:
    """Return what coverage would decide for ``rules``."""
    with server.connect(cluster.work(), database) as conn:
        known = {str(table.name): table for table in read_schema(conn, database).tables}
    tables = []
    for name, columns in rules.items():
        table = known.get(name) or Table(name=TableName(*name.split(".", 1)), columns=())
        tables.append(TableMasking(table, tuple(_column(table, column, rule) for column, rule in columns.items())))
    return DatabaseMasking(database, tuple(tables), remove_large_objects=large)


def _column(table: Table, name: str, rule: str | tuple[str, str]) -> ColumnMasking:
    expression, when = (rule, None) if isinstance(rule, str) else rule
    column = next(
        (one for one in table.columns if one.name == name), Column(name=name, type="text", family=Family.TEXT)
    )
    return ColumnMasking(column, Sql(sql=expression, keep_null=True), PolicyName("pii"), SecretName("key"), when)


def express(column: ColumnMasking, _table: TableMasking, _rows: Rows) -> Value:
    """Return the test's own expression."""
    assert isinstance(column.method, Sql)
    written = column.method.sql
    return Value(sql.SQL(f"({written}\n)"), users=any(word in written for word in USERS))


def mask(
    cluster: Cluster,
    rules: Rules,
    database: str = "shop",
    *,
    jobs: int = 2,
    said: list[str] | None = None,
    large: bool = False,
) -> tuple[TableCounts, ...]:
    """Mask a database; ``said`` gets progress and reports."""
    heard = [] if said is None else said
    work = replace(cluster.work(jobs=jobs), progress=heard.append)
    masking = masking_of(cluster, rules, database, large=large)
    found = mask_database(work, masking, express, lambda _conn: None, report=heard.append)
    staged = "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('reconciler_masking')"
    assert cluster.query(database, staged) == []
    execute(cluster, "SET client_min_messages = warning; DROP SCHEMA IF EXISTS reconciler_masking CASCADE", database)
    return found


def scrub(cluster: Cluster) -> list[str]:
    """Scrub a build once its scripts and masking are over; return which tables were rewritten, as it is told."""
    said: list[str] = []
    scrub_cluster(replace(cluster.work(), progress=said.append))
    execute(cluster, "CHECKPOINT")
    return [text.partition(":")[0] for text in said]


def counts(found: tuple[TableCounts, ...]) -> dict[str, tuple[int, int, int, int]]:
    """Return rows, selected, nulls and equal values per column."""
    return {f"{one.table}.{column.column}": _figures(column) for one in found for column in one.columns}


def _figures(column: ColumnCounts) -> tuple[int, int, int, int]:
    return column.rows, column.selected, column.nulls, column.equal


def definition(cluster: Cluster, database: str = "shop") -> str:
    """Return the whole schema as pg_dump tells it; newer ones write a random word into each."""
    text = cluster.tool("pg_dump", "--schema-only", database, database=database).decode()
    return "\n".join(line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


def rows(cluster: Cluster, query: str, database: str = "shop") -> list[tuple[Any, ...]]:
    return cluster.query(database, query)


def one(cluster: Cluster, query: str, database: str = "shop") -> Any:  # noqa: ANN401 - any value
    return rows(cluster, query, database)[0][0]


def hits(cluster: Cluster, *words: str) -> dict[str, list[str]]:
    """Return the files of the stopped cluster's databases that hold a word."""
    base = cluster.root / "volume" / "data"
    files = [path for part in ("base", "global") for path in (base / part).rglob("*") if path.is_file()]
    found: dict[str, list[str]] = {word: [] for word in words}
    for path in files:
        content = path.read_bytes()
        for word in words:
            if word.encode() in content:
                found[word].append(str(path.relative_to(base)))
    return found
