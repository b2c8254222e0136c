"""Sizes, ages and foreign text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.status import words

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (40 * 1024, "40.0 KiB"),
        (396 * 1024, "396 KiB"),
        (1503238553, "1.4 GiB"),
        (2**61, "2048 PiB"),
    ],
)
def test_sizes_are_in_the_unit_that_fits(count: int | None, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3 * 3600 + 59, "3 h ago"),
        (-90, "in 1 min"),
        (86_400 * 400, "400 d ago"),
    ],
)
def test_ages_are_in_their_largest_unit(seconds: int, text: str) -> None:
    assert words.age(NOW - timedelta(seconds=seconds), NOW) == text


@given(st.text())
def test_foreign_text_is_one_line_that_moves_no_cursor(text: str) -> None:
    visible = words.plain(text)
    assert len(visible.splitlines()) <= 1
    assert all(character.isprintable() or character.isspace() for character in visible)


def test_marks_that_reorder_or_hide_text_are_shown_as_what_they_are() -> None:
    assert words.plain("a\u202eb\u200bc\x1b[2Jd\ne") == "a\ufffdb\ufffdc\ufffd[2Jd e"
