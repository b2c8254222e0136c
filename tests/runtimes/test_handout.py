from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from reconciler.runtimes.handout import Handout


def anything(_number: int) -> bool:
    return True


def test_the_lowest_number_comes_first() -> None:
    assert Handout(range(5, 9)).take(frozenset(), anything) == 5


def test_taken_and_unusable_numbers_are_passed_over() -> None:
    assert Handout(range(5, 9)).take({5, 6}, lambda number: number != 7) == 8


def test_a_number_that_was_just_handed_out_comes_last_the_oldest_first() -> None:
    numbers = Handout(range(5, 8))
    assert [numbers.take(frozenset(), anything) for _ in range(5)] == [5, 6, 7, 5, 6]


def test_a_large_range_costs_no_more_than_what_is_taken_of_it() -> None:
    assert Handout(range(1000, 2**32 - 1)).take({1000}, anything) == 1001


def test_an_exhausted_range_gives_none() -> None:
    assert Handout(range(5, 6)).take({5}, anything) is None


def test_callers_at_the_same_time_get_different_numbers() -> None:
    numbers = Handout(range(100))
    with ThreadPoolExecutor(8) as pool:
        handed = list(pool.map(lambda _: numbers.take(frozenset(), anything), range(100)))
    assert sorted(number for number in handed if number is not None) == list(range(100))
