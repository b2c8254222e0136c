"""Installations are found, chosen and reachable."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres import server
from reconciler.errors import NotInstalledError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.engines.conftest import PostgresHarness

    from .conftest import Cluster


def test_the_embedded_server_is_always_there_and_comes_after_the_host_ones() -> None:
    origins = [one.origin for one in server.installed_servers()]
    assert "embedded" in origins
    assert origins == sorted(origins, key=["host", "embedded"].index)


def test_the_newest_version_serves_what_asks_for_none() -> None:
    assert server.choose().major == max((one.major for one in server.installed_servers()), key=int)


def install(directory: Path, version: str, library: str) -> None:
    """Put programs in place as a package does: each by a rename."""
    for name in ("postgres", "initdb", "pg_controldata", "pg_resetwal"):
        new = directory / f"{name}.new"
        new.write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}' # {library}\n")
        new.chmod(0o755)
        new.replace(directory / name)


def test_what_is_installed_or_upgraded_later_is_seen(open_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{open_path}:{os.environ['PATH']}")
    for version, library in ((None, ""), ("77.1", "libicui18n.so.72"), ("77.2", "libicui18n.so.76")):
        if version is not None:
            install(open_path, version, library)
        found = [one for one in server.installed_servers() if one.directory == open_path]
        assert [one.version for one in found] == ([version] if version else [])
        assert [server.linked_libraries(one) for one in found] == ([{library}] if version else [])


@pytest.mark.parametrize("major", ["99", "9", "x"])
def test_an_absent_version_is_refused_with_a_way_out(major: str) -> None:
    with pytest.raises(UnsupportedError, match=r"install the package postgresql-99|the oldest version is 14"):
        server.choose(major)


def test_an_absent_program_is_refused_with_the_package_that_has_it() -> None:
    with pytest.raises(NotInstalledError, match="postgresql-client-"):
        server.program(server.choose(), "pg_nonsense")


def test_client_programs_read_none_of_the_users_own_files(postgres: PostgresHarness) -> None:
    env = server.socket_environment(postgres.build_work(), "shop", server.BUILDER)
    assert (env["PGDATABASE"], env["PGUSER"], env["PGPASSFILE"]) == ("shop", server.BUILDER, "/nonexistent")
    assert "PGPASSWORD" not in env


def test_servers_get_none_of_the_users_ssh_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/user/1000/agent")

    assert "SSH_AUTH_SOCK" not in server.server_environment()


@pytest.mark.postgres
@pytest.mark.parametrize("fixture", ["build_older", "build"])
def test_limits_of_productions_sessions_are_none_of_ours(request: pytest.FixtureRequest, fixture: str) -> None:
    build: Cluster = request.getfixturevalue(fixture)
    work = build.work()
    with server.connect(work, "template1") as conn:
        found = conn.execute(
            "SELECT name FROM pg_settings WHERE name ~ '^(?!deadlock).*(lock|session|statement|transaction)_timeout$'"
        ).fetchall()
        limits = [row[0] for row in found]
        for role in (server.ADMIN, server.BUILDER):
            for limit in limits:
                conn.execute(f"ALTER ROLE {role} SET {limit} = '1s'".encode())
    for user in (None, server.BUILDER):
        with server.connect(work, "template1", role=user) as conn:
            assert {limit: conn.execute(f"SHOW {limit}".encode()).fetchone() for limit in limits} == dict.fromkeys(
                limits, ("0",)
            )
    env = server.socket_environment(work, "template1", server.BUILDER)
    assert all(f"-c {limit}=0" in env["PGOPTIONS"] for limit in limits)
    with server.connect(work, "template1") as conn:
        conn.execute(f"ALTER ROLE {server.ADMIN} RESET ALL".encode())
