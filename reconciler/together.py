"""Asking many at the same time, and waiting only so long for all of them together.

Called by everything that looks at servers. One that hangs costs a thread until its own
driver gives up, and keeps the answers of no other.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

K = TypeVar("K")
V = TypeVar("V")


def answers(
    questions: Mapping[K, Callable[[], V]], *, at_once: int, seconds: float | None = None
) -> dict[K, Future[V]]:
    """Return what was answered within the time, be it by an error; without ``seconds`` that is everything."""
    if not questions:
        return {}
    pool = ThreadPoolExecutor(min(at_once, len(questions)), "look")
    try:
        asked = {key: pool.submit(question) for key, question in questions.items()}
        done, _late = wait(asked.values(), timeout=seconds)
        return {key: answer for key, answer in asked.items() if answer in done}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
