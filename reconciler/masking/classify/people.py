"""What is recognised by words: names of people, companies, streets and towns.

Called by :mod:`.values`. The words stand in ``words/``; a value that is not in any list
is none of these, however much it looks like one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

from reconciler.masking.classify.text import fold, words

_WORD = re.compile(r"[^\W\d_]+(?:['’`-][^\W\d_]+)*\.?")  # noqa: RUF001 - as people type it
_CJK = re.compile(r"[\u3400-\u9fff]")
_CJK_NAME = re.compile(r"[\u3400-\u9fff]{2,4}")
_CJK_ADDRESS = re.compile(r"[省市区县區縣路街号號町丁目都府郡村]")
_CJK_COMPANY = re.compile(r"株式会社|有限公司|公司$")
_NO_NAME = re.compile(r"[\d@/_:;#%()\[\]{}!?|<>=*+]")
_AND = re.compile(r"\w [&+] \w")
_SHORT = 40
"""Longest name of a person, in characters."""
_FEW_WORDS = 8
"""Longest name of a company, in words."""
_ADDRESS_WORDS = 12
_GIVEN, _FAMILY, _FULL = 3, 4, 5
"""Most words of a name of each kind."""
_LEAST = 2
"""Letters, or characters of an address, from which they tell anything."""


def is_first(value: str) -> bool:
    """Tell whether a value is a given name, or several of one person."""
    found = _parts(value)
    if found is None or len(found) > _GIVEN:
        return _listed(value, "first")
    return all(word in words("first") or word in words("particle") for word in found) or _listed(value, "first")


def is_last(value: str) -> bool:
    """Tell whether a value is a family name."""
    found = _parts(value)
    if found is None or len(found) > _FAMILY:
        return _listed(value, "last")
    return all(_is_family(word) or word in words("particle") for word in found) or _listed(value, "last")


def is_full(value: str) -> bool:
    """Tell whether a value is the name of a person: a given name, and family names that are known but for one."""
    if _CJK_NAME.fullmatch(value):
        return value[0] in words("family_zh") or any(value[:size] in words("last") for size in (1, 2, 3))
    found = [word for word in _parts(value) or () if word not in words("particle")]
    if not _LEAST <= len(found) <= _FULL:
        return False
    known = sum(len(word) == 1 or word in words("first") or _is_family(word) for word in found)
    return any(word in words("first") for word in found) and known >= len(found) - (len(found) > _LEAST)


def names_someone(value: str) -> bool:
    """Tell whether a given and a family name, both capitalised, stand side by side in text."""
    for first, last in pairwise(value.split()):
        bare = last.strip(".,;:!?")
        if min(len(first), len(bare)) > _LEAST and first.isalpha() and first[0].isupper() and bare[0].isupper():
            given, family = fold(first), fold(bare)
            if given in words("first") and family in words("last"):
                return True
    return False


def is_company(value: str) -> bool:
    """Tell whether a value ends, or begins, as names of companies do."""
    if _CJK_COMPANY.search(value):
        return True
    found = fold(value).replace(".", "").split()
    if not _LEAST <= len(found) <= _FEW_WORDS:
        return False
    return found[-1] in words("company") or f"^{found[0]}" in words("company") or _AND.search(value) is not None


def is_street(value: str) -> bool:
    """Tell whether a value is a street with a number, or has both in it."""
    if not any(char.isdigit() for char in value):
        return False
    if _CJK.search(value):
        return len(_CJK_ADDRESS.findall(value)) >= _LEAST
    found = re.split(r"[\s,.]+", fold(value))
    return len(found) <= _ADDRESS_WORDS and any(
        word in words("street") or word.endswith(_street_endings()) for word in found
    )


def is_city(value: str) -> bool:
    """Tell whether a value is a town that is known."""
    return fold(value).replace("-", " ") in _cities()


@lru_cache
def _cities() -> frozenset[str]:
    return frozenset(city.replace("-", " ") for city in words("city"))


@lru_cache
def _street_endings() -> tuple[str, ...]:
    return tuple(word[1:] for word in words("street") if word.startswith("-"))


def _is_family(word: str) -> bool:
    return word in words("last") or word in words("family_pinyin")


def _listed(value: str, which: str) -> bool:
    """Whether it is a name in a script without capitals."""
    return _CJK.search(value) is not None and value in words(which)


def _parts(value: str) -> list[str] | None:
    """Return the words of what may be a name, folded; None for what cannot be one."""
    if len(value) > _SHORT or _NO_NAME.search(value):
        return None
    found = _WORD.findall(value.replace(",", " "))
    if not found or "".join(found) != re.sub(r"[\s,]", "", value):
        return None
    if any(word[0].islower() and fold(word) not in words("particle") for word in found):
        return None
    return [part for word in found for part in re.split(r"[-']", fold(word).rstrip(".")) if part]
