"""A host put together: who only looks leaves nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.errors import UnavailableError
from reconciler.host import open_host
from reconciler.inspection import report
from reconciler.spec.config import Config

if TYPE_CHECKING:
    from pathlib import Path


def config(path: Path) -> Config:
    (path / "specs").mkdir()
    document = {"repository": {"path": str(path / "specs")}, "state": str(path / "state")}
    return Config.model_validate(document, context={"base": path})


def test_looking_where_there_is_no_installation_yet_makes_none(tmp_path: Path) -> None:
    with open_host(config(tmp_path), writes=False) as host:
        assert report(host)["clones"] == []
    assert [path.name for path in tmp_path.iterdir()] == ["specs"]


def test_a_state_directory_that_is_a_file_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(UnavailableError), open_host(config(tmp_path), writes=False):
        pass
