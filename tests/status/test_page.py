"""Lines and tables for terminals and pipes."""

from __future__ import annotations

import pytest

from reconciler.status.page import Cell, Page, Sheet, length


def _sheet(*rows: tuple[str, ...]) -> Sheet:
    sheet = Sheet(("NAME", "STATE", "SIZE"), optional=("SIZE",))
    sheet.rows += [tuple(map(Cell, row)) for row in rows]
    return sheet


def _lines(sheet: Sheet, width: int | None) -> list[str]:
    page = Page(colour=False, width=width)
    page.table(sheet)
    return page.lines


def test_columns_stand_below_each_other_also_with_wide_characters() -> None:
    assert _lines(_sheet(("店", "running", "1 B"), ("shop", "stopped", "2 B")), None) == [
        "NAME  STATE    SIZE",
        "店    running  1 B",
        "shop  stopped  2 B",
    ]


def test_an_optional_column_goes_before_a_value_is_cut() -> None:
    assert _lines(_sheet(("shop-dev", "running", "1 B")), 20) == ["NAME      STATE", "shop-dev  running"]


@pytest.mark.parametrize("name", ["x" * 40, "店" * 20])
def test_the_first_column_is_cut_when_nothing_else_can_go(name: str) -> None:
    lines = _lines(_sheet((name, "running", "1 B")), 20)
    assert "…" in lines[1]
    assert max(map(length, lines)) <= 20


def test_a_paragraph_is_wrapped_on_a_terminal_only() -> None:
    for width, count in ((20, 4), (None, 1)):
        page = Page(colour=False, width=width)
        page.write("word " * 9 + "word", indent="  ")
        assert len(page.lines) == count


def test_colours_are_closed_on_every_line() -> None:
    page = Page(colour=True, width=12)
    page.write("one two three four", "bold red")
    assert len(page.lines) == 2
    assert all(line.startswith("\x1b[1;31m") and line.endswith("\x1b[0m") for line in page.lines)
