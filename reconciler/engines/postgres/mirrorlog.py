"""The log that a mirror keeps, for builds that replay it from a raw copy to a moment.

Called by :mod:`.physical` (as a source of WAL) and :mod:`.mirror` (kept, and removed
again). Segments are archived by the mirror itself into a directory of its volume; the
newest ones are in its pg_wal only, the last of them being written.
"""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from reconciler.engines import files
from reconciler.engines.postgres.datafiles import share_blocks
from reconciler.engines.postgres.label import lsn
from reconciler.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

KEPT = "wal"
"""Directory of the mirror's volume, beside its data."""
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_SWITCH = re.compile(r"^\s*(\d+)\s+([0-9A-F]+/[0-9A-F]+)", re.MULTILINE)
_LIVE = "live.wal"
_REMEDY = (
    "moments before that can be had, and those after the next raw copy; for the ones between, put a whole copy of the"
    " segment there, from the primary's own archive for example, and it is tried again"
)


class MirrorLog:
    """The log of a mirror as it is now; what comes later is not part of it.

    ``mirror`` is the directory of its volume; the segment that is being written is
    copied into ``scratch``, so that all tries of one recovery see the same end. That is the
    directory of the build, whose copy is replayed from ``redo`` on, in bytes of log.
    """

    def __init__(self, mirror: Path, scratch: Path, *, redo: int, segment_bytes: int) -> None:
        self._places = (mirror / KEPT, mirror / "data" / "pg_wal")
        self._size = segment_bytes
        self._redo = redo
        self._own = frozenset(_segments(scratch / "data" / "pg_wal"))
        self._last = max(_segments(self._places[1]), default="")  # of the newest timeline, whatever others have
        self._live = scratch / _LIVE
        if self._last:
            with (self._places[1] / self._last).open("rb") as read, self._live.open("wb") as write:
                if not share_blocks(read, write):
                    shutil.copyfileobj(read, write)

    def open(self, name: str) -> IO[bytes] | None:
        """Return the content of a segment or history file; one that is not whole is none."""
        if name == self._last:
            return self._live.open("rb")
        if _SEGMENT.fullmatch(name) and _order(name) > _order(self._last):
            return None
        place = self._place(name)
        return (place / name).open("rb") if place is not None else None

    def after(self, name: str) -> str | None:
        """Return the next segment of the same timeline."""
        known = sorted(other for place in self._places for other in _segments(place) if other[:8] == name[:8])
        return next((other for other in known if other > name), None)

    def require_whole(self) -> None:
        """Insist that every segment is there, from where the copy begins to the one that is being written.

        PostgreSQL takes the first one that it does not get for the end. What the copy brings along counts: the last
        of that may not be written to its end, which :meth:`require_replayed` tells.

        Raises:
            UnavailableError: one is missing, or not whole.

        """
        if not self._last:
            return
        lines = self._lines()
        for number in range(self._redo // self._size, self._number(self._last)):
            name = self._name(lines, number)
            if name not in self._own and self._place(name) is None:
                state = "is not whole in" if (self._places[0] / name).exists() else "is missing in"
                raise UnavailableError(
                    f"{name} {state} the log that the mirror keeps, {self._places[0]}: what comes after it cannot be"
                    " replayed",
                    reason="WalMissing",
                    hint=_REMEDY,
                )

    def require_replayed(self, end: str | None, position: str) -> None:
        """Insist that recovery, which ended at ``end``, has come as far as the mirror had before its log was taken.

        PostgreSQL ends in silence where log is damaged.

        Raises:
            UnavailableError: it has not.

        """
        reached = lsn(end) if end is not None else self._redo
        if reached < lsn(position):
            raise UnavailableError(
                f"the log that the mirror keeps, {self._places[0]}, cannot be replayed from {end or 'its beginning'} in"
                f" {self._name(self._lines(), reached // self._size)} on, although the mirror had come to {position}:"
                " it is damaged there",
                reason="WalDamaged",
                hint=_REMEDY,
            )

    def _place(self, name: str) -> Path | None:
        """Return where a file lies; a segment that is shorter than one does not count (the host may have crashed)."""
        for place in self._places:
            with suppress(FileNotFoundError):
                size = (place / name).stat().st_size
                if size == self._size if _SEGMENT.fullmatch(name) else size:
                    return place
        return None

    def _lines(self) -> tuple[tuple[int, int], ...]:
        """Return (timeline, number of its first segment), newest first, of the last segment's history."""
        newest = int(self._last[:8], 16)
        name = f"{newest:08X}.history"
        place = self._place(name)
        text = (place / name).read_text("ascii", "replace") if place is not None else ""
        lines, begins = [], 0
        for timeline, ends in _SWITCH.findall(text):
            lines.append((int(timeline), begins))
            begins = lsn(ends) // self._size
        return tuple(reversed([*lines, (newest, begins)]))

    def _name(self, lines: tuple[tuple[int, int], ...], number: int) -> str:
        """Return a segment's name on the timeline to which its end belongs."""
        per_file = (1 << 32) // self._size
        timeline = next(line for line, begins in lines if begins <= number)
        return f"{timeline:08X}{number // per_file:08X}{number % per_file:08X}"

    def _number(self, name: str) -> int:
        return int(name[8:16], 16) * ((1 << 32) // self._size) + int(name[16:], 16)


def forget(mirror: Path, raws: Iterable[Path]) -> None:
    """Remove kept segments older than what the oldest of the raw copies begins with; nothing where one does not say."""
    begins = [min(map(_order, _segments(raw / "data" / "pg_wal")), default="") for raw in raws]
    first = min(begins, default=None)
    for name in _segments(mirror / KEPT):
        if first is None or _order(name) < first:
            files.remove(mirror / KEPT, name)


def _segments(place: Path) -> list[str]:
    try:
        return [entry.name for entry in place.iterdir() if _SEGMENT.fullmatch(entry.name)]
    except FileNotFoundError:
        return []


def _order(name: str) -> str:
    """Return what orders segments whatever timeline they are of."""
    return name[8:]
