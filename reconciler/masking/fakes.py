"""Plausible values: word lists by locale, and how a value of each kind is put together.

Read by :mod:`.values`, by engines (which store the lists in the database) and by the
vocabulary. The lists are part of this package (``words/``, see its NOTICE): another
release of a library must not change masked values. Telephone numbers come from ranges
that are kept free for films and documentation (NANP 555-01xx, Ofcom 020 7946 0xxx,
Bundesnetzagentur, ARCEP, PTS), elsewhere from numbers that nobody can have.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

from reconciler.masking.keyed import number

if TYPE_CHECKING:
    from reconciler.spec.masking_policy import FakeKind

DEFAULT_LOCALE = "en_US"
LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "pl_PL", "pt_BR", "nl_NL", "sv_SE", "ja_JP")
WORD_BYTES = 3
"""Bytes of a digest that choose a word."""
LONGEST_WORD = 63
"""Bytes: PostgreSQL's type ``name`` holds no more."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a list, chosen by three bytes from ``at`` on."""

    locale: str
    list: str
    at: int


@dataclass(frozen=True, slots=True)
class Filled:
    """A template; each place takes one byte from ``at`` on: ``#`` a digit, ``%`` one that is not 0, ``?`` a letter."""

    template: str
    at: int


Part = Word | Filled | str

_HOUSE_FIRST = {"en_US", "en_GB", "fr_FR"}
_FAMILY_FIRST = {"ja_JP"}
_POSTCODES = {
    "en_GB": "?? #??",
    "pl_PL": "##-###",
    "pt_BR": "#####-###",
    "nl_NL": "%### ??",
    "sv_SE": "%## ##",
    "ja_JP": "###-####",
}
_PHONES = {
    "en_US": "+1-2##-555-01##",
    "en_GB": "+44 20 7946 0###",
    "de_DE": "+49 30 23125 ###",
    "fr_FR": "+33 1 99 00 ## ##",
    "es_ES": "+34 000 ### ###",
    "it_IT": "+39 000 #######",
    "pl_PL": "+48 000 ### ###",
    "pt_BR": "+55 11 0000-####",
    "nl_NL": "+31 000 ### ###",
    "sv_SE": "+46 8 465 004 ##",
    "ja_JP": "+81 3-0000-####",
}


def locale_of(name: str | None) -> str | None:
    """Return the locale that a policy means (``de`` is ``de_DE``), or None when there is none."""
    if name is None:
        return DEFAULT_LOCALE
    return next((known for known in LOCALES if name in {known, known.partition("_")[0]}), None)


@cache
def words(locale: str, list_: str) -> tuple[str, ...]:
    """Return a word list in its order."""
    return _lists(locale)[list_]


@cache
def _lists(locale: str) -> dict[str, tuple[str, ...]]:
    text = files("reconciler.masking").joinpath("words", f"{locale}.json").read_text("utf-8")
    return {name: tuple(content) for name, content in json.loads(text).items()}


@lru_cache(maxsize=1)
def known_names() -> tuple[str, ...]:
    """Return first and last names of all locales that are one word, for finding names in free text."""
    found = {name for locale in LOCALES for list_ in ("first_name", "last_name") for name in words(locale, list_)}
    return tuple(sorted(name for name in found if _is_word(name)))


_SHORTEST_NAME = 3


def _is_word(name: str) -> bool:
    return name.isalpha() and (len(name) >= _SHORTEST_NAME or not name.isascii())


def parts(kind: FakeKind, locale: str) -> tuple[Part, ...]:
    """Return what a value of a kind is put together from; parts use different bytes of one digest."""
    match kind:
        case "first_name" | "last_name" | "company" | "city" | "country":
            return (Word(locale, kind, 0),)
        case "full_name":
            names = ("last_name", "first_name") if locale in _FAMILY_FIRST else ("first_name", "last_name")
            return (Word(locale, names[0], 0), " ", Word(locale, names[1], WORD_BYTES))
        case "user_name":
            return (Word(locale, "login", 0), Filled("####", WORD_BYTES))
        case "street":
            street, house = Word(locale, "street", 0), Filled("%#", WORD_BYTES)
            return (house, " ", street) if locale in _HOUSE_FIRST else (street, " ", house)
        case "postcode":
            return (Filled(_POSTCODES.get(locale, "#####"), 0),)
        case "phone":
            return (Filled(_PHONES[locale], 0),)


def longest(kind: FakeKind, locale: str) -> int:
    """Return how many characters a value of a kind has at most."""
    return sum(
        max(map(len, words(part.locale, part.list)))
        if isinstance(part, Word)
        else len(part if isinstance(part, str) else part.template)
        for part in parts(kind, locale)
    )


def render(parts_: tuple[Part, ...], digest: bytes) -> str:
    """Return the value that a digest chooses."""
    return "".join(_rendered(part, digest) for part in parts_)


def _rendered(part: Part, digest: bytes) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Word):
        list_ = words(part.locale, part.list)
        return list_[number(digest, part.at, WORD_BYTES) % len(list_)]
    return fill(tuple((character, character in "#%?") for character in part.template), digest, part.at)


def fill(places: tuple[tuple[str, bool], ...], digest: bytes, at: int = 0) -> str:
    """Return a template with its places filled from consecutive bytes of a digest."""
    filled: list[str] = []
    for character, place in places:
        filled.append(_FILL[character](digest[at]) if place else character)
        at += place
    return "".join(filled)


_FILL = {
    "#": lambda byte: chr(ord("0") + byte % 10),
    "%": lambda byte: chr(ord("1") + byte % 9),
    "?": lambda byte: chr(ord("A") + byte % 26),
}
