"""Diagnostics as SARIF 2.1.0, for code scanning and editors.

Called by ``validate --format sarif``. OASIS standard "Static Analysis Results
Interchange Format (SARIF) Version 2.1.0"; section numbers below are of that.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from reconciler.spec.codes import CODES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.spec.diagnostics import Diagnostic

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_FINGERPRINT = "reconciler/v1"
"""What goes into a fingerprint: a change of that is a change of this version (section 3.27.17)."""


def render_sarif(diagnostics: Sequence[Diagnostic]) -> dict[str, Any]:
    """Return a log with one run. Fingerprints do not change when lines are added above a finding."""
    used = sorted({found.code for found in diagnostics})
    seen: Counter[str] = Counter()
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": _driver([_rule(code) for code in used])},
                "columnKind": "unicodeCodePoints",
                "results": [_result(found, used.index(found.code), seen) for found in diagnostics],
            }
        ],
    }


def _driver(rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": "reconciler", "version": version("reconciler"), "rules": rules}


def _rule(code: str) -> dict[str, Any]:
    known = CODES[code]
    return {"id": code, "shortDescription": {"text": known.meaning}, "help": {"text": known.advice}}


def _result(found: Diagnostic, rule: int, seen: Counter[str]) -> dict[str, Any]:
    result = {
        "ruleId": found.code,
        "ruleIndex": rule,
        "level": found.severity,
        "message": {"text": f"{found.summary}; {found.hint}" if found.hint else found.summary},
        "locations": [
            _location(
                found.file,
                startLine=found.line,
                startColumn=found.column,
                endLine=found.end_line,
                endColumn=found.end_column,
            )
        ],
        "partialFingerprints": {_FINGERPRINT: _fingerprint(found, seen)},
    }
    if found.related:
        result["relatedLocations"] = [
            _location(also.file, startLine=also.line, startColumn=also.column) | {"message": {"text": also.message}}
            for also in found.related
        ]
    return result


def _location(file: str, **region: int) -> dict[str, Any]:
    # Relative to the root of the checkout (section 3.4.4); a URI, so blanks and letters beyond ASCII are escaped.
    artifact = {"uri": quote(file)} | ({} if file.startswith("/") else {"uriBaseId": "%SRCROOT%"})
    return {"physicalLocation": {"artifactLocation": artifact, "region": region}}


def _fingerprint(found: Diagnostic, seen: Counter[str]) -> str:
    """Return what stays when the finding moves: code, file, the text of its line, and which of its like it is."""
    number = found.line - found.snippet_line
    line = found.snippet[number].strip() if 0 <= number < len(found.snippet) else ""
    text = f"{found.code}\0{found.file}\0{line}\0{found.summary}"
    seen[text] += 1
    return hashlib.sha256(f"{text}\0{seen[text]}".encode()).hexdigest()
