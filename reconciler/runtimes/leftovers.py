"""Ends tools that a dead reconciler left behind.

Called once when a reconciler starts. The kernel already kills a tool together with the
thread that ran it (``proc.run``); this is for what that does not reach: children of
tools, and hosts without setpriv(1). Servers carry no tool mark and are never touched.
"""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.runtimes import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.runtimes.processes import Process

_ENDING_SECONDS = 10.0
"""How long is waited for tools that were killed; one that a dead disk holds in the kernel may take for ever."""
_EXECUTING_SECONDS = 0.2
"""How long is waited for processes that are being executed, and so tell nothing of themselves."""
_PAUSE_SECONDS = 0.01


def end_leftover_tools() -> tuple[int, dict[int, str]]:
    """Kill every process whose tool mark names an owner that is dead, and see them end.

    Returns how many have ended, and the numbers of those that have not with their short
    names. Seen to end, since the kernel finishes what a killed tool asked it for: a mount,
    say. Only marks of this PID namespace count: in another one the numbers mean nothing here.
    """
    ended, deadline = 0, time.monotonic() + _ENDING_SECONDS
    while True:
        with ExitStack() as stack:
            tools = []
            for process in _leftover():
                tool = stack.enter_context(processes.Handle(process))
                tool.send(signal.SIGKILL)
                tools.append((process.pid, tool))
            stuck = {pid for pid, tool in tools if not tool.ended_within(max(0.0, deadline - time.monotonic()))}
        ended += len(tools) - len(stuck)
        if not tools or time.monotonic() >= deadline:  # else they may have started something after the look
            return ended, {pid: processes.title(pid) for pid in stuck}


def _leftover() -> Iterator[Process]:
    namespace = proc.tool_owner().partition(".")[0]
    unclear = list(processes.live())
    alive = {f"{namespace}.{process.pid}.{process.started}" for process in unclear}
    deadline = time.monotonic() + _EXECUTING_SECONDS
    while unclear:
        executing = []
        for process in unclear:
            marks = processes.environment_unless_executing(process.pid, proc.TOOL_MARK)
            owner = (marks or {}).get(proc.TOOL_MARK, "")
            if owner.startswith(f"{namespace}.") and owner not in alive and not _lives(owner):
                yield process
            elif marks is None and (again := processes.look(process.pid)) and again.started == process.started:
                executing.append(process)
        unclear = executing if time.monotonic() < deadline else []
        if unclear:
            time.sleep(_PAUSE_SECONDS)


def _lives(owner: str) -> bool:
    """Look again: the owner may have started after the first look."""
    _namespace, pid, started = owner.split(".")
    found = processes.look(int(pid))
    return found is not None and str(found.started) == started
