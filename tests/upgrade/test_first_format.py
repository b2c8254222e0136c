"""What the first released version left on a host is taken over as it is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.script import environment
from tests.support import PROGRAM

FIRST = Path(__file__).with_name("first.tar.gz")
"""Configuration, specs, state and pool of an installation with an image and a clone in which somebody wrote.

Of the version before status files of format 4: made by `reconciler apply`, a row that was
inserted through `reconciler connect`, and a second `apply`.
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    subprocess.run(["tar", "-xzf", FIRST, "-C", tmp_path], check=True)
    return tmp_path


def run(host: Path, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *words], cwd=host, input=stdin, env=environment(), capture_output=True, text=True, check=False
    )


def test_nothing_is_made_anew_and_nothing_is_lost(host: Path) -> None:
    before = sorted(path.name for path in (host / "pool" / "manifests").iterdir())

    for _ in range(2):
        applied = run(host, "apply")
        assert (applied.returncode, applied.stdout) == (0, "No changes: everything is as the specs ask for.\n")

    assert sorted(path.name for path in (host / "pool" / "manifests").iterdir()) == before
    assert run(host, "connect", "dev", stdin="SELECT name FROM product").stdout.split() == ["tea", "milk"]
    events = json.loads(run(host, "events", "-o", "json").stdout)
    assert [event["reason"] for event in events if event["reason"].endswith("Succeeded")] == [
        "BuildSucceeded",
        "CreateSucceeded",
    ]
    assert list((host / "state").glob("*.broken-*")) == []


def test_its_volumes_are_worked_with_as_if_they_were_new(host: Path) -> None:
    assert run(host, "reset", "dev").returncode == 0
    assert run(host, "connect", "dev", stdin="SELECT name FROM product").stdout.split() == ["tea"]
    assert run(host, "undo", "dev").returncode == 0
    assert run(host, "connect", "dev", stdin="SELECT name FROM product").stdout.split() == ["tea", "milk"]
    actions = [entry["action"] for entry in json.loads(run(host, "history", "Clone/dev", "-o", "json").stdout)]
    assert actions == ["replace", "restore"]
