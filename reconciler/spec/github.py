"""Diagnostics as GitHub shows them in a pull request: annotations, and the summary of a step.

Called by ``validate --format github``. GitHub shows ten annotations of a kind per step and
drops the rest in silence, so the worst ten are annotations and all of them stand in the
summary (docs.github.com, "Workflow commands" and "Adding a job summary": 1 MiB per step).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.spec.diagnostics import counts, total
from reconciler.spec.markdown import cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.spec.diagnostics import Diagnostic

_ANNOTATIONS = 10
_SUMMARY_BYTES = 1024 * 1024 - 4096
"""Less than GitHub takes: other steps of the workflow do not count, the line that says what was left out does."""


def render_github(diagnostics: Sequence[Diagnostic]) -> str:
    """Return workflow commands for the ten worst findings, errors first, and a plain line for each other one."""
    worst = sorted(diagnostics, key=lambda found: found.severity != "error")
    lines = [_annotation(found) for found in worst[:_ANNOTATIONS]]
    return "\n".join([*lines, *(_plain(str(found)) for found in worst[_ANNOTATIONS:])])


def _plain(line: str) -> str:
    """Return a line that is no command, whatever a file is called: runners look for both marks of one."""
    line = f"./{line}" if line.lstrip().startswith("::") else line
    return line.replace("##[", "## [")


def _annotation(found: Diagnostic) -> str:
    place = {"file": found.file, "line": found.line, "endLine": found.end_line}
    if found.end_line == found.line:  # GitHub takes columns on one line only
        place |= {"col": found.column, "endColumn": found.end_column}
    place["title"] = found.code
    properties = ",".join(f"{key}={_property(str(value))}" for key, value in place.items())
    message = f"{found.summary}\n{found.hint}" if found.hint else found.summary
    return f"::{found.severity} {properties}::{_data(message)}"


def _data(text: str) -> str:
    """Escape as actions/toolkit does (``packages/core/src/command.ts``): a message must not begin a command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def render_summary(diagnostics: Sequence[Diagnostic], title: str) -> str:
    """Return all findings as a table in Markdown, cut where GitHub would drop the whole summary."""
    errors, warnings = counts(diagnostics)
    head = f"### {title}\n\n"
    if not diagnostics:
        return head + "No findings.\n"
    head += f"{total(errors, warnings)}\n\n| | place | finding | what to do |\n|---|---|---|---|\n"
    rows: list[str] = []
    used = len(head.encode())
    for found in diagnostics:
        row = _row(found)
        used += len(row.encode())
        if used > _SUMMARY_BYTES:
            rows.append(f"\n{len(diagnostics) - len(rows)} more are in the log of the step.\n")
            break
        rows.append(row)
    return head + "".join(rows)


def _row(found: Diagnostic) -> str:
    cells = (f"{found.severity} {found.code}", f"{found.file}:{found.line}", found.summary, found.hint or "")
    return f"| {' | '.join(map(cell, cells))} |\n"
