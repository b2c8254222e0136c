"""Manifests on disk: the truth about the volumes of a pool.

One file per volume, ``{"state": …, "format": 1, "manifest": {…}}``, written by write,
fsync, rename, fsync of the directory. Used by the directory drivers and by the
conformance suite. Must never guess: a manifest that cannot be read is reported as a
problem of its volume, is left as it lies, and makes nothing else unknown.
"""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from reconciler import durable
from reconciler.ids import VolumeId
from reconciler.state.observed import Manifest, VolumeState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SUFFIX = ".json"
_LARGEST_MANIFEST = 4 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """Content of one manifest file; ``state`` comes first in the file, see :meth:`ManifestStore.mark_in_place`."""

    state: VolumeState
    manifest: Annotated[Manifest, Field(discriminator="kind")]
    format: Literal[1] = 1


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything in a manifest directory: what could be read, and why the rest could not."""

    records: Mapping[VolumeId, Record]
    problems: Mapping[VolumeId, str]


class UnreadableError(Exception):
    """A manifest is torn, empty, or written by something that is not us (or newer than us)."""


@dataclass(frozen=True, slots=True)
class _Entry:
    key: tuple[int, int, int]
    record: Record | None
    problem: str = ""


_RECORD = TypeAdapter(Record)


def encode(record: Record) -> bytes:
    """Return the bytes of a manifest file."""
    return _RECORD.dump_json(record) + b"\n"


def decode(data: bytes) -> Record:
    """Return the record in ``data``.

    Raises:
        UnreadableError: it is not a manifest of a format that this version knows.

    """
    try:
        return _RECORD.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnreadableError(f"{where}: {first['msg']}" if where else first["msg"]) from error


class ManifestStore:
    """The manifest directory of one pool. Safe to share between threads.

    Parsed manifests are kept by name with the time, size and inode of their file, so
    listing ten thousand that did not change is one directory scan.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cache: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def file(self, volume: VolumeId) -> Path:
        """Return where the manifest of ``volume`` lies."""
        return self._directory / f"{volume}{_SUFFIX}"

    def scan(self) -> Listing:
        """Read the directory.

        Raises:
            OSError: the directory itself cannot be read.

        """
        records: dict[VolumeId, Record] = {}
        problems: dict[VolumeId, str] = {}
        fresh: dict[str, _Entry] = {}
        with self._lock:
            known = self._cache
        with os.scandir(self._directory) as entries:
            for item in entries:
                if item.name.startswith(".") or not item.name.endswith(_SUFFIX):
                    continue
                entry = _look(item, known.get(item.name))
                if entry is None:
                    continue
                fresh[item.name] = entry
                volume = VolumeId(item.name.removesuffix(_SUFFIX))
                if entry.record is None:
                    problems[volume] = entry.problem
                else:
                    records[volume] = entry.record
        with self._lock:
            self._cache = fresh
        return Listing(records, problems)

    def read(self, volume: VolumeId) -> Record | None:
        """Return the record of one volume, or None when it has no manifest.

        Raises:
            UnreadableError: there is a file, but not a manifest in it.
            OSError: it cannot be read.

        """
        try:
            return decode(_read(self.file(volume)))
        except FileNotFoundError:
            return None

    def write(self, volume: VolumeId, record: Record, *, settle: bool = True) -> None:
        """Replace or make the manifest of a volume; see :func:`reconciler.durable.write`."""
        durable.write(self.file(volume), encode(record), settle=settle)
        self._forget(volume)

    def mark_in_place(self, volume: VolumeId, state: VolumeState) -> bool:
        """Change only the state, within the bytes that the file has already; return whether it could.

        For deletion on a full disk, where a new file finds no room. The three states
        are words of eight letters within the first block of the file, so one write of
        eight bytes goes from one whole manifest to another.
        """
        fd = os.open(self.file(volume), os.O_RDWR | os.O_NOFOLLOW)
        try:
            data = os.pread(fd, 512, 0)
            for old in VolumeState:
                at = data.find(b'"state":"%s"' % old.encode())
                if at >= 0 and len(old) == len(state):
                    os.pwrite(fd, state.encode(), at + len('"state":"'))
                    os.fsync(fd)
                    return True
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
        finally:
            os.close(fd)
            self._forget(volume)
        return False

    def remove(self, volume: VolumeId) -> None:
        """Remove the manifest of a volume, durably; absent is fine."""
        self.file(volume).unlink(missing_ok=True)
        durable.sync_directory(self._directory)
        self._forget(volume)

    def sweep(self) -> None:
        """Remove what writes that were interrupted left; only for who holds the pool's lock."""
        durable.sweep(self._directory)

    def _forget(self, volume: VolumeId) -> None:
        with self._lock:
            self._cache.pop(f"{volume}{_SUFFIX}", None)


def _look(item: os.DirEntry[str], known: _Entry | None) -> _Entry | None:
    try:
        status = item.stat(follow_symlinks=False)
        key = (status.st_mtime_ns, status.st_size, status.st_ino)
        if known is not None and known.key == key:
            return known
        return _Entry(key, decode(_read(item.path)))
    except FileNotFoundError:
        return None  # removed between the scan and the look
    except UnreadableError as error:
        return _Entry(key, None, str(error))
    except OSError as error:
        return _Entry((0, 0, 0), None, error.strerror or "cannot be read")


def _read(path: str | Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        return file.read(_LARGEST_MANIFEST)
