"""Looks for all drawn values at once in any bytes: files of a volume, or values that a database hands out.

Used by :mod:`.leaks` and by the proofs of engines. The search is Hyperscan's: measured
on files of PostgreSQL with 10,000 values in UTF-8 and UTF-16 it takes some 0.9 GB/s
per core, an Aho-Corasick automaton (ahocorasick_rs) 0.2 GB/s, because its tables do not
fit into a core's caches. It releases the interpreter's lock while it searches.

A value is named by its :data:`ValueId`; text of values never leaves this module.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import hyperscan

from reconciler.errors import MaskingError
from reconciler.masking.originals import SHORTEST, forms, in_bytes, searchable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from reconciler.masking.report import Sample

ValueId = tuple[int, int]
"""Number of a sample, and of the value among its originals; negative (-1, -2, …) among its controls."""

KEY: ValueId = (-1, 0)
"""Stands for all traces of masking keys: it is no value of a sample, and nothing excuses it."""

Buffer = bytes | memoryview

_PER_DATABASE = 1_500_000
"""Bytes of patterns that are compiled together: that takes 60 times as much memory, and more than linear time."""
_PLANTED = 24


class Matcher:
    """Compiled values of samples. Immutable; each thread searches through a :class:`Search` of its own.

    ``traces`` of masking keys are looked for as well. ``only``: look for these values
    alone. Values that are shorter than ``shortest`` bytes, or too common to be looked for,
    are left out: see :attr:`ids`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        only: Iterable[ValueId] | None = None,
        *,
        shortest: int = SHORTEST,
        traces: Iterable[bytes] = (),
    ) -> None:
        wanted = None if only is None else frozenset(only)
        patterns: dict[bytes, set[ValueId]] = {}
        for value, text in values(samples):
            sample = samples[value[0]]
            if in_bytes(sample) and searchable(text, shortest) and (wanted is None or value in wanted):
                for form in forms(text, sample):
                    patterns.setdefault(form, set()).add(value)
        self.ids: frozenset[ValueId] = frozenset().union(*patterns.values())
        """Values that are looked for."""
        for trace in traces:
            patterns.setdefault(trace, set()).add(KEY)
        self.patterns = len(patterns)
        self.longest = max(map(len, patterns), default=0)
        self._databases = [_Database(part) for part in _parts(patterns)]

    def __repr__(self) -> str:
        return f"Matcher({self.patterns} patterns)"

    def search(self) -> Search:
        """Return a search for one thread."""
        return Search(self._databases)

    @property
    def overlap(self) -> int:
        """Bytes at the end of a block that must be searched again with the next one."""
        return max(self.longest, 2 * _PLANTED) - 1


class Search:
    """One thread's search."""

    def __init__(self, databases: Sequence[_Database]) -> None:
        self._lanes = [(database, hyperscan.Scratch(database.compiled)) for database in databases]
        self._prove()

    def find(self, data: Buffer) -> set[ValueId]:
        """Return the values that are in ``data``."""
        found: set[ValueId] = set()
        for database, scratch in self._lanes:
            for pattern in database.scan(data, scratch):
                if pattern < len(database.ids):
                    found |= database.ids[pattern]
        return found

    def _prove(self) -> None:
        """Find what was planted, so that a search that is blind is noticed.

        Raises:
            MaskingError: it was not found.

        """
        for database, scratch in self._lanes:
            noise = secrets.token_bytes(100)
            for pattern, form in enumerate(database.planted, len(database.ids)):
                if pattern not in database.scan(noise + form + noise, scratch):
                    raise MaskingError("the search for originals does not find what was planted for it")


class _Database:
    """Some of the patterns, compiled."""

    def __init__(self, patterns: Mapping[bytes, set[ValueId]]) -> None:
        token = secrets.token_urlsafe(_PLANTED)[:_PLANTED]
        self.planted = (token.encode(), token.encode("utf-16-le"), token.encode("utf-16-be"))
        self.ids = tuple(frozenset(found) for found in patterns.values())
        expressions = [_literal(pattern) for pattern in (*patterns, *self.planted)]
        self.compiled = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        try:
            self.compiled.compile(
                expressions=expressions,
                ids=list(range(len(expressions))),
                elements=len(expressions),
                flags=[hyperscan.HS_FLAG_SINGLEMATCH] * len(expressions),
            )
        except hyperscan.HyperscanError as error:  # its text shows an expression
            raise MaskingError(f"the values to look for cannot be compiled: {type(error).__name__}") from None

    def scan(self, data: Buffer, scratch: hyperscan.Scratch) -> set[int]:
        found: set[int] = set()

        def matched(pattern: int, _start: int, _end: int, _flags: int, _context: object) -> None:
            found.add(pattern)

        self.compiled.scan(data, match_event_handler=matched, scratch=scratch)  # type: ignore[type-var] # its stub forgets memoryview
        return found


def values(samples: Sequence[Sample]) -> Iterator[tuple[ValueId, str]]:
    """Yield every original and control with its id."""
    for number, sample in enumerate(samples):
        for index, text in enumerate(sample.originals):
            yield (number, index), text
        for index, text in enumerate(sample.controls):
            yield (number, -1 - index), text


def is_control(value: ValueId) -> bool:
    """Tell whether it must be found, rather than not."""
    return value[1] < 0


def _literal(pattern: bytes) -> bytes:
    """Return an expression for exactly these bytes; Hyperscan's own mode for literals ends them at a zero byte."""
    return b"".join(b"\\x%02x" % byte for byte in pattern)


def _parts(patterns: Mapping[bytes, set[ValueId]]) -> Iterator[dict[bytes, set[ValueId]]]:
    part: dict[bytes, set[ValueId]] = {}
    size = 0
    for pattern, ids in patterns.items():
        part[pattern] = ids
        size += len(pattern)
        if size > _PER_DATABASE:
            yield part
            part, size = {}, 0
    yield part
