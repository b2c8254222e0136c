"""Which values of a column stand for it in the proof that nothing original is left, and how they are looked for.

Engines hand in what they read of a column before it is masked; :class:`Picker` keeps
the values that tell most. :func:`forms` says as which bytes a value may lie in a file.
Nothing here is logged or shown: these are the values that masking is there to remove.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

from reconciler.masking.schema import Family
from reconciler.masking.vocabulary import name_of
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.masking.report import Sample
    from reconciler.spec.masking_policy import Column as Method

SHORTEST = 8
"""Bytes below which a value occurs in files by chance: a database of 5 GB has every word of four letters."""
LONGEST = 64
"""Bytes of a value that are looked for. More of them cost memory and tell nothing more."""
READ = 256
"""Characters of a value that are read: less than a chunk of TOAST (2 kB), so that no border is among them."""
_READ_WIDE = 128
"""Of these, so many are kept of a value that is not ASCII, of which each may take four bytes."""
_FEWEST_DISTINCT = 4
"""Characters that a value must have of different kinds: a run of blanks or zeros is in every file."""
_FREQUENT = 10
"""One value in so many is a frequent one: those are what statistics of a database repeat."""
_PREFERRED = 5
_STEP = 8

_MOST_DIGITS = 15
"""Of a telephone number (E.164)."""
_DRAWN = frozenset({"null", "fixed", "hash", "email", "fake", "preserve", "pattern", "text", "json"})
_IN_BYTES = frozenset({Family.TEXT, Family.JSON, Family.BYTES, Family.UUID})
_LEAVES = _DRAWN - {"text", "json"}
_TELLING = re.compile(r"[0-9@A-Z]")
_PERSONAL: dict[str, re.Pattern[str]] = {
    "email": re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,4}"),
    "phone": re.compile(r"(?<![\w+])\+[1-9][0-9]{0,2}[ /.-]?(?:\(?[0-9]{2,5}\)?[ /.-]?){2,5}[0-9]{2}(?![\w])"),
}
"""What is certain to be found inside free text: a scrubber must have replaced at least these."""


def drawn(method: Method) -> bool:
    """Tell whether originals of a column with this method must be gone afterwards, so that they are looked for.

    More than :func:`.vocabulary.erases` says: of ``text`` and ``json`` the parts that must
    go are drawn, and of ``fake`` everything, since an original that is in its lists has a
    reason to be found, and a dead row of the others has none. What keeps values or parts
    of them (``shuffle``, ``partial``, ``bucket``, ``noise``, shifts) and ``sql`` is not drawn.
    """
    return name_of(method) in _DRAWN


def json_paths(method: Method) -> tuple[str, ...]:
    """Return the paths inside a document whose values must be gone."""
    if not isinstance(method, spec.Json):
        return ()
    return tuple(path for path, inner in method.json_.items() if name_of(inner) in _LEAVES)


def personal_parts(method: Method, text: str) -> Iterator[str]:
    """Yield the parts of a free text that scrubbing must replace, as far as a pattern alone can tell."""
    wanted = _PERSONAL if isinstance(method, str) else [kind for kind in _PERSONAL if kind in _findings(method)]
    for kind in wanted:
        for part in _PERSONAL[kind].findall(text):
            if kind != "phone" or sum(map(str.isdigit, part)) <= _MOST_DIGITS:
                yield part


def _findings(method: Method) -> tuple[str, ...]:
    return tuple(method.text) if isinstance(method, spec.Text) else ()


def in_bytes(sample: Sample) -> bool:
    """Tell whether files hold the column's values in a form that :func:`forms` knows; numbers and dates are binary."""
    return sample.masking.column.family in _IN_BYTES


def searchable(text: str, shortest: int = SHORTEST) -> bool:
    """Tell whether a value is long and peculiar enough that finding it in a file means something."""
    return len(text.encode("utf-8", "surrogatepass")) >= shortest and len(set(text)) >= _FEWEST_DISTINCT


def telling_part(text: str) -> str:
    """Return the whole of a short value, and of a longer one the most peculiar ``LONGEST`` bytes near its beginning."""
    if len(text) <= LONGEST // 4 or len(text.encode()) <= LONGEST:
        return text
    starts = range(0, max(1, len(text) - LONGEST + 1), _STEP)
    parts = (_shortened(text[start : start + LONGEST]) for start in starts)
    return max(parts, key=lambda part: len(set(part)) + len(_TELLING.findall(part)))


def _shortened(text: str) -> str:
    return text.encode()[:LONGEST].decode("utf-8", "ignore")


def forms(text: str, sample: Sample) -> frozenset[bytes]:
    """Return the bytes that a value of ``sample`` may be in a file: UTF-8, the database's encoding, UTF-16.

    UTF-16 of both byte orders has a middle in common whenever the upper bytes are equal,
    as for all of ASCII; it is then looked for once.
    """
    if sample.binary:
        return frozenset({text.encode("latin-1")})
    little, big = text.encode("utf-16-le"), text.encode("utf-16-be")
    wide = {little[:-1]} if little[:-1] == big[1:] else {little, big}
    narrow = {text.encode()}
    if sample.masking.column.family is Family.UUID:
        narrow.add(UUID(text).bytes)
    with suppress(UnicodeError, LookupError):  # drawn from the database, so only an encoding that Python lacks
        narrow.add(text.encode(sample.encoding))
    return frozenset(wide | narrow)


class Picker:
    """Collects what is read of one column in bounded memory, and picks the values that stand for it.

    ``wanted`` values: those that can be searched for before others, rare before
    frequent, long before short; and some of the most frequent. ``room``: so many
    distinct values are kept meanwhile.
    """

    def __init__(self, wanted: int, room: int) -> None:
        self._wanted = wanted
        self._room = room
        self._counts: Counter[str] = Counter()
        self._preferred: dict[str, None] = {}
        self.dropped = False
        """Whether there were more values than were kept."""

    def add(self, text: str, count: int = 1) -> None:
        """Take a value (cut to ``READ`` characters) that was read ``count`` times; the empty one tells nothing."""
        if text:
            self._counts[text if text.isascii() else text[:_READ_WIDE]] += count
            if len(self._counts) > self._room:
                self._drop()

    def prefer(self, text: str) -> None:
        """Take a value that should be among the picked ones, as far as a fifth of them has room."""
        if searchable(text) and len(self._preferred) < self._wanted // _PREFERRED:
            self._preferred[text] = None

    @property
    def enough(self) -> bool:
        """Whether there are as many values as wanted."""
        return len(self._counts) >= self._wanted

    @property
    def all_taken(self) -> bool:
        """Whether :meth:`pick` returns everything that was added."""
        return not self.dropped and len(self._counts.keys() | self._preferred.keys()) <= self._wanted

    def pick(self) -> tuple[str, ...]:
        """Return at most ``wanted`` distinct values, the most telling first."""
        ranked = self._ranked()
        frequent = sorted(filter(searchable, ranked), key=lambda text: -self._counts[text])[: self._wanted // _FREQUENT]
        first = dict.fromkeys((*self._preferred, *frequent))
        rare = [text for text in ranked if text not in first][: self._wanted - len(first)]
        return tuple(dict.fromkeys(telling_part(text) for text in (*rare, *first)))

    def _ranked(self) -> list[str]:
        return sorted(self._counts, key=lambda text: (not searchable(text), self._counts[text], -len(text), text))

    def _drop(self) -> None:
        self.dropped = True
        frequent = [text for text, _ in self._counts.most_common(self._wanted // _FREQUENT)]
        kept = dict.fromkeys((*self._ranked()[: self._room // 2], *frequent))
        self._counts = Counter({text: self._counts[text] for text in kept})
