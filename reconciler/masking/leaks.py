"""Search of every byte of every file of a volume for originals, with the digests of the files from the same pass.

Called by ``apply`` when a build is stopped and scrubbed, before it is sealed; and by
engines before that, to find out in time what is left where. It reads files and changes
nothing. It never shows a value: results name columns and files, and count.

What it cannot see is what files hold in another form: compressed or encrypted values,
numbers and dates. Engines prove those through SQL (``session.prove``). So that nobody
takes blindness for a proof, masked values are looked for as well, which must be found.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import TYPE_CHECKING

from reconciler.errors import MaskingError
from reconciler.masking.matcher import KEY, Matcher, is_control
from reconciler.status.words import size as in_words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from reconciler.masking.matcher import Search, ValueId
    from reconciler.masking.report import Sample
    from reconciler.proc import CancelToken

BLOCK = 4 << 20
"""Bytes that are read and searched at once; each thread holds one block."""
FULL_EVERY = timedelta(days=7)
"""A scan that leaves out unchanged files has a full one behind it that is at most so old."""
_RACY_NS = 100_000_000
"""A file written so shortly before it was read may be written again with the same time."""
_TELL_EVERY = 64 << 20
_NAMED = 5
"""Columns and files that a message names; the result has all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileScan:
    """One file, by its path relative to the volume. ``searched``: else only its digest was taken."""

    path: str
    size: int
    sha256: str
    searched: bool
    found: frozenset[ValueId] = field(default=frozenset(), repr=False)
    stamp: tuple[int, int] | None = None
    """Time of change and inode, by which an unchanged file is recognised; None when that is not certain."""


@dataclass(frozen=True, slots=True)
class Hit:
    """So many distinct values of a column are in this file."""

    path: str
    values: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnScan:
    """One column: of ``drawn`` originals ``searched`` were long enough; where they were found.

    ``controls`` masked values were looked for, and ``controls_found`` of them found. Without
    any the column's storage is blind to a search of bytes: SQL has to prove it.
    """

    place: str
    drawn: int
    searched: int
    controls: int
    controls_found: int
    hits: tuple[Hit, ...] = ()

    @property
    def blind(self) -> bool:
        """Whether a search of bytes says nothing of this column, though it had something to look for."""
        return self.controls_found == 0 and self.searched > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What was read and found. ``full``: every file was searched, none left out as unchanged since an earlier scan."""

    files: tuple[FileScan, ...]
    columns: tuple[ColumnScan, ...]
    full: bool
    patterns: int

    @property
    def digests(self) -> Mapping[str, str]:
        """SHA-256, in hexadecimal digits, of every file by its path relative to the volume."""
        return {file.path: file.sha256 for file in self.files}

    @property
    def found(self) -> frozenset[ValueId]:
        """Originals that are in some file."""
        return frozenset(value for file in self.files for value in file.found if not is_control(value))

    @property
    def searched_files(self) -> int:
        """How many files were searched."""
        return sum(file.searched for file in self.files)

    @property
    def searched_bytes(self) -> int:
        """How much was searched."""
        return sum(file.size for file in self.files if file.searched)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A sealed volume that the scanned one is a copy of, and which files of it a full scan has found clean.

    ``digests`` are those of its attestation. ``skippable`` tells of a path whether an
    unchanged file need not be searched again; the others always are. Whether a file is
    unchanged is decided by its digest; its size and time only say when to expect it.
    """

    directory: Path
    digests: Mapping[str, str] = field(repr=False)
    skippable: Callable[[str], bool]


Accepted = Mapping[str, frozenset["ValueId"]]
"""Originals that may be in a file, by its path: the engine's proof has a reason for each."""
_NOTHING: Accepted = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Exposure:
    """``values`` of the ``drawn`` originals of ``place`` are also in ``column``, which is not masked.

    ``decided``: because a rule keeps it; else because nothing decides about it.
    """

    place: str
    column: str
    values: int
    drawn: int
    decided: bool
    catalog: bool = False
    """It is a catalog of the database: a name, a comment, the body of a function."""

    def __str__(self) -> str:
        why = "which a rule keeps" if self.decided else "which no rule names"
        why = "a catalog of the database" if self.catalog else why
        return f"{self.column}, {why}, has {self.values} of {self.drawn} originals of {self.place}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What an engine has proved while its server ran, for the scan after that and for the attestation.

    ``accepted``: originals that may be in a file. ``excluded``: how many those are, by
    reason; with those that are too short to be looked for in files. ``exposed`` says
    more of those that columns hold which are not masked, to be told. ``scan`` and
    ``matcher`` save the next scan from reading and compiling again.
    """

    accepted: Accepted = field(repr=False)
    excluded: Mapping[str, int]
    exposed: tuple[Exposure, ...]
    scan: Scan
    matcher: Matcher


def must_be_full(last_full: datetime | None, now: datetime, *, same_rules: bool) -> bool:
    """Tell whether every file has to be searched: the rules changed, or the last time is a week ago."""
    return last_full is None or not same_rules or now - last_full >= FULL_EVERY


def scan(
    directory: Path,
    samples: Sequence[Sample],
    *,
    threads: int = 1,
    cancel: CancelToken | None = None,
    progress: Callable[[str], None] = lambda _text: None,
    below: Sequence[str] = ("",),
    earlier: Scan | None = None,
    base: Base | None = None,
    matcher: Matcher | None = None,
    running: bool = False,
) -> Scan:
    """Read every file below ``directory`` once; take digests and look for the values of ``samples``.

    Memory is bounded: ``threads`` blocks and the compiled values, whatever the size of
    files. ``below`` limits it to some of the directories. Files that ``earlier`` read, of
    the same volume and for the same samples, are not read again when nothing wrote to
    them since. ``matcher`` saves compiling the samples again. ``running``: a server may
    write meanwhile, so that another scan has to follow, which reads such files again.

    Raises:
        MaskingError: a file is no regular one or (unless ``running``) changes while it is
            read, or the search is blind.
        CancelledError: ``cancel`` was set.
        OSError: a file cannot be read.

    """
    reader = _Reader(directory, matcher or Matcher(samples), cancel, progress, earlier, base, running=running)
    files = reader.read_all(sorted(_files(directory, below), key=lambda entry: -entry[1]), threads)
    return Scan(
        files=tuple(sorted(files, key=lambda file: file.path)),
        columns=_columns(samples, files, reader.matcher.ids),
        full=all(file.searched for file in files),
        patterns=reader.matcher.patterns,
    )


def judge(scanned: Scan, accepted: Accepted = _NOTHING) -> None:
    """Refuse a volume with originals in it that are not ``accepted`` where they are.

    Raises:
        MaskingError: an original is left, or the search was blind (``MaskingLeak``).

    """
    keys = [file.path for file in scanned.files if KEY in file.found]
    if keys:
        raise MaskingError(
            f"a masking key, or what is derived from it, is in {', '.join(keys[:_NAMED])}",
            hint="an expression of the policy, or a function of the source, has written it there",
            reason="MaskingLeak",
        )
    left: dict[int, dict[str, int]] = {}
    for file in scanned.files:
        fine = accepted.get(file.path, frozenset())
        for number, _ in (value for value in file.found if not is_control(value) and value not in fine):
            places = left.setdefault(number, {})
            places[file.path] = places.get(file.path, 0) + 1
    if left:
        named = "; ".join(_leak(scanned.columns[number], left[number]) for number in sorted(left)[:_NAMED])
        more = f"; and {len(left) - _NAMED} more columns" if len(left) > _NAMED else ""
        raise MaskingError(f"original values are left in files: {named}{more}", reason="MaskingLeak")
    controls = sum(column.controls for column in scanned.columns)
    if scanned.full and controls and not any(column.controls_found for column in scanned.columns):
        raise MaskingError(
            f"the search of files found none of {controls} masked values, which are there: it proves nothing",
            reason="MaskingLeak",
        )


def _leak(column: ColumnScan, places: Mapping[str, int]) -> str:
    files = sorted(places, key=lambda path: -places[path])
    more = f" and {len(files) - _NAMED} more files" if len(files) > _NAMED else ""
    where = ", ".join(f"{path} ({places[path]})" for path in files[:_NAMED])
    return f"{column.place}: of {column.searched} originals some are in {where}{more}"


def _columns(
    samples: Sequence[Sample], files: Sequence[FileScan], searched: frozenset[ValueId]
) -> tuple[ColumnScan, ...]:
    looked_for, seen = Counter(_kind(value) for value in searched), frozenset().union(*(file.found for file in files))
    found = Counter(_kind(value) for value in seen)
    hits: dict[int, list[Hit]] = {}
    for file in files:
        for number, count in Counter(value[0] for value in file.found if not is_control(value)).items():
            hits.setdefault(number, []).append(Hit(file.path, count))
    return tuple(
        ColumnScan(
            place=sample.place,
            drawn=len(sample.originals),
            searched=looked_for[number, False],
            controls=looked_for[number, True],
            controls_found=found[number, True],
            hits=tuple(sorted(hits.get(number, ()), key=lambda hit: (-hit.values, hit.path))),
        )
        for number, sample in enumerate(samples)
    )


def _kind(value: ValueId) -> tuple[int, bool]:
    return value[0], is_control(value)


def _files(directory: Path, below: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield path and size of every file.

    Raises:
        MaskingError: something is no regular file.

    """
    pending = list(below)
    while pending:
        inside = pending.pop()
        with os.scandir(directory / inside) as entries:
            for entry in entries:
                path = f"{inside}/{entry.name}" if inside else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                elif entry.is_file(follow_symlinks=False):
                    yield path, entry.stat(follow_symlinks=False).st_size
                else:
                    raise MaskingError(f"{path} is neither a directory nor a regular file: it cannot be searched")


class _Reader:
    """The state that the threads of one scan share."""

    def __init__(
        self,
        directory: Path,
        matcher: Matcher,
        cancel: CancelToken | None,
        progress: Callable[[str], None],
        earlier: Scan | None,
        base: Base | None,
        *,
        running: bool,
    ) -> None:
        self._running = running
        self.directory = directory
        self.matcher = matcher
        self._cancel = cancel
        self._progress = progress
        self._earlier = {file.path: file for file in earlier.files} if earlier is not None else {}
        self._base = base
        self._lock = threading.Lock()
        self._done = 0
        self._told = 0
        self._total = 0
        self._failed = threading.Event()

    def read_all(self, entries: Sequence[tuple[str, int]], threads: int) -> list[FileScan]:
        """Read files by several threads, the largest first."""
        self._total = sum(size for _, size in entries)
        queue: SimpleQueue[str] = SimpleQueue()
        for path, _ in entries:
            queue.put(path)
        lanes = max(1, min(threads, len(entries)))
        with ThreadPoolExecutor(lanes) as pool:
            futures = [pool.submit(self._lane, queue) for _ in range(lanes)]
            return [file for future in futures for file in future.result()]

    def _lane(self, queue: SimpleQueue[str]) -> list[FileScan]:
        search, buffer = self.matcher.search(), bytearray(self.matcher.overlap + BLOCK)
        read: list[FileScan] = []
        try:
            while not self._failed.is_set():
                try:
                    path = queue.get_nowait()
                except Empty:
                    break
                file = self._file(path, search, buffer)
                if file is not None:
                    read.append(file)
        except BaseException:
            self._failed.set()  # the others need not go on
            raise
        return read

    def _file(self, path: str, search: Search, buffer: bytearray) -> FileScan | None:
        try:
            descriptor = os.open(self.directory / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            if self._running:
                return None
            raise
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise MaskingError(f"{path} is no regular file: it cannot be searched")
            known = self._earlier.get(path)
            if known is not None and (known.size, known.stamp) == (before.st_size, (before.st_mtime_ns, before.st_ino)):
                self._advance(before.st_size)
                return known
            settled = time.time_ns() - before.st_mtime_ns > _RACY_NS
            file = self._read(path, descriptor, search if self._must_search(path, before) else None, buffer)
            if not file.searched and self._base is not None and file.sha256 != self._base.digests[path]:
                os.lseek(descriptor, 0, os.SEEK_SET)
                file = self._read(path, descriptor, search, buffer)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or file.size != after.st_size:
            if not self._running:
                raise MaskingError(f"{path} was written to while it was searched")
            settled = False
        return replace(file, stamp=(after.st_mtime_ns, after.st_ino) if settled else None)

    def _must_search(self, path: str, status: os.stat_result) -> bool:
        base = self._base
        if base is None or path not in base.digests or not base.skippable(path):
            return True
        try:
            there = (base.directory / path).lstat()
        except OSError:
            return True
        return (there.st_size, there.st_mtime_ns) != (status.st_size, status.st_mtime_ns)

    def _read(self, path: str, descriptor: int, search: Search | None, buffer: bytearray) -> FileScan:
        digest, size = hashlib.sha256(), 0
        found: set[ValueId] = set()
        view, overlap = memoryview(buffer), self.matcher.overlap
        kept = 0  # bytes of the block before, in front of this one
        while count := os.readv(descriptor, [view[overlap:]]):
            if self._cancel is not None:
                self._cancel.check()
            digest.update(view[overlap : overlap + count])
            if search is not None:
                found |= search.find(view[overlap - kept : overlap + count])
                keep = min(overlap, kept + count)
                view[overlap - keep : overlap] = bytes(view[overlap + count - keep : overlap + count])
                kept = keep
            size += count
            self._advance(count)
        return FileScan(
            path=path, size=size, sha256=digest.hexdigest(), searched=search is not None, found=frozenset(found)
        )

    def _advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            done = self._done
            if done - self._told < _TELL_EVERY:
                return
            self._told = done
        self._progress(f"searching files for originals: {in_words(done)} of {in_words(self._total)}")
