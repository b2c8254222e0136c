"""Why an original may rightly be in a column after masking, or that it may not.

Used by the proofs. An original that also is a value of a column that no rule masks, or
that a method gave to another row, is no leak; every such case is counted by its reason
and goes into the attestation, so that nothing is left out in silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.masking import preserve
from reconciler.masking.originals import drawn, personal_parts
from reconciler.masking.vocabulary import can_repeat, name_of
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from reconciler.masking.assignment import ColumnMasking
    from reconciler.masking.report import Sample

KEPT = "also a value of a column that a rule keeps"
UNDECIDED = "also a value of a column that no rule names"
CATALOG = "also a word of the database's own catalogs"
DERIVED = "also in a materialised view of such values"
NOT_SELECTED = "also in a row that the rule does not select"
KEPT_PART = "also in a column whose rule keeps parts or moves values"
REAPPEARED = "also what the rule gave to another row"
BESIDE = "also a value that may be there, together with a neighbouring byte"
REASONS = (KEPT, UNDECIDED, CATALOG, DERIVED, NOT_SELECTED, KEPT_PART, REAPPEARED, BESIDE)

_CERTAIN = 12
"""Letters and digits from which on a value that keeps its format does not appear twice by chance: 10^12 at least."""


def reason(text: str, sample: Sample, column: ColumnMasking, *, same: bool, left_out: bool = False) -> str | None:
    """Return why the original ``text`` of ``sample`` may be in a column; None when it is a leak.

    ``column`` is that column's masking. ``same``: it is the column that the sample was
    drawn from. ``left_out``: rows that the column's rule does not select had it, and keep
    it; that a rule has a condition is no reason by itself. Documents (``json``) are judged by their paths
    elsewhere: here a value of theirs that is still in the same column is a leak.
    """
    if left_out:
        return NOT_SELECTED
    method = column.method
    name = name_of(method)
    if not drawn(method):
        return KEPT_PART
    if name in {"text", "json"}:
        replaced = same or (name == "text" and text in personal_parts(method, text))
        return None if replaced else KEPT_PART
    if can_repeat(method):
        long = sum(character.isalnum() for character in text) >= _CERTAIN and text not in preserve.unmoved()
        return None if name == "preserve" and same and long else REAPPEARED
    return REAPPEARED if not same or text in _constant(sample) else None


def _constant(sample: Sample) -> str:
    """Return what a method puts into every value."""
    method = sample.masking.method
    if isinstance(method, spec.Hash):
        return method.hash.prefix
    if isinstance(method, spec.Email):
        return "@" + method.email.domain
    return "@example.com" if name_of(method) == "email" else ""
