"""An interruption ends the program as one, also when a library turns it into an error of its own."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import signal, sys
from reconciler.cli import main

@main.app.command()
def swallow() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as error:  # as pydantic does while it builds a validator
        raise ValueError("no validator") from error

sys.argv = ["reconciler", "swallow"]
main.main()
"""


def test_interruption_that_became_another_error_ends_with_130_and_no_traceback() -> None:
    done = run("--default-signal=INT")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_program_started_with_interrupts_ignored_goes_on_ignoring_them() -> None:
    done = run("--ignore-signal=INT")
    assert (done.returncode, done.stderr) == (0, "")


def run(interrupts: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["env", interrupts, sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=60
    )
