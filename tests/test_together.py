from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from reconciler.together import Looks


@pytest.mark.parametrize("takes_late", [True, False])
def test_what_hangs_keeps_no_other_answer_is_not_asked_again_and_may_come_late(*, takes_late: bool) -> None:
    looks: Looks[str, int] = Looks(takes_late=takes_late)
    threads: list[threading.Thread] = []
    ends = [threading.Event() for _ in range(3)]

    def hangs() -> int:
        threads.append(threading.current_thread())
        number = len(threads)
        ends[number - 1].wait()
        return number

    def told() -> dict[str, int]:
        found = looks.answers({"hangs": hangs, "answers": lambda: 0}, at_once=2, seconds=1)
        return {name: answer.result() for name, answer in found.items()}

    try:
        assert [told(), told()] == [{"answers": 0}] * 2
        ends[0].set()
        threads[0].join()
        assert told() == ({"answers": 0, "hangs": 1} if takes_late else {"answers": 0})
        ends[1].set()
        threads[1].join()
        ends[2].set()
        assert told() == {"answers": 0, "hangs": 3}, "what is true now"
    finally:
        for end in ends:
            end.set()


def test_what_hangs_does_not_hold_up_the_end_of_the_process() -> None:
    program = (
        "import threading; from reconciler.together import Looks\n"
        "assert Looks().answers({1: threading.Event().wait}, at_once=1, seconds=0.1) == {}"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


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
