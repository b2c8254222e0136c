from __future__ import annotations

import pytest

from reconciler.engines.mysql.parameters import canonical, validate_parameters

_REACHING = """
secure_file_priv secure_file plugin_load_add loose_plugin_load init_file datadir general_log_file log-bin local_infile
skip_grant_tables innodb_data_home_dir wsrep_provider bind-address user
"""


@pytest.mark.parametrize("name", _REACHING.split())
def test_settings_that_reach_files_libraries_or_other_servers_are_refused(name: str) -> None:
    (message,) = validate_parameters({name: "x"})
    assert message.startswith(f"parameter {name} cannot be set")


def test_ordinary_settings_are_fine_with_dashes_or_underscores() -> None:
    assert validate_parameters({"sql-mode": "ANSI_QUOTES", "MAX_CONNECTIONS": "5", "sort_buffer_size": "1M"}) == []
    assert canonical({"sql-mode": "x"}) == {"sql_mode": "x"}


def test_a_value_cannot_add_a_line() -> None:
    assert validate_parameters({"sql_mode": "x\nplugin_load=y"})
    assert validate_parameters({"sql_mode": 'x"'})


def test_a_near_miss_is_told() -> None:
    (message,) = validate_parameters({"sort_bufer_size": "1M"})
    assert "did you mean sort_buffer_size?" in message
