"""Lines of text for a terminal or a pipe: styles, tables that fit, wrapped paragraphs.

Used by everything that renders text. Of rich only colours and the widths of characters
are used: its tables take a millisecond a row, and there can be ten thousand rows.
"""

from __future__ import annotations

import textwrap
from functools import cache
from typing import NamedTuple

_GAP = 2
_NARROWEST = 8


class Cell(NamedTuple):
    """A piece of one line; ``style`` is one of rich's (``bold red``), or empty."""

    text: str
    style: str = ""


class Sheet:
    """A table without lines. ``optional`` columns are left out, the first named first, where the width is short."""

    def __init__(self, columns: tuple[str, ...], *, optional: tuple[str, ...] = ()) -> None:
        self.columns = columns
        self.optional = optional
        self.rows: list[tuple[Cell, ...]] = []

    def layout(self, width: int | None) -> list[tuple[int, int]]:
        """Return the columns that are shown, each with its width in cells.

        A long name in the first column may take half of the width before it costs a
        column, and what is left over; it is cut when nothing more can be left out.
        """
        lengths = [
            max(length(name), *(length(row[number].text) for row in self.rows))
            for number, name in enumerate(self.columns)
        ]
        kept = list(range(len(lengths)))
        if width is None:
            return [(number, lengths[number]) for number in kept]
        needed = [min(lengths[0], max(_NARROWEST, width // 2)), *lengths[1:]]
        for name in self.optional:
            if sum(needed[number] + _GAP for number in kept) - _GAP > width:
                kept.remove(self.columns.index(name))
        others = sum(lengths[number] + _GAP for number in kept[1:])
        first = min(lengths[0], max(_NARROWEST, width - others))
        return [(0, first), *((number, lengths[number]) for number in kept[1:])]


class Page:
    """Collects lines. ``width`` None is a pipe: nothing is wrapped or cut."""

    def __init__(self, *, colour: bool, width: int | None) -> None:
        self.lines: list[str] = []
        self._colour = colour
        self._width = width

    def write(self, text: str, style: str = "", *, indent: str = "") -> None:
        """Add a paragraph, wrapped to the width."""
        for line in self._wrapped(text, indent):
            self.lines.append(self._styled(line, style))

    def table(self, sheet: Sheet) -> None:
        """Add a table with its head."""
        layout = sheet.layout(self._width)
        for row in (tuple(Cell(name, "bold") for name in sheet.columns), *sheet.rows):
            cells = [Cell(_fit(row[number].text, width), row[number].style) for number, width in layout]
            cells[-1] = Cell(cells[-1].text.rstrip(), cells[-1].style)
            self.lines.append((" " * _GAP).join(self._styled(*cell) for cell in cells).rstrip())

    def text(self) -> str:
        """Return the lines, each with its end."""
        return "".join(f"{line}\n" for line in self.lines)

    def _wrapped(self, text: str, indent: str) -> list[str]:
        if self._width is None:
            return [indent + text]
        return textwrap.wrap(text, self._width, initial_indent=indent, subsequent_indent=indent) or [""]

    def _styled(self, text: str, style: str) -> str:
        return _painted(style, text) if self._colour and style and text.strip() else text


def length(text: str) -> int:
    """Return the width of a text in cells of a terminal: wide characters take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - commands that render nothing must start fast

    return cell_len(text)


def _fit(text: str, width: int) -> str:
    """Return a text with exactly ``width`` cells, cut with an ellipsis or filled with blanks."""
    missing = width - length(text)
    if missing >= 0:
        return text + " " * missing
    from rich.cells import set_cell_size  # noqa: PLC0415 - see above

    return set_cell_size(text, width - 1) + "…"


def _painted(style: str, text: str) -> str:
    before, after = _marks(style)
    return f"{before}{text}{after}"


@cache
def _marks(style: str) -> tuple[str, str]:
    from rich.color import ColorSystem  # noqa: PLC0415 - see above
    from rich.style import Style  # noqa: PLC0415 - see above

    before, _, after = Style.parse(style).render("x", color_system=ColorSystem.STANDARD).partition("x")
    return before, after
