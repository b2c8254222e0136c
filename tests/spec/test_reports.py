"""Findings for tools: GitHub's annotations and summary, SARIF, and the escaping of untrusted text."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel
from sarif_pydantic import Sarif

from reconciler.spec.diagnostics import Related, diagnostic
from reconciler.spec.github import render_github, render_summary
from reconciler.spec.markdown import cell
from reconciler.spec.sarif import render_sarif
from reconciler.spec.yaml12 import Span
from reconciler.validation import validate_paths

if TYPE_CHECKING:
    from pathlib import Path

DATA = b"kind: Clone\nspec:\n  ttll: 8h\n"
FOUND = diagnostic(
    "R012",
    'unknown field "ttll"',
    file="clones/qa, new.yaml",
    span=Span(3, 3, 3, 7),
    data=DATA,
    hint='did you mean "ttl"?',
)
WARNING = replace(FOUND, code="R025", severity="warning", related=(Related("first here", "a.yaml", 1, 2),))


def test_an_annotation_names_file_and_columns_and_cannot_end_early() -> None:
    odd = replace(FOUND, summary="100% of\n::error::lines")
    assert render_github([odd]) == (
        "::error file=clones/qa%2C new.yaml,line=3,endLine=3,col=3,endColumn=7,title=R012"
        '::100%25 of%0A::error::lines%0Adid you mean "ttl"?'
    )


def test_columns_are_left_out_of_an_annotation_of_several_lines() -> None:
    assert "col=" not in render_github([replace(FOUND, end_line=4)])


def test_the_ten_worst_are_annotations_and_the_others_plain_lines() -> None:
    lines = render_github([WARNING] * 8 + [FOUND] * 5).splitlines()
    assert [line.startswith("::error ") for line in lines] == [True] * 5 + [False] * 8
    assert [line.startswith("::") for line in lines] == [True] * 10 + [False] * 3


def test_a_file_cannot_be_called_like_a_command() -> None:
    odd = replace(FOUND, file="::stop-commands::x", summary="##[error]x")
    (line,) = render_github([FOUND] * 10 + [odd]).splitlines()[10:]
    assert not line.strip().startswith("::")
    assert "##[" not in line


def test_the_summary_holds_all_findings_and_nothing_of_them_is_markup() -> None:
    text = render_summary([replace(FOUND, summary="a | b <img src=x> @team *x*")] * 12, "Specs")
    assert text.startswith("### Specs\n\n12 errors\n\n|")
    row = r"| error R012 | clones/qa, new.yaml:3 | a \| b \<img src=x\> @&#8203;team \*x\* | did you mean"
    assert text.count(row) == 12


def test_a_summary_stays_below_what_github_takes() -> None:
    text = render_summary([replace(FOUND, summary="é" * 1000)] * 2000, "Specs")
    assert len(text.encode()) < 1024 * 1024
    told = re.search(r"(\d+) more are in the log of the step\.", text)
    assert told is not None
    assert text.count("| error R012 |") + int(told[1]) == 2000


def unknown_fields(model: BaseModel) -> list[str]:
    found = list(model.model_extra or ())
    for _name, value in model:
        for part in value if isinstance(value, list) else [value]:
            found += unknown_fields(part) if isinstance(part, BaseModel) else []
    return found


def test_sarif_is_of_its_standard_and_has_places_and_rules() -> None:
    document = render_sarif([FOUND, WARNING])
    parsed = Sarif.model_validate({key: value for key, value in document.items() if key != "$schema"})
    assert unknown_fields(parsed) == ["columnKind"]  # section 3.14.27; the model lacks it
    (run,) = document["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["R012", "R025"]
    first, second = run["results"]
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "clones/qa%2C%20new.yaml", "uriBaseId": "%SRCROOT%"}
    assert place["region"] == {"startLine": 3, "startColumn": 3, "endLine": 3, "endColumn": 7}
    assert (first["level"], second["level"], second["ruleIndex"]) == ("error", "warning", 1)
    assert second["relatedLocations"][0]["message"] == {"text": "first here"}


def fingerprints(document: dict[str, Any]) -> list[str]:
    return [result["partialFingerprints"]["reconciler/v1"] for result in document["runs"][0]["results"]]


def test_a_fingerprint_stays_when_lines_are_added_above_and_tells_equal_findings_apart() -> None:
    moved = diagnostic(
        FOUND.code,
        FOUND.summary,
        file=FOUND.file,
        span=Span(5, 3, 5, 7),
        data=b"# one\n# two\n" + DATA,
        hint=FOUND.hint,
    )
    assert fingerprints(render_sarif([FOUND])) == fingerprints(render_sarif([moved]))
    assert len(set(fingerprints(render_sarif([FOUND, FOUND])))) == 2


def test_files_are_named_from_the_checkout_for_tools_and_from_the_specs_for_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "qa.yaml").write_text("kind: Clown\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    specs = tmp_path / "specs"
    assert {found.file for found in validate_paths([specs], rooted=False).diagnostics} == {"specs/qa.yaml"}
    assert {found.file for found in validate_paths([specs]).diagnostics} == {"qa.yaml"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words, 12 %", "plain words, 12 %"),
        ("<details>", r"\<details\>"),
        ("[x](http://evil)", r"\[x\](http\://evil)"),
        ("see www.evil.example", r"see www\.evil.example"),
        ("@octocat fixed #12", "@&#8203;octocat fixed #&#8203;12"),
        ("two\nlines\x1b[1m", r"two lines \[1m"),
        ("# title", r"\# title"),
    ],
)
def test_text_of_specs_is_never_markup(text: str, shown: str) -> None:
    assert cell(text) == shown
