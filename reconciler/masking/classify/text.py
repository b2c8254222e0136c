"""Text made comparable: no case, no accents, no script but what it was written in.

Used by :mod:`.names` and :mod:`.values`; the word lists beside this module are written
in that form.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from importlib import resources

_LETTERS = str.maketrans(
    {"ß": "ss", "ł": "l", "ı": "i", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th", "’": "'"}  # noqa: RUF001
)
_VOWELS = re.compile(r"[aeiou]")
_DOUBLED = re.compile(r"(.)\1+")


def fold(text: str) -> str:
    """Return ``text`` in lower case and without accents."""
    lower = text.casefold().translate(_LETTERS)
    if lower.isascii():
        return lower
    return "".join(char for char in unicodedata.normalize("NFKD", lower) if not unicodedata.combining(char))


def skeleton(word: str) -> str:
    """Return a word as names without vowels write it: ``address`` is ``adrs``, ``phone`` is ``phn``."""
    return _DOUBLED.sub(r"\1", word[:1] + _VOWELS.sub("", word[1:]))


@lru_cache
def words(name: str) -> frozenset[str]:
    """Return a packaged list of words (``first``, ``last``, ``city``), folded."""
    return frozenset(resources.files(f"{__package__}.words").joinpath(f"{name}.txt").read_text("utf-8").split("\n")) - {
        ""
    }
