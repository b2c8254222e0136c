"""Ends tools that a dead reconciler left behind.

Called once when a reconciler starts. The kernel already kills a tool together with the
thread that ran it (``proc.run``); this is for what that does not reach: children of
tools, and hosts without setpriv(1). Servers carry no tool mark and are never touched.
"""

from __future__ import annotations

import signal

from reconciler import proc
from reconciler.runtimes import processes


def end_leftover_tools() -> int:
    """Kill every process whose tool mark names an owner that is dead; return how many there were.

    Only marks of this PID namespace count: in another one the numbers mean nothing here.
    """
    namespace = proc.tool_owner().partition(".")[0]
    found = list(processes.live())
    alive = {f"{namespace}.{process.pid}.{process.started}" for process in found}
    ended = 0
    for process in found:
        owner = processes.environment(process.pid, proc.TOOL_MARK).get(proc.TOOL_MARK, "")
        if owner.startswith(f"{namespace}.") and owner not in alive and not _lives(owner):
            with processes.Handle(process) as handle:
                handle.send(signal.SIGKILL)
            ended += 1
    return ended


def _lives(owner: str) -> bool:
    """Look again: the owner may have started after the first look."""
    _namespace, pid, started = owner.split(".")
    found = processes.look(int(pid))
    return found is not None and str(found.started) == started
