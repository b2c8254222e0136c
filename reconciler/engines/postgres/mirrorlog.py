"""The log that a mirror keeps, for builds that replay it from a raw copy to a moment.

Called by :mod:`.physical` (as a source of WAL) and :mod:`.mirror` (kept, and removed
again). Segments are archived by the mirror itself into a directory of its volume; the
newest ones are in its pg_wal only, the last of them being written.
"""

from __future__ import annotations

import re
import shutil
from typing import IO, TYPE_CHECKING

from reconciler.engines import files
from reconciler.engines.postgres.datafiles import share_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

KEPT = "wal"
"""Directory of the mirror's volume, beside its data."""
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_LIVE = "live.wal"


class MirrorLog:
    """The log of a mirror as it is now; what comes later is not part of it.

    ``mirror`` is the directory of its volume; the segment that is being written is
    copied into ``scratch``, so that all tries of one recovery see the same end.
    """

    def __init__(self, mirror: Path, scratch: Path) -> None:
        self._places = (mirror / KEPT, mirror / "data" / "pg_wal")
        self._last = max(_segments(self._places[1]), key=_order, default="")
        self._live = scratch / _LIVE
        if self._last:
            with (self._places[1] / self._last).open("rb") as read, self._live.open("wb") as write:
                if not share_blocks(read, write):
                    shutil.copyfileobj(read, write)

    def open(self, name: str) -> IO[bytes] | None:
        """Return the content of a segment or history file."""
        if name == self._last:
            return self._live.open("rb")
        if _SEGMENT.fullmatch(name) and _order(name) > _order(self._last):
            return None
        for place in self._places:
            try:
                return (place / name).open("rb")
            except FileNotFoundError:
                continue
        return None

    def after(self, name: str) -> str | None:
        """Return the next segment of the same timeline."""
        known = sorted(other for place in self._places for other in _segments(place) if other[:8] == name[:8])
        return next((other for other in known if other > name), None)


def forget(mirror: Path, raws: Iterable[Path]) -> None:
    """Remove kept segments older than what the oldest of the raw copies begins with."""
    first = min((_order(name) for raw in raws for name in _segments(raw / "data" / "pg_wal")), default=None)
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
