"""How long a pull request waits for the action, without its set-up: findings, SARIF, and the plan of all its specs.

Whole processes, wall-clock time: those of the action's steps, against a status that was
published by a host on which everything exists. One document of a hundred is changed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.figures import Figure, Options, in_turns
from bench.many import many, write_specs
from reconciler.loop import Reconciler
from reconciler.publishing import status_of

if TYPE_CHECKING:
    from reconciler.host import Host
    from reconciler.view import View

_FILES = 1_000
_QUICK_FILES = 100
_SECONDS = 5.0
_PROGRAM = str(Path(sys.executable).with_name("reconciler"))


def run(options: Options) -> list[Figure]:
    """Measure the steps, and what publishing the status costs a pass."""
    number, repetitions = (_QUICK_FILES, 1) if options.quick else (_FILES, options.repetitions)
    with tempfile.TemporaryDirectory(prefix="reconciler-bench-") as name:
        directory = Path(name)
        files = write_specs(directory / "specs", number)
        with many(directory, directory / "specs") as (host, _commits):
            view = Reconciler(host, host.commits()).look()
            (published,) = in_turns(repetitions, lambda: _publish(host, view, directory / "status.json"))
        for file in files[1::100]:
            file.write_text(file.read_text().replace("64MB", "32MB"))
        (taken,) = in_turns(repetitions, lambda: _steps(directory))
    return [
        Figure(f"{len(files)} specs in a pull request: findings, SARIF, plan", taken, None, _SECONDS),
        Figure("what publishing the status takes of a pass", published, None, None),
    ]


def _publish(host: Host, view: View, file: Path) -> float:
    start = time.process_time()
    made = status_of(host, view, view.conditions)
    seconds = time.process_time() - start
    if made is None:
        raise RuntimeError("there is no status to publish")
    file.write_bytes(made.data)
    return seconds


def _steps(directory: Path) -> float:
    """Return the seconds that the programs take which the action runs."""
    plan = ("plan", "--observed", "status.json", "--repository", "specs", "-o", "markdown")
    commands = (("validate", "--format", "github", "specs"), ("validate", "--format", "sarif", "specs"), plan)
    env = {**os.environ, "GITHUB_STEP_SUMMARY": str(directory / "summary.md")}
    start = time.perf_counter()
    for command in commands:
        words = [_PROGRAM, *command]
        subprocess.run(words, cwd=directory, env=env, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - start
