"""What the configuration files of builds and clones say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.base import CloneWork, Sealed
from reconciler.engines.postgres import server, settings
from reconciler.errors import UnsupportedError
from reconciler.ids import CloneName, ServerName
from reconciler.testing.engine import SNAPSHOT, manifest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.engines.conftest import PostgresHarness


def _settings(directory: Path) -> dict[str, str]:
    lines = (directory / "data" / "postgresql.conf").read_text().splitlines()
    return {name: value.strip("'") for name, _, value in (line.partition(" = ") for line in lines)}


@pytest.fixture
def clone(postgres: PostgresHarness) -> CloneWork:
    volume = postgres.volume()
    (volume / "data").mkdir()
    sealed = Sealed(version=f"{postgres.major}.0", major=postgres.major, databases=("shop",))
    return CloneWork(
        clone=CloneName("shop-dev"),
        server=ServerName("shop-dev.1"),
        directory=volume,
        run_directory=postgres.run_directory(),
        snapshot=manifest(postgres.engine, sealed),
        port=5601,
    )


def test_a_build_listens_nowhere_and_acts_on_nothing(postgres: PostgresHarness) -> None:
    wishes = {"work_mem": "7MB", "max_connections": "10", "Track_Counts": "off"}
    work = replace(postgres.build_work(), parameters=wishes)
    (work.directory / "data").mkdir()
    (work.directory / "data" / "postgresql.auto.conf").write_text("archive_command = 'call home'")
    settings.write_build(work, postgres.installed, {"max_connections": "200"})
    found = _settings(work.directory)
    expected = {
        "listen_addresses": "",
        "archive_mode": "off",
        "max_wal_senders": "0",
        "max_logical_replication_workers": "0",
        "autovacuum": "off",
        "track_counts": "on",
        "work_mem": "7MB",
        "max_connections": "200",
        "cluster_name": f"build {SNAPSHOT}",
    }
    assert {name: found[name] for name in expected} == expected
    assert (work.directory / "data" / "postgresql.auto.conf").read_text() == ""
    assert (work.directory / "data" / "pg_hba.conf").read_text() == "local all all peer map=reconciler\n"


def test_a_build_loads_only_what_its_data_needs_and_logs_no_statement(
    postgres: PostgresHarness, tmp_path: Path
) -> None:
    root = tmp_path / "bin"  # an installation that has the library
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "timescaledb.so").touch()
    installed = replace(postgres.installed, directory=root)
    asked = {"Shared_Preload_Libraries": "auto_explain, timescaledb", "auto_explain.log_min_duration": "0"}
    work = replace(postgres.build_work(), parameters=asked)
    (work.directory / "data").mkdir()
    settings.write_build(work, installed, {})
    found = _settings(work.directory)
    assert (found["shared_preload_libraries"], found["log_min_messages"]) == ("timescaledb", "fatal")
    assert "Shared_Preload_Libraries" not in found


def test_a_value_with_quotes_stays_one_value(postgres: PostgresHarness, clone: CloneWork) -> None:
    settings.write_clone(clone, postgres.installed, {"search_path": "a', \\b"})
    assert "search_path = 'a'', \\\\b'\n" in (clone.directory / "data" / "postgresql.conf").read_text()


def test_a_clone_lets_in_loopback_with_a_password_and_its_admin_only_by_socket(
    postgres: PostgresHarness, clone: CloneWork
) -> None:
    settings.write_clone(clone, postgres.installed, {})
    assert (clone.directory / "data" / "pg_hba.conf").read_text().splitlines() == [
        "local all all peer map=reconciler",
        'host all "reconciler_admin" all reject',
        'host all "reconciler_builder" all reject',
        "host all all 127.0.0.0/8 scram-sha-256",
        "host all all ::1/128 scram-sha-256",
    ]
    assert _settings(clone.directory)["listen_addresses"] == "127.0.0.1"


def test_other_networks_come_in_only_where_the_host_allows_them(postgres: PostgresHarness, clone: CloneWork) -> None:
    settings.write_clone(replace(clone, host="10.1.2.3", allow=("10.0.0.0/8",)), postgres.installed, {})
    lines = (clone.directory / "data" / "pg_hba.conf").read_text().splitlines()
    assert lines[-2:] == ["host all all 10.1.2.3/32 scram-sha-256", "host all all 10.0.0.0/8 scram-sha-256"]


def test_the_account_of_clones_is_never_mapped_to_the_admin(postgres: PostgresHarness, clone: CloneWork) -> None:
    account = postgres.account()
    if account is None:
        pytest.skip("needs root: an ordinary user runs everything under one account")
    settings.write_clone(replace(clone, account=account), postgres.installed, {})
    lines = (clone.directory / "data" / "pg_ident.conf").read_text().splitlines()
    name = server.account_name(account.uid)
    assert [line for line in lines if f'"{name}"' in line] == [f'reconciler "{name}" "reconciler_builder"']
    assert 'reconciler "root" "reconciler_admin"' in lines


def test_a_clone_before_delivery_has_no_tcp(postgres: PostgresHarness, clone: CloneWork) -> None:
    settings.write_clone(replace(clone, port=None), postgres.installed, {})
    assert _settings(clone.directory)["listen_addresses"] == ""
    assert (clone.directory / "data" / "pg_hba.conf").read_text() == "local all all peer map=reconciler\n"


def test_a_library_that_is_not_installed_is_named(postgres: PostgresHarness, clone: CloneWork) -> None:
    with pytest.raises(UnsupportedError, match="lacks the libraries absent"):
        settings.write_clone(clone, postgres.installed, {"shared_preload_libraries": "auto_explain, absent"})


def test_tls_is_refused_where_the_server_has_none_and_asked_of_other_networks_where_it_has(
    clone: CloneWork, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_text("certificate")
    key.write_text("key")
    work = replace(clone, tls=(certificate, key), allow=("10.0.0.0/8",))
    for installed in server.installed_servers():
        if any(name.startswith("libssl.") for name in server.linked_libraries(installed)):
            settings.write_clone(work, installed, {})
            assert (work.directory / "data" / "server.key").stat().st_mode & 0o777 == 0o600
            assert (
                (work.directory / "data" / "pg_hba.conf")
                .read_text()
                .endswith("hostssl all all 10.0.0.0/8 scram-sha-256\n")
            )
        else:
            with pytest.raises(UnsupportedError, match="without TLS"):
                settings.write_clone(work, installed, {})


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({"work_mem": "banana"}, 'invalid value for parameter "work_mem": "banana"'),
        ({"work_mem": "7MB", "max_connections": "-5"}, r"-5 is outside the valid range for parameter "),
        ({"wrk_mem": "7MB"}, 'unrecognized configuration parameter "wrk_mem"'),
    ],
)
def test_a_setting_that_the_server_does_not_take_is_named_before_anything_is_built(
    postgres: PostgresHarness, wanted: dict[str, str], problem: str
) -> None:
    work = replace(postgres.build_work(), parameters=wanted)
    with pytest.raises(UnsupportedError, match=problem) as caught:
        postgres.engine.prepare(work)
    assert str(work.directory) not in caught.value.message
    assert not (work.directory / "data").exists()


def test_settings_that_the_server_takes_are_fine(postgres: PostgresHarness) -> None:
    wanted = {"work_mem": "7MB", "auto_explain.log_min_duration": "5s", "shared_preload_libraries": "auto_explain"}
    settings.check_values(postgres.installed, wanted, postgres.account())


def test_a_clone_with_a_setting_that_the_server_does_not_take_is_refused(
    postgres: PostgresHarness, clone: CloneWork
) -> None:
    with pytest.raises(UnsupportedError, match='invalid value for parameter "work_mem"'):
        postgres.engine.clone_server(replace(clone, parameters={"work_mem": "banana"}))
