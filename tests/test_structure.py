from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "reconciler"


def test_every_module_says_first_what_it_is_for() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert PACKAGE / "proc.py" in modules
    assert [str(path) for path in modules if not ast.get_docstring(ast.parse(path.read_text()))] == []
