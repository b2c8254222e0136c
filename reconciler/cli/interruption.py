"""Being asked to end, by Ctrl-C or another signal, and knowing it afterwards.

Used by ``main`` and the demo. ``KeyboardInterrupt`` alone is not enough: pydantic's and
git's own code turn one that comes while they run into an error of theirs, and the
program would then end with a traceback instead of what an interruption ends with.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import FrameType

_EXIT_CODE = 128 + signal.SIGINT
_asked = threading.Event()


def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Handle a signal: note that the program is to end, and unwind it."""
    _asked.set()
    raise KeyboardInterrupt


def interrupted() -> bool:
    """Whether the program was asked to end."""
    return _asked.is_set()


def note_interrupts() -> None:
    """Note Ctrl-C; a program that was started with SIGINT ignored (in the background) goes on ignoring it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)


def end() -> NoReturn:
    """End at once: a git command that was interrupted leaves a timer behind, and Python would wait for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_EXIT_CODE)
