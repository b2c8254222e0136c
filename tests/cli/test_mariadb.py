"""The program as users of MariaDB meet it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.mysql.engine import MariaDbEngine
from tests.cli.script import run_script

if TYPE_CHECKING:
    from tests.support import World

SCRIPTS = sorted(Path(__file__).with_name("mariadb").glob("*.txt"))


@pytest.mark.long
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_session_runs_as_it_is_written(script: Path, world: World) -> None:
    if not MariaDbEngine().servers():
        pytest.skip("needs MariaDB on this host (packages mariadb-server-core, mariadb-client-core)")
    run_script(script, world)
