"""The tree of a plain directory, with the ids that git would give to its files.

Used by ``validate`` and by :mod:`.plain`. The directory may be edited while it is
read: bytes are handed out only when they are those that the listing identified.

Files up to ``Limits.read_bytes`` are hashed, and not again while size, times and
inode stay the same. Larger ones (dumps) are identified by these alone: hashing
gigabytes to see that nothing changed would cost more than the rest of a pass.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from functools import cached_property
from typing import IO, TYPE_CHECKING, NamedTuple

from reconciler.clock import SystemClock
from reconciler.errors import BusyError, InputError, UnavailableError
from reconciler.ids import Revision
from reconciler.repository.base import Entry, Limits
from reconciler.repository.limits import check_readable, check_refused, check_sizes
from reconciler.repository.paths import (
    LFS_POINTER_BYTES,
    blob_id,
    check_name,
    check_not_lfs,
    checked_path,
    hidden,
    tree_ids,
)

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping
    from pathlib import Path

_CHUNK = 1 << 20
_MAX_DEPTH = 64
_RACY_NS = 100_000_000
_RACY_COARSE_NS = 2_000_000_000
"""A file written within one tick of its file system's clock after it was hashed looks unchanged
(the "racy git" problem); some file systems count whole seconds."""


class Stamp(NamedTuple):
    """What tells without reading that a file is unchanged."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int


class DirectoryTree:
    """Regular files below ``root`` as they are now.

    ``before`` is an earlier tree of the same root, whose hashes are used again.
    """

    def __init__(self, root: Path, *, limits: Limits | None = None, before: DirectoryTree | None = None) -> None:
        self.root = root.resolve()
        self._limits = limits or Limits()
        self._known: Mapping[str, tuple[Stamp, str]] = before.hashed if before else {}
        self._stamps: dict[str, Stamp] | None = None
        self._entries: dict[str, Entry] | None = None
        self._trees: dict[str, str] = {}
        self.hashed: dict[str, tuple[Stamp, str]] = {}

    @property
    def revision(self) -> Revision:
        self.entries()
        return Revision(f"dir@sha1:{self._trees['']}")

    @property
    def rewrite(self) -> str:
        return ""

    def again(self) -> DirectoryTree:
        """Look at the directory once more: this very tree when nothing changed, else a new one."""
        now = DirectoryTree(self.root, limits=self._limits, before=self)
        if len(self.hashed) + self._large == len(self.entries()) and now.stamps() == self.stamps():
            return self
        if now.revision != self.revision:
            return now
        self._stamps, self.hashed = now._stamps, now.hashed
        return self

    @cached_property
    def _large(self) -> int:
        return sum(entry.size > self._limits.read_bytes for entry in self.entries().values())

    def stamps(self) -> Mapping[str, Stamp]:
        """Return what the directory looked like when it was first asked for, in any order; reads no file."""
        if self._stamps is None:
            self._stamps = _scan(self.root, self._limits, self._known)
        return self._stamps

    def entries(self) -> Mapping[str, Entry]:
        if self._entries is None:
            stamps = dict(sorted(self.stamps().items()))
            check_sizes({name: Entry("", stamp.size) for name, stamp in stamps.items()}, str(self.root), self._limits)
            self._entries = {name: Entry(self._identify(name, stamp), stamp.size) for name, stamp in stamps.items()}
            self._trees = tree_ids({name: entry.object_id for name, entry in self._entries.items()})
        return self._entries

    def object_id(self, path: str) -> str | None:
        entries = self.entries()
        name = checked_path(path)
        return entries[name].object_id if name in entries else self._trees.get("" if name == "." else name)

    def large(self, path: str) -> bool:
        """Whether a file is identified by its times rather than by its bytes."""
        return self.entries()[path].size > self._limits.read_bytes

    def read(self, path: str) -> bytes:
        name, entry = self._entry(path)
        check_readable(path, entry, self._limits)
        data = self._read(name)
        if blob_id(data) != entry.object_id:
            raise BusyError(f"{path} was changed while it was read")
        check_not_lfs(path, data[:LFS_POINTER_BYTES])
        return data

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        for path in paths:
            yield path, self.read(path)

    def extract(self, path: str, target: Path) -> None:
        name = checked_path(path)
        if name in self.entries():
            self._copy(name, target)
            return
        if ("" if name == "." else name) not in self._trees:
            raise InputError(f"{path} does not exist in {self.root}", reason="PathNotFound")
        prefix = "" if name == "." else f"{name}/"
        target.mkdir()
        for file in self.entries():
            if file.startswith(prefix):
                destination = target / file[len(prefix) :]
                destination.parent.mkdir(parents=True, exist_ok=True)
                self._copy(file, destination)

    def _entry(self, path: str) -> tuple[str, Entry]:
        name = path if path in self.entries() else checked_path(path)
        entry = self.entries().get(name)
        if entry is None:
            raise InputError(f"{path} does not exist in {self.root}", reason="PathNotFound")
        return name, entry

    def _identify(self, name: str, stamp: Stamp) -> str:
        if stamp.size > self._limits.read_bytes:
            return hashlib.sha1(f"stamp {stamp}".encode(), usedforsecurity=False).hexdigest()
        known = self._known.get(name)
        if known is not None and known[0] == stamp:
            self.hashed[name] = known
            return known[1]
        object_id = blob_id(self._read(name))
        if not _racy(stamp):
            self.hashed[name] = (stamp, object_id)
        return object_id

    def _read(self, name: str) -> bytes:
        with _opened(self.root, name, self.stamps()[name]) as file:
            data = file.read(self._limits.read_bytes + 1)
        if len(data) > self._limits.read_bytes:
            raise BusyError(f"{name} was changed while it was read")
        return data

    def _copy(self, name: str, target: Path) -> None:
        if not self.large(name):
            data = self.read(name)
            with target.open("xb") as out:
                out.write(data)
            return
        with _opened(self.root, name, self.stamps()[name]) as file, target.open("xb") as out:
            while chunk := file.read(_CHUNK):
                out.write(chunk)
            if _stamp(os.fstat(file.fileno())) != self.stamps()[name]:
                raise BusyError(f"{name} was changed while it was copied")


def _stamp(status: os.stat_result, known: Stamp | None = None) -> Stamp:
    """Return a file's stamp; the known one where it is the same, for thousands of new ones would cost more."""
    now = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
    return known if known is not None and known == now else Stamp(*now)


def _racy(stamp: Stamp) -> bool:
    newest = max(stamp.mtime_ns, stamp.ctime_ns)
    window = _RACY_NS if stamp.mtime_ns % 1_000_000_000 else _RACY_COARSE_NS
    return int(SystemClock().now().timestamp() * 1e9) - newest < window


def _scan(root: Path, limits: Limits, known: Mapping[str, tuple[Stamp, str]]) -> dict[str, Stamp]:
    """Return every regular file with its stamp, in any order, without following a link.

    ``known`` are files of an earlier look, whose names are not checked again.

    Raises:
        InputError: something else than files and directories, or too many of them.
        UnavailableError: a directory cannot be read.

    """
    found: dict[str, Stamp] = {}
    refused: list[str] = []
    waiting = [("", 0)]
    while waiting:
        directory, depth = waiting.pop()
        for name, entry in _children(root, directory, known):
            if entry.is_file(follow_symlinks=False):
                before = known.get(name)
                found[name] = _stamp(entry.stat(follow_symlinks=False), before and before[0])
            elif entry.is_dir(follow_symlinks=False):
                waiting.append((name, depth + 1))
            elif entry.is_symlink():
                refused.append(f"{name} is a symlink")
            else:
                refused.append(f"{name} is no regular file")
        if len(found) > limits.files or len(waiting) > limits.files or depth > _MAX_DEPTH:
            raise InputError(
                f"{root} has more than {limits.files:,} files, or directories more than {_MAX_DEPTH} deep",
                reason="RepositoryTooLarge",
            )
    check_refused(sorted(refused), str(root))
    return found


def _children(root: Path, directory: str, known: Container[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    prefix = f"{directory}/" if directory else ""
    try:
        with _directory(root, directory) as number, os.scandir(number) as entries:
            for entry in entries:
                path = prefix + entry.name
                if path not in known:
                    if hidden(entry.name):
                        continue
                    check_name(path)
                yield path, entry
    except FileNotFoundError as error:
        if directory:
            return  # removed between two looks: its files are gone, as they would be a moment later
        raise UnavailableError(f"the directory {root} does not exist", reason="RepositoryUnavailable") from error
    except OSError as error:
        raise UnavailableError(
            f"the directory {root / directory} cannot be read: {error.strerror}", reason="RepositoryUnavailable"
        ) from error


@contextmanager
def _directory(root: Path, directory: str) -> Iterator[int]:
    """Open a directory: its entries are then asked for without the way there, which takes a sixth less time."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    number = os.open(root / directory, flags | os.O_NOFOLLOW if directory else flags)
    try:
        yield number
    finally:
        os.close(number)


@contextmanager
def _opened(root: Path, name: str, stamp: Stamp) -> Iterator[IO[bytes]]:
    """Open the very file that was listed: comparing inodes leaves no room to swap a part of the path for a symlink.

    Raises:
        BusyError: it is another file by now, was changed, or is gone.
        UnavailableError: it cannot be read.

    """
    try:
        number = os.open(f"{root}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise UnavailableError(f"{root / name} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise BusyError(f"{root / name} was removed or replaced while it was read") from error
    with open(number, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        if _stamp(os.fstat(number)) != stamp:
            raise BusyError(f"{root / name} was changed while it was read")
        yield file
