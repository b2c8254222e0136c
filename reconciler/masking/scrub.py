"""What looks personal inside free text: patterns that Python and PostgreSQL read alike, and the replacement.

The reference of what engines compute. A finding becomes a word in brackets (``[email]``):
the same in every text, and nothing of the original. Patterns prefer to replace too much:
a long order number may be taken for a telephone number.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, get_args

from reconciler.masking.fakes import known_names
from reconciler.spec.masking_policy import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

_BEFORE, _AFTER = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
_OUTSIDE = r"@ \t\r\n<>,;:\"'()\u005b\u005d"
_HEX = "[0-9A-Fa-f]{1,4}"
PATTERNS: dict[str, tuple[str, ...]] = {
    "email": (rf"[^{_OUTSIDE}]+@[^{_OUTSIDE}]*[^{_OUTSIDE}.!?]",),
    "iban": (rf"{_BEFORE}[A-Z]{{2}}[0-9]{{2}}( ?[A-Z0-9]{{4}}){{2,7}}( ?[A-Z0-9]{{1,3}})?{_AFTER}",),
    "card": (r"(?<![0-9])[0-9]([ -]?[0-9]){12,18}(?![0-9])",),
    "ip": (
        r"(?<![0-9.])([0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9])",
        r"(?<![0-9A-Za-z:])([0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z:])",
        rf"(?<![0-9A-Za-z:])({_HEX}(:{_HEX}){{0,6}})?::({_HEX}(:{_HEX}){{0,6}})?(?![0-9A-Za-z:])",
    ),
    "phone": (
        r"(?<![A-Za-z0-9])([+(]|00)[0-9(]([ ()./-]{0,3}[0-9]){6,14}(?![0-9])",
        r"(?<![A-Za-z0-9])0[1-9(]([ ()./-]{0,3}[0-9]){5,13}(?![0-9])",
        r"(?<![A-Za-z0-9])[1-9]([ ()./-]{0,3}[0-9]){8,14}(?![0-9])",
    ),
}
"""In the order in which they are applied; ``name`` comes last and goes by words, not by a pattern."""
WORD = r"[^\u0001-\u0040\u005b-\u0060\u007b-\u007f]+"
"""A run of letters: every character beyond ASCII counts as one."""
BETWEEN = r"[\u0001-\u0040\u005b-\u0060\u007b-\u007f]+"
FINDINGS = get_args(Finding)
SHORTEST_VALUE = 2
"""Characters of another column's value that is replaced inside a text."""


def scrub(text: str, findings: Iterable[str], values: Iterable[str] = ()) -> str:
    """Return the text without what the findings name, and without ``values`` of the same row."""
    for value in values:
        if len(value) >= SHORTEST_VALUE:
            text = text.replace(value, replacement("name"))
    wanted = set(findings)
    for finding, patterns in PATTERNS.items():
        if finding in wanted:
            for pattern in patterns:
                text = _compiled(pattern).sub(replacement(finding), text)
    return _without_names(text) if "name" in wanted else text


def replacement(finding: str) -> str:
    """Return what stands in place of a finding."""
    return f"[{finding}]"


def _without_names(text: str) -> str:
    return _compiled(WORD).sub(lambda found: replacement("name") if found[0] in _names() else found[0], text)


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    return frozenset(known_names())


@lru_cache(maxsize=32)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
