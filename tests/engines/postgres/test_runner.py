r"""Which databases ``\connect`` may name."""

from __future__ import annotations

import pytest

from reconciler.engines.postgres.runner import connected_database


@pytest.mark.parametrize(
    ("arguments", "database"),
    [
        ("shop", "shop"),
        ('"My ""shop"""', 'My "shop"'),
        (r"""-reuse-previous=on "dbname='a=b \'c'" """, "a=b 'c"),
    ],
)
def test_a_script_names_a_database_as_pg_dump_does(arguments: str, database: str) -> None:
    assert connected_database(arguments) == database


@pytest.mark.parametrize(
    "arguments",
    [
        '"host=/tmp/srv port=5432 user=postgres"',
        "dbname=shop",
        '"dbname=shop"',
        "postgresql://production/shop",
        '"postgres://production/shop"',
        "-",
        "shop postgres",
        """-reuse-previous=on "dbname='shop' host=/tmp/srv" """,
    ],
)
def test_what_psql_takes_for_a_connection_string_is_no_name(arguments: str) -> None:
    assert connected_database(arguments) is None
