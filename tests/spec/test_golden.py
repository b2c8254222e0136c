"""Wrong files and exactly what is said about them: ``golden/NAME.yaml`` and ``golden/NAME.txt``.

To accept a change of words: ``RECONCILER_ACCEPT=1 pytest tests/spec/test_golden.py``,
then read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.spec.diagnostics import render_text
from reconciler.spec.documents import SpecFile
from reconciler.spec.loader import load

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))


def report(name: str) -> str:
    data = (GOLDEN / f"{name}.yaml").read_bytes()
    return render_text(load([SpecFile(f"{name}.yaml", data)]).diagnostics) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_the_report_of_a_wrong_file_is_as_recorded(name: str) -> None:
    expected = GOLDEN / f"{name}.txt"
    if os.environ.get("RECONCILER_ACCEPT"):
        expected.write_text(report(name), encoding="utf-8")
    assert report(name) == expected.read_text(encoding="utf-8")


def test_no_report_shows_a_password() -> None:
    text = report("secrets")
    assert text.count("must be a reference to a secret") == 3
    assert not [word for word in ("horse", "battery", "staple") if word in text]
