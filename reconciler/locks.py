"""Locks between processes, which the kernel drops with their owner.

Used for state directories and pools. Tells nothing about the owner; that is the
caller's.
"""

from __future__ import annotations

import fcntl
import threading

from reconciler.clock import SystemClock

_PATIENCE_SECONDS = 2.0
_PAUSE_SECONDS = 0.02


def lock_exclusively(descriptor: int) -> None:
    """Lock an open file (flock(2)) for as long as it stays open, or fail after a moment.

    The moment is for a dead owner's child: between fork and exec it has the owner's
    open files, and with them the lock, although the owner was killed.

    Raises:
        BlockingIOError: somebody else holds it.

    """
    clock, never = SystemClock(), threading.Event()
    deadline = clock.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock.monotonic() > deadline:
                raise
            clock.wait(never, _PAUSE_SECONDS)
        else:
            return
