"""Notations of values: durations, sizes, amounts, times, ranges, paths."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.spec import values
from reconciler.spec.values import Amount, NumberRange, ValueProblem

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("8h", timedelta(hours=8)),
        ("14d", timedelta(days=14)),
    ],
)
def test_durations_have_one_unit(text: str, expected: timedelta) -> None:
    assert values.duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "8", "8 h", "-1h", "0s", "1.5h", "8H", "1w", "999999999d", 8, True, None, "\uff18h"]
)
def test_other_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueProblem):
        values.duration(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("512Mi", 512 * 2**20), ("20Gi", 20 * 2**30), (4096, 4096), ("1Ki", 1024)]
)
def test_sizes_are_binary(text: object, expected: int) -> None:
    assert values.size(text) == expected


@pytest.mark.parametrize("text", ["1GB", "1.5Gi", "0", "-1Gi", "", "Gi", True, "999999999999999Pi"])
def test_other_sizes_are_refused(text: object) -> None:
    with pytest.raises(ValueProblem):
        values.size(text)


def test_amounts_are_a_part_of_something_or_bytes() -> None:
    assert values.amount("10%").of(2000) == 200
    assert values.amount("1Ki").of(2000) == 1024
    assert values.amount("10%") == Amount(percent=10.0)


@pytest.mark.parametrize("text", ["101%", "-1%", "%", "ten", 101])
def test_other_percentages_are_refused(text: object) -> None:
    with pytest.raises(ValueProblem):
        values.percent(text)


def test_times_have_an_offset_and_become_utc() -> None:
    assert values.instant("2026-11-20T13:00:00+01:00").isoformat() == "2026-11-20T12:00:00+00:00"


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+14:00"])
def test_times_that_utc_cannot_say_are_refused(text: str) -> None:
    with pytest.raises(ValueProblem, match="in UTC this time is before the year 1 or after the year 9999"):
        values.instant(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("2026-11-20T12:00:00[Europe/Paris]", "write 2026-11-20T12:00:00+01:00"),
        ("2026-11-20T12:00:00+01:00[Europe/Paris]", "write 2026-11-20T12:00:00+01:00"),
        ("2026-11-20 12:00:00 Europe/Paris", "write 2026-11-20T12:00:00+01:00"),
        (
            "2026-10-25T02:30:00[Europe/Paris]",
            "this was twice: write 2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00",
        ),
        (
            "2026-04-05T01:45:00[Australia/Lord_Howe]",
            "this was twice: write 2026-04-05T01:45:00+11:00 or 2026-04-05T01:45:00+10:30",
        ),
        (
            "2026-03-29T02:30:00[Europe/Paris]",
            "this never was; if they had not, it would have been 2026-03-29T03:30:00+02:00",
        ),
        ("2026-11-20T12:00:00[Mars/Olympus]", "write 2026-11-20T12:00:00Z or 2026-11-20T13:00:00+01:00"),
        ("2026-02-30T12:00:00[Europe/Paris]", "write 2026-11-20T12:00:00Z or 2026-11-20T13:00:00+01:00"),
    ],
)
def test_a_time_with_the_name_of_a_zone_is_refused_with_the_instants_that_it_could_mean(text: str, hint: str) -> None:
    with pytest.raises(values.ValueProblem) as caught:
        values.instant(text)
    assert caught.value.hint is not None
    assert caught.value.hint.rpartition(", so ")[2] == hint


def test_both_rounds_of_the_hour_that_comes_twice_are_instants_of_their_own() -> None:
    first, second = (values.instant(f"2026-10-25T02:30:00+0{hours}:00") for hours in (2, 1))
    assert second - first == timedelta(hours=1)


@pytest.mark.parametrize(
    ("parse", "text"),
    [(values.duration, "8h"), (values.size, "1Gi"), (values.percent, "1%"), (values.ports, "5600-5601")],
)
def test_a_line_break_is_no_part_of_a_value(parse: Callable[[object], object], text: str) -> None:
    parse(text)
    with pytest.raises(ValueProblem):
        parse(f"{text}\n")


@pytest.mark.parametrize(
    "text", ["2026-11-20", "2026-11-20T12:00:00", "2026-02-30T12:00:00Z", "2026-11-20T25:00:00Z", "tomorrow", 5]
)
def test_other_times_are_refused(text: object) -> None:
    with pytest.raises(ValueProblem):
        values.instant(text)


def test_ranges_include_both_ends() -> None:
    assert list(values.ports("5600-5602")) == [5600, 5601, 5602]
    assert 5602 in values.ports("5600-5602")
    assert NumberRange(1, 5).overlaps(NumberRange(5, 9))
    assert not NumberRange(1, 5).overlaps(NumberRange(6, 9))


@pytest.mark.parametrize("text", ["5999-5600", "80-90", "5600", "5600-70000", "a-b", 5600])
def test_other_ranges_are_refused(text: object) -> None:
    with pytest.raises(ValueProblem):
        values.ports(text)


def test_user_ids_are_all_that_linux_knows_but_the_systems() -> None:
    assert values.user_ids("1000-4294967294") == NumberRange(1000, 2**32 - 2)


@pytest.mark.parametrize("text", ["999-2000", "70000-4294967295", "70000"])
def test_other_user_ids_are_refused(text: str) -> None:
    with pytest.raises(ValueProblem) as caught:
        values.user_ids(text)
    assert "70000-79999" in (caught.value.hint or "") or "1000-4294967294" in caught.value.message


@pytest.mark.parametrize(("text", "expected"), [("./a//b.sql", "a/b.sql"), ("/x/./y", "/x/y"), ("//x", "/x")])
def test_paths_are_normalised(text: str, expected: str) -> None:
    assert values.spec_path(text) == expected


@pytest.mark.parametrize(
    "text", ["", "../x", "a/../../x", "/a/../etc", "~/x", "a\\b", "a\0b", ".git/config", "x" * 2000]
)
def test_paths_that_lead_elsewhere_are_refused(text: str) -> None:
    with pytest.raises(ValueProblem):
        values.spec_path(text)


@given(st.text(max_size=40))
def test_no_text_breaks_a_parser(text: str) -> None:
    for parse in (values.duration, values.size, values.percent, values.amount, values.instant, values.ports):
        with contextlib.suppress(ValueProblem):
            parse(text)
