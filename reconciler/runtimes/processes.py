"""Processes of this host as /proc shows them, and safe ways to signal them.

Called by the process runtime. It decides nothing: it reads, waits and signals.

Raw /proc instead of psutil: a pass looks at every process of the host, and the
same facts through psutil took six times as long. Everything here tolerates that processes come and go
while it looks; a zombie has ended.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from reconciler import proc
from reconciler.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PROC = "/proc"
_BEHIND = 10
"""As a nice value: a tenth of the processor time of what runs beside it."""
_ENDED_STATES = frozenset({"Z", "X", "x"})
_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD of include/linux/sched.h among the flags of proc(5): half of all on a small host, never a server."""
_FALLBACK_POLL_SECONDS = 0.02
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One live process. ``started`` is in clock ticks since boot; with ``pid`` it identifies a process for good."""

    pid: int
    parent: int
    session: int
    started: int

    @property
    def started_seconds(self) -> float:
        """Seconds from boot to the start of the process."""
        return self.started / _TICKS_PER_SECOND

    @property
    def leads_session(self) -> bool:
        """Whether it is the leader of its session, as every server that was spawned is."""
        return self.pid == self.session


def live() -> Iterator[Process]:
    """Yield the processes of this host that have not ended, by ascending number.

    Raises:
        UnavailableError: /proc cannot be read.

    """
    try:
        names = os.listdir(_PROC)  # noqa: PTH208 - names only; a Path for each process costs more than reading it
    except OSError as error:
        raise UnavailableError("the processes of this host cannot be listed", hint="/proc must be mounted") from error
    for name in names:
        if name.isdigit() and (process := look(int(name))) is not None:
            yield process


def look(pid: int) -> Process | None:
    """Return the live process of this number; None when there is none, only a zombie, or a thread of the kernel.

    The name in parentheses may hold anything, so fields count from the last parenthesis (proc(5)).
    """
    content = _read(f"{_PROC}/{pid}/stat")
    fields = content.rpartition(b")")[2].split()
    if len(fields) < 20 or fields[0].decode() in _ENDED_STATES:  # noqa: PLR2004 - the start time is the 20th
        return None
    if int(fields[6]) & _KERNEL_THREAD:
        return None
    return Process(pid, parent=int(fields[1]), session=int(fields[3]), started=int(fields[19]))


def environment(pid: int, prefix: str) -> Mapping[str, str]:
    """Return the variables with ``prefix`` that a process was started with; none when they cannot be read.

    PostgreSQL's backends overwrite theirs with the process title (set_ps_display), its
    postmaster does not.
    """
    return environment_unless_executing(pid, prefix) or {}


def environment_unless_executing(pid: int, prefix: str) -> Mapping[str, str] | None:
    """Return what :func:`environment` does; None for the instant in which another program is being executed.

    The memory of the process is replaced then (execve(2)), and with it its variables. One
    that was started without variables looks the same, for ever.
    """
    try:
        content = _content(f"{_PROC}/{pid}/environ")
    except OSError:
        return {}
    if not content:
        return None
    start = prefix.encode()
    if start not in content:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in content.split(b"\0") if entry.startswith(start))
    return {name: value for name, _, value in pairs}


def user_ids(pid: int) -> frozenset[int]:
    """Return the user ids that a process has (real, effective, saved, for files); none when it has ended."""
    for line in _read(f"{_PROC}/{pid}/status").splitlines():
        if line.startswith(b"Uid:"):
            return frozenset(map(int, line.split()[1:]))
    return frozenset()


def directory(pid: int) -> str:
    """Return the working directory of a process; empty when it cannot be told."""
    try:
        return os.readlink(f"{_PROC}/{pid}/cwd")  # noqa: PTH115 - as in live(): for every process of the host
    except OSError:
        return ""


def writes_errors_to(pid: int, file: os.stat_result) -> bool:
    """Whether standard error of a process is this file."""
    try:
        other = os.stat(f"{_PROC}/{pid}/fd/2")  # noqa: PTH116 - as in live(): for every process of the host
    except OSError:
        return False
    return (other.st_dev, other.st_ino) == (file.st_dev, file.st_ino)


def title(pid: int) -> str:
    """Return the short name of a process for messages, without its arguments, which may hold secrets."""
    return _read(f"{_PROC}/{pid}/comm").decode("utf-8", "replace").strip() or "unknown"


def give_way(pid: int) -> None:
    """Have a process that leads its session, and all that it will start, run behind others on a busy host.

    Nice values rank the threads of one session only where the kernel groups by session (autogroup,
    sched(7)), so the session gets one as well. For disks the priority follows from it (ioprio_set(2)).
    """
    with suppress(OSError):  # it ended, or this host does not let it
        os.setpriority(os.PRIO_PROCESS, pid, _BEHIND)
        Path(_PROC, str(pid), "autogroup").write_text(str(_BEHIND))


def boot_time() -> float:
    """Return when this host was booted, in seconds since the epoch; 0 when it cannot be told."""
    for line in _read(f"{_PROC}/stat").splitlines():
        if line.startswith(b"btime "):
            return float(line.split()[1])
    return 0.0


class Handle:
    """One process, bound by a pidfd, so that a signal never reaches another one that got its number.

    Where the kernel has no pidfd, the identity is looked up right before each signal.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pidfd: int | None = None
        self._gone = False

    def __enter__(self) -> Self:
        try:
            self._pidfd = proc.open_pidfd(self._process.pid)
        except ProcessLookupError:
            self._gone = True
        # Only now: a look before the pidfd was open says nothing about what the pidfd is bound to.
        self._gone = self._gone or not self._same()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; does nothing when the process has ended."""
        if self._gone:
            return
        with suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self._same():
                os.kill(self._process.pid, number)

    def ended_within(self, seconds: float) -> bool:
        """Wait for the end of the process, at most ``seconds``; return whether it has ended."""
        if not self._gone and self._pidfd is not None:
            self._gone = proc.ended_within(self._pidfd, seconds)
        elif not self._gone:
            self._gone = self._polled(seconds)
        return self._gone

    def _polled(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._same():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_FALLBACK_POLL_SECONDS)
        return True

    def _same(self) -> bool:
        found = look(self._process.pid)
        return found is not None and found.started == self._process.started


def _read(path: str) -> bytes:
    try:
        return _content(path)
    except OSError:
        return b""


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _read_all(descriptor)
    finally:
        os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    chunks = []
    while chunk := os.read(descriptor, 65536):
        chunks.append(chunk)
        if len(chunk) < 4096:  # noqa: PLR2004 - a short read is the end; spares one call per process
            break
    return b"".join(chunks)
