"""Archived WAL: how far a backup can be rolled forward with it, and its content.

Called by :mod:`.backups` for a directory, and by the tools that have archives of their own.
In a directory, segments and histories lie as ``archive_command`` put them there, plain or
compressed (.gz, .zst, .lz4). Names are those of ``xlog_internal.h``: timeline, then the number
of the segment; the rules of timelines are those of ``timeline.c``. Everything that recovery
asks for is decided here, beforehand: it ends where :class:`Reach` says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, cast

from reconciler.engines.compressed import Compression, open_stream
from reconciler.engines.postgres.datafiles import is_tar_set, names_in_tar
from reconciler.engines.postgres.label import Backup, lsn
from reconciler.errors import BusyError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

_FILE = re.compile(r"([0-9A-F]{24}|[0-9A-F]{8}\.history)(\.gz|\.zst|\.lz4|\.bz2)?")
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd", ".lz4": "lz4", ".bz2": "bzip2"}
"""By the ends of names."""
_SWITCH = re.compile(r"^\s*(\d+)\s+([0-9A-F]+/[0-9A-F]+)", re.MULTILINE)
SEGMENT_SIZES = [1 << exponent for exponent in range(20, 31)]
_DEFAULT_SEGMENT = 16 << 20
_SMALL = 1 << 20


@dataclass(frozen=True, slots=True)
class Reach:
    """How far WAL goes: the newest segment, the timeline to end on, and what lies behind a gap."""

    source: Archive
    timeline: int | None
    """None: the backup's own."""
    last: str
    """The newest segment of the archive that is replayed; empty when it adds nothing to the backup's own WAL."""
    bytes: int
    gap: str | None

    @property
    def identity(self) -> str:
        """What another answer is compared with; a file that is still being written changes it."""
        return f"{self.last or '-'}:{self.timeline or '-'}:{self.source.stored_bytes(self.last)}"


@dataclass(frozen=True, slots=True)
class Stored:
    """A file, by what its archive calls it; ``plain`` ones are whole when they are as long as a segment."""

    file: str
    size: int
    plain: bool = False


Opening = Callable[[Stored], "AbstractContextManager[IO[bytes]]"]
"""Opens a file of an archive, decompressed; raises SourceError when it is damaged."""


class Archive:
    """The archive of one backup's server, as it was when it was listed; what recovery asks for comes from it.

    ``stored`` has segments and histories by the names that recovery knows, ``own`` are the
    segments in the backup, and ``place`` names the archive to people.
    """

    def __init__(
        self,
        backup: Backup,
        stored: Mapping[str, Stored],
        *,
        place: str,
        opening: Opening,
        own: frozenset[str] = frozenset(),
        segment_bytes: int | None = None,
    ) -> None:
        self._place = place
        self._backup = backup
        self._files = dict(stored)
        self._opening = opening
        self._own = own
        self._size = segment_bytes or _segment_bytes(backup, self._files)
        self._lines: tuple[tuple[int, int], ...] = ()
        self._last = -1

    def reach(self, chosen: str = "") -> Reach:
        """Return how far recovery gets; ``chosen`` is the identity of an earlier answer, which is not passed.

        Raises:
            SourceError: WAL that makes the backup consistent is missing.

        """
        last, timeline = (*chosen.split(":"), "")[:2]
        if last == "-":
            self._files = {name: file for name, file in self._files.items() if name.endswith(".history")}
        newest = int(timeline) if timeline.isdigit() else None if chosen else self._newest_timeline()
        self._lines = self._lineage(newest)
        limit = self._number(last) if last and last != "-" else None
        first = self._number(self._backup.segment)
        number = first
        while self._has(number) and (limit is None or number <= limit):
            number += 1
        self._last = number - 1
        self._require(number, limit)
        archived = [n for n in range(first, number) if self._name(n) in self._files]
        return Reach(
            self,
            newest,
            self._name(archived[-1]) if archived else "",
            len(archived) * self._size,
            None if limit is not None else self._gap(number),
        )

    def stored_bytes(self, name: str) -> int:
        """Return the size of a file as it lies in the archive; 0 without one."""
        file = self._files.get(name)
        return 0 if file is None else file.size

    def open(self, name: str) -> AbstractContextManager[IO[bytes]] | None:
        file = self._files.get(name)
        if file is None:
            return None
        if name.endswith(".history"):
            return self._content(file) if int(name[:8], 16) <= self._lines[0][0] else None
        number = self._number(name)
        return self._content(file) if number <= self._last and name == self._name(number) else None

    def segments(self) -> tuple[str, ...]:
        """Return the segments of the archive that :meth:`reach` found, in order."""
        first = self._number(self._backup.segment)
        names = (self._name(number) for number in range(first, self._last + 1))
        return tuple(name for name in names if name in self._files)

    def histories(self) -> tuple[str, ...]:
        """Return the histories on the way to the timeline on which :meth:`reach` ends, as far as they are here."""
        names = sorted(f"{line:08X}.history" for line, _begins in self._lines)
        return tuple(name for name in names if name in self._files)

    def after(self, name: str) -> str | None:
        return None if name.endswith(".history") else self._name(self._number(name) + 1)

    def require_replayed(self, end: str | None) -> None:
        """Insist that recovery, which ended at ``end``, did not end before the last segment that it was given.

        PostgreSQL ends in silence where WAL is damaged, or is another server's.

        Raises:
            SourceError: it did.

        """
        if end is None or self._last < 0 or lsn(end) >= self._last * self._size:
            return
        raise SourceError(
            f"{self._place} cannot be replayed from {end} in {self._name(lsn(end) // self._size)} on, although it"
            f" goes on to {self._name(self._last)}: it is damaged there, or of another server",
            reason="WalDamaged",
        )

    @contextmanager
    def _content(self, file: Stored) -> Iterator[IO[bytes]]:
        try:
            with self._opening(file) as stream:
                yield stream
        except SourceError as error:
            if PurePosixPath(file.file).name.startswith(self._name(self._last)):
                raise BusyError(f"{file.file} is still being archived", reason="SourceBusy") from error
            raise

    def _newest_timeline(self) -> int | None:
        """Return the newest timeline that goes on from the backup; None when it is the backup's own."""
        histories = (int(name[:8], 16) for name in self._files if name.endswith(".history"))
        for timeline in sorted(histories, reverse=True):
            if timeline <= self._backup.timeline:
                return None
            switches = dict(self._switches(timeline))
            if switches.get(self._backup.timeline, -1) >= (self._backup.end or self._backup.start):
                return timeline
        return None

    def _switches(self, timeline: int) -> list[tuple[int, int]]:
        """Return (timeline, position of its end) of the ancestors of a timeline, oldest first."""
        with self._content(self._files[f"{timeline:08X}.history"]) as stream:
            text = stream.read(_SMALL).decode("ascii", "replace")
        return [(int(number), lsn(position)) for number, position in _SWITCH.findall(text)]

    def _lineage(self, newest: int | None) -> tuple[tuple[int, int], ...]:
        """Return (timeline, number of its first segment), newest first, down to the backup's."""
        if newest is None:
            return ((self._backup.timeline, 0),)
        lines = []
        begins = 0
        for timeline, ends in self._switches(newest):
            lines.append((timeline, begins))
            begins = ends // self._size
        lines.append((newest, begins))
        return tuple(line for line in reversed(lines) if line[0] >= self._backup.timeline)

    def _number(self, name: str) -> int:
        per_file = (1 << 32) // self._size
        return int(name[8:16], 16) * per_file + int(name[16:24], 16)

    def _name(self, number: int) -> str:
        """Return the segment's name on the timeline to which its end belongs; the older one's may have diverged."""
        per_file = (1 << 32) // self._size
        timeline = next((line for line, begins in self._lines if begins <= number), self._backup.timeline)
        return f"{timeline:08X}{number // per_file:08X}{number % per_file:08X}"

    def _has(self, number: int) -> bool:
        name = self._name(number)
        file = self._files.get(name)
        return name in self._own or (file is not None and (not file.plain or file.size >= self._size))

    def _require(self, missing: int, limit: int | None) -> None:
        needed = (self._backup.end - 1) // self._size if self._backup.end is not None else -1
        if missing > needed:
            return
        if limit is not None:
            raise BusyError("WAL that was chosen is not there any more", reason="SourceChanged")
        raise SourceError(
            f"the backup {self._backup.path} needs WAL up to {self._name(needed)} to be consistent,"
            f" and {self._place} lacks {self._name(missing)}",
            hint="put the segment into the archive, or take backups with pg_basebackup --wal-method=stream",
            reason="WalMissing",
        )

    def _gap(self, missing: int) -> str | None:
        """Return what is to be said of segments behind the first one that is missing."""
        own = {self._lines[0][0], *(line for line, _ in self._lines)}
        numbers = {self._number(name) for name in self._files if len(name) == 24 and int(name[:8], 16) in own}  # noqa: PLR2004 - of a segment's name
        beyond = [number for number in numbers if number > missing and self._has(number)]
        if not beyond:
            return None
        name = self._name(missing)
        state = "is not complete in" if name in self._files else "is missing in"
        return f"{name} {state} {self._place}: the WAL after it, up to {self._name(max(beyond))}, cannot be replayed"


def directory_archive(
    directory: Path, backup: Backup, *, segment_bytes: int | None = None, own: frozenset[str] | None = None
) -> Archive:
    """Return the archive in a directory; ``own`` segments are, without, those that the backup brings along.

    Raises:
        SourceError: the directory cannot be read.

    """

    @contextmanager
    def opening(file: Stored) -> Iterator[IO[bytes]]:
        path = directory / file.file
        with open_stream(path, COMPRESSIONS.get(path.suffix)) as stream:
            yield cast("IO[bytes]", stream)  # what recovery gets is only read

    return Archive(
        backup,
        _listing(directory),
        place=f"the archive {directory}",
        opening=opening,
        own=_own_segments(backup.path) if own is None else own,
        segment_bytes=segment_bytes,
    )


def _listing(directory: Path) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                named = _FILE.fullmatch(entry.name)
                if named is not None and entry.is_file(follow_symlinks=False):
                    plain = named[2] is None
                    if plain or named[1] not in found:
                        size = entry.stat(follow_symlinks=False).st_size
                        found[named[1]] = Stored(entry.name, size, plain)
    except OSError as error:
        raise SourceError(f"cannot read the WAL archive {directory}: {error.strerror}") from error
    return found


def _own_segments(backup: Path) -> frozenset[str]:
    """Return the segments that a backup brings along."""
    try:
        names = (
            names_in_tar(backup, "pg_wal") if is_tar_set(backup) else [p.name for p in (backup / "pg_wal").iterdir()]
        )
    except OSError:
        return frozenset()
    return frozenset(name for name in names if _FILE.fullmatch(name))


def _segment_bytes(backup: Backup, files: dict[str, Stored]) -> int:
    """Return the size of segments: what the label's position and file name allow, or else what a file has."""
    low, index = backup.start & 0xFFFFFFFF, int(backup.segment[16:], 16)
    fitting = [size for size in SEGMENT_SIZES if low // size == index]
    if len(fitting) == 1:
        return fitting[0]
    plain = (file.size for name, file in files.items() if file.plain and not name.endswith(".history"))
    return next((size for size in plain if size in fitting), _DEFAULT_SEGMENT)
