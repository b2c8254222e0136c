"""The order of a plan's actions: deterministic, and what is waited for comes first.

Called by :mod:`reconciler.plan.diff`. Pure. Actions of one object stay together, in the
order in which they were planned.
"""

from __future__ import annotations

import heapq
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.plan.actions import RenameClone, RenameImage
from reconciler.state.conditions import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.plan.actions import Action
    from reconciler.state.conditions import ObjectKey

_ORDER = (Kind.SNAPSHOT, Kind.MIRROR, Kind.IMAGE, Kind.POINT, Kind.TEMPLATE, Kind.CLONE, Kind.POOL, Kind.REPOSITORY)
_KINDS = {kind: rank for rank, kind in enumerate(_ORDER)}


def ordered(actions: Mapping[ObjectKey, list[Action]]) -> tuple[Action, ...]:
    """Return all actions, objects in the order of their dependencies, snapshots and images before clones, then by name.

    ``after`` is narrowed to objects that have actions in the plan. Planning makes no
    cycles; should there be one all the same, the first object of it by name goes first,
    and what it waited for is left out of its ``after``.
    """
    waits = {
        key: {other for action in steps for other in action.after if other in actions and other != key}
        for key, steps in actions.items()
    }
    followers: dict[ObjectKey, list[ObjectKey]] = {}
    for key, others in waits.items():
        for other in others:
            followers.setdefault(other, []).append(key)
    ready = [_rank(key) for key, others in waits.items() if not others]
    heapq.heapify(ready)
    done: dict[ObjectKey, None] = {}
    while len(done) < len(actions):
        if not ready:
            heapq.heappush(ready, min(_rank(key) for key in actions if key not in done))
        key = heapq.heappop(ready)[2]
        if key in done:
            continue
        done[key] = None
        for follower in followers.get(key, ()):
            waits[follower].discard(key)
            if not waits[follower] and follower not in done:
                heapq.heappush(ready, _rank(follower))
    position = {key: number for number, key in enumerate(done)}
    return tuple(_narrowed(action, position) for key in done for action in actions[key])


def _narrowed(action: Action, position: Mapping[ObjectKey, int]) -> Action:
    """Keep of ``after`` what comes earlier in this plan."""
    if not action.after:
        return action
    own = position[action.key]
    after = tuple(sorted({key for key in action.after if position.get(key, own) < own}))
    return action if after == action.after else replace(action, after=after)


def _rank(key: ObjectKey) -> tuple[int, str, ObjectKey]:
    return (_KINDS[key.kind], key.name, key)


def wait_for_renames(actions: Mapping[ObjectKey, list[Action]], owners: Mapping[str, ObjectKey]) -> None:
    """Let objects whose manifests the rename of another one rewrites wait for that; ``owners`` maps volumes to them."""
    renames = [a for steps in actions.values() for a in steps if isinstance(a, RenameImage | RenameClone)]
    for rename in renames:
        for volume in rename.volumes:
            key = owners.get(volume)
            if key is not None and key in actions and key != rename.key:
                actions[key][:] = [replace(step, after=(*step.after, rename.key)) for step in actions[key]]
