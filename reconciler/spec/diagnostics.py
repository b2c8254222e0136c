"""Diagnostics: what is wrong in a spec, where, and what to write instead.

Made by the loader, the references check and everybody who resolves documents; shown
as text or JSON by the command line and the status. A diagnostic is self-contained: it
carries the lines around its place, bounded and without what looks like a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from reconciler.spec.yaml12 import Span

Severity = Literal["error", "warning"]

CODES: Mapping[str, str] = {
    "R001": "The file is not readable text.",
    "R002": "The file is too large.",
    "R003": "The file is not valid YAML.",
    "R004": "A key is written twice in one mapping.",
    "R005": "The file is nested too deep, or its aliases expand to too much.",
    "R006": "A feature of YAML that specs do not use: tags, merge keys, keys that are not text.",
    "R010": "The document is not of the reconciler.",
    "R011": "The apiVersion or kind is not known.",
    "R012": "The field is not known.",
    "R013": "A required field is missing.",
    "R014": "The value is of the wrong type.",
    "R015": "The value is not one of those allowed.",
    "R016": "The value is malformed or out of range.",
    "R017": "Fields contradict each other, or one needs another.",
    "R020": "Two documents have the same kind and name.",
    "R021": "A document refers to an object that does not exist.",
    "R022": "Images are built on each other, or clones start from each other, in a circle.",
    "R023": "Two clones want the same port.",
    "R024": "Renames contradict each other.",
    "R025": "The pinned snapshot is of another image.",
    "R026": "The document does not belong into a spec repository.",
    "R027": "A numbered name is too long.",
    "R028": "The other image has no past.",
    "R030": "A path is not in the repository, or not allowed.",
    "R031": "A template cannot be rendered.",
    "R032": "A server setting is not for documents to decide.",
    "R099": "There are more problems than are shown.",
}
"""Every code that a diagnostic can have, with its meaning; listed in docs/errors.md."""

_CONTEXT_LINES = 2
_BREAK = re.compile(rb"\r\n|\r|\n|\xc2\x85|\xe2\x80[\xa8\xa9]")
"""Where libyaml begins a new line."""
_MAX_LINE = 160
_MAX_RELATED = 5
_SECRET_VALUE = re.compile(
    r"""(?ix) \b [\w.-]* (?:pass(?:word|wd|phrase)? | pwd | secret | token | credentials? | private_?key | api_?key)
        ["']? \s* : \s* (?P<value> (?! [{&*|>\s] ) [^,}\]\#]+ )"""
)
_URL_PASSWORD = re.compile(r"://[^/\s@:]*:(?P<value>[^/\s@]+)@")
_REFERENCE = re.compile(r"\bsecret\s*:\s*[A-Za-z0-9][A-Za-z0-9._-]{0,127}\s*(?:[,}#]|$)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Related:
    """An earlier place that a diagnostic speaks of."""

    message: str
    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. Lines and columns are 1-based; the end is the column after the last character.

    ``snippet`` holds the lines around it, the first of which is line ``snippet_line``.
    """

    code: str
    summary: str
    file: str
    line: int = 1
    column: int = 1
    end_line: int = 1
    end_column: int = 1
    severity: Severity = "error"
    hint: str | None = None
    related: tuple[Related, ...] = ()
    snippet: tuple[str, ...] = ()
    snippet_line: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.severity}[{self.code}]: {self.summary}"


def diagnostic(
    code: str,
    summary: str,
    *,
    file: str,
    span: Span,
    data: bytes = b"",
    severity: Severity = "error",
    hint: str | None = None,
    related: Sequence[Related] = (),
) -> Diagnostic:
    """Make a diagnostic about a place in a file's bytes."""
    found = Diagnostic(
        code=code,
        summary=_clean(summary),
        file=file,
        line=span.line,
        column=span.column,
        end_line=span.end_line,
        end_column=span.end_column,
        severity=severity,
        hint=_clean(hint) if hint else None,
        related=tuple(related[:_MAX_RELATED]),
    )
    return _with_snippet(found, data) if data else found


def _clean(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _with_snippet(found: Diagnostic, data: bytes) -> Diagnostic:
    first = max(1, found.line - _CONTEXT_LINES)
    lines = _lines(data, first, found.line + _CONTEXT_LINES)
    while lines and not lines[-1].strip() and first + len(lines) - 1 > found.line:
        lines.pop()
    return replace(found, snippet=tuple(_bounded(redact(line)) for line in lines), snippet_line=first)


def _lines(data: bytes, first: int, last: int) -> list[str]:
    """Return lines ``first`` to ``last`` without decoding the whole file."""
    plain = b"\r" not in data and data.isascii()
    rows = (data.split(b"\n", last) if plain else _BREAK.split(data, maxsplit=last))[first - 1 : last]
    return [row[: _MAX_LINE * 8].decode("utf-8", "replace").removeprefix("\ufeff") for row in rows]


def _bounded(line: str) -> str:
    line = _clean(line)
    return line if len(line) <= _MAX_LINE else line[: _MAX_LINE - 1] + "…"


def redact(line: str) -> str:
    """Cover what looks like a password, keeping every column."""
    for pattern in (_SECRET_VALUE, _URL_PASSWORD):
        for match in pattern.finditer(line):
            start, end = match.span("value")
            value = line[start:end]
            if not _REFERENCE.match(line, match.start()):
                line = line[:start] + "*" * len(value.rstrip()) + value[len(value.rstrip()) :] + line[end:]
    return line


def order(found: Diagnostic) -> tuple[str, int, int, str]:
    """Sort key: by file, then place."""
    return found.file, found.line, found.column, found.code


def counts(diagnostics: Iterable[Diagnostic]) -> tuple[int, int]:
    """Return the number of errors and of warnings."""
    severities = [found.severity for found in diagnostics]
    return severities.count("error"), severities.count("warning")


_STYLES = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "gutter": "\x1b[1;34m", "help": "\x1b[1;36m"}


def render_text(diagnostics: Sequence[Diagnostic], *, colour: bool = False) -> str:
    """Return all diagnostics as people read them, each with its lines and a caret, and a count at the end."""
    if not diagnostics:
        return ""
    errors, warnings = counts(diagnostics)
    parts = [f"{number} {word}{'s' * (number != 1)}" for number, word in ((errors, "error"), (warnings, "warning"))]
    total = " and ".join(part for part in parts if not part.startswith("0 "))
    return "\n\n".join([*(_one(found, colour=colour) for found in diagnostics), total])


def _one(found: Diagnostic, *, colour: bool) -> str:
    def style(name: str, text: str) -> str:
        return f"{_STYLES[name]}{text}\x1b[0m" if colour else text

    width = len(str(found.snippet_line + max(len(found.snippet), 1) - 1))
    margin = " " * width
    lines = [
        f"{style(found.severity, f'{found.severity}[{found.code}]')}: {found.summary}",
        f"{margin}{style('gutter', '-->')} {found.file}:{found.line}:{found.column}",
    ]
    if found.snippet:
        lines.append(f"{margin} {style('gutter', '|')}")
        lines.extend(_quoted(found, width, style))
        lines.append(f"{margin} {style('gutter', '|')}")
    lines.extend(
        f"{margin} {style('gutter', '=')} {also.message}: {also.file}:{also.line}:{also.column}"
        for also in found.related
    )
    if found.hint:
        lines.append(f"{margin} {style('gutter', '=')} {style('help', 'help')}: {found.hint}")
    return "\n".join(lines)


def _quoted(found: Diagnostic, width: int, style: Any) -> Iterable[str]:  # noqa: ANN401 - a local function
    for number, text in enumerate(found.snippet, found.snippet_line):
        shown = text.replace("\t", " ")
        yield f"{style('gutter', f'{number:>{width}} |')} {shown}".rstrip()
        if number == found.line:
            start, length = _caret(found, shown)
            yield f"{' ' * width} {style('gutter', '|')} {' ' * start}{style(found.severity, '^' * length)}"


def _caret(found: Diagnostic, line: str) -> tuple[int, int]:
    start = min(found.column - 1, len(line))
    end = found.end_column - 1 if found.end_line == found.line else len(line.rstrip())
    return start, max(1, min(end, len(line)) - start)


def render_json(diagnostics: Sequence[Diagnostic]) -> dict[str, Any]:
    """Return all diagnostics as a value for JSON: stable field names, everything in it."""
    errors, warnings = counts(diagnostics)
    return {
        "valid": errors == 0,
        "error_count": errors,
        "warning_count": warnings,
        "diagnostics": [_json(found) for found in diagnostics],
    }


def _json(found: Diagnostic) -> dict[str, Any]:
    return {
        "severity": found.severity,
        "code": found.code,
        "summary": found.summary,
        "detail": found.hint or "",
        "range": {
            "filename": found.file,
            "start": {"line": found.line, "column": found.column},
            "end": {"line": found.end_line, "column": found.end_column},
        },
        "snippet": {"code": "\n".join(found.snippet), "start_line": found.snippet_line} if found.snippet else None,
        "related": [
            {"message": also.message, "filename": also.file, "line": also.line, "column": also.column}
            for also in found.related
        ],
    }
