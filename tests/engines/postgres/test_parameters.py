"""Which settings documents may ask for."""

from __future__ import annotations

import pytest

from reconciler.engines.postgres.parameters import (
    check_parameters,
    libraries,
    raise_to_required,
    refused,
    validate_parameters,
)
from reconciler.errors import UnsupportedError


@pytest.mark.parametrize(
    "name",
    [
        "archive_command",
        "Archive_Command",
        "restore_command",
        "primary_conninfo",
        "ssl_passphrase_command",
        "listen_addresses",
        "port",
        "data_directory",
        "hba_file",
        "log_directory",
        "session_preload_libraries",
        "dynamic_library_path",
        "include_dir",
        "jit_provider",
        "huge_pages",
        "unix_socket_directories",
    ],
)
def test_a_setting_that_reaches_beyond_its_server_is_refused(name: str) -> None:
    assert validate_parameters({name: "x"}) == [
        f"parameter {name} cannot be set: it is decided by the reconciler, not by a document"
    ]


@pytest.mark.parametrize(
    "name", ["plperl.on_init", "PLPERL.on_plperl_init", "basebackup_to_shell.command", "cron.host", "app.api_key"]
)
def test_a_setting_of_an_extension_that_is_not_known_to_be_harmless_is_refused(name: str) -> None:
    (message,) = validate_parameters({name: "system('id')"})
    assert message.startswith(f"parameter {name} cannot be set: of settings with a dot only those of auto_explain, ")
    assert "system" not in message
    assert refused(name)


@pytest.mark.parametrize("library", ["plperl", "basebackup_to_shell", "pg_cron", "/tmp/evil", "$libdir/plperl"])
def test_a_library_that_is_not_known_to_be_harmless_is_not_preloaded(library: str) -> None:
    (message,) = validate_parameters({"Shared_Preload_Libraries": f"pg_stat_statements, {library}"})
    assert "takes libraries that are known to be harmless: auto_explain, " in message


@pytest.mark.parametrize("name", ["work_mem", "shared_buffers", "timezone", "wal_level", "pg_stat_statements.max"])
def test_an_ordinary_setting_is_allowed(name: str) -> None:
    assert validate_parameters({name: "1"}) == []
    assert not refused(name)


@pytest.mark.parametrize("name", ["work mem", "a=b\nport", "", "x'"])
def test_what_is_no_name_is_refused(name: str) -> None:
    assert len(validate_parameters({name: "1"})) == 1


def test_a_line_break_cannot_smuggle_in_another_setting() -> None:
    with pytest.raises(UnsupportedError, match="control character"):
        check_parameters({"work_mem": "1MB'\nport = '1"})


def test_a_library_that_measures_or_that_data_needs_may_be_preloaded() -> None:
    assert validate_parameters({"shared_preload_libraries": "pg_stat_statements, auto_explain, timescaledb"}) == []
    assert libraries("a, \"b\", 'c',") == ("a", "b", "c")


def test_a_parameter_below_what_the_data_needs_is_refused_with_both_numbers() -> None:
    assert raise_to_required({"work_mem": "1MB"}, {"max_connections": "200"}) == {
        "work_mem": "1MB",
        "max_connections": "200",
    }
    assert raise_to_required({"max_connections": "300"}, {"max_connections": "200"}) == {"max_connections": "300"}
    with pytest.raises(UnsupportedError, match=r"10; .* below 200"):
        raise_to_required({"Max_Connections": "10"}, {"max_connections": "200"})


def test_libraries_that_the_data_needs_stay_before_those_that_a_document_adds() -> None:
    both = raise_to_required({"shared_preload_libraries": "auto_explain"}, {"shared_preload_libraries": "citus"})
    assert both == {"shared_preload_libraries": "citus,auto_explain"}
