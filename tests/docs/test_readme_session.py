"""The session in README.md is what happens: its commands run, and their output is compared."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.script import environment, matches, steps
from tests.support import PROGRAM, end_installations, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

README = Path(__file__).parents[2] / "README.md"
VARYING = {
    r"\d{8}t\d{6}z-[0-9a-f]{8}": "{id}",
    r"127\.0\.0\.1:\d+": "127.0.0.1:{number}",
    r"\d+ s ago": "{ago}",
    r"[\d.]+ (KiB|MiB|GiB)": "{size}",
    r"\b1[0-9]\.\d+\b": "{version}",
    r"\b(btrfs|copy)\b": "{text}",
    r"dir@sha1:[0-9a-f]+": "{revision}",
}


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory that other accounts can reach; what was started in it is ended."""
    world = new_world()
    try:
        yield world.root
    finally:
        end_installations(world.root)
        world.close()


@pytest.mark.postgres
@pytest.mark.skipif(shutil.which("psql") is None, reason="needs psql, as clients have it")
def test_session_of_the_readme_happens_as_it_is_shown(directory: Path) -> None:
    session, mistake = re.findall(r"^```console\n(\$ reconciler .*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    for pattern, form in VARYING.items():
        session = re.sub(pattern, form, session)
    run_session(session, directory)
    subprocess.run([PROGRAM, "init", directory / "again"], check=True, capture_output=True)
    spec = directory / "again" / "specs" / "shop.yaml"
    spec.write_text(spec.read_text().replace("owner: dev", "ownr: dev"))
    run_session(mistake, spec.parents[1], code=1)


def run_session(session: str, here: Path, *, code: int = 0) -> None:
    """Run commands; where no output is shown, any will do."""
    for step in steps(session):
        result = subprocess.run(
            ["bash", "-c", step.command],
            cwd=here,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        told = result.stderr + result.stdout if "init" in step.command else result.stdout
        assert result.returncode == code
        assert matches(step.output or ["..."], told), f"$ {step.command}\n{result.stdout}{result.stderr}"
        here = here / "shop" if "&& cd shop" in step.command else here
