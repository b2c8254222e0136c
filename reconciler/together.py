"""Asking many at the same time, and waiting only so long for all of them together.

Called by everything that looks at sources, mirrors and clones. What hangs (a server that
stalls, a network file system that is away) keeps the answers of no other, and costs one
thread, however often it is asked for: nothing is asked again that has no answer yet. Its
thread does not hold up the end of the process.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

K = TypeVar("K")
V = TypeVar("V")


class Looks(Generic[K, V]):
    """Questions of one kind, asked again and again by one thread.

    A key holds all that an answer depends on: another wish is another question, and waits
    for no answer to the last one. ``takes_late``: where the answer comes too late again,
    the one to the last time it was asked is taken, for what may take longer than is waited.
    """

    def __init__(self, *, takes_late: bool = False) -> None:
        self._takes_late = takes_late
        self._unanswered: dict[K, Future[V]] = {}

    def answers(self, questions: Mapping[K, Callable[[], V]], *, at_once: int, seconds: float) -> dict[K, Future[V]]:
        """Return what is answered within the time, be it by an error."""
        late = {key: answer for key, answer in self._unanswered.items() if answer.done()}
        hanging = {key: answer for key, answer in self._unanswered.items() if key not in late}
        asked = _within({key: ask for key, ask in questions.items() if key not in hanging}, at_once, seconds)
        answered = {key: answer for key, answer in asked.items() if answer.done()}
        self._unanswered = hanging | {key: answer for key, answer in asked.items() if key not in answered}
        fresh = {key: answer for key, answer in answered.items() if not answer.cancelled()}
        return {key: answer for key, answer in late.items() if self._takes_late and key in questions} | fresh


def _within(questions: Mapping[K, Callable[[], V]], at_once: int, seconds: float) -> dict[K, Future[V]]:
    """Ask everything, and return when all is answered or the time is over; what has not begun by then is cancelled.

    No ThreadPoolExecutor: a process waits for its threads when it ends.
    """
    asked: dict[K, Future[V]] = {key: Future() for key in questions}
    left: queue.SimpleQueue[K] = queue.SimpleQueue()
    for key in questions:
        left.put(key)

    def work() -> None:
        with suppress(queue.Empty):
            while True:
                key = left.get_nowait()
                if asked[key].set_running_or_notify_cancel():
                    _answer(asked[key], questions[key])

    for _ in range(min(at_once, len(questions))):
        threading.Thread(target=work, name="look", daemon=True).start()
    _done, late = wait(asked.values(), timeout=seconds)
    for answer in late:
        answer.cancel()
    return asked


def _answer(answer: Future[V], ask: Callable[[], V]) -> None:
    try:
        answer.set_result(ask())
    except BaseException as error:  # noqa: BLE001 - it is the answer; who asked raises it
        answer.set_exception(error)
