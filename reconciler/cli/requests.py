"""Wishes for a running loop: handed over durably, answered by its passes."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Literal

from reconciler.cli.output import note
from reconciler.errors import TimeoutExceededError
from reconciler.state.observed import Request

if TYPE_CHECKING:
    from reconciler.host import Host

Verb = Literal["apply", "refresh", "reset", "undo", "approve"]

_POLL_SECONDS = 0.1


def loop_runs(host: Host) -> bool:
    """Whether another process holds this state's lock."""
    owner = host.state.lock_owner()
    return owner is not None and owner.pid != os.getpid()


def submit(host: Host, *, verb: Verb, target: str = "", plan_hash: str | None = None) -> Request:
    """Leave a wish for the next pass."""
    return host.state.requests.submit(verb, target, now=host.clock.now(), requested_by=_who(), plan_hash=plan_hash)


def hand_over(
    host: Host, *, verb: Verb, target: str = "", plan_hash: str | None = None, timeout: float = 86_400
) -> int:
    """Leave a wish for the running loop and wait for its outcome; return the exit code."""
    request = submit(host, verb=verb, target=target, plan_hash=plan_hash)
    note("handed over to the running loop")
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        outcome = host.state.requests.outcome(request.id)
        if outcome is not None:
            note(outcome.message)
            return 0 if outcome.ok else 1
        if not loop_runs(host):
            note("the loop ended; the wish is kept and served by the next pass")
            return 1
        time.sleep(_POLL_SECONDS)
    raise TimeoutExceededError("the loop did not answer in time; the wish is kept")


def _who() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
