"""Logs of servers: one file per server, bounded by rotation.

Called by the process runtime, and for what is kept of containers. A server holds its log
open for append and outlives the reconciler, so a log cannot be renamed under it: rotation copies and truncates (what is
written between the two is lost). The files are the reconciler's own (mode 0600): a
server writes through a descriptor that it was given.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from reconciler.errors import PermanentError

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.ids import ServerName

_SUFFIX = ".log"
_LIMIT_BYTES = 16 * 1024 * 1024
_KEEP = 3
_BLOCK_BYTES = 64 * 1024
_READ_LIMIT_BYTES = 8 * 1024 * 1024


class ServerLogs:
    """The logs of one runtime in one directory: at most ``limit`` bytes each before rotation, and ``keep`` old ones."""

    def __init__(self, directory: Path, *, limit: int = _LIMIT_BYTES, keep: int = _KEEP) -> None:
        self._directory = directory
        self._limit = limit
        self._keep = keep

    def path(self, name: ServerName) -> Path:
        """Return where a server's log is, and see to the directory."""
        if "/" in name or name.startswith("."):
            raise PermanentError(f"{name!r} is no name of a server")
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._directory / f"{name}{_SUFFIX}"

    def size(self, name: ServerName) -> int:
        """Return the size of a server's current log in bytes; 0 when there is none."""
        return _size(self.path(name))

    def tail(self, name: ServerName, lines: int) -> list[str]:
        """Return the last lines, oldest first, across rotations; reads from the end, 8 MiB at most."""
        if lines <= 0:
            return []
        log = self.path(name)
        content = b""
        for path in (log, *self._old(log)):
            content = _read_back(path, content, lines)
        return content.decode("utf-8", "replace").splitlines()[-lines:]

    def since(self, name: ServerName, offset: int, limit: int) -> str:
        """Return what was written after ``offset``, at most its last ``limit`` bytes."""
        try:
            with self.path(name).open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(min(offset, end), end - limit))
                return file.read(limit).decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return ""

    def append(self, name: ServerName, content: bytes) -> None:
        """Add to a server's log what it wrote elsewhere."""
        descriptor = os.open(
            self.path(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(descriptor, "ab") as file:
            file.write(content)

    def remove(self, name: ServerName) -> None:
        """Remove a server's logs; absent is fine."""
        log = self.path(name)
        for path in (log, *self._old(log)):
            path.unlink(missing_ok=True)

    def rotate(self) -> None:
        """Rotate every log that has outgrown its limit."""
        for log in sorted(self._directory.glob(f"*{_SUFFIX}")):
            if _size(log) > self._limit:
                self._rotate(log)

    def _rotate(self, log: Path) -> None:
        newest, *_ = old = self._old(log)
        fresh = log.with_name(f"{log.name}.new")
        with log.open("rb+") as source, os.fdopen(_private(fresh), "wb") as copy:
            _copy_end(source.fileno(), copy.fileno(), self._limit)
            for older, younger in zip(reversed(old), reversed(old[:-1]), strict=False):
                with suppress(FileNotFoundError):
                    younger.replace(older)
            fresh.replace(newest)
            source.truncate(0)

    def _old(self, log: Path) -> list[Path]:
        """Return the places of rotated logs, youngest first."""
        return [log.with_name(f"{log.name}.{number}") for number in range(1, self._keep + 1)]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _private(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _copy_end(source: int, target: int, limit: int) -> None:
    """Copy the last ``limit`` bytes; a log that grew far over it since the last rotation stays bounded."""
    size = os.fstat(source).st_size
    offset = max(0, size - limit)
    while offset < size and (copied := os.sendfile(target, source, offset, size - offset)):
        offset += copied


def _read_back(path: Path, after: bytes, lines: int) -> bytes:
    """Put the end of a file before ``after``, until there are enough lines."""
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            while position > 0 and after.count(b"\n") <= lines and len(after) < _READ_LIMIT_BYTES:
                start = max(0, position - _BLOCK_BYTES)
                file.seek(start)
                after = file.read(position - start) + after
                position = start
    except FileNotFoundError:
        return after
    return after
