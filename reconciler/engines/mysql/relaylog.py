"""Of when the last transaction is that a mirror has applied: read from its relay log.

Called by :mod:`.following`. The server does not tell the time at which a transaction was
committed at the primary; the events of the log do (MariaDB's manual, "Replication Protocol",
common header: time, type, server, length, next position, flags). Reads headers only.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAGIC = b"\xfebin"
_HEADER = struct.Struct("<IBIIIH")
_ENDING = frozenset({2, 16, 38, 165})
"""Statement, commit, prepare of XA, compressed statement: with one of them a transaction ends."""
_GTID = 162
"""A transaction begins."""
_COMMITS = frozenset({16, 38})
_CLOSING = frozenset({3, 4})
"""Stop, and rotation to the next log."""


class _Event(NamedTuple):
    time: int
    kind: int
    begin: int
    end: int


def last_commit(path: Path, position: int) -> datetime | None:
    """Return when the last transaction before ``position`` in a relay log was committed; None: there is none in it.

    To the second, by the clock of the primary: nothing that was committed after that second has been applied.
    """
    found = None
    try:
        for event in _events(path):
            if event.end > position:
                break
            if event.kind in _ENDING and event.time:
                found = event.time
    except OSError:  # it was purged: all of it is applied
        return None
    return datetime.fromtimestamp(found, UTC) if found is not None else None


def complete(path: Path) -> int:
    """Return where the last transaction in a log ends that is certainly complete.

    One that is not followed by another, nor by the end of the log, counts if it ends with a commit.
    """
    ended, within = len(_MAGIC), False
    for event in _events(path):
        if event.kind == _GTID:
            ended, within = event.begin, True
        elif event.kind in _COMMITS or event.kind in _CLOSING or not within:
            ended, within = event.end, False
    return ended


def _events(path: Path) -> Iterator[_Event]:
    """Yield the events of a log that are wholly there."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return
        while True:
            place, head = file.tell(), file.read(_HEADER.size)
            if len(head) < _HEADER.size:
                return
            time, kind, _server, length, _next, _flags = _HEADER.unpack(head)
            if length < _HEADER.size or place + length > size:
                return
            yield _Event(time, kind, place, place + length)
            file.seek(place + length)
