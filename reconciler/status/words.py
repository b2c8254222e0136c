"""Sizes, ages and foreign text as people read them; pure.

Used by everything that renders text or says a figure in a message. ``plain`` is the gate for text that others wrote
(messages, names of people): it cannot move a cursor or hide letters on a terminal.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024
_SPANS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def size(count: int | None) -> str:
    """Return bytes in the unit that fits, one decimal below a hundred: ``1.4 GiB``, ``396 KiB``; None is ``-``.

    Without it, a refusal would say that 12 GiB do not fit into 12 GiB.
    """
    if count is None:
        return "-"
    value, unit = float(count), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    digits = 1 if unit and value < 100 else 0  # noqa: PLR2004 - "99.5 MiB", "100 MiB"
    return f"{value:.{digits}f} {_UNITS[unit]}"


def span(seconds: float) -> str:
    """Return a length of time in its largest unit: ``3 h``."""
    for length, unit in _SPANS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "0 s"


def age(time: datetime | None, now: datetime) -> str:
    """Return how long ago a time was, or how far ahead: ``3 h ago``, ``in 5 min``; None is ``-``."""
    if time is None:
        return "-"
    seconds = (now - time).total_seconds()
    if seconds < 0:
        return f"in {span(-seconds)}"
    return "just now" if seconds < 1 else f"{span(seconds)} ago"


def plain(text: str) -> str:
    """Return one line without control characters and without marks that reorder or hide text."""
    return "".join(_visible(character) for character in text).strip()


def _visible(character: str) -> str:
    if character in "\n\r\t\u2028\u2029":
        return " "
    # Cc: escape sequences; Cf: bidirectional overrides and zero-width characters; Cs, Co, Cn: no letters at all.
    return "\ufffd" if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn"} else character
