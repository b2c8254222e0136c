from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("packages.py")


def test_a_host_that_cannot_install_anything_is_told_what_is_skipped_and_the_run_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM], env={"PATH": "/nonexistent"}, capture_output=True, text=True, check=True
    )
    assert "these tests will be SKIPPED" in done.stderr
    assert "git: everything that reads a spec repository from git" in done.stderr
    assert "apt-get install " in done.stderr
    assert done.stdout == ""


def test_a_host_that_has_everything_hears_nothing() -> None:
    done = subprocess.run([sys.executable, PROGRAM, "venv"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("sys.modules['ensurepip'] = None", r"^python3-venv is missing. As root: apt-get install python3\.\d+-venv"),
        ("sys.version_info = (3, 9, 2)", r" is Python 3\.9\.2, and 3\.11 or later is needed: make PYTHON="),
    ],
)
def test_a_python_without_what_is_needed_ends_the_set_up_with_a_way_out(host: str, message: str) -> None:
    program = (
        f"import runpy, sys; {host}; sys.argv[1:] = ['venv']; runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PATH": "/nonexistent"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.search(message, done.stderr)


def test_the_oldest_python_that_may_run_it_understands_it() -> None:
    ast.parse(PROGRAM.read_text(encoding="utf-8"), feature_version=(3, 9))
