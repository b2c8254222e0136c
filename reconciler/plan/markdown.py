"""A plan as Markdown, for comments on pull and merge requests.

Called by ``plan -o markdown``. Pure. What destroys data stands first; the rest is
folded when it is long. GitHub takes 65,536 characters in a comment, so a long plan is
several parts, each whole Markdown under a marker of its own: whoever posts them splits
there. Names and reasons come from specs of a pull request, so none of it is markup.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.plan.actions import BuildSnapshot, CutPoint, Estimate, origin
from reconciler.plan.render import detail, estimate, figures, loss, pending_lines, summary
from reconciler.spec.markdown import cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from reconciler.ids import SnapshotId
    from reconciler.plan.actions import Action, Plan

_FOLDED = 12
"""More rows than this are folded, save those that destroy data."""
_PART_BYTES = 60_000
"""Less than GitHub takes, in bytes and not in characters; who posts a part adds a line or two."""
_MOST_PARTS = 10
_TEXT = 2_000
"""Characters of one reason: a message may quote a document."""


@dataclass(frozen=True, slots=True)
class _Section:
    """Rows under a title: of a table where there is a ``head``. ``foot`` stands below the last one."""

    title: str
    head: str
    rows: tuple[str, ...]
    foldable: bool = True
    foot: str = ""


def plan_markdown(plan: Plan) -> str:
    """Return a plan as Markdown: the counts, what destroys data, what is refused, and everything else."""
    return "".join(_marked(part, number, total) for number, part, total in _numbered(plan_parts(plan)))


def plan_parts(plan: Plan) -> list[str]:
    """Return a plan as parts that each fit into a comment; at most ten, the last says what was left out."""
    pages = _paged(list(_sections(plan)))
    left_out = sum(len(section.rows) for page in pages[_MOST_PARTS:] for section in page)
    pages = pages[:_MOST_PARTS]
    parts = [
        "\n\n".join([_title(plan, number, len(pages)), *_opening(plan, number), *map(_section, page)])
        for number, page in enumerate(pages, 1)
    ]
    if left_out:
        parts[-1] += f"\n\n{left_out} more lines are left out; `reconciler plan` shows them all."
    return [f"{part}\n" for part in parts]


def _numbered(parts: list[str]) -> Iterator[tuple[int, str, int]]:
    return ((number, part, len(parts)) for number, part in enumerate(parts, 1))


def _marked(part: str, number: int, total: int) -> str:
    return f"<!-- reconciler plan {number}/{total} -->\n{part}"


def _title(plan: Plan, number: int, total: int) -> str:
    what = f"`{plan.revision}`" if plan.revision else "no commit"
    return f"### Plan for {what}" + (f" ({number} of {total})" if total > 1 else "")


def _opening(plan: Plan, number: int) -> list[str]:
    if number > 1:
        return []
    if not plan.everything:
        return ["**No changes**"]
    counts = summary(plan)
    blocks = [f"**{counts['create']} to create, {counts['update']} to update, {counts['delete']} to delete**"]
    known = [found for action in plan.actions if (found := plan.estimate(action)) is not None]
    if known:
        total = Estimate(sum(one.size or 0 for one in known) or None, sum(one.seconds or 0 for one in known) or None)
        blocks.append(f"Going by the last time, it takes {figures(total)} of work.")
    return blocks


def _sections(plan: Plan) -> Iterator[_Section]:
    table = _table(plan)
    destructive = [action for action in plan.actions if action.destructive]
    if destructive:
        hash_of = f"Hash of what is destroyed: `{plan.hash}`"
        yield table("Destroys data", destructive, foldable=False, foot=hash_of)
    for refusal in plan.refused:
        yield table(f"Refused: {_short(refusal.message)}", refusal.actions)
    for hold in plan.held:
        yield table(f"Waiting: {_short(hold.message)}", hold.actions)
    others = [action for action in plan.actions if not action.destructive]
    if others:
        yield table("Changes", others)
    if pending := tuple(f"- {_short(line)}" for line in pending_lines(plan)):
        yield _Section("Not now", "", pending)


def _table(plan: Plan) -> Callable[..., _Section]:
    """Return what makes a table of actions; with a column of what they take where that is known of any."""
    known = any(plan.estimate(action) for action in plan.everything)
    made = frozenset(action.snapshot for action in plan.everything if isinstance(action, BuildSnapshot | CutPoint))
    titles = ["action", "object", *(["takes"] if known else []), "why"]
    head = f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}"

    def table(title: str, actions: Iterable[Action], *, foldable: bool = True, foot: str = "") -> _Section:
        rows = tuple(_row(action, plan, made, known=known) for action in actions)
        return _Section(title, head, rows, foldable, foot)

    return table


def _row(action: Action, plan: Plan, made: frozenset[SnapshotId], *, known: bool) -> str:
    what = cell(f"{action.key}{_detail(action, made)}")
    lost = f"<br>**{_short(loss(action))}**" if action.destructive else ""
    after = f"<br>after {_short(', '.join(map(str, action.after)))}" if action.after else ""
    takes = f" {estimate(action, plan)} |" if known else ""
    return f"| {action.verb} | {what} |{takes} {_short(action.reason)}{lost}{after} |"


def _detail(action: Action, made: frozenset[SnapshotId]) -> str:
    """Say what an action is about; the same for two plans of one commit, so without names that hold the time."""
    if isinstance(action, BuildSnapshot | CutPoint):
        return ""
    return " from the new snapshot" if origin(action) in made else detail(action)


def _short(text: str) -> str:
    return cell(text if len(text) <= _TEXT else f"{text[:_TEXT]}…")


def _paged(sections: list[_Section]) -> list[list[_Section]]:
    """Spread sections over parts: each takes as many rows as fit, and a section goes on in the next one."""
    pages: list[list[_Section]] = [[]]
    left = _PART_BYTES
    for section in sections:
        title, rows = section.title, list(section.rows)
        while rows:
            frame = len(section.head.encode()) + len(title.encode()) + len(section.foot) + 200
            fitting = _fitting(rows, left - frame)
            if not fitting and pages[-1]:
                pages.append([])
                left = _PART_BYTES
                continue
            taken, rows = rows[: max(1, fitting)], rows[max(1, fitting) :]
            pages[-1].append(
                _Section(title, section.head, tuple(taken), section.foldable, "" if rows else section.foot)
            )
            left -= frame + sum(len(row.encode()) + 1 for row in taken)
            title = section.title if section.title.endswith("(continued)") else f"{section.title} (continued)"
    return pages


def _fitting(rows: list[str], room: int) -> int:
    for count, row in enumerate(rows):
        room -= len(row.encode()) + 1
        if room < 0:
            return count
    return len(rows)


def _section(section: _Section) -> str:
    text = "\n".join([section.head, *section.rows] if section.head else section.rows)
    if section.foldable and len(section.rows) > _FOLDED:  # GitHub renders Markdown in it after an empty line
        title = f"{len(section.rows)} {'actions' if section.head else 'lines'}"
        text = f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"
    return "\n\n".join(filter(None, [f"#### {section.title}", text, section.foot]))
