"""Mirrors that get their log from an archive: how far it goes, and handing it over.

Called by :mod:`.mirror`. The mirror's account cannot read the archive, which may be
compressed: the reconciler puts files into a directory of the mirror's volume, from where the
server's ``restore_command`` takes them, and where it notes what it asked for in vain. What
an archive has for a mirror is decided as for backups (:mod:`.walarchive`), with the mirror's
position in place of a backup's. Nothing here asks the primary or writes to the archive.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.engines import files
from reconciler.engines.postgres import feeding
from reconciler.engines.postgres.label import Backup, lsn
from reconciler.engines.postgres.walarchive import COMPRESSIONS, Archive, Reach, directory_archive
from reconciler.errors import BusyError, SourceError, UnavailableError
from reconciler.handover import give
from reconciler.status import words

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.engines.base import MirrorWork
    from reconciler.state.observed import ObservedMirror

FED = "fed"
"""Directory of the mirror's volume, beside its data: what the server may take, and its note."""
_ASKED = "asked"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_RETRY_SECONDS = 2
_POLL_SECONDS = 0.05
_LOOK_SECONDS = 5.0
_AHEAD = 4
"""Files that lie ready at a time: room for more is not needed."""
_WRITTEN_SECONDS = 30.0
"""How long a segment may take to be written into the archive while it is waited for."""
_ASKS = 5
"""So many times a server asks again for what it was given before it is told to be stuck."""
_WHOLE = "put a whole copy of it into the archive, and the mirror goes on by itself"
_BEHIND = 4
"""Segments that a primary may be ahead of its archive without anybody being told."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a mirror's server stands: position, timeline, bytes of a segment, and whether it waits for settings."""

    position: str
    timeline: int
    segment_bytes: int
    paused: bool


@dataclass(frozen=True, slots=True)
class Ahead:
    """What an archive has for a mirror: ``names`` of segments in order, of which ``pending`` are new to it."""

    archive: Archive
    reach: Reach
    names: tuple[str, ...]
    pending: int


def settings(work: MirrorWork) -> dict[str, str]:
    """Make the directory through which a mirror gets log, and return the settings by which it does."""
    place = work.directory / FED
    place.mkdir(mode=0o700, exist_ok=True)
    give(place, work.account)
    quoted = "'" + str(place).replace("'", "'\\''").replace("%", "%%") + "'"
    # a history is asked for twice, and a segment is moved, for there may not be room for two
    command = (
        f'd={quoted}; case %f in *.history) [ -e "$d/%f" ] && exec cp "$d/%f" "%p"; exit 1;; esac;'
        f' [ -e "$d/%f" ] && exec mv "$d/%f" "%p"; echo %f > "$d/{_ASKED}"; exit 1'
    )
    return {"restore_command": command, "wal_retrieve_retry_interval": f"{_RETRY_SECONDS}s"}


def ahead(work: MirrorWork, standing: Standing) -> Ahead:
    """Return what the archive of a mirror has for it.

    Raises:
        SourceError: the archive cannot be read.

    """
    if work.archive is None:
        raise SourceError("the mirror has no archive")
    position, per_file = lsn(standing.position), (1 << 32) // standing.segment_bytes
    number = position // standing.segment_bytes
    own = frozenset(entry.name for entry in (work.directory / "data" / "pg_wal").iterdir())
    here = Backup(
        path=work.directory / "data",
        started_at=datetime.fromtimestamp(0, UTC),
        start=position,
        segment=f"{standing.timeline:08X}{number // per_file:08X}{number % per_file:08X}",
        timeline=standing.timeline,
    )
    archive = directory_archive(work.archive, here, segment_bytes=standing.segment_bytes, own=own)
    reach = archive.reach()
    names = archive.segments()
    # it has all of the segment in which it is when it asks for a later one: what it has of it may be a part, or damaged
    done = max(here.segment[8:], _asked(files.read_small(work.directory / FED / _ASKED) or ""))
    return Ahead(archive, reach, names, sum(name[8:] >= done for name in names))


def _asked(note: str) -> str:
    """Return the number of the segment in a server's note, as names have it; timelines play no part."""
    found = _SEGMENT.match(note)
    return found[0][8:] if found else ""


def look(work: MirrorWork, standing: Standing, mirror: ObservedMirror) -> ObservedMirror:
    """Add what the archive says of a mirror."""
    try:
        found = ahead(work, standing)
    except (SourceError, OSError) as error:
        return replace(mirror, following=False, problem=str(error))
    if found.reach.gap is not None:
        told = f"{found.reach.gap}; put the segment there, and the mirror goes on by itself"
        return replace(mirror, following=found.pending > 0, pending=found.pending, problem=told)
    return replace(mirror, following=True, pending=found.pending)


def lacks_timeline(work: MirrorWork, timeline: int) -> bool:
    """Whether an archive knows nothing of a timeline."""
    return work.archive is not None and not any(
        (work.archive / f"{timeline:08X}.history{end}").exists() for end in ("", *COMPRESSIONS)
    )


def behind(work: MirrorWork, segment_bytes: int, lag: int) -> str:
    """Return what is to be said of an archive that ends although the primary goes on; empty when it does not."""
    if lag < _BEHIND * segment_bytes:
        return ""
    return (
        f"the archive {work.archive} ends, and its primary has written {words.size(lag)} more:"
        " look at archive_command there, and at pg_stat_archiver"
    )


def replay(work: MirrorWork, ask: Callable[[], Standing]) -> None:
    """Hand over what the archive has, and return when the server has replayed it, or waits for other settings.

    Raises:
        UnavailableError: the archive cannot be read.
        BusyError: the server does not get on, or a file is damaged or still being written.

    """
    try:
        found = ahead(work, ask())
    except SourceError as error:  # it may be a file system that is away
        raise UnavailableError(error.message, reason="ArchiveUnavailable") from error
    if not found.pending:
        return
    handle = os.open(work.directory / FED, _DIRECTORY)
    try:
        _Handing(work, found, handle, ask).run()
    finally:
        os.close(handle)


class _Handing:
    """One archive's files on their way into one server."""

    def __init__(self, work: MirrorWork, found: Ahead, handle: int, ask: Callable[[], Standing]) -> None:
        self._work = work
        self._source = found.archive
        self._waiting = list(found.names)
        self._end = (found.archive.after(found.names[-1]) or "")[8:]
        """What the server asks for in vain when it has replayed the rest."""
        self._handle = handle
        self._ask = ask
        self._broken: BusyError | None = None
        self._patience = 0.0
        self._given: list[str] = []
        self._note: tuple[str, int] = ("", 0)
        self._furthest = ""
        self._asks = 0

    def run(self) -> None:
        place = self._work.directory / FED
        for name in self._lying():  # what was left may be of a timeline that was left, too
            files.remove(place, name)
        for name in self._source.histories():
            self._put(name)
        looked = time.monotonic()
        while not self._is_done():
            self._work.cancel.check()
            self._hand_on()
            if time.monotonic() - looked > _LOOK_SECONDS:
                if self._ask().paused:
                    return
                looked = time.monotonic()
            time.sleep(_POLL_SECONDS)
        if self._broken is not None:
            raise self._broken

    def _hand_on(self) -> None:
        lying = self._lying()
        if not lying.issuperset(self._given):
            self._given = [name for name in self._given if name in lying]
            self._asks = 0
        while self._waiting and len(self._given) < _AHEAD:
            name = self._waiting[0]
            if not self._put(name):
                if self._broken is not None:
                    self._waiting, self._end = [], name[8:]
                return
            self._given.append(self._waiting.pop(0))
            self._asks = 0
            self._work.progress(f"replaying WAL {name}")

    def _put(self, name: str) -> bool:
        """Put a file where the server takes it; one that cannot be read is where the archive ends for now."""
        try:
            if feeding.put(self._source, name, self._handle, self._work.account):
                return True
            self._broken = BusyError(f"{name} is not in the archive any more", reason="SourceChanged")
        except BusyError as error:  # it is being written
            self._patience = self._patience or time.monotonic() + _WRITTEN_SECONDS
            self._asks = 0
            if time.monotonic() > self._patience:
                self._broken = error
        except SourceError as error:
            self._broken = BusyError(error.message, reason="WalDamaged", hint=_WHOLE)
        return False

    def _is_done(self) -> bool:
        """Whether the server asks for more than there is for it.

        Raises:
            BusyError: it asks again and again for what it was given.

        """
        note = self._read_note()
        if note[0] > self._furthest:
            self._furthest, self._asks = note[0], 0
        elif note != self._note:
            self._asks += 1
        self._note = note
        if not self._waiting and note[0] and note[0] >= self._end:
            return True
        if self._asks < _ASKS:
            return False
        raise self._broken or BusyError(
            f"the mirror cannot replay the archive {self._work.archive} from {self._ask().position} on, although"
            " there is more of it: it is damaged there, or of another server",
            reason="WalDamaged",
            hint=_WHOLE,
        )

    def _lying(self) -> set[str]:
        with os.scandir(self._handle) as entries:
            return {entry.name for entry in entries}

    def _read_note(self) -> tuple[str, int]:
        """Return which segment the server asked for in vain last, whatever its timeline, and when."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(_ASKED, flags, dir_fd=self._handle), "rb") as file:  # noqa: PTH123 - a descriptor
                return _asked(file.read(64).decode("ascii", "replace")), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return self._note
