"""The lock of a state directory: one writer at a time, and everybody can see who.

Taken by the loop and by ``apply``; looked at by ``apply`` to hand a wish over to a
running loop. The kernel drops a lock with its process, so a dead owner's is simply
taken; no process id is ever trusted.

Two files: ``lock`` decides; ``lock-owner`` names the owner and is locked too while
the owner lives. Whoever only looks touches the second alone, with a shared lock for
a moment, and so can never make an attempt to take the first fail.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from reconciler.errors import BusyError, ConfigError
from reconciler.locks import lock_exclusively
from reconciler.status import files

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

_LOOKS = 10


@dataclass(frozen=True, slots=True)
class LockOwner:
    """Who holds the lock: process, host, command in the user's words, since when."""

    pid: int
    host: str
    command: str
    since: datetime

    def __str__(self) -> str:
        return f"{self.command} (process {self.pid} on {self.host}, since {self.since:%Y-%m-%d %H:%M:%S}Z)"


class StateLock:
    """A held lock; released by :meth:`release`, by leaving its ``with``, or with the process."""

    def __init__(self, descriptors: tuple[int, int], owner: LockOwner) -> None:
        self._descriptors = descriptors
        self.owner = owner

    @classmethod
    def take(cls, directory: Path, command: str, *, now: datetime) -> StateLock:
        """Take the lock of a state directory.

        Raises:
            BusyError: somebody holds it; the message names the owner.

        """
        with files.translated("lock", directory):
            gate = _open(directory / "lock")
            try:
                lock_exclusively(gate)
            except BlockingIOError as error:
                os.close(gate)
                raise _busy(directory) from error
            owner = LockOwner(os.getpid(), socket.gethostname(), command, now)
            try:
                return cls((gate, _announce(directory / "lock-owner", owner)), owner)
            except OSError:
                os.close(gate)  # a full disk must not leave a lock that nobody holds
                raise

    def release(self) -> None:
        """Let go; a second time does nothing."""
        descriptors, self._descriptors = self._descriptors, (-1, -1)
        for descriptor in reversed(descriptors):
            if descriptor >= 0:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock_owner(directory: Path) -> LockOwner | None:
    """Return who holds the lock of a state directory, without taking it; None when nobody does.

    Raises:
        ConfigError: somebody holds it, and the file that should say who is damaged.

    """
    path = directory / "lock-owner"
    for _ in range(_LOOKS):
        if not _is_locked(path):
            return None
        with suppress(ConfigError):  # seen while one owner went and the next one came: look again
            return _read_owner(path)
    return _read_owner(path)


def _is_locked(path: Path) -> bool:
    with files.translated("read", path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _announce(path: Path, owner: LockOwner) -> int:
    """Write who holds the lock, then lock that file: its text is complete whenever it is seen locked."""
    descriptor = _open(path)
    record = {
        "pid": owner.pid,
        "host": owner.host,
        "command": owner.command,
        "since": files.format_time(owner.since),
    }
    data = files.encode(record)
    os.pwrite(descriptor, data, 0)
    os.ftruncate(descriptor, len(data))
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # only somebody who looks at this moment can make it wait
    return descriptor


def _read_owner(path: Path) -> LockOwner | None:
    record = files.read_record(path)
    if record is None:
        return None
    try:
        pid, since = int(str(record.get("pid"))), files.parse_time(files.text(record, "since"))
        return LockOwner(pid, files.text(record, "host"), files.text(record, "command"), since)
    except ValueError as error:
        raise files.unreadable(path, str(error)) from error


def _busy(directory: Path) -> BusyError:
    owner: LockOwner | None = None
    with suppress(ConfigError):  # it is taken, whatever the file says
        owner = _read_owner(directory / "lock-owner")
    who = str(owner) if owner else "another process"
    return BusyError(
        f"the state directory {directory} is used by {who}",
        reason="Locked",
        hint="wait for it, or stop it, or use another state directory",
    )
