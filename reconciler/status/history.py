"""The history of objects: what was done to each, when, by which commit, and what came of it.

Kept by the status store, written by the workers of ``apply``, read by ``reconciler
history``. Like everything there it can be thrown away. A failure that repeats itself is
one entry that counts; what an object was called before belongs to its history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reconciler.ids import Revision, VolumeId
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.status import redact
from reconciler.status.files import format_time, parse_time
from reconciler.status.values import Done

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from reconciler.status.values import Measured

    class Write(Protocol):
        """How the store changes its file."""

        def __call__(self, work: Callable[[sqlite3.Connection], Any]) -> Any: ...  # noqa: ANN401 - whatever the work returns


KEPT = 50_000
KEPT_OF_ONE = 500
"""Entries of one object: one that fails day and night must not drive the others out."""

_TOGETHER = {Kind.IMAGE: (Kind.IMAGE, Kind.MIRROR), Kind.CLONE: (Kind.CLONE, Kind.POINT)}
"""What people call one object although its parts are worked on apart."""

SCHEMA = """
CREATE TABLE history (id INTEGER PRIMARY KEY, started TEXT, last TEXT, seconds REAL, kind TEXT, name TEXT, action TEXT,
    volume TEXT, outcome TEXT, reason TEXT, message TEXT, revision TEXT, changed_by TEXT, asked_by TEXT, bytes INTEGER,
    count INTEGER);
CREATE INDEX history_by_object ON history (kind, name, id);
CREATE INDEX history_by_volume ON history (volume);
"""

_COLUMNS = (
    "started, last, seconds, kind, name, action, volume, outcome, reason, message, revision, changed_by, asked_by,"
    " bytes, count"
)


class History:
    """The entries of one store; made by it."""

    def __init__(self, write: Write, select: Callable[..., list[tuple[Any, ...]]]) -> None:
        self._write = write
        self._select = select

    def add(self, done: Done) -> None:
        """Add an entry; a failure that repeats the object's newest entry is counted there."""
        message = redact.text(done.message)
        self._write(lambda connection: _add(connection, done, message))

    def rename(self, old: ObjectKey, new: ObjectKey) -> None:
        """Let what an object was called before be its history."""
        row = (new.name, str(old.kind), old.name)
        self._write(lambda c: c.execute("UPDATE history SET name = ? WHERE kind = ? AND name = ?", row))

    def measured(self, sizes: Mapping[VolumeId, Measured]) -> None:
        """Note the sizes of volumes with the entries that made them, once they are known."""
        rows = [(size.logical_bytes, volume) for volume, size in sizes.items()]
        query = "UPDATE history SET bytes = ? WHERE volume = ? AND bytes IS NULL AND outcome = 'succeeded'"
        if rows:
            self._write(lambda c: c.executemany(query, rows))

    def of(self, name: str, *, kind: Kind | None = None, limit: int = 100) -> tuple[Done, ...]:
        """Return the newest ``limit`` entries of an object, oldest first; of whatever has this name without a kind."""
        kinds = _TOGETHER.get(kind, (kind,)) if kind is not None else tuple(Kind)
        marks = ", ".join("?" * len(kinds))
        query = (
            f"SELECT {_COLUMNS} FROM history WHERE kind IN ({marks}) AND name = ?"  # noqa: S608 - constants
            " ORDER BY id DESC LIMIT ?"
        )
        return tuple(_done(row) for row in reversed(self._select(query, *map(str, kinds), name, limit)))


def _add(connection: sqlite3.Connection, done: Done, message: str) -> None:
    key = (str(done.object.kind), done.object.name)
    if done.outcome == "failed" and _count(connection, done, message):
        return
    values = (
        format_time(done.started_at),
        format_time(done.last_at or done.started_at),
        done.seconds,
        *key,
        done.action,
        done.volume,
        done.outcome,
        done.reason,
        message,
        done.revision,
        done.changed_by,
        done.asked_by,
        done.bytes if done.bytes is not None else _known_bytes(connection, done.volume),
        done.count,
    )
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO history ({_COLUMNS}) VALUES ({marks})", values)  # noqa: S608 - constants
    last = connection.execute("SELECT max(id) FROM history").fetchone()[0]
    connection.execute("DELETE FROM history WHERE id <= ?", [last - KEPT])
    oldest = "SELECT id FROM history WHERE kind = ? AND name = ? ORDER BY id DESC LIMIT 1 OFFSET ?"
    beyond = connection.execute(oldest, (*key, KEPT_OF_ONE)).fetchone()
    if beyond is not None:
        connection.execute("DELETE FROM history WHERE kind = ? AND name = ? AND id <= ?", (*key, *beyond))


def _count(connection: sqlite3.Connection, done: Done, message: str) -> bool:
    """Count a failure with the object's newest entry, if it is the same; return whether it was."""
    cursor = connection.execute(
        "UPDATE history SET count = count + 1, last = ?, seconds = ?, revision = ? WHERE action = ? AND outcome = ?"
        " AND reason = ? AND message = ? AND id = (SELECT max(id) FROM history WHERE kind = ? AND name = ?)",
        (
            format_time(done.started_at),
            done.seconds,
            done.revision,
            done.action,
            done.outcome,
            done.reason,
            message,
            str(done.object.kind),
            done.object.name,
        ),
    )
    return cursor.rowcount > 0


def _known_bytes(connection: sqlite3.Connection, volume: VolumeId | None) -> int | None:
    row = connection.execute("SELECT logical FROM usage WHERE volume = ?", [volume]).fetchone()
    return None if row is None else int(row[0])


def _done(row: tuple[Any, ...]) -> Done:
    (started, last, seconds, kind, name, action, volume, outcome, reason, message, revision, changed_by, asked_by) = (
        row[:13]
    )
    return Done(
        started_at=parse_time(started),
        last_at=parse_time(last),
        seconds=seconds,
        object=ObjectKey(Kind(kind), name),
        action=action,
        volume=None if volume is None else VolumeId(volume),
        outcome=outcome,
        reason=reason,
        message=message,
        revision=None if revision is None else Revision(revision),
        changed_by=changed_by,
        asked_by=asked_by,
        bytes=row[13],
        count=row[14],
    )
