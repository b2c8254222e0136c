"""Hands out numbers of a range (ports, user ids) so that callers at the same time get different ones.

Called by the process and memory runtimes. It is no record of what is in use: callers
say that each time, since the truth lies in manifests. A number that was handed out a
moment ago may not be in a manifest yet, so it comes last.
"""

from __future__ import annotations

import threading
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet


class Handout:
    """Numbers of one range; safe to call from several threads."""

    def __init__(self, numbers: range) -> None:
        self.numbers = numbers
        self._lock = threading.Lock()
        self._handed: dict[int, None] = {}
        """What was handed out, the longest ago first."""

    def take(self, taken: AbstractSet[int], usable: Callable[[int], bool]) -> int | None:
        """Return the lowest usable number that is not taken; None when there is none.

        Numbers that were handed out before come after all others, the longest ago first.
        """
        with self._lock:
            fresh = (number for number in self.numbers if number not in self._handed)
            for number in chain(fresh, tuple(self._handed)):
                if number not in taken and usable(number):
                    self._handed.pop(number, None)
                    self._handed[number] = None
                    return number
        return None
