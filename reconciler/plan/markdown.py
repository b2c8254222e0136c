"""A plan as Markdown, for comments on pull and merge requests.

Called by ``plan -o markdown``. Pure. What destroys data stands first; the rest is
folded when it is long. Names and reasons come from specs of a pull request, so none of
it is markup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.plan.render import detail, loss, pending_lines, summary
from reconciler.spec.markdown import cell

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reconciler.plan.actions import Action, Plan

_FOLDED = 12
"""More rows than this are folded, save those that destroy data."""


def plan_markdown(plan: Plan) -> str:
    """Return a plan as Markdown: the counts, what destroys data, what is refused, and everything else."""
    counts = summary(plan)
    head = f"**{counts['create']} to create, {counts['update']} to update, {counts['delete']} to delete**"
    if not plan.everything:
        head = "**No changes**"
    blocks = [f"### Plan for `{plan.revision}`".replace("`None`", "no commit"), head]
    destructive = [action for action in plan.actions if action.destructive]
    if destructive:
        blocks += ["#### Destroys data", _table(destructive), f"Hash of what is destroyed: `{plan.hash}`"]
    for refusal in plan.refused:
        blocks += [f"#### Refused: {cell(refusal.message)}", _table(refusal.actions)]
    for hold in plan.held:
        blocks += [f"#### Waiting: {cell(hold.message)}", _table(hold.actions)]
    others = [action for action in plan.actions if not action.destructive]
    if others:
        blocks += ["#### Changes", _folded(_table(others), f"{len(others)} actions", rows=len(others))]
    if pending := [f"- {cell(line)}" for line in pending_lines(plan)]:
        blocks += ["#### Not now", _folded("\n".join(pending), f"{len(pending)} lines", rows=len(pending))]
    return "\n\n".join(blocks) + "\n"


def _table(actions: Iterable[Action]) -> str:
    return "\n".join(["| action | object | why |", "|---|---|---|", *map(_row, actions)])


def _row(action: Action) -> str:
    what = cell(f"{action.key}{detail(action)}")
    lost = f"<br>**{cell(loss(action))}**" if action.destructive else ""
    after = f"<br>after {cell(', '.join(map(str, action.after)))}" if action.after else ""
    return f"| {action.verb} | {what} | {cell(action.reason)}{lost}{after} |"


def _folded(text: str, title: str, *, rows: int) -> str:
    """Return text folded behind a title when it is long. GitHub renders Markdown in it after an empty line."""
    return text if rows <= _FOLDED else f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"
