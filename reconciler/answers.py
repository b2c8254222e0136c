"""Requests during passes: which work serves which one, and what is answered in the end.

Used by the loop. A request is hidden from planning while its work goes on, so it is
served once. An approval is taken, durably, before its pass begins anything: it counts
for no other, whatever crashes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from reconciler.plan.render import plan_json
from reconciler.state.conditions import Kind
from reconciler.state.observed import UNPLANNED
from reconciler.status.requests import ObjectResult, Outcome
from reconciler.view import together

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from reconciler.apply.executor import Task
    from reconciler.host import Host
    from reconciler.plan.actions import Plan
    from reconciler.state.conditions import ObjectKey
    from reconciler.state.observed import Observed, Request
    from reconciler.view import View

_ABANDONED = "the reconciler ended before all that was approved was done; look at the plan again and approve anew"


@dataclass(frozen=True, slots=True)
class _Serving:
    """What a request waits for, and for one that is about everything, the plan and what is wrong besides."""

    tasks: tuple[Task, ...]
    plan: Plan | None = None
    unwell: Mapping[ObjectKey, str] = field(default_factory=dict)


class Answers:
    """The requests that passes of one host serve."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._inbox = host.state.requests
        self._serving: dict[str, _Serving] = {}

    def unserved(self, observed: Observed) -> Observed:
        """Hide the requests that are being served."""
        if not self._serving:
            return observed
        return replace(observed, requests=tuple(r for r in observed.requests if r.id not in self._serving))

    def take_approvals(self, plan: Plan, observed: Observed) -> None:
        """Make the approvals that a pass is about to act on count for no other."""
        for request in observed.requests:
            if request.verb == "approve" and request.id not in plan.served and request.id not in plan.declined:
                self._inbox.take(request.id)

    def abandon(self) -> None:
        """Answer approvals that a reconciler took that has ended since."""
        outcome = Outcome(status="failed", message=_ABANDONED, at=self._host.clock.now())
        for request_id in self._inbox.taken() - self._serving.keys():
            self._inbox.answer(request_id, outcome)

    def track(self, view: View, plan: Plan, tasks: tuple[Task, ...], in_flight: tuple[Task, ...]) -> None:
        """Remember which of a pass's tasks serve which request; one that has to wait stays for a later pass."""
        for request in view.observed.requests if view.observed is not None else ():
            if (answer := _planned(plan, request, view.at)) is not None:
                self._inbox.answer(request.id, answer)
            elif request.id in plan.waiting:
                continue
            elif not request.target:
                everything = (*tasks, *(task for task in in_flight if task not in tasks))
                self._serving[request.id] = _Serving(everything, plan, view.unwell)
            elif serving := tuple(task for task in tasks if task.key == request.object):
                self._serving[request.id] = _Serving(serving)
            elif (refusal := _why_not(view, plan, request)) is not None:
                self._inbox.answer(request.id, Outcome(status="refused", message=refusal, at=view.at))

    def refuse(self, view: View) -> None:
        """Answer every request that needs a commit while there is none."""
        why = "; ".join(c.message for c in view.commit.conditions if c.type == "Stalled")
        outcome = Outcome(status="refused", message=f"there is no valid commit yet: {why}", at=view.at)
        for request in self._inbox.pending():
            if request.verb not in UNPLANNED:
                self._inbox.answer(request.id, outcome)

    def finish(self) -> None:
        """Write the outcome of every request whose work is done."""
        for request_id, serving in list(self._serving.items()):
            if all(task.done.is_set() for task in serving.tasks):
                self._inbox.answer(request_id, _outcome(serving, self._host.clock.now()))
                del self._serving[request_id]


def pass_json(
    plan: Plan, failed: Mapping[ObjectKey, str], unwell: Mapping[ObjectKey, str], later: Sequence[Plan] = ()
) -> dict[str, object]:
    """Return what ``apply -o json`` writes: the plan, what failed of it, and what is not as the specs ask for.

    ``later`` are the plans of passes that it made possible; a loop goes on by itself.
    """
    more = {"failed": _rows(failed), "stalled": _rows(unwell), "later": [plan_json(one) for one in later]}
    return plan_json(plan) | more


def _rows(told: Mapping[ObjectKey, str]) -> list[dict[str, str]]:
    return [{"kind": str(key.kind), "name": key.name, "message": message} for key, message in told.items()]


def _outcome(serving: _Serving, now: datetime) -> Outcome:
    """Return the answer to a request whose tasks are done."""
    tasks = serving.tasks
    results = tuple(
        ObjectResult(task.key, action.verb, "succeeded" if task.error is None else "failed", task.complaint)
        for task in tasks
        for action in task.actions
    )
    failed = {task.key: task.complaint for task in tasks if task.error is not None}
    wrong = [f"{', '.join(names)}: {message}" for message, names in together({**serving.unwell, **failed}).items()]
    return Outcome(
        status="failed" if wrong else "succeeded",
        message="; ".join(wrong) or "; ".join([_summary(len(tasks)), *_held(serving.plan)]),
        at=now,
        results=results,
        document=pass_json(serving.plan, failed, serving.unwell) if serving.plan is not None else None,
    )


def _held(plan: Plan | None) -> list[str]:
    """Say what waits, for a maintenance window or as the host is suspended."""
    return list(dict.fromkeys(hold.message for hold in plan.held)) if plan is not None else []


def _summary(changed: int) -> str:
    if not changed:
        return "nothing to do"
    return "1 object changed" if changed == 1 else f"{changed} objects changed"


def _planned(plan: Plan, request: Request, now: datetime) -> Outcome | None:
    """Return the answer that planning itself gave to a request."""
    if request.id in plan.declined:
        return Outcome(status="refused", message=plan.declined[request.id], at=now)
    if request.id in plan.served:
        return Outcome(status="succeeded", message=plan.served[request.id], at=now)
    return None


def _why_not(view: View, plan: Plan, request: Request) -> str | None:
    """Return why a request for an object that is not busy leads to no action; None while it is busy."""
    key = request.object
    if view.observed is not None and key in view.observed.in_flight:
        return None
    if key.kind is Kind.SNAPSHOT and view.observed is not None and key.name in (view.observed.in_use or ()):
        return None
    told = [c.message for c in plan.conditions.get(key, ()) if c.message and (c.type, c.status) != ("Ready", "True")]
    return "; ".join(told) or f"there is nothing to {request.verb} for {key}"
