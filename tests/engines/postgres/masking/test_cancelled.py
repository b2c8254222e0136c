"""Masking that became pointless ends at once, also in the middle of a statement."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres.masking.stage import mask_database
from reconciler.errors import CancelledError
from reconciler.proc import CancelToken
from tests.support import until

from .rewriting import execute, express, make, masking_of, rows

if TYPE_CHECKING:
    from tests.engines.postgres.conftest import Cluster

pytestmark = pytest.mark.postgres

SLOW = """
CREATE TABLE t (a text); INSERT INTO t VALUES ('original');
CREATE FUNCTION slowly(a text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
    $$ BEGIN IF a = 'masked' THEN PERFORM pg_sleep(3600); END IF; RETURN a; END $$;
"""
RUNNING = "SELECT query FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'PgSleep'"


@pytest.mark.parametrize(
    ("slow", "statement"),
    [
        ("CREATE MATERIALIZED VIEW v AS SELECT slowly(a) FROM t", "REFRESH MATERIALIZED VIEW"),
        ("CREATE INDEX ON t (slowly(a))", "REINDEX"),
        ("ALTER TABLE t ADD CHECK (slowly(a) <> '')", "SELECT"),
    ],
)
def test_no_statement_of_masking_outlives_its_work(build: Cluster, slow: str, statement: str) -> None:
    make(build, SLOW + slow)
    work = replace(build.work(), cancel=CancelToken())

    def cancel() -> None:
        until(lambda: rows(build, RUNNING) != [], what="the statement")
        begun.extend(row[0] for row in rows(build, RUNNING))
        work.cancel.cancel()

    begun: list[str] = []
    other = threading.Thread(target=cancel)
    other.start()
    with pytest.raises(CancelledError):
        mask_database(work, masking_of(build, {"public.t": {"a": "'masked'"}}, "shop"), express, lambda _conn: None)
    other.join()
    assert begun[0].startswith(statement)
    assert rows(build, RUNNING) == []
    execute(build, "DROP SCHEMA reconciler_masking CASCADE")
