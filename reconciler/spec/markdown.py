"""Text of specs in Markdown, which is read where it may do harm: in comments and summaries of a pull request.

Used by whatever writes Markdown about documents.
"""

from __future__ import annotations

import re

_MARKUP = re.compile(r"[\\`*_\[\]<>|~&]|\A[#+=-]|(?<=www)\.|:(?=//)")
"""What makes markup or a link; with a backslash it is itself (CommonMark 2.4, GitHub Flavored Markdown 6.9)."""
_MENTION = re.compile(r"[@#!](?=\w)")
"""What names people, issues and merge requests: hosts look for it in the finished text, so no backslash helps."""
_NOTHING = "&#8203;"
"""A blank without width."""


def cell(text: str) -> str:
    """Return text as one line of plain Markdown: nothing in it is markup, a link or a mention."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    escaped = _MARKUP.sub(lambda found: f"\\{found[0]}", " ".join(printable.split()))
    return _MENTION.sub(lambda found: found[0] + _NOTHING, escaped)
