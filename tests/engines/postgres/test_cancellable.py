"""A statement of a build ends when the build is cancelled, however long it would take."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from reconciler.engines.postgres import server
from reconciler.errors import CancelledError
from reconciler.proc import CancelToken
from tests.support import until

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.postgres


def test_a_statement_ends_on_the_server_when_its_work_is_cancelled(build: Cluster) -> None:
    work = replace(build.work(), cancel=CancelToken())
    sleeping = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    with server.connect(work, "postgres") as conn:

        def cancel() -> None:
            until(lambda: build.query("postgres", sleeping) != [], what="the statement")
            work.cancel.cancel()

        other = threading.Thread(target=cancel)
        other.start()
        with pytest.raises(CancelledError):
            conn.execute("SELECT pg_sleep(3600)")
        other.join()
        assert build.query("postgres", sleeping) == []
        assert conn.execute("SELECT 1").fetchall() == [(1,)]


def test_a_limit_of_the_server_is_no_cancellation(build: Cluster) -> None:
    with server.connect(build.work(), "postgres") as conn:
        conn.execute("SET statement_timeout = 1")
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("SELECT pg_sleep(3600)")
