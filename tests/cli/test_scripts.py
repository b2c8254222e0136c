"""The program as users meet it: every session under scripts/ runs as it is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.script import run_script

if TYPE_CHECKING:
    from tests.support import World

SCRIPTS = sorted(Path(__file__).with_name("scripts").glob("*.txt"))
FIRST = "first_steps"
"""The session that every change is tried with at once."""


@pytest.mark.postgres
@pytest.mark.skipif(shutil.which("psql") is None, reason="needs psql, as clients have it")
@pytest.mark.parametrize(
    "script",
    [pytest.param(path, id=path.stem, marks=[] if path.stem == FIRST else pytest.mark.long) for path in SCRIPTS],
)
def test_session_runs_as_it_is_written(script: Path, world: World) -> None:
    run_script(script, world)
