"""Maintenance windows of a host: what of a finished plan has to wait, and until when.

Called by policy, before it judges what is left. Pure. Nothing is refused here: what waits
is planned again in every pass, and goes ahead in the first one within a window. What was
begun is finished, however long that takes.

A window that opened at ``o`` is open at ``t`` if o ≤ t < o + duration, in time that
passes; a schedule is read in the window's own time zone. A deny window beats every allow
window; where there is an allow window, everything outside of all of them is closed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from reconciler.plan.actions import (
    BuildSnapshot,
    CopyPrimary,
    DeleteSnapshot,
    DropRaw,
    DropVolume,
    Hold,
)
from reconciler.plan.schedule import NEVER, ScheduleError, tick_after, ticks_after, zone
from reconciler.state.conditions import Condition, Kind, ObjectKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from reconciler.plan.actions import Action, Plan
    from reconciler.plan.settings import Effect, MaintenanceWindow
    from reconciler.state.observed import Observed, Request

_LOOKS = 400
"""So many openings and ends are looked at; windows that never leave room would be looked at for ever."""

_SHOWN_AS = {Kind.POINT: Kind.CLONE, Kind.MIRROR: Kind.IMAGE}
"""Objects that documents know under another kind."""


REASON = "MaintenanceWindow"
"""Reason of the condition ``Waiting`` of objects with actions that wait."""

SUSPENDED = "HostSuspended"
"""Its reason where the whole host is suspended."""


class _Closed(NamedTuple):
    """Why an action waits, and until when (None: nobody can tell)."""

    message: str
    until: datetime | None = None
    reason: str = REASON


def hold(plan: Plan, observed: Observed, now: datetime, *, windows: tuple[MaintenanceWindow, ...]) -> Plan:
    """Return the plan without the actions that wait for a window; they are in ``held``, and their objects say so.

    What a person asked for by a request of its own goes ahead, but for refreshes that were
    not asked for at once; ``apply --now`` and approvals with it let everything go ahead.
    """
    if not windows or any(r.at_once and r.verb in ("apply", "approve") for r in observed.requests):
        return plan
    at_once = {request.id: request for request in observed.requests if request.verb != "refresh" or request.at_once}
    closed = {
        id(action): why
        for action in plan.actions
        if not _is_asked_for(action, at_once) and (why := _closed(action, now, windows)) is not None
    }
    return _without(plan, closed) if closed else plan


def hold_everything(plan: Plan) -> Plan:
    """Return the plan without any action: the host is suspended."""
    why = _Closed("the host is suspended (suspend: true in its configuration)", reason=SUSPENDED)
    return _without(plan, {id(action): why for action in plan.actions})


@lru_cache(maxsize=256)
def opening(windows: tuple[MaintenanceWindow, ...], at: datetime) -> datetime | None:
    """Return the first moment, not before ``at``, that these windows leave open; None if there is none in sight.

    Raises:
        ScheduleError: a time zone is not known on this host, or a schedule is not one.

    """
    allow = tuple(window for window in windows if window.kind == "allow")
    deny = tuple(window for window in windows if window.kind == "deny")
    for _ in range(_LOOKS):
        ends = [end for window in deny if (end := _open_until(window, at)) is not None]
        if ends:
            at = max(ends)
        elif not allow or any(_open_until(window, at) is not None for window in allow):
            return at
        else:
            at = min(tick_after(window.schedule, window.timezone, at) for window in allow)
            if at == NEVER:
                return None
    return None


def _open_until(window: MaintenanceWindow, at: datetime) -> datetime | None:
    """Return when a window that is open ends, as far as its openings until then tell; None when it is closed."""
    last = None
    for tick in ticks_after(window.schedule, window.timezone, at - window.duration):
        if tick > at:
            break
        last = tick
    return None if last is None else last + window.duration


def may_begin(windows: tuple[MaintenanceWindow, ...], effect: Effect, key: ObjectKey, at: datetime) -> datetime | None:
    """Return when, not before ``at``, work of a kind on an object may be begun; None if that is never in sight.

    Raises:
        ScheduleError: as :func:`opening`.

    """
    concerned = tuple(window for window in windows if effect in window.actions and _matches(window, key))
    return opening(concerned, at) if concerned else at


def _closed(action: Action, now: datetime, windows: tuple[MaintenanceWindow, ...]) -> _Closed | None:
    """Return why an action waits; None if it may go ahead."""
    for effect in _effects(action):
        waits = f"{effect} actions wait for a maintenance window"
        try:
            until = may_begin(windows, effect, action.key, now)
            if until is None:
                return _Closed(f"{waits}; none that opens was found")
            if until != now:
                return _Closed(f"{waits}; the next one opens at {_shown(until, windows)}", until)
        except ScheduleError as error:
            return _Closed(f"{waits}; nobody can tell when: {error}")
    return None


def _shown(until: datetime, windows: tuple[MaintenanceWindow, ...]) -> str:
    """Return a time as the host's windows are written: in the time zone of the first."""
    return until.astimezone(zone(windows[0].timezone)).isoformat(timespec="seconds")


def _effects(action: Action) -> Iterator[Effect]:
    if action.destructive:
        yield "destructive"
    if isinstance(action, BuildSnapshot | CopyPrimary):
        yield "heavy"


def _matches(window: MaintenanceWindow, key: ObjectKey) -> bool:
    name = f"{_SHOWN_AS.get(key.kind, key.kind)}/{key.name}"
    return any(fnmatchcase(name, pattern) for pattern in window.only)


def _is_asked_for(action: Action, at_once: Mapping[str, Request]) -> bool:
    """Whether a person asked for this action now. A build that other causes have as well serves a wish, too."""
    if getattr(action, "request", None) in at_once:
        return True
    return isinstance(action, BuildSnapshot) and any(
        request.verb == "refresh" and request.object == action.key for request in at_once.values()
    )


def _without(plan: Plan, closed: Mapping[int, _Closed]) -> Plan:
    """Take actions out that wait, and with them what builds on them."""
    left: list[Action] = []
    waiting: dict[_Closed | None, list[Action]] = defaultdict(list)
    blocked: set[ObjectKey] = set()
    for action in plan.actions:
        why = closed.get(id(action))
        if why is not None or action.key in blocked or not blocked.isdisjoint(action.after):
            waiting[why].append(action)
            if not isinstance(action, DropVolume | DeleteSnapshot | DropRaw):  # nothing waits for tidying up
                blocked.add(action.key)
        else:
            left.append(action)
    held = tuple(_held(why, tuple(actions)) for why, actions in waiting.items())
    requests = {request for one in held for action in one.actions if (request := getattr(action, "request", None))}
    conditions = {**plan.conditions, **_said(plan, held, busy={action.key for action in left})}
    return replace(
        plan, actions=tuple(left), held=(*plan.held, *held), conditions=conditions, waiting=plan.waiting | requests
    )


def _held(why: _Closed | None, actions: tuple[Action, ...]) -> Hold:
    if why is None:
        return Hold("follows actions that wait for a maintenance window", None, actions, REASON)
    return Hold(why.message, why.until, actions, why.reason)


def _said(plan: Plan, held: Iterable[Hold], *, busy: set[ObjectKey]) -> dict[ObjectKey, tuple[Condition, ...]]:
    """Return the conditions of objects with actions that wait; an object has one ``Waiting``, whatever it waits for."""
    told: dict[ObjectKey, dict[str, None]] = defaultdict(dict)
    reasons: dict[ObjectKey, str] = {}
    for hold_ in held:
        for action in hold_.actions:
            told[action.key][f"{action.verb} ({action.reason}): {hold_.message}"] = None
            reasons.setdefault(action.key, hold_.reason)
    said = {}
    for key, messages in told.items():
        known = plan.conditions.get(key, ())
        before = [condition for condition in known if condition.type == "Waiting"]
        dropped = {"Waiting"} if key in busy else {"Waiting", "Reconciling"}
        message = "; ".join([*(condition.message for condition in before), *messages])
        waits = Condition(type="Waiting", status="True", reason=reasons[key], message=message)
        said[key] = (*(condition for condition in known if condition.type not in dropped), waits)
    return said
