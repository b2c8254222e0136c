"""A plan as people and programs read it.

Called by the command line, the loop's events and by policy for figures. Pure: returns
text and values, prints nothing. The JSON form is a contract: fields are added, never
renamed or dropped.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from reconciler.plan.actions import (
    BuildSnapshot,
    CopyPrimary,
    CreateClone,
    DeleteClone,
    DeleteSnapshot,
    DropRaw,
    DropTemplate,
    DropVolume,
    ExpireClone,
    FollowPrimary,
    KeepRaw,
    LeavePrimary,
    LoadTemplate,
    RemoveDocuments,
    ReplaceClone,
    ReplayArchive,
    RestartClone,
    RestoreClone,
    UpdateClone,
)
from reconciler.state.conditions import Kind, is_pending
from reconciler.status import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from reconciler.plan.actions import Action, Estimate, Plan

_SYMBOLS = {"create": "+", "update": "~", "delete": "-", "replace": "±"}
_COLOURS = {"create": 32, "update": 33, "delete": 31, "replace": 35}
"""SGR codes of terminals (ECMA-48)."""
_BOLD, _RED = 1, 31


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as the value of ``plan -o json``."""
    return {
        "revision": plan.revision,
        "hash": plan.hash,
        "actions": [_action_json(action, plan) for action in plan.actions],
        "refused": [
            {"rule": r.rule, "message": r.message, "actions": [_action_json(action, plan) for action in r.actions]}
            for r in plan.refused
        ],
        "summary": summary(plan),
        "waiting": [
            {
                "message": hold.message,
                "until": hold.until.isoformat() if hold.until is not None else None,
                "actions": [_action_json(action, plan) for action in hold.actions],
            }
            for hold in plan.held
        ],
    }


def _action_json(action: Action, plan: Plan) -> dict[str, Any]:
    """Return one action: what, on which object, why, what it destroys, and what it takes as far as that is known."""
    row: dict[str, Any] = {
        "action": action.verb,
        "kind": str(action.key.kind),
        "name": action.key.name,
        "reason": action.reason,
        "destructive": action.destructive,
        "volumes": list(action.volumes),
    }
    if isinstance(action, BuildSnapshot | CreateClone | ReplaceClone | DeleteSnapshot):
        row["snapshot"] = action.snapshot
    if isinstance(action, UpdateClone | RestartClone):
        row["changes"] = list(action.changes)
    if isinstance(action, ReplaceClone):
        row["cause"] = action.cause
    if isinstance(action, DeleteClone | ExpireClone):
        row["used"] = action.used
    if isinstance(action, RemoveDocuments):
        row["documents"] = list(action.documents)
    if action.after:
        row["after"] = [{"kind": str(key.kind), "name": key.name} for key in action.after]
    if (known := plan.estimate(action)) is not None:
        told = {"bytes": known.size, "seconds": known.seconds and round(known.seconds)}
        row["estimate"] = {name: value for name, value in told.items() if value is not None}
    return row


def summary(plan: Plan) -> dict[str, int]:
    """Count a plan's actions; one that replaces counts as create and as delete."""
    counts = Counter(_effect(action) for action in plan.actions)
    return {
        "create": counts["create"] + counts["replace"],
        "update": counts["update"],
        "delete": counts["delete"] + counts["replace"],
    }


def _effect(action: Action) -> str:
    match action:
        case BuildSnapshot() | CreateClone() | CopyPrimary() | KeepRaw() | LoadTemplate():
            return "create"
        case ReplaceClone() | RestoreClone():
            return "replace"
        case (
            DeleteSnapshot()
            | DeleteClone()
            | ExpireClone()
            | DropVolume()
            | LeavePrimary()
            | DropRaw()
            | DropTemplate()
        ):
            return "delete"
        case _:
            return "update"


def plan_text(plan: Plan, *, colour: bool = False) -> str:
    """Return a plan for people, images first; with ``colour`` as a terminal shows it."""
    pending = list(pending_lines(plan))
    if not plan.everything:
        if not pending:
            return "No changes: everything is as the specs ask for."
        return "\n".join(["No changes now. Not as the specs ask for:", *pending])
    lines: list[str] = []
    for title, kinds in (
        ("Images", (Kind.SNAPSHOT, Kind.MIRROR, Kind.IMAGE)),
        ("Clones", (Kind.POINT, Kind.TEMPLATE, Kind.CLONE)),
        ("Specs", (Kind.REPOSITORY,)),
    ):
        taken = [action for action in plan.actions if action.key.kind in kinds]
        rows = [line for action in taken for line in _action_lines(action, plan, colour)]
        lines += [_style(title, _BOLD, colour), *rows, ""] if rows else []
    if plan.refused:
        lines += [_style("Refused", _BOLD, colour), *_refused_lines(plan, colour), ""]
    if plan.held:
        lines += [_style("Waiting", _BOLD, colour), *_held_lines(plan, colour), ""]
    if pending:
        lines += [_style("Not now", _BOLD, colour), *pending, ""]
    counts = summary(plan)
    lines.append(f"Plan: {counts['create']} to create, {counts['update']} to update, {counts['delete']} to delete.")
    if any(action.destructive for action in plan.actions):
        lines.append(f"Lines marked with ! destroy data. Hash of what they destroy: {plan.hash}")
    return "\n".join(lines)


def _action_lines(action: Action, plan: Plan, colour: bool) -> Iterator[str]:  # noqa: FBT001 - private, one meaning
    effect = _effect(action)
    mark = "!" if action.destructive else " "
    head = f"{_SYMBOLS[effect]}{mark}{action.verb} {action.key.name}"
    yield f"  {_style(head, _COLOURS[effect], colour)}{_plain(detail(action))}"
    yield f"      {_plain(action.reason)}"
    if action.destructive:
        yield f"      {_plain(loss(action))}"
    if known := estimate(action, plan):
        yield f"      takes {known}"
    if action.after:
        yield f"      after {', '.join(map(str, action.after))}"


def estimate(action: Action, plan: Plan) -> str:
    """Say what an action will take, as far as that is known: ``about 1.4 GiB and 3 min``; empty where it is not."""
    known = plan.estimate(action)
    return "" if known is None else figures(known)


def figures(known: Estimate) -> str:
    """Say bytes and time as people read them."""
    told = [words.size(known.size)] if known.size is not None else []
    told += [words.span(known.seconds)] if known.seconds is not None else []
    return f"about {' and '.join(told)}" if told else ""


def detail(action: Action) -> str:
    """Say what an action is about besides its object, with a blank in front; empty when there is nothing."""
    match action:
        case BuildSnapshot() | DeleteSnapshot():
            return f" {action.snapshot}"
        case CreateClone() | ReplaceClone():
            return f" from {action.snapshot}"
        case UpdateClone() | RestartClone():
            return f" ({', '.join(action.changes)})"
        case RemoveDocuments():
            return f": {', '.join(f'Clone/{name}' for name in action.documents)}"
        case DropVolume() | CopyPrimary() | FollowPrimary() | ReplayArchive() | LeavePrimary() | KeepRaw() | DropRaw():
            return f" {action.volume}"
        case _:
            return ""


def loss(action: Action) -> str:
    """Say what is lost, and whether it can be brought back."""
    volumes = ", ".join(action.volumes)
    match action:
        case ReplaceClone() | RestoreClone():
            return f"what was written to {volumes} is replaced; undo brings it back until the grace time ends"
        case DeleteSnapshot():
            return f"the snapshot {volumes} is deleted; no clone uses it"
        case DeleteClone() | ExpireClone() if action.used:
            return f"what was written to {volumes} is deleted for good; in use now: {action.used}"
        case _:
            return f"what was written to {volumes} is deleted for good"


def _refused_lines(plan: Plan, colour: bool) -> Iterator[str]:  # noqa: FBT001 - private, one meaning
    for refusal in plan.refused:
        yield f"  {_style('x ' + refusal.rule, _RED, colour)}: {_plain(refusal.message)}"
        yield from (f"      {line}" for line in _unique(f"{a.verb} {a.key}" for a in refusal.actions))


def _held_lines(plan: Plan, colour: bool) -> Iterator[str]:  # noqa: FBT001 - private, one meaning
    for hold in plan.held:
        yield f"  {_plain(hold.message)}"
        yield from (f"    {line}" for action in hold.actions for line in _action_lines(action, plan, colour))


def pending_lines(plan: Plan) -> Iterator[str]:
    """Yield the objects that are not as the specs ask for and that nothing in the plan is about."""
    shown = {action.key for action in plan.everything}
    for key, conditions in sorted(plan.conditions.items()):
        told = [c.message or c.reason for c in conditions if key not in shown and is_pending(c)]
        if told:
            first, *more = "; ".join(dict.fromkeys(told)).splitlines()
            yield f"  {key}: {_plain(first)}"
            yield from (f"    {_plain(line)}" for line in more)


def _unique(lines: Iterable[str]) -> Iterator[str]:
    yield from dict.fromkeys(lines)


def _style(text: str, code: int, colour: bool) -> str:  # noqa: FBT001 - private, one meaning
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


def _plain(text: str) -> str:
    """Return text that cannot steer a terminal: messages quote what specs say."""
    return "".join(char if char.isprintable() else " " for char in text)
