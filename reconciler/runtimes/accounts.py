"""Operating-system accounts that servers run under when the reconciler is root.

Called by the process runtime. Rule 9 of DESIGN.md, section 8: builds and clones run
under different accounts, and a clone with a superuser under one of its own. An
ordinary user cannot change accounts: everything then runs as that user, and what
needs an account of its own is refused.

It creates accounts, never changes or removes any. An own account is a bare number; before it
can become another volume's, nothing runs under it any more.
"""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import signal
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from reconciler import proc
from reconciler.clock import SystemClock
from reconciler.errors import BusyError, CommandError, RefusedError, TransientError, UnsupportedError
from reconciler.runtimes import processes
from reconciler.runtimes.handout import Handout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from reconciler.ids import VolumeId

Purpose = Literal["build", "clone", "own"]

_ATTEMPTS = 20
_PAUSE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """Names of the shared accounts, and the user ids for clones that need one of their own."""

    build: str
    clone: str
    own: range


class Accounts:
    """The accounts of one runtime; safe to call from several threads."""

    def __init__(self, settings: AccountSettings) -> None:
        self._settings = settings
        self._own = Handout(self._settings.own)
        self._event = threading.Event()

    @property
    def can_switch(self) -> bool:
        """Whether this process may run servers under other accounts."""
        return os.geteuid() == 0

    def account(self, purpose: Purpose, volume: VolumeId, taken: AbstractSet[int]) -> proc.Account | None:
        """Return the account to run under, made when it does not exist; None is our own.

        Raises:
            UnsupportedError: an own account where the reconciler is not root, or useradd is missing.
            RefusedError: the range of own accounts is exhausted.
            TransientError: the account could not be created now.

        """
        if purpose == "own":
            return self._take_own(volume, taken)
        if not self.can_switch:
            return None
        return self._shared(self._settings.build if purpose == "build" else self._settings.clone)

    def end_all(self, own: proc.Account) -> None:
        """Kill all that runs under an own account, until nothing is left.

        By the one call that reaches every process of an account at the same time (kill(2), -1):
        what makes new processes as fast as they die would get away from a list of them.

        Raises:
            BusyError: a process does not end.

        """
        if not self.can_switch or not _unknown(own.uid):
            return  # it is not ours to end: the host gave the number to somebody since
        for _ in range(_ATTEMPTS):
            with suppress(CommandError):  # there was nobody to kill
                proc.run(["sh", "-c", "kill -KILL -1"], account=own, timeout=30)
            left = [process for process in processes.live() if own.uid in processes.user_ids(process.pid)]
            if not left:
                return
            with processes.Handle(left[0]) as handle:
                handle.send(signal.SIGKILL)
                handle.ended_within(_PAUSE_SECONDS)
        raise BusyError(
            f"process {left[0].pid} ({processes.title(left[0].pid)}) of the account {own.uid} does not end, not even by"
            " SIGKILL"
        )

    def _take_own(self, volume: VolumeId, taken: AbstractSet[int]) -> proc.Account:
        if not self.can_switch:
            raise UnsupportedError(
                f"{volume} needs an operating-system account of its own, which only a reconciler started as root can "
                "give",
                hint="run the reconciler as root, or give the clone no user with role superuser",
            )
        living = {uid for process in processes.live() for uid in processes.user_ids(process.pid)}
        number = self._own.take(taken | living, _unknown)
        if number is None:
            ids = self._settings.own
            raise RefusedError(f"all {len(ids)} own accounts ({ids.start} to {ids.stop - 1}) are in use")
        return proc.Account(number, number)

    def _shared(self, name: str) -> proc.Account:
        found = _lookup(name)
        if found is not None:
            return found
        with _one_creator():
            return self._create(name)

    def _create(self, name: str) -> proc.Account:
        problem = None
        for _ in range(_ATTEMPTS):
            found = _lookup(name)
            if found is not None:
                return found
            problem = _useradd(name)
            if problem is not None:
                SystemClock().wait(self._event, _PAUSE_SECONDS)
        raise TransientError(f"the account {name} could not be created: {problem}")


@contextmanager
def _one_creator() -> Iterator[None]:
    """Keep other reconcilers from creating accounts meanwhile.

    useradd looks for the name before it locks the password file and replaces an entry
    that appeared in between: of two at once, the first one's user id would be gone.
    The lock is on the directory, since the files in it are replaced.
    """
    descriptor = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lookup(name: str) -> proc.Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return proc.Account(entry.pw_uid, entry.pw_gid)


def _useradd(name: str) -> str | None:
    """Create a system account with a passwd entry (initdb refuses to run without one); return what went wrong.

    The caller looks again: somebody else may have created it (exit code 9), or held
    the lock of the password file (1 or 10, useradd(8)).
    """
    place = ["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
    try:
        proc.run(["useradd", "--system", "--user-group", *place, name], timeout=30)
    except CommandError as error:
        return error.stderr.strip()[-300:] or f"useradd ended with exit code {error.returncode}"
    return None


def _unknown(number: int) -> bool:
    """Whether neither a user nor a group of this host has the number."""
    for lookup in (pwd.getpwuid, grp.getgrgid):
        try:
            lookup(number)
        except KeyError:
            continue
        return False
    return True
