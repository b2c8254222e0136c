"""What a benchmark says: figures with their floors and targets, and the table of them.

Used by every topic and by the runner. A figure is a ratio against a floor that was
measured in the same run, or an amount with a limit; absolute times are only there to
be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_KIB = 1024
_COLUMNS = ("figure", "ours", "floor", "ratio", "target", "ok")


class SkippedError(Exception):
    """A topic cannot be measured on this host; the message says why."""


@dataclass(frozen=True, slots=True)
class Options:
    """How thoroughly to measure.

    ``full`` takes the sizes that the targets speak of where the default is smaller,
    ``quick`` takes tiny sizes that only show that the benchmark works.
    """

    full: bool = False
    quick: bool = False
    repetitions: int = 5
    idle_seconds: float = 60
    """How long a clone is left alone for its bytes; below an hour the server is made to hurry."""
    scratch: Path | None = None
    """Directory for images and dumps, kept from run to run; None for the usual one."""
    device: Path | None = None
    """A block device whose content may be lost (topic loopback); None for one in memory."""


@dataclass(frozen=True, slots=True)
class Figure:
    """``ours`` and ``floor`` are in ``unit``: ``s``, ``B``, or what is counted.

    Without a floor the target is a limit in that unit. Without a target the figure is only there to be read.
    """

    name: str
    ours: float
    floor: float | None
    target: float | None
    unit: str = "s"
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """``ours`` against the floor, or against the limit."""
        base = self.floor if self.floor is not None else self.target
        return self.ours / base if base else None

    @property
    def ok(self) -> bool | None:
        """Whether the target is reached; None when there is none."""
        if self.target is None:
            return None
        if self.floor is None:
            return self.ours <= self.target
        return None if self.ratio is None else self.ratio <= self.target


def in_turns(repetitions: int, *works: Callable[[], float]) -> list[float]:
    """Measure several works in turns, so that noise meets all alike; return the median of each."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(repetitions):
        for times, work in zip(taken, works, strict=True):
            times.append(work())
    return [median(times) for times in taken]


def table(figures: Sequence[Figure]) -> str:
    """Return figures as aligned text, with notes below."""
    rows = [_COLUMNS, *map(_row, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    notes = [f"{figure.name}: {figure.note}" for figure in figures if figure.note]
    return "\n".join([*lines, "", *notes] if notes else lines)


def as_json(figure: Figure) -> dict[str, object]:
    """Return a figure for machines."""
    return {
        "name": figure.name,
        "ours": figure.ours,
        "floor": figure.floor,
        "unit": figure.unit,
        "ratio": figure.ratio,
        "target": figure.target,
        "ok": figure.ok,
        "note": figure.note,
    }


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if number == 0 else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _row(figure: Figure) -> tuple[str, ...]:
    target = ""
    if figure.target is not None:
        target = f"≤ {figure.target:g} x" if figure.floor is not None else f"≤ {_amount(figure.target, figure.unit)}"
    return (
        figure.name,
        _amount(figure.ours, figure.unit),
        "" if figure.floor is None else _amount(figure.floor, figure.unit),
        "" if figure.floor is None or figure.ratio is None else f"{figure.ratio:.2f}",
        target,
        {True: "yes", False: "NO", None: ""}[figure.ok],
    )


def _amount(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value:.3f} s"
    if unit != "B":
        return f"{value:g} {unit}"
    for name in ("B", "KiB", "MiB"):
        if abs(value) < _KIB:
            return f"{value:.4g} {name}"
        value /= _KIB
    return f"{value:.4g} GiB"
