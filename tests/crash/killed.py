"""Runs ``reconciler apply`` in a child process that kills itself with SIGKILL at a chosen side effect.

A side effect is a call that changes a file, a process or a database: seen by a
profiler (system calls, SQLite, PostgreSQL, MariaDB) and by an audit hook (files opened for
writing). Waiting for the disk is none: what a process has written outlives it, and only a
host that lost its power would tell before from after.

Consecutive ones of one line of the program are one *burst* (the walk that hands a tree
over to an account): it can be killed before its first and before its last one. Places are
named by line and count, not by a number over everything, so that threads that overtake
each other do not change what a name means.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.pq import TransactionStatus
from psycopg.sql import Composable

import reconciler

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

_PACKAGE = f"{Path(reconciler.__file__).parent}/"
_SYSTEM_MODULES = frozenset({"posix", "fcntl", "_posixsubprocess", "_signal"})
_EFFECTS = frozenset(
    {
        "chmod",
        "chown",
        "copy_file_range",
        "fchmod",
        "fchown",
        "fork_exec",
        "ftruncate",
        "ioctl",
        "kill",
        "killpg",
        "lchown",
        "link",
        "mkdir",
        "pidfd_send_signal",
        "posix_fallocate",
        "pwrite",
        "remove",
        "rename",
        "replace",
        "rmdir",
        "sendfile",
        "symlink",
        "truncate",
        "unlink",
        "utime",
        "write",
    }
)
_WRITERS = frozenset({"BufferedWriter", "BufferedRandom", "FileIO", "TextIOWrapper"})
_WRITES = frozenset({"write", "close", "flush"})
_TRANSACTIONS = frozenset({"execute", "executescript"})
_C_FUNCTIONS = _EFFECTS | _WRITES | _TRANSACTIONS
_CALLS = {
    "_execute_command": ("pymysql/connections.py",),
    "execute": ("psycopg/cursor.py", "wire.py"),
    "commit": ("psycopg/connection.py",),
    "_post": ("docker/api/client.py",),
    "_delete": ("docker/api/client.py",),
    "ioctl": ("storage/linux.py",),
}
"""Functions, with their files, behind which a profiler sees no system call: libpq, ctypes, the client of containers."""
_READERS = {"_unallocated", "has_nested", "metadata_room"}
"""Functions that only ask the kernel."""
_IN_ANY_CASE = re.compile(r"repository/plumbing\.py:\d+ _end")
"""Lines that end a program which only reads, unless it has ended: which of both, nobody can say before."""
_CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_WALKS = {
    "engines/postgres/datafiles.py": "engines/postgres/data files",
    "handover.py": "handover",
    "status/database.py": "transactions",
    "storage/linux.py": "storage/tree",
    "storage/reflink.py": "storage/tree",
    "storage/tree.py": "storage/tree",
}
"""Modules of which everything in a row is one burst: walks over trees, and transactions, which SQLite makes atomic."""
MAIN = "MainThread"
"""The thread that opens, plans and reports: the pass around the work."""
_DOORS = (
    "durable.py",
    "engines/files.py",
    "engines/mysql/code.py",
    "engines/mysql/link.py",
    "proc.py",
    "runtimes/",
    "storage/manifests.py",
)
"""Modules that do what others want: their lines come with the one that calls them."""
_OUTLIVES = ("engines/mysql/instance/", "engines/mysql/users.py")
"""Statements of MariaDB count on instances, and where they let users in: all others are on private servers, which are
thrown away with what they serve."""
_CHANGES = re.compile(
    r"\s*(?:ALTER|CREATE|DELETE|DROP|GRANT|INSERT|KILL|RENAME|REPLACE|REVOKE|COMMIT)\b", re.IGNORECASE
)
_ASKS = re.compile(r"\s*(?:IDENTIFY_SYSTEM|RESET|SELECT|SET|SHOW|TABLE|VALUES|WITH)\b", re.IGNORECASE)
_DOES = re.compile(
    r"\b(?:DELETE|EXECUTE|INSERT|INTO|MERGE|UPDATE|nextval|setval|lo_\w+"
    r"|pg_(?:backup|cancel|copy|create|drop|export|promote|reload|replication|switch|terminate|wal_replay)\w*)\b",
    re.IGNORECASE,
)
"""What a statement of PostgreSQL that begins like a question may do all the same."""
_LONG_WALK = 10
_TRAIL = 2
"""How many side effects before one have to be the same for it to be the same place of another run."""
_TIMEOUT_SECONDS = 180


@dataclass(frozen=True, order=True)
class Place:
    """A point in the run: right before the ``index``-th side effect of a burst."""

    burst: str
    index: int = 1

    def __str__(self) -> str:
        return f"{self.burst} [{self.index}]"

    @property
    def thread(self) -> str:
        """What the thread is for."""
        return self.burst.partition(" ")[0]

    @property
    def step(self) -> tuple[str, bool]:
        """The place without numbers that another run may have otherwise: of bursts before, of side effects within."""
        return self.burst.rpartition(" #")[0], self.index == 1


def count(config: Path, *, unwell: bool = False) -> list[Place]:
    """Run ``reconciler apply`` to its end and return every place at which it can be killed, in order.

    ``unwell``: it ends with exit code 1, as something is not as the specs ask for.
    """
    log = config.with_name("side-effects.json")
    assert _run(config, None, log) == int(unwell), "the pass failed although nothing killed it"
    bursts: list[tuple[str, int]] = json.loads(log.read_text())
    log.unlink()
    return [Place(name, index) for name, length in bursts for index in _of_interest(length)]


def beyond(places: list[Place], known: Iterable[list[Place]], *, part: str = "") -> list[Place]:
    """Return the places that come in addition to those of other runs, and all of a ``part`` of the program.

    A place is known if the same side effect comes there after the same ones, in a thread that does the same.
    """
    there = {trail for run in known for _, trail in _trails(run)}
    return [place for place, trail in _trails(places) if trail not in there or (part and part in place.burst)]


def _trails(places: list[Place]) -> Iterator[tuple[Place, tuple[object, ...]]]:
    """Give each place with its own step and those that led to it."""
    before: dict[str, tuple[object, ...]] = {}
    for place in places:
        trail = (*before.get(place.thread, (place.thread,)), place.step)
        yield place, trail
        before[place.thread] = trail[-_TRAIL:]


def _of_interest(length: int) -> list[int]:
    """Return before which side effects of a burst to kill: the first, the last, and one amid a long walk."""
    return sorted({1, length} | ({length // 2} if length > _LONG_WALK else set()))


def killed_at(config: Path, place: Place) -> bool:
    """Run ``reconciler apply`` until ``place``; return whether it was killed there (else it ended before)."""
    code = _run(config, place, config.with_name("unused"))
    assert code in {0, 1, -signal.SIGKILL}, code
    return code == -signal.SIGKILL


def _run(config: Path, place: Place | None, log: Path) -> int | None:
    # A server that forks: the tests' own process has threads, and a fresh interpreter costs a second.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "tests.crash.preload"])
    child = context.Process(target=_apply, args=(str(config), place, str(log)))
    child.start()
    child.join(_TIMEOUT_SECONDS)
    if child.exitcode is None:
        child.kill()
        child.join()
    return child.exitcode


def _apply(config: str, place: Place | None, log: str) -> None:
    from reconciler.cli.main import main  # noqa: PLC0415 - in the child only

    silence = os.open(config + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(silence, descriptor)
    watcher = Watcher(place)
    sys.argv = ["reconciler", "--config", config, "apply"]
    watcher.install()
    try:
        main()
    finally:
        watcher.end()
        watcher.remove()
        if place is None:
            Path(log).write_text(json.dumps(watcher.bursts()))


class Watcher:
    """Sees side effects, groups them into bursts, and kills this process before a chosen one."""

    def __init__(self, place: Place | None) -> None:
        self._place = place
        self._lock = threading.RLock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lengths: dict[str, int] = {}
        self._current: dict[int, tuple[str, str]] = {}
        self._watching = False

    def install(self) -> None:
        sys.addaudithook(self._audit)
        self._watching = True
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def end(self) -> None:
        """Kill the process if a thread's last burst is the chosen one, and was shorter this time: it is over now."""
        with self._lock:
            if self._place is not None and any(burst == self._place.burst for _, burst in self._current.values()):
                os.kill(os.getpid(), signal.SIGKILL)

    def remove(self) -> None:
        self._watching = False
        threading.setprofile(None)
        sys.setprofile(None)

    def bursts(self) -> list[tuple[str, int]]:
        """Return every burst and how many side effects it had, by their beginnings."""
        return list(self._lengths.items())

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" or not self._watching:
            return
        path, _mode, flags = arguments
        if isinstance(path, int) or not isinstance(flags, int):
            return
        unnamed = flags & os.O_TMPFILE == os.O_TMPFILE
        if flags & _CHANGING and not unnamed:
            self._happens(sys._getframe(1))

    def _profile(self, frame: FrameType, event: str, argument: object) -> None:
        # Called at every call and every return of the program: names are looked up before anything else.
        if event == "call":
            code = frame.f_code
            if code.co_name in _CALLS and code.co_filename.endswith(_CALLS[code.co_name]) and not _only_reads(frame):
                self._happens(frame.f_back)
        elif event == "c_call" and getattr(argument, "__name__", "") in _C_FUNCTIONS and _is_effect(argument, frame):
            self._happens(frame)

    def _happens(self, frame: FrameType | None) -> None:
        line = _line_of_program(frame)
        if line is None or _IN_ANY_CASE.fullmatch(line):
            return
        thread = threading.get_ident()
        role = threading.current_thread().name.partition("_")[0]
        with self._lock:
            site, burst = self._current.get(thread, ("", ""))
            if site != line:
                if self._place is not None and burst == self._place.burst:
                    os.kill(os.getpid(), signal.SIGKILL)  # the burst was shorter this time: this is right after it
                self._counts[role, line] += 1
                burst = f"{role} {line} #{self._counts[role, line]}"
                self._current[thread] = (line, burst)
                self._lengths[burst] = 0
            self._lengths[burst] += 1
            if self._place == Place(burst, self._lengths[burst]):
                os.kill(os.getpid(), signal.SIGKILL)


def _only_reads(frame: FrameType) -> bool:
    """Whether a call changes nothing: a question, or the end of a transaction that there is none of."""
    name, given = frame.f_code.co_name, frame.f_locals
    if name == "_execute_command":
        changes = _CHANGES.match(_text_of(given["sql"]))
        return not (changes and any(_leads_from(frame, part) for part in _OUTLIVES))
    if name == "commit":
        return bool(given["self"].pgconn.transaction_status == TransactionStatus.IDLE)
    if name == "execute" and "query" in given:
        text = _text_of(given["query"])
        return _ASKS.match(text) is not None and _DOES.search(text) is None
    return frame.f_back is not None and frame.f_back.f_code.co_name in _READERS


def _text_of(statement: object) -> str:
    if isinstance(statement, Composable):
        return statement.as_string()
    return statement if isinstance(statement, str) else bytes(statement).decode(errors="replace")  # type: ignore[call-overload]


def _leads_from(start: FrameType, part: str) -> bool:
    frame: FrameType | None = start
    while frame is not None:
        if frame.f_code.co_filename.startswith(f"{_PACKAGE}{part}"):
            return True
        frame = frame.f_back
    return False


def _is_effect(function: object, frame: FrameType) -> bool:
    name = getattr(function, "__name__", "")
    if getattr(function, "__module__", None) in _SYSTEM_MODULES:
        return name in _EFFECTS
    owner = type(getattr(function, "__self__", None))
    if owner.__module__ == "sqlite3" and frame.f_code.co_filename.endswith("status/database.py"):
        return name in _TRANSACTIONS
    return owner.__module__ == "_io" and owner.__name__ in _WRITERS and name in _WRITES


def _line_of_program(frame: FrameType | None) -> str | None:
    """Return the innermost line of the program that leads to a frame; None when there is none.

    A line of a module that does what others want comes with the one that wants it.
    """
    within = ""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_PACKAGE):
            module = name.removeprefix(_PACKAGE)
            line = _WALKS.get(module) or f"{module}:{frame.f_lineno} {frame.f_code.co_name}"
            if not module.startswith(_DOORS):
                return f"{line}{within}"
            within = within or f" > {line}"
        frame = frame.f_back
    return None
