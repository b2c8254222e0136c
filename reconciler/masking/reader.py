"""Reads the files of a volume for :mod:`.leaks`: digests and search in one pass, by several threads.

It knows nothing of columns and rules. Each thread holds one block; files of any size, also
sparse ones, take no more.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import TYPE_CHECKING

from reconciler.errors import MaskingError
from reconciler.masking import digests
from reconciler.masking.evidence import FileScan
from reconciler.masking.matcher import ValueId
from reconciler.masking.sameness import RACY_NS, is_the_same, same_parts, stamp
from reconciler.status.words import size as in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from reconciler.fiemap import Part
    from reconciler.masking.evidence import Base, Scan
    from reconciler.masking.matcher import Compiled, Matcher, Search
    from reconciler.proc import CancelToken

BLOCK = 4 << 20
"""Bytes that are read and searched at once: the more values, the longer it takes to begin with a block."""
_BLOCKS = 32 << 20
"""Bytes that all threads hold together, each one block."""
_MOST_THREADS = 32
_AHEAD = 16
"""Parts of a file that are fetched before they are read."""
_TELL_EVERY = 64 << 20
_SMALL = 1 << 20
"""Bytes that are read again rather than compared."""
_NOTHING: Mapping[int, bytes] = MappingProxyType({})
_LOOKS, _PAGE = 32, 8192
"""Pages of a larger file that are compared with those of the base before it is expected to be the same."""


def list_files(directory: Path, below: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield path, relative to ``directory``, and size of every file below some of its directories.

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


class Reader:
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
        self._directory = directory
        self._matcher = matcher
        self._cancel = cancel
        self._progress = progress
        self._earlier = {file.path: file for file in earlier.files} if earlier is not None else {}
        self._base = base
        self._pieces = digests.KnownPieces.opened(base.directory) if base is not None else digests.KnownPieces(None, {})
        self._running = running
        self._read: dict[str, FileScan] = {}
        self._values: dict[ValueId, ValueId] = {}
        self._lock = threading.Lock()
        self._done = 0
        self._told = 0
        self._total = 0
        self._failed = threading.Event()

    def read_all(self, entries: Sequence[tuple[str, int]], threads: int) -> list[FileScan]:
        """Read files, in the order in which they are named; again for each further part of what is looked for."""
        with closing(self._pieces):
            return self._read_parts(entries, threads)

    def _read_parts(self, entries: Sequence[tuple[str, int]], threads: int) -> list[FileScan]:
        paths = [path for path, _ in entries]
        self._total = sum(size for _, size in entries) * len(self._matcher.parts)
        for part in self._matcher.parts:
            self._in_lanes(paths, threads, self._matcher.compiled(part), self._again if part else self._first)
            paths = [path for path in paths if self._is_pending(path)]
        return list(self._read.values())

    def _is_pending(self, path: str) -> bool:
        """Tell whether a file is to be searched for more; an earlier scan, or that of the base, did so for all."""
        file = self._read.get(path)
        return file is not None and file.searched and file is not self._earlier.get(path)

    def _in_lanes(
        self,
        paths: Sequence[str],
        threads: int,
        compiled: Compiled,
        work: Callable[[str, Search, bytearray], FileScan | None],
    ) -> None:
        queue: SimpleQueue[str] = SimpleQueue()
        for path in paths:
            queue.put(path)
        lanes = max(1, min(threads, len(paths), _MOST_THREADS))
        block = min(BLOCK, _BLOCKS // lanes) // digests.PIECE * digests.PIECE
        with ThreadPoolExecutor(lanes) as pool:
            for future in [pool.submit(self._lane, queue, compiled, work, block) for _ in range(lanes)]:
                future.result()

    def _lane(
        self,
        queue: SimpleQueue[str],
        compiled: Compiled,
        work: Callable[[str, Search, bytearray], FileScan | None],
        block: int,
    ) -> None:
        search, buffer = compiled.search(), bytearray(self._matcher.overlap + block)
        try:
            while not self._failed.is_set():
                try:
                    path = queue.get_nowait()
                except Empty:
                    break
                file = work(path, search, buffer)
                if file is not None:
                    self._read[path] = file
                else:
                    self._read.pop(path, None)
        except BaseException:
            self._failed.set()  # the others need not go on
            raise

    def _first(self, path: str, search: Search, buffer: bytearray) -> FileScan | None:
        """Read a file that was not read yet; None: it is not there any more."""
        with self._opened(path) as descriptor:
            if descriptor is None:
                return None
            before = os.fstat(descriptor)
            known = self._earlier.get(path)
            if known is not None and (known.size, known.stamp) == (before.st_size, stamp(before)):
                self._advance(before.st_size * len(self._matcher.parts))
                return known
            if self._base is not None and is_the_same(path, before, self._base):
                self._advance(before.st_size * len(self._matcher.parts))
                return self._carried_over(path, before, self._base.digests[path])
            settled = time.time_ns() - before.st_mtime_ns > RACY_NS
            known_pieces = self._same_pieces(path, descriptor)
            skip = not known_pieces and self._is_expected(path, descriptor)
            file = self._content(path, descriptor, None if skip else search, buffer, known_pieces)
            if not file.searched and self._base is not None and file.sha256 != self._base.digests[path]:
                file = self._content(path, descriptor, search, buffer)
            return self._stamped(file, descriptor, before, settled=settled)

    def _carried_over(self, path: str, status: os.stat_result, digest: str) -> FileScan:
        return FileScan(
            path=path,
            size=status.st_size,
            sha256=digest,
            searched=False,
            pieces=self._pieces.of(path, digest),
            stamp=stamp(status),
        )

    def _again(self, path: str, search: Search, buffer: bytearray) -> FileScan | None:
        """Search a file that was read already for more values."""
        known = self._read[path]
        with self._opened(path) as descriptor:
            if descriptor is None:
                return None
            before = os.fstat(descriptor)
            settled = known.stamp == stamp(before)
            same = self._same_pieces(path, descriptor) if known.left_out else {}
            file = self._content(path, descriptor, search, buffer, same)
            if file.sha256 != known.sha256:
                self._refuse_written(path)
                settled = False
            return self._stamped(replace(file, found=known.found | file.found), descriptor, before, settled=settled)

    @contextmanager
    def _opened(self, path: str) -> Iterator[int | None]:
        try:
            descriptor = os.open(self._directory / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            if not self._running:
                raise
            yield None
            return
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise MaskingError(f"{path} is no regular file: it cannot be searched")
            yield descriptor
        finally:
            os.close(descriptor)

    def _stamped(self, file: FileScan, descriptor: int, before: os.stat_result, *, settled: bool) -> FileScan:
        """Return a file with its time, when it is certain that it was not written to meanwhile."""
        after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or file.size != after.st_size:
            self._refuse_written(file.path)
            settled = False
        return replace(file, stamp=stamp(after) if settled else None)

    def _refuse_written(self, path: str) -> None:
        if not self._running:
            raise MaskingError(f"{path} was written to while it was searched")

    def _same_pieces(self, path: str, descriptor: int) -> Mapping[int, bytes]:
        """Return the digests, by number, of the whole pieces of a large file that it shares with the base."""
        base = self._base
        if base is None or path not in base.digests or not digests.has_pieces(os.fstat(descriptor).st_size):
            return {}
        pieces = self._pieces.of(path, base.digests[path])
        if not pieces:
            return {}
        return {
            number: digests.known_piece(pieces, number)
            for start, end in same_parts(path, descriptor, base)
            for number in range(-(-start // digests.PIECE), end // digests.PIECE)
        }

    def _is_expected(self, path: str, descriptor: int) -> bool:
        """Tell whether a file is likely to be as in the base; its digest decides, and may cost another reading."""
        base = self._base
        if base is None or path not in base.digests:
            return False
        size = os.fstat(descriptor).st_size
        try:
            with (base.directory / path).open("rb") as there:
                if os.fstat(there.fileno()).st_size != size:
                    return False
                places = range(0, size, max(_PAGE, size // _LOOKS)) if size > _SMALL else ()
                return all(os.pread(descriptor, _PAGE, n) == os.pread(there.fileno(), _PAGE, n) for n in places)
        except OSError:
            return False

    def _content(
        self,
        path: str,
        descriptor: int,
        search: Search | None,
        buffer: bytearray,
        known: Mapping[int, bytes] = _NOTHING,
    ) -> FileScan:
        """Read a file for its digest, and search it; not the pieces whose digests are ``known`` by their number."""
        size = os.fstat(descriptor).st_size
        digester, found = digests.Digester(size), set[ValueId]()
        place = 0
        for start, end in _announced(descriptor, _runs(size, known)) if known else ((0, size),):
            digester.add_known(_between(known, place, start))
            for block, around in self._blocks(descriptor, start, end, size, buffer):
                digester.update(block)
                if search is not None:
                    found |= search.find(around)
            place = end
        digester.add_known(_between(known, place, size) if place < size else b"")
        left_out = len(known) * digests.PIECE
        unread = bool(known) and left_out == size
        self._advance(left_out)
        shared = frozenset(self._values.setdefault(value, value) for value in found)  # one may be in every file
        return FileScan(
            path=path,
            size=size,
            sha256=digester.text(),
            searched=search is not None and not unread,
            found=shared,
            left_out=0 if unread else left_out,
            pieces=digester.pieces,
        )

    def _blocks(
        self, descriptor: int, start: int, end: int, size: int, buffer: bytearray
    ) -> Iterator[tuple[memoryview, memoryview]]:
        """Yield the bytes of a file from ``start`` to ``end`` in blocks; and each with what is around it.

        That is the end of the block before, or of the piece that is not read, and after the last block the
        beginning of the piece that is not: a value across their border is seen.
        """
        view, overlap = memoryview(buffer), self._matcher.overlap
        kept = min(overlap, start)
        _read(descriptor, view[overlap - kept : overlap], start - kept)
        place, nothing = start, view[:0]
        while place < end:
            if self._cancel is not None:
                self._cancel.check()
            count = _read(descriptor, view[overlap : overlap + min(len(view) - overlap, end - place)], place)
            if not count:
                return
            yield view[overlap : overlap + count], view[overlap - kept : overlap + count]
            self._advance(count)
            keep = min(overlap, kept + count)
            view[overlap - keep : overlap] = bytes(view[overlap + count - keep : overlap + count])
            kept, place = keep, place + count
        if end < size and kept:
            count = _read(descriptor, view[overlap : 2 * overlap], end)
            yield nothing, view[overlap - kept : overlap + count]

    def _advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            done = self._done
            if done - self._told < _TELL_EVERY:
                return
            self._told = done
        self._progress(f"searching files for originals: {in_words(done)} of {in_words(self._total)}")


def _read(descriptor: int, into: memoryview, place: int) -> int:
    """Fill a part of a buffer from a place in a file, as far as that goes."""
    done = 0
    while done < len(into) and (count := os.preadv(descriptor, [into[done:]], place + done)):
        done += count
    return done


def _between(known: Mapping[int, bytes], start: int, end: int) -> bytes:
    return b"".join(known[number] for number in range(start // digests.PIECE, end // digests.PIECE))


def _announced(descriptor: int, runs: Iterable[Part]) -> Iterator[Part]:
    """Yield parts of a file, and let the kernel fetch the next ones meanwhile, but nothing that lies behind them."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    ahead: deque[Part] = deque()
    for start, end in runs:
        os.posix_fadvise(descriptor, start, min(end - start, BLOCK), os.POSIX_FADV_WILLNEED)
        ahead.append((start, end))
        if len(ahead) > _AHEAD:
            yield ahead.popleft()
    yield from ahead


def _runs(size: int, known: Mapping[int, bytes]) -> Iterator[Part]:
    """Yield what has to be read of a file: what lies between the pieces that are known."""
    place = 0
    for number in sorted(known):
        start = number * digests.PIECE
        if place < start:
            yield place, start
        place = start + digests.PIECE
    if place < size:
        yield place, size
