"""Asking many at the same time, and waiting only so long for all of them together.

Called by everything that looks at sources, mirrors and clones. What hangs (a server that
stalls, a network file system that is away) keeps the answers of no other, and costs one
thread, however often it is asked for: nothing is asked again that has no answer yet.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

K = TypeVar("K")
V = TypeVar("V")


class Looks(Generic[K, V]):
    """Questions of one kind, asked again and again by one caller.

    ``takes_late``: an answer that came too late is the one for the next time, for what may
    take longer than is waited; else it is nobody's, and the next time is asked anew.
    """

    def __init__(self, *, takes_late: bool = False) -> None:
        self._takes_late = takes_late
        self._unanswered: dict[K, Future[V]] = {}

    def answers(self, questions: Mapping[K, Callable[[], V]], *, at_once: int, seconds: float) -> dict[K, Future[V]]:
        """Return what is answered within the time, be it by an error."""
        late = {key: answer for key, answer in self._unanswered.items() if answer.done()}
        hanging = {key: answer for key, answer in self._unanswered.items() if key not in late}
        taken = {key: answer for key, answer in late.items() if self._takes_late and key in questions}
        fresh = {key: ask for key, ask in questions.items() if key not in hanging and key not in taken}
        asked = _within(fresh, at_once, seconds) if fresh else {}
        answered = {key: answer for key, answer in asked.items() if answer.done()}
        self._unanswered = hanging | {key: answer for key, answer in asked.items() if key not in answered}
        return taken | {key: answer for key, answer in answered.items() if not answer.cancelled()}


def _within(questions: Mapping[K, Callable[[], V]], at_once: int, seconds: float) -> dict[K, Future[V]]:
    """Ask everything, and return when all is answered or the time is over; what has not begun by then is cancelled."""
    pool = ThreadPoolExecutor(min(at_once, len(questions)), "look")
    try:
        asked = {key: pool.submit(ask) for key, ask in questions.items()}
        wait(asked.values(), timeout=seconds)
        return asked
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
