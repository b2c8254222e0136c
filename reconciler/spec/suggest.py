"""Did you mean …? The nearest of the known words.

rapidfuzz is imported when something is wrong, never before.
"""

from __future__ import annotations

from collections.abc import Iterable

_MIN_SCORE = 0.6
_MAX_COMPARED = 20_000
_MAX_LENGTH = 100


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is probably meant, or None."""
    from rapidfuzz.distance import OSA  # noqa: PLC0415 - slow to import, only errors need it

    best, best_score = None, _MIN_SCORE
    lower = word[:_MAX_LENGTH].lower()
    for index, candidate in enumerate(known):
        if index >= _MAX_COMPARED:
            break
        score = OSA.normalized_similarity(lower, candidate.lower(), score_cutoff=best_score)
        if score > best_score or (score == best_score and best is None):
            best, best_score = candidate, score
    return best


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return the hint, or None when nothing is near."""
    found = nearest(word, known)
    return f'did you mean "{found}"?' if found else None


def one_of(known: Iterable[str]) -> str:
    """Return "one of …" for a hint, bounded."""
    words = sorted(known)
    shown = ", ".join(words[:20])
    return f"one of {shown}" if len(words) <= 20 else f"one of {shown}, … ({len(words)} in all)"  # noqa: PLR2004 - both are the bound of a line
