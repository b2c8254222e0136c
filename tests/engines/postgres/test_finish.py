"""Only a clean, self-contained data directory is sealed."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres import server
from reconciler.engines.postgres.control import read_control
from reconciler.errors import PermanentError

if TYPE_CHECKING:
    from tests.engines.conftest import PostgresHarness

pytestmark = pytest.mark.postgres


def test_a_build_whose_server_was_killed_is_not_sealed(postgres: PostgresHarness) -> None:
    work = postgres.build_work()
    postgres.engine.prepare(work)
    spec = replace(postgres.engine.build_server(work), stop_signals=((signal.SIGQUIT, 10.0),))
    with postgres.serving(spec):
        pass
    with pytest.raises(PermanentError, match="not cleanly shut down"):
        postgres.engine.finish(work)


def test_a_link_out_of_the_data_directory_is_not_sealed(postgres: PostgresHarness) -> None:
    work = postgres.build_work()
    postgres.engine.prepare(work)
    (server.data_directory(work) / "pg_tblspc" / "16500").symlink_to("/tmp")
    with pytest.raises(PermanentError, match="pg_tblspc/16500"):
        postgres.engine.finish(work)


def test_a_sealed_directory_is_shut_down_and_says_so(postgres: PostgresHarness) -> None:
    directory, snapshot = postgres.shop()
    control = read_control(postgres.installed, directory / "data")
    assert (control.state, control.settings) == ("shut down", {})
    assert snapshot.facts == {
        "admin": "reconciler_admin",
        "checksums": "on" if control.checksums else "off",
        "system_identifier": control.system_identifier,
        "wal_segment_bytes": "16777216",
    }


def test_what_no_data_directory_consists_of_is_not_sealed(postgres: PostgresHarness) -> None:
    work = postgres.build_work()
    postgres.engine.prepare(work)
    with postgres.serving(postgres.engine.build_server(work)):
        pass
    data = server.data_directory(work)
    for name in (".pgpass", "patroni.dynamic.json", "core.4711", "keys/master", "pg_wal/0000000100000001.backup"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_text("production")
    kept = {entry.name for entry in data.iterdir()} - {".pgpass", "patroni.dynamic.json", "core.4711", "keys"}
    postgres.engine.finish(work)
    left = {entry.name for entry in data.iterdir()}
    assert kept - left <= {"postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf", "postmaster.opts"}
    assert left <= kept
    assert [path for path in data.rglob("*") if path.is_file() and path.read_bytes() == b"production"] == []
