"""What rows have that a rule does not select is known before masking, for values of every form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking import conditions, sample
from reconciler.masking.schema import TableName

from .masked_database import make_database, masking_of

if TYPE_CHECKING:
    from tests.engines.postgres.conftest import Cluster

pytestmark = pytest.mark.postgres

STATEMENTS = """
CREATE TABLE t (id int, short text, long text, day date, raw bytea, many text[], doc jsonb, note text, same text);
INSERT INTO t SELECT n, 's' || n % 10, n % 10 || repeat('a long story ', 9), date '2000-01-01' + n % 10,
    convert_to('zq7raw' || n % 10, 'UTF8'), ARRAY['m' || n % 10, 'x'], jsonb_build_object('a', 'd"' || n % 10),
    'write to zq7note' || n % 10 || '@corp.invalid', '100 %s' FROM generate_series(0, 19) n;
CREATE TABLE other (copy text); INSERT INTO other VALUES ('zq7note3@corp.invalid'), ('nothing of the kind');
"""
COLUMNS = {
    "id": "keep", "short": "hash", "long": "hash", "day": "null", "raw": "hash", "many": "hash",
    "doc": {"json": {"$.a": "hash"}}, "note": "text", "same": "hash",
}  # fmt: skip


@pytest.mark.parametrize("cluster", ["build", "build_older"])
def test_originals_of_rows_that_are_left_out_are_told_by_column(cluster: str, request: pytest.FixtureRequest) -> None:
    server_: Cluster = request.getfixturevalue(cluster)
    make_database(server_, STATEMENTS)
    rules = (
        {"table": "public.t", "when": "id < 10 OR id % 10 > 3 -- '%'", "columns": COLUMNS},
        {"table": "public.other", "when": "copy LIKE 'nothing%'", "columns": {"copy": "hash"}},
    )
    masking = masking_of(server_, *rules)
    with server.connect(server_.work(), "shop") as conn:
        samples = sample.draw(conn, masking)
        found = conditions.left_out(conn, masking, samples)
    told = {column: {text[:20] for text in texts} for (_, table, column), texts in found.items() if table.name == "t"}
    stays = range(4)
    assert told == {
        "short": {f"s{n}" for n in stays},
        "long": {f"{n}a long story a long "[:20] for n in stays},
        "day": {f"2000-01-0{n + 1}" for n in stays},
        "raw": {f"zq7raw{n}" for n in stays},
        "many": {*(f"m{n}" for n in stays), "x"},
        "doc": {f'd"{n}' for n in stays},
        "note": {f"zq7note{n}@corp.invalid"[:20] for n in stays},
        "same": {"100 %s"},
    }
    assert found["shop", TableName("public", "other"), "copy"] == {"zq7note3@corp.invalid"}
