"""Wishes for a running loop: handed over durably, answered by its passes."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reconciler.cli.output import Output, note, write_json
from reconciler.errors import TimeoutExceededError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.host import Host
    from reconciler.state.observed import Request, Verb
    from reconciler.status.requests import Outcome

_POLL_SECONDS = 0.1
_FOR_NOW: frozenset[Verb] = frozenset({"approve", "classify"})


def loop_runs(host: Host) -> bool:
    """Whether another process holds this state's lock."""
    owner = host.state.lock_owner()
    return owner is not None and owner.pid != os.getpid()


def submit(
    host: Host,
    *,
    verb: Verb,
    target: str = "",
    plan_hash: str | None = None,
    note: str = "",
    snapshot: str = "",
    at_once: bool = False,
) -> Request:
    """Leave a wish for the next pass."""
    return host.state.requests.submit(
        verb,
        target,
        now=host.clock.now(),
        requested_by=_who(),
        plan_hash=plan_hash,
        note=note,
        snapshot=snapshot,
        at_once=at_once,
    )


def waits_for(host: Host, request: Request) -> str | None:
    """Return what a wish that a pass has looked at waits for; None when that is nothing but its work."""
    known = host.store.conditions().get(request.object, ())
    return next((condition.message for condition in known if condition.type == "Waiting"), None)


def hand_over(
    host: Host,
    *,
    verb: Verb,
    target: str = "",
    plan_hash: str | None = None,
    remark: str = "",
    snapshot: str = "",
    at_once: bool = False,
    output: Output = Output.TEXT,
    timeout: float = 86_400,
) -> int:
    """Leave a wish for the running loop and wait for its outcome; return the exit code."""
    outcome = answered(
        host,
        verb=verb,
        target=target,
        plan_hash=plan_hash,
        remark=remark,
        snapshot=snapshot,
        at_once=at_once,
        timeout=timeout,
    )
    if not outcome.ok:
        for finding in host.store.revisions().diagnostics:
            note(finding)
    note(outcome.message)
    if output is Output.JSON and outcome.document is not None:
        write_json(outcome.document)
    return 0 if outcome.ok else 1


def answered(
    host: Host,
    *,
    verb: Verb,
    target: str = "",
    plan_hash: str | None = None,
    remark: str = "",
    snapshot: str = "",
    at_once: bool = False,
    timeout: float = 86_400,
) -> Outcome:
    """Leave a wish for the running loop and return its outcome.

    Raises:
        UnavailableError: the loop ended without one.
        TimeoutExceededError: there is none after ``timeout`` seconds.

    """
    request = submit(
        host, verb=verb, target=target, plan_hash=plan_hash, note=remark, snapshot=snapshot, at_once=at_once
    )
    note("handed over to the running loop")
    with withdrawn(host, request):
        return _await(host, request, timeout)


@contextmanager
def withdrawn(host: Host, request: Request) -> Iterator[None]:
    """Take a wish back that is meant for now, when the block ends and nobody took it.

    An approval is for no later plan; and nobody else would look at what is found out about data.
    """
    try:
        yield
    finally:
        if request.verb in _FOR_NOW or (request.verb == "apply" and request.at_once):
            host.state.requests.withdraw(request.id)


def _await(host: Host, request: Request, timeout: float) -> Outcome:
    kept = "the wish is withdrawn" if request.verb in _FOR_NOW else "the wish is kept and served by the next pass"
    deadline = time.monotonic() + timeout
    told: str | None = None
    while time.monotonic() < deadline:
        running = loop_runs(host)  # asked first: a loop that ended may have answered before
        outcome = host.state.requests.outcome(request.id)
        if outcome is not None:
            return outcome
        if not running:
            raise UnavailableError(f"the loop ended without an answer; {kept}")
        waits = waits_for(host, request) if request.verb == "refresh" and not request.at_once else None
        if waits is not None and waits != told:
            note(f"{waits}; waiting for it: who stops waiting takes nothing back, and refresh --now does not wait")
            told = waits
        time.sleep(_POLL_SECONDS)
    raise TimeoutExceededError(f"the loop did not answer in time; {kept}")


def _who() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
