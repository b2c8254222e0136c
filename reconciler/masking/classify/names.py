"""What names of columns and tables say, in several languages.

The words stand in ``words/columns.yaml``. Called by :mod:`.verdict`; a name alone never
decides where values say the opposite.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml

from reconciler.masking.classify.kinds import PRIORITY, Kind
from reconciler.masking.classify.text import fold, skeleton

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_PARTS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z']+|[A-Z]+|\d+|[^\W\d_a-zA-Z]+")
_VOWEL = re.compile(r"[aeiou]")
_COMPOUND = 5
"""Letters that a word needs to be looked for inside a longer one (``kundenemail``)."""
_REST = 3
_SKELETON = 3
_NAMES = frozenset({Kind.FIRST_NAME, Kind.LAST_NAME, Kind.FULL_NAME})
_DATES = frozenset({"date", "datum", "year", "month", "day"})


@dataclass(frozen=True, slots=True)
class Said:
    """What a name says: ``sure`` decides alone; ``negated`` means something about such data (``email_sent_count``)."""

    kind: Kind
    sure: bool
    negated: bool = False


@dataclass(frozen=True, slots=True)
class _Hit:
    kind: Kind
    sure: bool
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class _Lexicon:
    phrases: Mapping[str, Sequence[tuple[Kind, bool]]]
    skeletons: Mapping[str, Sequence[tuple[Kind, bool]]]
    long_words: tuple[tuple[str, Kind], ...]
    people: frozenset[str]
    things: frozenset[str]
    before: frozenset[str]
    after: frozenset[str]


def column_says(name: str) -> Said | None:
    """Return what a column's name says about its content; None if nothing that is known."""
    lexicon = _lexicon()
    tokens = parts(name)
    hits = _outermost([*_hits(lexicon, tokens, digits=True), *_hits(lexicon, tokens, digits=False)])
    if not hits:
        return None
    best = min(hits, key=lambda hit: (not hit.sure, PRIORITY.index(hit.kind), -hit.size, -hit.end))
    if best.kind in _NAMES and not best.sure and not _of_people(lexicon, tokens, best):
        return None
    return Said(best.kind, best.sure, _negated(lexicon, tokens, best))


def about_people(table: str) -> bool:
    """Tell whether a table's name says that its rows are people, or who we have to do with."""
    lexicon = _lexicon()
    tokens = [token for token in parts(table) if not token.isdigit()]
    return any(_listed(token, lexicon.people) for token in tokens) and not about_things(table)


def about_things(table: str) -> bool:
    """Tell whether a table's name says that its rows are something else: products, places, settings."""
    tokens = [token for token in parts(table) if not token.isdigit()]
    things = _lexicon().things
    return bool(tokens) and (_listed(tokens[-1], things) or (_listed(tokens[0], things) and len(tokens) > 1))


def parts(name: str) -> list[str]:
    """Return the words of a name, folded: ``EMailAdresse2`` is ``e``, ``mail``, ``adresse``, ``2``."""
    plain = fold(name) if not name.isascii() and name == name.lower() else _unaccented(name)
    return [part.lower() for part in _PARTS.findall(plain)]


def _unaccented(name: str) -> str:
    return "".join(fold(char).upper() if char.isupper() and not char.isascii() else char for char in name)


def _hits(lexicon: _Lexicon, tokens: Sequence[str], *, digits: bool) -> Iterator[_Hit]:
    """Yield every phrase of the lexicon in a name; with ``digits``, numbers belong to the word before them."""
    kept = [(index, token) for index, token in enumerate(tokens) if digits or not token.isdigit()]
    for first in range(len(kept)):
        for last in range(first, len(kept)):
            words = [token for _, token in kept[first : last + 1]]
            place = kept[first][0], kept[last][0] + 1
            for kind, sure in lexicon.phrases.get("".join(words), ()):
                yield _Hit(kind, sure, *place)
            if all(len(word) > 1 and not _VOWEL.search(word[1:]) for word in words):
                for kind, sure in lexicon.skeletons.get("".join(skeleton(word) for word in words), ()):
                    yield _Hit(kind, sure, *place)
    for index, token in kept:
        for word, kind in lexicon.long_words:
            if _compounded(lexicon, token, word):
                yield _Hit(kind, True, index, index + 1)


def _compounded(lexicon: _Lexicon, token: str, word: str) -> bool:
    """Whether a word is part of a longer one: ``kundenemail``, ``telefonprivat``, but not ``emailtemplate``."""
    rest = len(token) - len(word)
    if rest < _REST:
        return False
    return token.endswith(word) or (token.startswith(word) and token[len(word) :] not in lexicon.after)


def _outermost(hits: Sequence[_Hit]) -> list[_Hit]:
    """Return hits that lie in no larger one: ``lieu_naissance`` is no date of birth."""
    return [
        hit for hit in hits if not any(o.start <= hit.start and hit.end <= o.end and o.size > hit.size for o in hits)
    ]


def _negated(lexicon: _Lexicon, tokens: Sequence[str], hit: _Hit) -> bool:
    after = set(tokens[hit.end :])
    if hit.kind is Kind.BIRTH:
        after -= _DATES
    before = "".join(tokens[: hit.start])
    return bool(after & lexicon.after) or before in lexicon.before or (hit.start > 0 and tokens[0] in lexicon.before)


def _of_people(lexicon: _Lexicon, tokens: Sequence[str], hit: _Hit) -> bool:
    """Whether all that a name says besides is whose name it is: ``customer_name``, but not ``tariff_name``."""
    others = (*tokens[: hit.start], *tokens[hit.end :])
    return all(token.isdigit() or _listed(token, lexicon.people) for token in others)


def _listed(token: str, words: frozenset[str]) -> bool:
    if any(form in words for form in (token, token.removesuffix("s"), token.removesuffix("es"))):
        return True
    return any(len(word) > _COMPOUND and (token.startswith(word) or token.endswith(word)) for word in words)


@lru_cache
def _lexicon() -> _Lexicon:
    written = yaml.load(_source(), Loader=yaml.CSafeLoader)
    phrases: dict[str, dict[tuple[Kind, bool], None]] = defaultdict(dict)
    skeletons: dict[str, dict[tuple[Kind, bool], None]] = defaultdict(dict)
    long_words = {}
    for kind, sure, phrase in _phrases(written["kinds"]):
        phrases[phrase.replace(" ", "")][kind, sure] = None
        bare = "".join(skeleton(word) for word in phrase.split())
        if len(bare) >= _SKELETON:
            skeletons[bare][kind, sure] = None
        if sure and len(phrase.replace(" ", "")) >= _COMPOUND:
            long_words[phrase.replace(" ", "")] = kind
    return _Lexicon(
        {key: tuple(found) for key, found in phrases.items()},
        {key: tuple(found) for key, found in skeletons.items()},
        tuple(long_words.items()),
        frozenset(word for words in written["people"].values() for word in words),
        frozenset(word for words in written["things"].values() for word in words),
        frozenset(word.replace(" ", "") for word in written["not"]["before"]),
        frozenset(written["not"]["after"]),
    )


def _phrases(kinds: Mapping[str, Any]) -> Iterator[tuple[Kind, bool, str]]:
    for kind, strengths in kinds.items():
        for strength, languages in strengths.items():
            for phrases in languages.values():
                for phrase in phrases:
                    yield Kind(kind), strength == "sure", phrase


def _source() -> str:
    return resources.files(f"{__package__}.words").joinpath("columns.yaml").read_text("utf-8")
