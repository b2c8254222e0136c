"""SQLite keeps the contract of engines."""

from __future__ import annotations

import io
import sqlite3
from typing import TYPE_CHECKING

import pytest

from reconciler import plugins
from reconciler.engines.base import UserWish
from reconciler.engines.sqlite import shell
from reconciler.engines.sqlite.engine import SqliteEngine
from reconciler.errors import UnsupportedError
from reconciler.spec.products import WITHOUT_SERVER
from reconciler.state.servers import Endpoint
from reconciler.testing.engine import EngineSuite
from tests.engines.sqlite.harness import SqliteHarness, tables

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.testing.engine import EngineHarness


class TestSqlite(EngineSuite):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> EngineHarness:
        return SqliteHarness(tmp_path)


def test_specs_know_which_engines_of_the_registry_serve_files() -> None:
    serving = {name for name in plugins.names("engine") if plugins.load("engine", name)().files is not None}
    assert serving == WITHOUT_SERVER


def test_a_clone_is_reached_by_the_path_of_its_file(tmp_path: Path) -> None:
    endpoint = Endpoint("", 0, "shop", "", tmp_path / "with space" / "shop.db")
    assert SqliteEngine().url(endpoint, None) == f"sqlite:///{tmp_path}/with%20space/shop.db"


def test_users_are_refused_and_not_passed_over(sqlite: SqliteHarness) -> None:
    with pytest.raises(UnsupportedError, match="no users"):
        sqlite.engine.deliver(sqlite.clone_of_shop(), [UserWish("app", "owner", "x")], [])


def test_server_settings_are_refused_with_what_to_do_instead() -> None:
    rule = plugins.load("parameter", "sqlite")
    assert rule({}) == []
    assert "PRAGMA" in rule({"work_mem": "64MB"})[0]


def test_without_the_program_the_shell_of_this_package_runs_statements(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    out, errors = io.StringIO(), io.StringIO()
    text = io.StringIO("CREATE TABLE t (a, b);\nINSERT INTO t VALUES (1, NULL),\n ('x;y', 2);\nSELECT * FROM t;")
    assert shell.main(str(path), text, out, errors) == 0
    assert (out.getvalue(), errors.getvalue()) == ("1|\nx;y|2\n", "")
    assert tables(path) == {"t": [(1, None), ("x;y", 2)]}


def test_the_shell_stops_at_the_first_error_when_nobody_sits_there(tmp_path: Path) -> None:
    out, errors = io.StringIO(), io.StringIO()
    text = io.StringIO("SELECT 1;\nSELECT nothing;\nSELECT 2;")
    assert shell.main(str(tmp_path / "shop.db"), text, out, errors) == 1
    assert out.getvalue() == "1\n"
    assert errors.getvalue().startswith("line 2: ")


def test_the_library_of_a_snapshot_is_told_as_its_version(sqlite: SqliteHarness) -> None:
    _directory, manifest = sqlite.shop()
    assert (manifest.version, manifest.major) == (sqlite3.sqlite_version, "3")
