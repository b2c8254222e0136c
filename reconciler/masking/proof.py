"""What the proofs of engines have in common: how many rows may be as before, and what is concluded of all findings.

Called by the engines' ``prove.py``, which count and compare through SQL.

**Tolerances.** ``null``: none. ``hash``, ``email``: values without any letter or digit.
``pattern``, ``preserve``: also half of the rows whose values have fewer than eight, which
chance can repeat; not all of them, which a method that does not know their alphabet would
leave. ``fake``: also one row in five, since a list may give a frequent value to itself.
``fixed``, ``text`` and ``json`` may leave any number of rows as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.errors import MaskingError
from reconciler.masking import leaks, preserve
from reconciler.masking.evidence import Evidence
from reconciler.masking.originals import drawn
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from reconciler.masking.evidence import Accepted, Base, Scan
    from reconciler.masking.findings import Findings
    from reconciler.masking.matcher import Matcher
    from reconciler.masking.report import ColumnCounts, Masked, Sample

    Short = Callable[[Sample, int, frozenset[str]], tuple[int, int]]
    """Counts the values of a column that have at most so many letters and digits, or are among some; and of the
    others those that have fewer than :data:`FEW`."""

FEW = 8
"""Letters and digits below which chance can repeat a value."""
_TINY = 2
"""Letters and digits up to which a value of a format can stay as it is, in however many rows it is."""
_BY_CHANCE = 10
_ONE_IN = 5
_ANY_NUMBER = frozenset({"fixed", "text", "json"})
_EVERY_LETTER = frozenset({"hash", "email"})


def judge_counts(
    masked: Masked, findings: Findings, database: str, short: Short, *, samples: Iterable[Sample], prefix: str = ""
) -> None:
    """Note the rules of a database that left more values as they were than chance explains; ``samples`` are of them.

    Of columns without a sample only those of expressions are judged, which must have changed
    something. ``prefix`` stands before their tables' names in messages.
    """
    ordered = sorted(samples, key=lambda one: drawn(one.masking.method))  # a rule of a policy, rather than a script
    known = {one.cell: one for one in ordered}
    for table in masked.tables:
        for counts in table.columns if table.database == database else ():
            one = known.get((database, table.table, counts.column))
            if one is None:
                if counts.method.partition(" ")[0] == "sql" and 0 < counts.equal >= counts.selected - counts.nulls:
                    findings.fail(f"{prefix}{table.table}.{counts.column}: the rule {counts.method} changed no value")
            elif counts.equal and name_of(one.masking.method) not in _ANY_NUMBER:
                tolerated = _tolerated(one, counts, short)
                if counts.equal > tolerated:
                    findings.fail(
                        f"{one.place}: the rule {counts.method} left {counts.equal} of {counts.selected} values as they"
                        f" were, {tolerated} can be by chance"
                    )


def _tolerated(one: Sample, counts: ColumnCounts, short: Short) -> int:
    """Return how many rows of a column may be as before."""
    name = name_of(one.masking.method)
    if name == "null":
        return 0
    kept = name == "preserve"
    none, few = short(one, _TINY if kept else 0, preserve.unmoved() if kept else frozenset())
    if name in _EVERY_LETTER:
        return none
    return none + few // 2 + max(_BY_CHANCE, counts.selected // _ONE_IN if name == "fake" else 0)


def conclude(
    findings: Findings,
    scanned: Scan,
    accepted: Accepted,
    matcher: Matcher,
    *,
    base: Base | None = None,
    packed: tuple[str, ...] = (),
) -> Evidence:
    """Judge all that was found, in files and through SQL; return what that proves.

    Raises:
        MaskingError: an original is left, a rule changed too little, or the search is blind; all
            places at once, never a value (``MaskingLeak``).

    """
    try:
        leaks.judge(scanned, accepted)
    except MaskingError as error:
        findings.fail(error.message)
    findings.judge()
    return Evidence(
        accepted=accepted,
        excluded={**findings.excluded, **_not_searched(scanned)},
        exposed=findings.exposed,
        scan=scanned,
        matcher=matcher,
        base=base,
        packed=packed,
    )


def _not_searched(scanned: Scan) -> dict[str, int]:
    short = sum(column.drawn - column.searched for column in scanned.columns)
    return {"too short or too plain to be looked for in files, compared through SQL": short} if short else {}
