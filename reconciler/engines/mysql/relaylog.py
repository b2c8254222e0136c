"""Of when the last transaction is that a mirror has applied: read from its relay log.

Called by :mod:`.following`. The server does not tell the time at which a transaction was
committed at the primary; the events of the log do (MariaDB's manual, "Replication Protocol",
common header: time, type, server, length, next position, flags). Reads headers only.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = b"\xfebin"
_HEADER = struct.Struct("<IBIIIH")
_ENDING = frozenset({2, 16, 38, 165})
"""Statement, commit, prepare of XA, compressed statement: with one of them a transaction ends."""
_MOST_BYTES = 256 << 20


def last_commit(path: Path, position: int) -> datetime | None:
    """Return when the last transaction before ``position`` in a relay log was committed; None: there is none in it.

    To the second, by the clock of the primary: nothing that was committed after that second has been applied.
    """
    found = None
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            while (place := file.tell()) < min(position, _MOST_BYTES):
                head = file.read(_HEADER.size)
                if len(head) < _HEADER.size:
                    break
                time, kind, _server, length, _next, _flags = _HEADER.unpack(head)
                if length < _HEADER.size or place + length > position:
                    break
                if kind in _ENDING and time:
                    found = time
                file.seek(place + length)
    except OSError:  # it was purged: all of it is applied
        return None
    return datetime.fromtimestamp(found, UTC) if found is not None else None
