"""What the server refuses, as errors that decide about retries and quote no rows."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from reconciler.engines.base import BackupRepository, LocalSource
from reconciler.engines.postgres import failures, recovery, server
from reconciler.engines.postgres.engine import PostgresEngine
from reconciler.engines.postgres.failures import SqlError, translated
from reconciler.engines.postgres.identify import identify
from reconciler.errors import (
    BusyError,
    CommandError,
    PermanentError,
    ReconcilerError,
    RefusedError,
    SourceError,
    UnavailableError,
)

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.postgres
_VALUE = "value-of-a-row"


def refused(build: Cluster, statement: str) -> ReconcilerError:
    with (
        pytest.raises(ReconcilerError) as caught,
        translated(),
        server.connect(build.work(), "template1") as conn,
    ):
        conn.execute(statement.encode())
    return caught.value


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("DO $$BEGIN RAISE EXCEPTION 'full' USING ERRCODE = '53100'; END$$", UnavailableError),
        ("SELECT pg_terminate_backend(pg_backend_pid())", UnavailableError),
        ("DO $$BEGIN RAISE EXCEPTION 'dead' USING ERRCODE = '40P01'; END$$", BusyError),
        ("DROP ROLE pg_monitor", PermanentError),
        ("SELECT 1/0", PermanentError),
    ],
)
def test_the_class_of_an_error_says_whether_it_passes(build: Cluster, statement: str, kind: type[Exception]) -> None:
    assert type(refused(build, statement)) is kind


@pytest.mark.parametrize(
    "statement",
    [
        f"SELECT '{_VALUE}'::int",
        f"CREATE TEMP TABLE t (a text UNIQUE); INSERT INTO t VALUES ('{_VALUE}'), ('{_VALUE}')",
        f"DO $$BEGIN RAISE EXCEPTION '{_VALUE}'; END$$",
        f"SELECT 1 '{_VALUE}'",
        f"DO $$BEGIN RAISE EXCEPTION '{_VALUE}' USING ERRCODE = '53100'; END$$",
        f"DO $$BEGIN RAISE EXCEPTION '{_VALUE}' USING ERRCODE = '42P01'; END$$",
        f"DO $$BEGIN EXECUTE 'SELECT FROM \"{_VALUE}\"'; END$$",
        f"DO $$BEGIN EXECUTE 'SELECT \"{_VALUE}\"()'; END$$",
        f"DO $$BEGIN EXECUTE 'SELECT \"{_VALUE}\" FROM pg_class'; END$$",
        f"DO $$BEGIN EXECUTE 'DROP TABLE \"{_VALUE}\"'; END$$",
        f"DO $$BEGIN PERFORM '{_VALUE}'::regrole; END$$",
        f"DO $$DECLARE c refcursor := '{_VALUE}'; r record; BEGIN FETCH c INTO r; END$$",
        f"SELECT query_to_xml('SELECT FROM \"{_VALUE}\"', true, true, '')",
        f"SELECT query_to_xml('DROP TABLE \"{_VALUE}\"', true, true, '')",
    ],
)
def test_no_message_quotes_a_value(build: Cluster, statement: str) -> None:
    error = refused(build, statement)

    assert "SQLSTATE" in str(error)
    assert _VALUE not in str(error)
    assert error.__suppress_context__


def test_a_refusal_names_the_object(build: Cluster) -> None:
    assert 'database "absent" does not exist' in str(refused(build, "DROP DATABASE absent"))


def test_a_function_is_named_that_does_not_find_what_its_text_names(build: Cluster) -> None:
    function = "CREATE FUNCTION pg_temp.lost() RETURNS int LANGUAGE sql AS $$ SELECT nowhere() $$"
    told = str(refused(build, f"SET check_function_bodies = off; {function}; SELECT pg_temp.lost()"))
    assert "function nowhere() does not exist" in told


def test_what_a_build_session_runs_into_is_translated(build: Cluster) -> None:
    with pytest.raises(PermanentError, match="SQLSTATE"), PostgresEngine().session(build.work()):
        build.query("postgres", "SELECT 1/0")


def _raises(error: Exception, cause: Exception | None = None) -> NoReturn:
    raise error from cause


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "data/postgresql.conf"), None),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), None),
        (SourceError("cannot copy base/1"), OSError(errno.ENOSPC, "No space left on device")),
        (PermanentError("initdb failed"), CommandError(["initdb"], 1, "could not write: No space left on device")),
        (SourceError("shop.sql:3: disk full"), SqlError("53100", "could not extend file")),
    ],
)
def test_a_full_disk_is_a_refusal_whoever_met_it(error: Exception, cause: Exception | None) -> None:
    with pytest.raises(RefusedError) as caught, translated():
        _raises(error, cause)
    assert caught.value.reason == "PoolFull"


def test_other_failures_of_files_may_be_tried_again_and_of_sources_may_not() -> None:
    with pytest.raises(UnavailableError, match="global/pg_control: Input/output error"), translated():
        _raises(OSError(errno.EIO, "Input/output error", "global/pg_control"))
    with pytest.raises(SourceError, match="truncated"), translated():
        _raises(SourceError("truncated"), OSError(errno.EIO, "Input/output error"))


HOSTILE = (
    'could not connect: "user=boss password=sesame host=db" and postgresql://boss:sesame@db/shop\n'
    + "x" * 900
    + "\nend"
)


def test_what_a_server_says_that_cannot_open_a_copy_shows_no_secret() -> None:
    told = str(recovery.failure(None, HOSTILE, "/backups/shop"))
    assert "sesame" not in told
    assert told.endswith("end")


def test_the_end_of_what_a_program_says_shows_no_part_of_a_secret_wherever_it_begins() -> None:
    assert [length for length in range(1, 1200) if "esame" in failures.told(HOSTILE, length)] == []


def test_what_a_program_of_repositories_says_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wal-g", "pgbackrest"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho 'password=sesame: s3://key:sesame@store is not there' >&2\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for repository in (
        BackupRepository("wal-g", "", Path("/w.json")),
        BackupRepository("pgbackrest", "main", Path("/p.conf")),
    ):
        source = LocalSource("backup", name="shop", repository=repository)
        with pytest.raises(SourceError, match="is not there") as caught:
            identify(source)
        assert "sesame" not in str(caught.value)
