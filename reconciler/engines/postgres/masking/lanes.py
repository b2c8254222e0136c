"""Work on several connections at once, largest pieces first, with a word on how far it is.

Called by :mod:`.stage` and :mod:`.written`. A piece that fails ends the others at their
next look, and its error is the one that is told.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

from reconciler.engines.postgres import server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import psycopg

    from reconciler.engines.base import BuildWork

_KIB = 1024
_SECONDS_BETWEEN_LOOKS = 2.0
_SECONDS_TO_JUDGE = 3.0
"""So long the pace is not known well enough to say when it will be over."""

_SESSION = (
    "SET default_tablespace = ''",
    "SET track_functions = 'all'",
    "SET parallel_tuple_cost = 0",  # rows that pass to the leader cost less than what was computed for them
)
# All lanes may build an index at once.
_MEMORY = """
SELECT set_config('maintenance_work_mem', greatest(setting::int / %s, 65536) || 'kB', false)
FROM pg_settings WHERE name = 'maintenance_work_mem'
"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece(Generic[T]):
    """``name`` is for people; ``bytes`` decide about order and connections; ``rows`` as the server estimates them."""

    name: str
    bytes: int
    what: T
    rows: int = 0


class Lane:
    """Connections of one lane; ``admin`` changes things, and may run what users made, as the builder."""

    def __init__(
        self,
        admin: psycopg.Connection,
        open_builder: Callable[[], psycopg.Connection],
        open_keyed: Callable[[], psycopg.Connection],
    ) -> None:
        self.admin = admin
        self._open_builder, self._open_keyed = open_builder, open_keyed
        self._builder: psycopg.Connection | None = None
        self._keyed: psycopg.Connection | None = None
        self._workers = 0

    @property
    def builder(self) -> psycopg.Connection:
        """Ask on this one, without superuser rights, what calls functions of users; opened when it is needed."""
        if self._builder is None:
            self._builder = self._open_builder()
            _set_workers(self._builder, self._workers)
        return self._builder

    @property
    def keyed(self) -> psycopg.Connection:
        """Compute on this one what needs the masking keys, and nothing else: no code of users ever ran in it."""
        if self._keyed is None:
            self._keyed = self._open_keyed()
            _set_workers(self._keyed, self._workers)
        return self._keyed

    def share(self, jobs: int, share: float) -> None:
        """Give its connections a share of the processes: what is most of the work gets most of them."""
        self._workers = max(0, min(jobs, round(jobs * share)) - 1)
        for conn in (self.admin, self._builder, self._keyed):
            if conn is not None:
                _set_workers(conn, self._workers)

    def close(self) -> None:
        """Close what was opened here."""
        for conn in (self._builder, self._keyed):
            if conn is not None:
                conn.close()


@dataclass(frozen=True, slots=True)
class Lanes:
    """Where the pieces run.

    ``prepare`` is called on each administrative connection that is opened, ``open_keys``
    on those of them that get the masking keys.
    """

    work: BuildWork
    database: str
    prepare: Callable[[psycopg.Connection], None] = lambda _conn: None
    open_keys: Callable[[psycopg.Connection], None] = lambda _conn: None

    def run(
        self,
        doing: str,
        unit: str,
        pieces: Iterable[Piece[T]],
        do: Callable[[Lane, Piece[T]], None],
        *,
        anew: bool = False,
    ) -> None:
        """Do all pieces; ``doing`` and ``unit`` (plural) are words for people.

        ``anew``: a piece writes about as many bytes as it has into files of its own, so
        their growth says how far a piece is that takes long.
        """
        ordered = sorted(pieces, key=lambda piece: -piece.bytes)
        if not ordered:
            return
        queue: SimpleQueue[Piece[T]] = SimpleQueue()
        for piece in ordered:
            queue.put(piece)
        course = Course(self.work.progress, doing, unit, ordered)
        number = max(1, min(self.work.jobs, len(ordered)))
        stop = threading.Event()
        with ThreadPoolExecutor(number) as pool, self._watching(course) if anew else nullcontext():
            lanes = [pool.submit(self._lane, queue, do, course, stop) for _ in range(number)]
            wait(lanes)
        failed = [error for error in (lane.exception() for lane in lanes) if error is not None]
        if failed:
            raise failed[0]

    @contextmanager
    def _watching(self, course: Course) -> Iterator[None]:
        """Say now and then in the block how much has been written."""
        with server.connect(self.work, self.database) as conn:
            (oid,) = conn.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone() or (0,)
        directory = server.data_directory(self.work) / "base" / str(oid)
        over, before = threading.Event(), _size(directory)

        def watch() -> None:
            while not over.wait(_SECONDS_BETWEEN_LOOKS):
                course.advance(_size(directory) - before)

        watcher = threading.Thread(target=watch, name="masking-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _lane(
        self,
        queue: SimpleQueue[Piece[T]],
        do: Callable[[Lane, Piece[T]], None],
        course: Course,
        stop: threading.Event,
    ) -> None:
        try:
            with (
                server.connect(self.work, self.database) as admin,
                closing(Lane(admin, self._builder, self._keyed)) as lane,
            ):
                self._open(admin)
                while not stop.is_set():
                    self.work.cancel.check()
                    try:
                        piece = queue.get_nowait()
                    except Empty:
                        return
                    course.begin(piece.name)
                    lane.share(self.work.jobs, piece.bytes / max(1, course.bytes))
                    do(lane, piece)
                    course.end(piece.bytes)
        except BaseException:
            stop.set()
            raise

    def _open(self, admin: psycopg.Connection) -> None:
        for statement in _SESSION:
            admin.execute(statement)
        admin.execute(_MEMORY, [self.work.jobs])
        self.prepare(admin)

    def _keyed(self) -> psycopg.Connection:
        conn = server.connect(self.work, self.database)
        self._open(conn)
        self.open_keys(conn)
        return conn

    def _builder(self) -> psycopg.Connection:
        conn = server.connect(self.work, self.database, role=server.BUILDER)
        conn.execute("SELECT set_config('search_path', 'pg_catalog', false)")
        return conn


class Course:
    """Says how far the pieces are, and when they will be done at this pace."""

    def __init__(self, progress: Callable[[str], None], doing: str, unit: str, pieces: Sequence[Piece[T]]) -> None:
        self.bytes = sum(piece.bytes for piece in pieces)
        self._rows = sum(piece.rows for piece in pieces)
        self._progress = progress
        self._words = doing, unit
        self._number = len(pieces)
        self._done = 0
        self._done_bytes = 0
        self._written = 0
        self._latest = ""
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def begin(self, name: str) -> None:
        """Say that a piece is begun."""
        with self._lock:
            self._latest = name
            self._say()

    def advance(self, written: int) -> None:
        """Say how far the pieces that are being done have come: so many bytes were written since the beginning."""
        with self._lock:
            if written > self._written:
                self._written = written
                self._say()

    def end(self, size: int) -> None:
        """Take note that a piece of so many bytes is done."""
        with self._lock:
            self._done += 1
            self._done_bytes += size

    def _say(self) -> None:
        doing, unit = self._words
        done = min(self.bytes, max(self._done_bytes, self._written))
        rows = f"about {self._rows * done // max(1, self.bytes):,} of {self._rows:,} rows, " if self._rows else ""
        amount = f"{_amount(done)} of {_amount(self.bytes)}"
        self._progress(
            f"{doing} {self._latest}: {self._done} of {self._number} {unit}, {rows}{amount}{self._left(done)}"
        )

    def _left(self, done: int) -> str:
        seconds = time.monotonic() - self._start
        if seconds < _SECONDS_TO_JUDGE or not done:
            return ""
        left = seconds * (self.bytes - done) / done
        return f", about {round(left / 60)} min left" if left >= 90 else f", about {round(left)} s left"  # noqa: PLR2004 - a minute and a half


def _size(directory: Path) -> int:
    """Return the bytes of a database's files; those that go meanwhile count nothing."""
    found = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                found += entry.stat().st_size
    return found


def _set_workers(conn: psycopg.Connection, number: int) -> None:
    for name in ("max_parallel_workers_per_gather", "max_parallel_maintenance_workers"):
        conn.execute("SELECT set_config(%s, %s, false)", [name, str(number)])


def _amount(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < _KIB:
            return f"{size:.0f} {unit}"
        size /= _KIB
    return f"{size:.1f} GiB"
