"""Reads the files of a volume for :mod:`.leaks`: digests and search in one pass, by several threads.

It knows nothing of columns and rules. Each thread holds one block; files of any size, also
sparse ones, take no more.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from reconciler.errors import MaskingError
from reconciler.masking.evidence import FileScan
from reconciler.status.words import size as in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from reconciler.masking.evidence import Base, Scan
    from reconciler.masking.matcher import Compiled, Matcher, Search, ValueId
    from reconciler.proc import CancelToken

BLOCK = 4 << 20
"""Bytes that are read and searched at once: the more values, the longer it takes to begin with a block."""
_BLOCKS = 32 << 20
"""Bytes that all threads hold together, each one block."""
_MOST_THREADS = 32
_SECOND_NS = 1_000_000_000
_RACY_NS = 100_000_000
"""A file written so shortly before it was read may be written again with the same time."""
_TELL_EVERY = 64 << 20
_SMALL = 1 << 20
"""Bytes that are read again rather than compared."""
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
        block = min(BLOCK, _BLOCKS // lanes)
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
            if known is not None and (known.size, known.stamp) == (before.st_size, _stamp(before)):
                self._advance(before.st_size * len(self._matcher.parts))
                return known
            if self._base is not None and self._is_the_same(path, before, self._base):
                self._advance(before.st_size * len(self._matcher.parts))
                digest = self._base.digests[path]
                return FileScan(path=path, size=before.st_size, sha256=digest, searched=False, stamp=_stamp(before))
            settled = time.time_ns() - before.st_mtime_ns > _RACY_NS
            file = self._content(path, descriptor, None if self._is_expected(path, descriptor) else search, buffer)
            if not file.searched and self._base is not None and file.sha256 != self._base.digests[path]:
                os.lseek(descriptor, 0, os.SEEK_SET)
                file = self._content(path, descriptor, search, buffer)
            return self._stamped(file, descriptor, before, settled=settled)

    def _again(self, path: str, search: Search, buffer: bytearray) -> FileScan | None:
        """Search a file that was read already for more values."""
        known = self._read[path]
        with self._opened(path) as descriptor:
            if descriptor is None:
                return None
            before = os.fstat(descriptor)
            settled = known.stamp == _stamp(before)
            file = self._content(path, descriptor, search, buffer)
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
        return replace(file, stamp=_stamp(after) if settled else None)

    def _refuse_written(self, path: str) -> None:
        if not self._running:
            raise MaskingError(f"{path} was written to while it was searched")

    def _is_the_same(self, path: str, status: os.stat_result, base: Base) -> bool:
        """Tell whether a file shares its blocks with that of the base, as copies on write do until one is written."""
        begun = None if base.begun_at is None else int(base.begun_at.timestamp()) * _SECOND_NS
        if begun is None or path not in base.digests or status.st_mtime_ns >= begun - _RACY_NS:
            return False
        try:
            there = (base.directory / path).stat(follow_symlinks=False)
        except OSError:
            return False
        return (there.st_size, _stamp(there)) == (status.st_size, _stamp(status))

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

    def _content(self, path: str, descriptor: int, search: Search | None, buffer: bytearray) -> FileScan:
        digest, size = hashlib.sha256(), 0
        found: set[ValueId] = set()
        view, overlap = memoryview(buffer), self._matcher.overlap
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
        shared = frozenset(self._values.setdefault(value, value) for value in found)  # one may be in every file
        return FileScan(path=path, size=size, sha256=digest.hexdigest(), searched=search is not None, found=shared)

    def _advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            done = self._done
            if done - self._told < _TELL_EVERY:
                return
            self._told = done
        self._progress(f"searching files for originals: {in_words(done)} of {in_words(self._total)}")


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_ino
