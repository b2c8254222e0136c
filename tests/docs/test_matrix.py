"""The table of what goes together, in the page that shows it, is made of what the rules and the tests know.

To accept a change: ``RECONCILER_ACCEPT=1 pytest tests/docs/test_matrix.py``, then read the difference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from reconciler import plugins
from reconciler.spec.gaps import STORAGE_GAPS
from tests.matrix.combinations import ENGINES, EVERY, RUNTIMES, STORAGE, Combination

PAGE = Path(__file__).parents[2] / "docs" / "matrix.md"
_TABLE = re.compile(r"(?<=<!-- made by tests/docs/test_matrix.py -->\n).*?(?=<!-- end -->)", re.DOTALL)


def table() -> str:
    notes: list[str] = []

    def cell(one: Combination) -> str:
        if one.gap is None:
            return "yes"
        note = f"{one.gap.meaning}: {one.gap.reason}"
        if note not in notes:
            notes.append(note)
        return f"{one.gap.meaning} ({notes.index(note) + 1})"

    rows = [["engine", "runtime", *STORAGE]]
    rows.append(["---"] * len(rows[0]))
    rows += [
        [f"`{engine}`", f"`{runtime}`", *(cell(Combination(engine, runtime, one)) for one in STORAGE)]
        for engine in ENGINES
        for runtime in RUNTIMES
    ]
    missing = [f"There is no driver `{name}`, {gap.meaning}: {gap.reason}." for name, gap in STORAGE_GAPS.items()]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    numbered = [f"{number}. {note}." for number, note in enumerate(notes, 1)]
    return "\n".join([*lines, "", *numbered, "", *missing, ""])


def test_the_table_is_of_everything_there_is() -> None:
    assert set(RUNTIMES) == set(plugins.names("runtime"))
    assert len(EVERY) == len(ENGINES) * len(RUNTIMES) * len(STORAGE)


def test_the_page_shows_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("RECONCILER_ACCEPT"):
        PAGE.write_text(_TABLE.sub(lambda _: table(), text), encoding="utf-8")
    assert _TABLE.findall(PAGE.read_text(encoding="utf-8")) == [table()]
