from __future__ import annotations

import threading

import pytest

from reconciler.together import Looks


@pytest.mark.parametrize("takes_late", [True, False])
def test_what_hangs_keeps_no_other_answer_is_not_asked_again_and_may_come_late(*, takes_late: bool) -> None:
    looks: Looks[str, int] = Looks(takes_late=takes_late)
    threads: list[threading.Thread] = []
    end = threading.Event()

    def hangs() -> int:
        threads.append(threading.current_thread())
        number = len(threads)
        end.wait()
        return number

    def told() -> dict[str, int]:
        found = looks.answers({"hangs": hangs, "answers": lambda: -1}, at_once=2, seconds=1)
        return {name: answer.result() for name, answer in found.items()}

    try:
        assert [told(), told()] == [{"answers": -1}] * 2
    finally:
        end.set()
    (thread,) = threads
    thread.join()
    assert [told()["hangs"], told()["hangs"]] == ([1, 2] if takes_late else [2, 3])


def test_what_could_not_begin_in_time_is_asked_the_next_time() -> None:
    looks: Looks[int, str] = Looks()
    end = threading.Event()
    try:
        assert looks.answers({1: lambda: str(end.wait()), 2: lambda: "two"}, at_once=1, seconds=0.1) == {}
        assert looks.answers({2: lambda: "two"}, at_once=1, seconds=60)[2].result() == "two"
    finally:
        end.set()


def test_an_error_is_an_answer() -> None:
    looks: Looks[int, int] = Looks()
    found = looks.answers({number: lambda number=number: 1 // number for number in range(3)}, at_once=1, seconds=60)  # type: ignore[misc] # a lambda with a default
    assert found[2].result() == 0
    with pytest.raises(ZeroDivisionError):
        found[0].result()
    assert looks.answers({}, at_once=1, seconds=60) == {}
