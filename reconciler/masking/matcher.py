"""Looks for all drawn values at once in any bytes: files of a volume, or values that a database hands out.

Used by :mod:`.leaks` and by the proofs of engines. The search is Hyperscan's: measured
on files of PostgreSQL with 10,000 values in UTF-8 and UTF-16 it takes some 0.9 GB/s
per core, an Aho-Corasick automaton (ahocorasick_rs) 0.2 GB/s, because its tables do not
fit into a core's caches. It releases the interpreter's lock while it searches.

**Memory** does not grow with the number of values. Compiling takes some 3 kB per pattern
for a moment, however long it is, and a tenth of that stays (measured). So the more there
are, the fewer are compiled together; and what does not fit into memory at all is looked
for in another part of the search (:attr:`Matcher.parts`), over the same bytes again: one
for each 100 masked columns. The time of a search grows with the number of columns.

A value is named by its :data:`ValueId`; text of values never leaves this module.
"""

from __future__ import annotations

import ctypes
import math
import secrets
from array import array
from collections import defaultdict
from contextlib import suppress
from itertools import chain
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

_ROOM = 70_000_000
"""Bytes that compiled patterns may take, with those that are being compiled."""
_COMPILING, _COMPILED = 3_000, 300
"""Bytes per pattern, rather too many."""
_PER_PART = 110_000
"""Patterns that are held together: of 100 columns with 500 originals."""
_FEWEST = 1_000
_PLANTED = 24
_ESCAPED = tuple(b"\\x%02x" % byte for byte in range(256))


class Matcher:
    """Compiled values of samples. Immutable; each thread searches through a :class:`Search` of its own.

    ``traces`` of masking keys are looked for as well. ``only``: look for these values
    alone, and ``cut``: for that part of them. Values that are shorter than ``shortest``
    bytes, or too common to be looked for, are left out: see :meth:`looks_for`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        only: Iterable[ValueId] | None = None,
        *,
        cut: slice = slice(None),
        shortest: int = SHORTEST,
        traces: Iterable[bytes] = (),
    ) -> None:
        self._samples = samples
        self._only = None if only is None else _by_sample(only)
        self._cut = cut
        self._shortest = shortest
        self._traces = tuple(traces)
        self._counts: list[tuple[int, int]] = []
        self.patterns = len(self._traces)
        self.longest = max(map(len, self._traces), default=0)
        self._parts = [*self._divided()]
        self._compiled: Compiled | None = None

    def __repr__(self) -> str:
        return f"Matcher({self.patterns} patterns)"

    @property
    def parts(self) -> range:
        """What to search for one after another: mostly one part. Every byte has to be searched in each."""
        return range(len(self._parts))

    @property
    def overlap(self) -> int:
        """Bytes at the end of a block that must be searched again with the next one."""
        return max(self.longest, 2 * _PLANTED) - 1

    def compiled(self, part: int) -> Compiled:
        """Return what finds the values of a part; only one that is alone is kept, so do not hold on to several.

        Raises:
            MaskingError: they cannot be compiled.

        """
        if self._compiled is not None:
            return self._compiled
        traces = ((trace, KEY) for trace in (self._traces if part == 0 else ()))
        numbers, size = self._parts[part]
        compiled = Compiled(chain(traces, self._patterns(numbers)), size)
        if len(self._parts) == 1:
            self._compiled = compiled
        return compiled

    def search(self, part: int) -> Search:
        """Return a search for one thread; see :meth:`compiled`."""
        return self.compiled(part).search()

    def looks_for(self, value: ValueId) -> bool:
        """Tell whether a value is long and peculiar enough, and wanted."""
        number, index = value
        if self._only is not None and index not in self._only.get(number, ()):
            return False
        sample = self._samples[number]
        return in_bytes(sample) and searchable(_text(sample, index)[self._cut], self._shortest)

    def counts(self, number: int) -> tuple[int, int]:
        """Return how many originals of a sample, and how many of its controls, are looked for."""
        return self._counts[number]

    def _divided(self) -> Iterator[tuple[range, int]]:
        """Divide the samples into parts, each with its number of patterns, and count on the way."""
        start, size = 0, len(self._traces)
        for number in range(len(self._samples)):
            found, values = 0, set()
            for form, value in self._patterns(range(number, number + 1)):
                found += 1
                values.add(value)
                self.longest = max(self.longest, len(form))
            controls = sum(map(is_control, values))
            self._counts.append((len(values) - controls, controls))
            if size and size + found > _PER_PART:
                yield range(start, number), size
                start, size = number, 0
            size += found
            self.patterns += found
        yield range(start, len(self._samples)), size

    def _patterns(self, numbers: range) -> Iterator[tuple[bytes, ValueId]]:
        for number in numbers:
            sample = self._samples[number]
            for value, text in self._values(number, sample) if in_bytes(sample) else ():
                part = text[self._cut]
                if searchable(part, self._shortest):
                    for form in forms(part, sample):
                        yield form, value

    def _values(self, number: int, sample: Sample) -> Iterator[tuple[ValueId, str]]:
        if self._only is not None:
            for index in self._only.get(number, ()):
                yield (number, index), _text(sample, index)
            return
        for index, text in enumerate(sample.originals):
            yield (number, index), text
        for index, text in enumerate(sample.controls):
            yield (number, -1 - index), text


class Compiled:
    """The values of one part, ready to be searched for by any number of threads."""

    def __init__(self, patterns: Iterable[tuple[bytes, ValueId]], size: int) -> None:
        together = max(_FEWEST, (_ROOM - size * _COMPILED) // _COMPILING)
        parts = max(1, math.ceil(size / together))
        _trim()  # also what the part before took
        self._databases = [_Database(some) for some in _some(patterns, math.ceil(size / parts))]

    def search(self) -> Search:
        """Return a search for one thread."""
        return Search(self._databases)


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
                found.update(database.values(pattern))
        return found

    def _prove(self) -> None:
        """Find what was planted, so that a search that is blind is noticed.

        Raises:
            MaskingError: it was not found.

        """
        for database, scratch in self._lanes:
            noise = secrets.token_bytes(100)
            for pattern, form in enumerate(database.planted, database.patterns):
                if pattern not in database.scan(noise + form + noise, scratch):
                    raise MaskingError("the search for originals does not find what was planted for it")


class _Database:
    """Some of the patterns, compiled, and whose they are: each is a few bytes in flat arrays."""

    def __init__(self, patterns: Mapping[bytes, Sequence[ValueId]]) -> None:
        token = secrets.token_urlsafe(_PLANTED)[:_PLANTED]
        self.planted = (token.encode(), token.encode("utf-16-le"), token.encode("utf-16-be"))
        self.patterns = len(patterns)
        self._numbers, self._indexes, self._starts = array("i"), array("i"), array("i", [0])
        for owners in patterns.values():
            self._numbers.extend(number for number, _ in owners)
            self._indexes.extend(index for _, index in owners)
            self._starts.append(len(self._numbers))
        expressions = [_literal(pattern) for pattern in (*patterns, *self.planted)]
        self.compiled = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        try:
            # without ids, which would be the same, and of which the binding (0.9) never frees one
            self.compiled.compile(expressions=expressions, flags=hyperscan.HS_FLAG_SINGLEMATCH)
        except hyperscan.HyperscanError as error:  # its text shows an expression
            raise MaskingError(f"the values to look for cannot be compiled: {type(error).__name__}") from None

    def values(self, pattern: int) -> Iterator[ValueId]:
        """Yield the values that a pattern is a form of; what was planted is none."""
        if pattern < self.patterns:
            places = range(self._starts[pattern], self._starts[pattern + 1])
            yield from ((self._numbers[place], self._indexes[place]) for place in places)

    def scan(self, data: Buffer, scratch: hyperscan.Scratch) -> set[int]:
        found: set[int] = set()

        def matched(pattern: int, _start: int, _end: int, _flags: int, _context: object) -> None:
            found.add(pattern)

        self.compiled.scan(data, match_event_handler=matched, scratch=scratch)  # type: ignore[type-var] # its stub forgets memoryview
        return found


def is_control(value: ValueId) -> bool:
    """Tell whether it must be found, rather than not."""
    return value[1] < 0


def _by_sample(values: Iterable[ValueId]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for number, index in sorted(values):
        found[number].append(index)
    return found


def _text(sample: Sample, index: int) -> str:
    return sample.originals[index] if index >= 0 else sample.controls[-1 - index]


def _literal(pattern: bytes) -> bytes:
    """Return an expression for exactly these bytes; Hyperscan's own mode for literals ends them at a zero byte."""
    return b"".join(map(_ESCAPED.__getitem__, pattern))


def _some(patterns: Iterable[tuple[bytes, ValueId]], together: int) -> Iterator[dict[bytes, list[ValueId]]]:
    """Yield as many patterns as are compiled together; give back what compiling the ones before took."""
    some: dict[bytes, list[ValueId]] = {}
    for pattern, value in patterns:
        some.setdefault(pattern, []).append(value)
        if len(some) >= together:
            yield some
            some = {}
            _trim()
    if some:
        yield some
    _trim()


def _trim() -> None:
    """Give freed memory back to the system: compiling leaves tens of megabytes of it in small pieces."""
    with suppress(OSError, AttributeError):  # a C library that has no such thing
        ctypes.CDLL(None).malloc_trim(0)
