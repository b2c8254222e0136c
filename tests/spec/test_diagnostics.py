"""How findings are shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reconciler.spec.codes import CODES
from reconciler.spec.diagnostics import diagnostic, redact, render_json, render_text
from reconciler.spec.yaml12 import Span
from reconciler.validation import validate_paths

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("password: hunter2", "password: *******"),
        ("db_password: 'hunter2' # old", "db_password: ********* # old"),
        ("{name: app, PASSWORD: hunter2, role: owner}", "{name: app, PASSWORD: *******, role: owner}"),
        ("url: postgres://app:hunter2@db/shop", "url: postgres://app:*******@db/shop"),
        ("apiKey: abc def", "apiKey: *******"),
        ("token: x", "token: *"),
        ("password: {secret: shop-app}", "password: {secret: shop-app}"),
        ("password:", "password:"),
        ("image: shop", "image: shop"),
    ],
)
def test_what_looks_like_a_password_is_covered_in_place(line: str, expected: str) -> None:
    assert redact(line) == expected


def test_control_characters_do_not_reach_the_terminal() -> None:
    data = b"a: \x1b[31mred\x07\nb: \xe2\x80\xaeevil\n"
    found = diagnostic("R016", "\x1b[0m bad", file="a.yaml", span=Span(1, 4, 1, 5), data=data)
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", render_text([found]))


def test_long_lines_are_cut() -> None:
    found = diagnostic("R016", "bad", file="a.yaml", span=Span(1, 4, 1, 5), data=b"a: " + b"x" * 500_000)
    assert max(map(len, render_text([found]).splitlines())) < 200


def test_json_carries_everything() -> None:
    found = diagnostic(
        "R012", 'unknown field "b"', file="a.yaml", span=Span(2, 1, 2, 2), data=b"a: 1\nb: 2\n", hint="did you mean a"
    )
    assert render_json([found]) == {
        "valid": False,
        "error_count": 1,
        "warning_count": 0,
        "diagnostics": [
            {
                "severity": "error",
                "code": "R012",
                "summary": 'unknown field "b"',
                "detail": "did you mean a",
                "range": {
                    "filename": "a.yaml",
                    "start": {"line": 2, "column": 1},
                    "end": {"line": 2, "column": 2},
                },
                "snippet": {"code": "a: 1\nb: 2", "start_line": 1},
                "related": [],
            }
        ],
    }


def test_warnings_leave_specs_valid() -> None:
    found = diagnostic("R025", "odd", file="a.yaml", span=Span(1, 1, 1, 2), severity="warning")
    assert render_json([found])["valid"] is True
    assert render_text([found]).endswith("1 warning")


def test_colour_changes_nothing_but_colour() -> None:
    found = diagnostic("R012", "bad", file="a.yaml", span=Span(1, 1, 1, 2), data=b"a: 1\n", hint="x")
    assert re.sub("\x1b\\[[0-9;]*m", "", render_text([found], colour=True)) == render_text([found])


def test_every_code_is_documented() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (R\d{3}) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    assert rows == [(code, known.meaning, known.advice) for code, known in CODES.items()]


@pytest.mark.parametrize("code", [code for code, known in CODES.items() if known.example is not None])
def test_the_example_of_a_code_has_that_mistake_and_no_other(code: str, tmp_path: Path) -> None:
    (tmp_path / "example.yaml").write_text(CODES[code].example or "", encoding="utf-8")
    found = validate_paths([tmp_path]).diagnostics
    assert {diagnostic.code for diagnostic in found} == {code}
