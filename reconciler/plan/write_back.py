"""Which documents go from the repository because all clones that they ask for expired.

Called by :mod:`reconciler.plan.diff` after the clones. Pure. Only where the host writes
back; a document that is suspended or protected, or of which anything lives, stays.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from reconciler.plan.actions import ExpireClone, RemoveDocuments
from reconciler.plan.clones import tombstone_of
from reconciler.plan.draft import held_back
from reconciler.plan.schedule import expiry_text
from reconciler.state.conditions import REPOSITORY, Condition, Kind, ObjectKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reconciler.ids import CloneName
    from reconciler.plan.draft import Draft
    from reconciler.plan.index import Index
    from reconciler.state.desired import DesiredClone


def plan_write_back(index: Index, draft: Draft) -> None:
    """Plan one commit that removes the documents of expired clones, of those that expire in this plan as well."""
    ending = {a.clone for steps in draft.actions.values() for a in steps if isinstance(a, ExpireClone)}
    if not index.settings.write_back or index.away or index.unread or not (ending or index.observed.tombstones):
        return
    clones: dict[str, list[DesiredClone]] = defaultdict(list)
    for clone in index.desired.clones.values():
        clones[document_name(clone)].append(clone)
    over = tuple(sorted(name for name, known in clones.items() if _is_over(index, known, ending)))
    if not over or REPOSITORY in index.in_flight:
        return
    after = tuple(ObjectKey(Kind.CLONE, c.name) for name in over for c in clones[name] if c.name in ending)
    reason = f"their time is over: {', '.join(over)}"
    held = held_back(index, REPOSITORY, "")
    if held is None:
        draft.add(RemoveDocuments(documents=over, reason=reason, after=after))
    else:
        message = f"the documents of expired clones are still there ({', '.join(over)}): {held.message}"
        left = Condition(type="NotWrittenBack", status="True", reason=held.reason, message=message)
        draft.say(REPOSITORY, held, left)


def document_name(clone: DesiredClone) -> str:
    """Return the name of the document that asks for a clone."""
    return clone.name if clone.number is None else clone.name.removesuffix(f"-{clone.number}")


def _is_over(index: Index, clones: Iterable[DesiredClone], ending: set[CloneName]) -> bool:
    """Whether a clone of a document expired, and no other lives or is still to be made."""
    ends = [_has_expired(index, clone) or clone.name in ending for clone in clones]
    rest = [clone for clone, ended in zip(clones, ends, strict=True) if not ended]
    return any(ends) and all(_is_never_made(index, clone) for clone in rest)


def _has_expired(index: Index, clone: DesiredClone) -> bool:
    tombstone = tombstone_of(index, clone)
    return tombstone is not None and tombstone.expiry == expiry_text(clone) and _is_gone(index, clone)


def _is_never_made(index: Index, clone: DesiredClone) -> bool:
    return clone.expires is not None and clone.expires <= index.now and _is_gone(index, clone)


def _is_gone(index: Index, clone: DesiredClone) -> bool:
    key = ObjectKey(Kind.CLONE, clone.name)
    if clone.protected or clone.name in index.clones or key in index.hidden:
        return False
    return index.left_alone(key) is None
