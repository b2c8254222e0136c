"""Rows from sessions of one server into another one, several tables at a time.

Called by :mod:`.copying`, from a primary into a build, and by :mod:`.instance.loading`, from a
snapshot into an instance. Each worker reads with one session of the moment and writes with one
of its own. Large tables whose key is an integer are read in ranges of it. A worker lets go of a
table as soon as it has read it, so that whoever changes definitions at a primary waits for one
table at most.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from reconciler.engines.mysql import catalog, rows
from reconciler.engines.mysql.failures import SqlError, lost, safe_message
from reconciler.engines.mysql.link import quoted
from reconciler.errors import BusyError, SourceError, UnavailableError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from reconciler.engines.base import Progress
    from reconciler.engines.mysql.catalog import Table
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.rows import Column
    from reconciler.errors import ReconcilerError
    from reconciler.proc import CancelToken

WRITER = (
    "SET SESSION time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO', foreign_key_checks = 0, unique_checks = 0"
    " /*M!, check_constraint_checks = 0 */"
)
_BYTES = "SET NAMES binary"
HISTORY = "SET SESSION system_versioning_insert_history = ON"
_TRUNCATED = 1265
_COLUMN = re.compile(r"for column '(.*)' at row")
_ENDED = "CopyEnded"
_STATEMENT_BYTES = 1 << 20
_COMMAND_BYTES = 1
"""Before the text of a statement in what is sent, which has to be less than a server's ``max_allowed_packet``."""
_RANGE_BYTES = 64 << 20
"""Tables are divided from this size on."""
_RANGES_PER_JOB = 2
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Where rows come from and where they go."""

    source: str
    """What messages call the one ("the primary")."""
    target: str
    """And the other ("the build's server")."""
    writer: Callable[[], AbstractContextManager[Link]]
    """Gives a session that writes."""
    told: Callable[[], AbstractContextManager[None]]
    """Gives a block in which errors of the source are told as ours."""
    failure: Callable[[SqlError], ReconcilerError]
    """Returns one of them."""
    place: Callable[[Table], str] = lambda table: table.place
    """Returns what SQL calls a table at the target."""
    settings: str = WRITER
    """What a session works with that writes."""
    cancel: CancelToken
    progress: Progress


class Part(NamedTuple):
    """A table, or the rows of it that a condition picks."""

    table: Table
    columns: tuple[Column, ...]
    history: bool = False
    where: str = ""

    @property
    def name(self) -> str:
        """Database and table, for people."""
        return f"{self.table.database}.{self.table.name}"


def parts(link: Link, tables: Sequence[Table], jobs: int, *, history: bool) -> list[Part]:
    """Return the work, the largest first; ``history``: whether the build can take in when rows began and ended."""
    found = [
        part
        for table in tables
        if table.has_rows and not table.sequence
        for part in _divided(link, table, jobs, history=history)
    ]
    return sorted(found, key=lambda part: part.table.bytes, reverse=True)


def takes_history(link: Link) -> bool:
    """Tell whether a server lets rows say when they began and ended (MariaDB 10.11)."""
    try:
        link.rows("SELECT @@system_versioning_insert_history")
    except SqlError:
        return False
    return True


def copy(ends: Ends, sessions: Sequence[Link], todo: Sequence[Part]) -> None:
    """Copy all rows.

    Raises:
        UnavailableError: a server is gone, or a definition at the source changed meanwhile.
        SourceError: rows cannot be stored as they are, or may not be read.
        UnsupportedError: a row is larger than a statement may be at the target.

    """
    shared = _Shared(ends, deque(todo))
    with ThreadPoolExecutor(len(sessions)) as pool:
        running = [pool.submit(shared.run, session) for session in sessions]
    failures = [error for one in running if (error := one.exception()) is not None]
    if failures:  # what made the others end, and not that they did
        raise next((error for error in failures if getattr(error, "reason", "") != _ENDED), failures[0])


class _Shared:
    """What the workers have in common."""

    def __init__(self, ends: Ends, todo: deque[Part]) -> None:
        self._ends = ends
        self._todo = todo
        self._count, self._bytes = len(todo), 0
        self._lock = threading.Lock()
        self._failed = threading.Event()

    def run(self, session: Link) -> None:
        try:
            with self._ends.writer() as writer:
                for statement in (self._ends.settings, _BYTES):
                    writer.rows(statement)
                with self._ends.told():
                    session.rows(_BYTES)
                largest = int(writer.value("SELECT @@max_allowed_packet"))
                while (part := self._next()) is not None:
                    self._copy(session, writer, part, largest)
                with self._ends.told():
                    session.rows("SET NAMES utf8mb4")
        except BaseException:
            self._failed.set()  # the others end with what they are at
            raise

    def _next(self) -> Part | None:
        with self._lock:
            if self._failed.is_set() or not self._todo:
                return None
            part = self._todo.popleft()
            done = self._count - len(self._todo)
            self._ends.progress(f"copying table {done} of {self._count} ({self._bytes / _GIB:.2f} GiB so far)")
            return part

    def _copy(self, session: Link, writer: Link, part: Part, largest: int) -> None:
        if part.history:
            writer.rows(HISTORY)
        with self._ends.told():
            session.rows("SAVEPOINT one_table")
        head = rows.insert(self._ends.place(part.table), part.columns)
        with closing(self._read(session, part)) as found:
            for some in _batches(found, min(_STATEMENT_BYTES, largest - len(head) - _COMMAND_BYTES)):
                statement = head + b",".join(some)
                if len(statement) + _COMMAND_BYTES >= largest:
                    raise UnsupportedError(
                        f"a row of {self._ends.source}'s table {part.name} takes a statement of {len(statement)} bytes,"
                        f" and {self._ends.target} takes {largest} (max_allowed_packet)",
                        reason="RowTooLarge",
                        hint="set max_allowed_packet there to twice the size of the largest row, or more",
                    )
                self._write(writer, part, statement)
        with self._ends.told():
            session.rows("ROLLBACK TO SAVEPOINT one_table")

    def _read(self, session: Link, part: Part) -> Generator[bytes]:
        query = rows.select(part.table.place, part.columns, history=part.history, where=part.where)
        try:
            with closing(session.stream(query)) as found:
                for row in found:
                    yield rows.literal(part.columns, row)
        except SqlError as error:
            raise self._ends.failure(SqlError(error.code, f"table {part.name}: {error}")) from None

    def _write(self, writer: Link, part: Part, statement: bytes) -> None:
        if self._failed.is_set():
            raise BusyError("another table could not be copied", reason=_ENDED)
        try:
            writer.execute(statement)
            warned = writer.value("SELECT @@warning_count")
            told = writer.rows("SHOW WARNINGS") if warned else []
        except SqlError as error:
            if lost(error):
                raise UnavailableError(f"the connection to {self._ends.target} was lost") from error
            raise SourceError(f"rows of {self._ends.source}'s table {part.name} cannot be stored: {error}") from error
        changes = [(int(code), _decoded(said)) for level, code, said in told if _decoded(level) != "Note"]
        harmful = next((one for one in changes if not _is_error_value(part, *one)), None)
        if harmful is not None:
            said = safe_message(*harmful)
            raise SourceError(
                f"rows of {self._ends.source}'s table {part.name} would not be stored as they are: {said}"
            )
        with self._lock:
            self._bytes += len(statement)


def _batches(literals: Iterable[bytes], room: int) -> Iterator[list[bytes]]:
    """Yield rows that fit into one statement together; one that fits into none is alone."""
    some: list[bytes] = []
    size = 0
    for literal in literals:
        if some and size + len(literal) > room:
            yield some
            some, size = [], 0
        some.append(literal)
        size += len(literal) + len(b",")
    if some:
        yield some


def _is_error_value(part: Part, code: int, said: str) -> bool:
    """Tell whether a warning is of the number 0 of an ENUM, which stands for what an insert got wrong in production."""
    found = _COLUMN.search(said)
    ordinals = {column.name for column in part.columns if column.kind is rows.Kind.ORDINAL}
    return code == _TRUNCATED and found is not None and found[1] in ordinals


def _decoded(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _divided(link: Link, table: Table, jobs: int, *, history: bool) -> Iterator[Part]:
    columns, history = rows.columns_of(link, table.database, table.name, history=history and table.versioned)
    for where in _ranges(link, table, jobs):
        yield Part(table, columns, history, where)


def _ranges(link: Link, table: Table, jobs: int) -> list[str]:
    """Return conditions that divide a table; one without any where that is not worth it."""
    key = None
    if jobs > 1 and table.bytes >= _RANGE_BYTES and table.of_the_moment and not table.versioned:
        key = catalog.integer_key(link, table)
    if key is None:
        return [""]
    name, count = quoted(key), jobs * _RANGES_PER_JOB
    low, high = link.rows(f"SELECT MIN({name}), MAX({name}) FROM {table.place}")[0]  # noqa: S608 - quoted names
    if low is None:
        return [""]
    bounds = sorted({low + (high - low) * number // count for number in range(1, count)})
    edges = [(None, bounds[0]), *pairwise(bounds), (bounds[-1], None)]
    return [_between(name, begin, end) for begin, end in edges]


def _between(name: str, begin: int | None, end: int | None) -> str:
    conditions = [f"{name} >= {begin}"] if begin is not None else []
    conditions += [f"{name} < {end}"] if end is not None else []
    return " AND ".join(conditions)
