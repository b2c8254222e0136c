"""Hands out numbers of a range (ports, user ids) so that callers at the same time get different ones.

Called by the process and memory runtimes. It is no record of what is in use: callers
say that each time, since the truth lies in manifests. A number that was handed out a
moment ago may not be in a manifest yet, so it comes last.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet


class Handout:
    """Numbers of one range; safe to call from several threads."""

    def __init__(self, numbers: range) -> None:
        self.numbers = numbers
        self._lock = threading.Lock()
        self._turn = 0
        self._handed: dict[int, int] = {}

    def take(self, taken: AbstractSet[int], usable: Callable[[int], bool]) -> int | None:
        """Return the lowest usable number that is not taken; None when there is none.

        Numbers that were handed out before come after all others, the longest ago first.
        """
        with self._lock:
            for number in sorted(self.numbers, key=lambda candidate: self._handed.get(candidate, 0)):
                if number not in taken and usable(number):
                    self._turn += 1
                    self._handed[number] = self._turn
                    return number
        return None
