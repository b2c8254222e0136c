from __future__ import annotations

import threading

import pytest

from reconciler.together import answers


def test_who_hangs_keeps_the_answers_of_no_other() -> None:
    end = threading.Event()
    try:
        found = answers({"hangs": end.wait, "answers": lambda: True}, at_once=2, seconds=1)
        assert {name: answer.result() for name, answer in found.items()} == {"answers": True}
    finally:
        end.set()


def test_without_a_time_everything_is_waited_for_and_an_error_is_an_answer() -> None:
    found = answers({number: lambda number=number: 1 // number for number in range(3)}, at_once=1)  # type: ignore[misc] # a lambda with a default
    assert found[2].result() == 0
    with pytest.raises(ZeroDivisionError):
        found[0].result()
    assert answers({}, at_once=1) == {}
