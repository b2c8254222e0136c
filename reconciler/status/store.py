"""The status store: conditions, events, failures, sizes, history. It can be thrown away.

Written by the loop and the workers of ``apply``; read by ``status``, ``events``, the
planner's observation (failures, refreshes) and the web. Losing it costs history and
back-off, nothing else: it is never asked whether something exists.

Safe to use from several threads. Messages are redacted before they are stored.
"""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from reconciler.ids import ImageName, Revision, VolumeId
from reconciler.state.conditions import Condition, Kind, ObjectKey
from reconciler.state.observed import Failure, work_of
from reconciler.status import redact
from reconciler.status.database import Database
from reconciler.status.events import MESSAGE_LIMIT, Event
from reconciler.status.files import format_time, parse_time
from reconciler.status.history import History
from reconciler.status.merge import Conditions, merge, same, transitions
from reconciler.status.values import PassRecord, Revisions, Transition, Used, VolumeUsage

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path
    from typing import Self

    from reconciler.clock import Clock
    from reconciler.status.values import Measured

DEDUPE_WINDOW = timedelta(hours=1)
EVENTS_KEPT = 10_000
PASSES_KEPT = 1_000

STORE = ObjectKey(Kind.INSTALLATION, "status")
"""What events of the store itself are about."""

T = TypeVar("T")
_Row = tuple[Any, ...]


class StatusStore:
    """The status of one installation.

    ``read_only`` is for commands that look while a loop writes: a missing or broken
    file looks empty and is left as it is.

    Raises:
        UnavailableError: the file cannot be opened (permission, no directory).

    """

    def __init__(self, path: Path, clock: Clock, *, read_only: bool = False) -> None:
        self._lock = threading.RLock()
        self._clock = clock
        self._database = Database(path.absolute(), clock, read_only=read_only)
        self._incarnation = 0
        self._conditions: dict[ObjectKey, Conditions] = {}
        self.history = History(self._write, self._select)
        """What was done to every object."""
        self.on_event: Callable[[Event], None] = _nobody
        """Hears of every event that was not just said before; must not fail."""
        self._synchronise()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Conditions

    def conditions(self) -> Mapping[ObjectKey, tuple[Condition, ...]]:
        """Return what was last reported of every object."""
        with self._lock:
            self._synchronise()
            return dict(self._conditions)

    def write_conditions(
        self, now: datetime, revision: Revision | None, current: Mapping[ObjectKey, tuple[Condition, ...]]
    ) -> tuple[Transition, ...]:
        """Store the conditions of all objects as of a pass and return what changed status, in order of objects.

        Objects that are not in ``current`` are gone, with their failures. A report
        that says nothing new writes nothing.
        """
        with self._lock:
            self._synchronise()
            stored = self._conditions
            reports = {
                key: merge(stored.get(key, ()), wanted, revision=revision, now=now)
                for key, wanted in current.items()
                if key not in stored or not same(stored[key], wanted, revision)
            }
            changed = {key: merged for key, merged in reports.items() if merged != stored.get(key)}
            gone = [key for key in stored if key not in current]
            if not changed and not gone:
                return ()
            self._database.write(lambda connection: _write_conditions(connection, changed, gone))
            found = _transitions(stored, changed, gone)
            stored.update(changed)
            for key in gone:
                del stored[key]
            return found

    # Events

    def record(self, event: Event) -> bool:
        """Store an event; return False when the same was said within an hour, where it is counted.

        The same: object, reason, revision and message. The newest 10,000 are kept.
        """
        message = redact.text(event.message)
        if len(message) > MESSAGE_LIMIT:
            message = message[: MESSAGE_LIMIT - 1] + "…"
        new = self._write(lambda connection: _record(connection, event, message))
        if new:
            self.on_event(event)
        return new

    def events(
        self,
        *,
        key: ObjectKey | None = None,
        limit: int = 100,
        since: datetime | None = None,
    ) -> tuple[Event, ...]:
        """Return the newest ``limit`` events, oldest first; of one object; not older than ``since``."""
        tests, values = ["TRUE"], list[object]()
        if key is not None:
            tests.append("kind = ? AND name = ?")
            values += [str(key.kind), key.name]
        if since is not None:
            tests.append("time >= ?")
            values.append(format_time(since))
        query = f"SELECT * FROM events WHERE {' AND '.join(tests)} ORDER BY id DESC LIMIT ?"  # noqa: S608 - constants
        return tuple(_event(row[1:]) for row in reversed(self._select(query, *values, limit)))

    # Failures

    def failures(self) -> Mapping[ObjectKey, tuple[Failure, ...]]:
        """Return the last failures of every object that has one, by kind of work."""
        found: dict[ObjectKey, tuple[Failure, ...]] = {}
        for row in self._select("SELECT * FROM failures ORDER BY kind, name, work"):
            key = _key(*row[:2])
            found[key] = (*found.get(key, ()), _failure(row[2:]))
        return found

    def failure(self, key: ObjectKey, fingerprint: str) -> Failure | None:
        """Return the last failure of the work on an object that a fingerprint is of."""
        query = "SELECT * FROM failures WHERE kind = ? AND name = ? AND work = ?"
        rows = self._select(query, str(key.kind), key.name, work_of(fingerprint))
        return _failure(rows[0][2:]) if rows else None

    def set_failure(self, key: ObjectKey, failure: Failure) -> None:
        """Remember an object's failed action; replaces an older one of the same kind of work."""
        row = (
            str(key.kind),
            key.name,
            failure.reason,
            redact.text(failure.message),
            int(failure.permanent),
            failure.fingerprint,
            failure.attempts,
            format_time(failure.at),
            _format(failure.retry_at),
            failure.work,
        )
        self._write(lambda c: c.execute("INSERT OR REPLACE INTO failures VALUES (?,?,?,?,?,?,?,?,?,?)", row))

    def clear_failure(self, key: ObjectKey, fingerprint: str) -> None:
        """Forget the failure of the work on an object that a fingerprint is of; none is fine."""
        row = (str(key.kind), key.name, work_of(fingerprint))
        query = "DELETE FROM failures WHERE kind = ? AND name = ? AND work = ?"
        self._write(lambda c: c.execute(query, row))

    # Refreshes and sizes

    def refreshed(self) -> Mapping[ImageName, datetime]:
        """Return when images were last found up to date by a refresh."""
        rows = self._select("SELECT image, at FROM refreshed WHERE at IS NOT NULL")
        return {ImageName(image): parse_time(at) for image, at in rows}

    def answered(self) -> Mapping[ImageName, str]:
        """Return the values of annotations that these looks answered."""
        rows = self._select("SELECT image, asked FROM refreshed WHERE asked IS NOT NULL")
        return {ImageName(image): asked for image, asked in rows}

    def set_refreshed(self, image: ImageName, at: datetime, asked: str | None = None) -> None:
        """Note that a refresh found an image up to date, and what its annotation was then."""
        row = (image, format_time(at), asked)
        query = (
            "INSERT INTO refreshed (image, at, asked) VALUES (?, ?, ?)"
            " ON CONFLICT (image) DO UPDATE SET at = excluded.at, asked = excluded.asked"
        )
        self._write(lambda c: c.execute(query, row))

    def skipped(self) -> Mapping[ImageName, datetime]:
        """Return when scheduled refreshes were last due while they were suspended."""
        rows = self._select("SELECT image, skipped FROM refreshed WHERE skipped IS NOT NULL")
        return {ImageName(image): parse_time(skipped) for image, skipped in rows}

    def set_skipped(self, image: ImageName, at: datetime) -> None:
        """Note that a scheduled refresh was due while they were suspended."""
        query = (
            "INSERT INTO refreshed (image, skipped) VALUES (?, ?)"
            " ON CONFLICT (image) DO UPDATE SET skipped = excluded.skipped"
        )
        self._write(lambda c: c.execute(query, (image, format_time(at))))

    def was_told(self, event: Event) -> bool:
        """Whether an event of this object, reason and message is among those that are kept, however old."""
        query = "SELECT 1 FROM events WHERE kind = ? AND name = ? AND reason = ? AND message = ? LIMIT 1"
        key = event.object
        return bool(self._select(query, str(key.kind), key.name, event.reason, redact.text(event.message)))

    def usage(self) -> Mapping[VolumeId, VolumeUsage]:
        """Return the last measured sizes by volume."""
        return {
            VolumeId(volume): VolumeUsage(logical, exclusive, parse_time(at))
            for volume, logical, exclusive, at in self._select("SELECT * FROM usage")
        }

    def write_usage(self, measured: Mapping[VolumeId, Measured], now: datetime) -> None:
        """Note sizes measured now; those of other volumes stay."""
        rows = [
            (volume, size.logical_bytes, size.exclusive_bytes, format_time(now)) for volume, size in measured.items()
        ]
        if rows:
            self._write(lambda c: c.executemany("INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?)", rows))
            self.history.measured(measured)

    def retain_usage(self, volumes: AbstractSet[VolumeId]) -> None:
        """Forget the sizes of all other volumes."""
        rows = [(volume,) for volume in self.usage() if volume not in volumes]
        if rows:
            self._write(lambda c: c.executemany("DELETE FROM usage WHERE volume = ?", rows))

    def activity(self) -> Mapping[VolumeId, Used]:
        """Return what is remembered of looks at who uses clones, by volume."""
        return {
            VolumeId(volume): Used(parse_time(used), parse_time(looked), sessions)
            for volume, used, looked, sessions in self._select("SELECT * FROM activity")
        }

    def write_activity(self, seen: Mapping[VolumeId, Used]) -> None:
        """Remember looks; those at other volumes stay."""
        rows = [
            (volume, format_time(used.used_at), format_time(used.looked_at), used.sessions)
            for volume, used in seen.items()
        ]
        if rows:
            self._write(lambda c: c.executemany("INSERT OR REPLACE INTO activity VALUES (?, ?, ?, ?)", rows))

    def forget_activity(self, volumes: Iterable[VolumeId]) -> None:
        """Forget the looks at some volumes."""
        rows = [(volume,) for volume in volumes]
        if rows:
            self._write(lambda c: c.executemany("DELETE FROM activity WHERE volume = ?", rows))

    # History

    def record_pass(self, record: PassRecord) -> None:
        """Add a pass to the history; the newest 1,000 are kept."""
        row = (
            record.revision,
            format_time(record.started_at),
            format_time(record.finished_at),
            record.outcome,
            json.dumps(dict(record.counts), sort_keys=True),
        )

        def append(connection: sqlite3.Connection) -> None:
            columns = "revision, started, finished, outcome, counts"
            cursor = connection.execute(f"INSERT INTO passes ({columns}) VALUES (?, ?, ?, ?, ?)", row)  # noqa: S608 - constants
            connection.execute("DELETE FROM passes WHERE id <= ?", [(cursor.lastrowid or 0) - PASSES_KEPT])

        self._write(append)

    def passes(self, limit: int = 100) -> tuple[PassRecord, ...]:
        """Return the newest ``limit`` passes, newest first."""
        query = "SELECT revision, started, finished, outcome, counts FROM passes ORDER BY id DESC LIMIT ?"
        return tuple(
            PassRecord(
                revision=_revision(revision),
                started_at=parse_time(started),
                finished_at=parse_time(finished),
                outcome=outcome,
                counts=json.loads(counts),
            )
            for revision, started, finished, outcome, counts in self._select(query, limit)
        )

    def revisions(self) -> Revisions:
        """Return the revision in force and the one last tried."""
        rows = {row[0]: row for row in self._select("SELECT role, revision, at, diagnostics FROM revisions")}
        applied, attempted = rows.get("applied"), rows.get("attempted")
        return Revisions(
            applied=_revision(applied[1]) if applied else None,
            applied_at=parse_time(applied[2]) if applied else None,
            attempted=_revision(attempted[1]) if attempted else None,
            attempted_at=parse_time(attempted[2]) if attempted else None,
            diagnostics=tuple(json.loads(attempted[3])) if attempted else (),
        )

    def set_applied(self, revision: Revision, at: datetime) -> None:
        """Note the revision in force; ``at`` is when it came into force: the same revision again keeps its time."""
        if self.revisions().applied != revision:
            self._set_revision("applied", revision, at, ())

    def set_attempted(self, revision: Revision, at: datetime, diagnostics: Sequence[str] = ()) -> None:
        """Note the revision that a pass tried, with the findings that keep it from being applied."""
        known = self.revisions()
        texts = tuple(redact.text(line) for line in diagnostics)
        if (known.attempted, known.diagnostics) != (revision, texts):
            self._set_revision("attempted", revision, at, texts)

    def _set_revision(self, role: str, revision: Revision, at: datetime, diagnostics: Sequence[str]) -> None:
        row = (role, revision, format_time(at), json.dumps(list(diagnostics)))
        self._write(lambda c: c.execute("INSERT OR REPLACE INTO revisions VALUES (?, ?, ?, ?)", row))

    # The file

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            self._synchronise()
            return self._database.write(work)

    def _select(self, query: str, *values: object) -> list[_Row]:
        return self._database.read(lambda connection: connection.execute(query, values).fetchall())

    def _synchronise(self) -> None:
        """Follow the file: when another one was opened, what is kept in memory is read again."""
        incarnation = self._database.refresh()
        if incarnation == self._incarnation:
            return
        self._incarnation = incarnation
        self._conditions = _read_conditions(self._select("SELECT * FROM conditions ORDER BY kind, name, position"))
        problem, self._database.problem = self._database.problem, None
        if problem is not None:
            event = Event(
                at=self._clock.now(), object=STORE, severity="error", reason="StatusStoreReplaced", message=problem
            )
            self._database.write(lambda connection: _record(connection, event, problem))


def _nobody(event: Event) -> None:
    del event


def _read_conditions(rows: list[_Row]) -> dict[ObjectKey, Conditions]:
    found: dict[ObjectKey, list[Condition]] = {}
    for kind, name, _position, type_, status, reason, message, since, revision in rows:
        condition = Condition(
            type=type_,
            status=status,
            reason=reason,
            message=message,
            last_transition_time=_time(since),
            observed_revision=_revision(revision),
        )
        found.setdefault(_key(kind, name), []).append(condition)
    return {key: tuple(conditions) for key, conditions in found.items()}


def _write_conditions(
    connection: sqlite3.Connection, changed: Mapping[ObjectKey, Conditions], gone: Sequence[ObjectKey]
) -> None:
    replaced = [(str(key.kind), key.name) for key in (*changed, *gone)]
    connection.executemany("DELETE FROM conditions WHERE kind = ? AND name = ?", replaced)
    rows = [
        (
            str(key.kind),
            key.name,
            position,
            condition.type,
            condition.status,
            condition.reason,
            condition.message,
            _format(condition.last_transition_time),
            condition.observed_revision,
        )
        for key, conditions in changed.items()
        for position, condition in enumerate(conditions)
    ]
    connection.executemany("INSERT INTO conditions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    vanished = [(str(key.kind), key.name) for key in gone]
    connection.executemany("DELETE FROM failures WHERE kind = ? AND name = ?", vanished)


def _transitions(
    stored: Mapping[ObjectKey, Conditions], changed: Mapping[ObjectKey, Conditions], gone: Sequence[ObjectKey]
) -> tuple[Transition, ...]:
    after = {**changed, **dict.fromkeys(gone, ())}
    return tuple(
        Transition(key, before, condition)
        for key in sorted(after)
        for before, condition in transitions(stored.get(key, ()), after[key])
    )


def _record(connection: sqlite3.Connection, event: Event, message: str) -> bool:
    """Add an event, or move the same of before to the end and count it; return whether it is new."""
    key = (str(event.object.kind), event.object.name)
    known = connection.execute(
        "SELECT id, count, coalesce(first, time) FROM events WHERE kind = ? AND name = ? AND time > ?"
        " AND reason = ? AND revision IS ? AND message = ?",
        (*key, format_time(event.at - DEDUPE_WINDOW), event.reason, event.revision, message),
    ).fetchone()
    if known is not None:
        connection.execute("DELETE FROM events WHERE id = ?", known[:1])
    _, count, first = known or (0, 0, format_time(event.at))
    metadata = json.dumps(redact.record(event.metadata), sort_keys=True)
    cursor = connection.execute(
        "INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            format_time(event.at),
            *key,
            event.severity,
            event.reason,
            message,
            event.revision,
            metadata,
            count + 1,
            first,
        ),
    )
    connection.execute("DELETE FROM events WHERE id <= ?", [(cursor.lastrowid or 0) - EVENTS_KEPT])
    return known is None


def _event(row: _Row) -> Event:
    at, kind, name, severity, reason, message, revision, metadata, count, first = row
    return Event(
        at=parse_time(at),
        object=_key(kind, name),
        severity=severity,
        reason=reason,
        message=message,
        revision=_revision(revision),
        metadata=json.loads(metadata),
        count=count,
        first_at=_time(first) if count > 1 else None,
    )


def _failure(row: _Row) -> Failure:
    reason, message, permanent, fingerprint, attempts, at, retry_at, _work = row
    return Failure(
        reason=reason,
        message=message,
        permanent=bool(permanent),
        fingerprint=fingerprint,
        attempts=attempts,
        at=parse_time(at),
        retry_at=_time(retry_at),
    )


def _key(kind: str, name: str) -> ObjectKey:
    return ObjectKey(Kind(kind), name)


def _revision(value: str | None) -> Revision | None:
    return None if value is None else Revision(value)


def _time(value: str | None) -> datetime | None:
    return None if value is None else parse_time(value)


def _format(time: datetime | None) -> str | None:
    return None if time is None else format_time(time)
