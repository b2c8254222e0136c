from __future__ import annotations

import signal
import subprocess
import sys
from itertools import count
from typing import TYPE_CHECKING

import pytest

from reconciler import proc
from reconciler.runtimes import processes
from reconciler.runtimes.leftovers import end_leftover_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@pytest.mark.parametrize("owner", ["dead", "alive", "elsewhere"])
def test_only_tools_of_a_dead_owner_of_this_host_are_ended(owner: str) -> None:
    namespace, pid, started = proc.tool_owner().split(".")
    marks = {
        "dead": f"{namespace}.{pid}.{int(started) - 1}",
        "alive": proc.tool_owner(),
        "elsewhere": f"1.{pid}.{int(started) - 1}",
    }
    words = ["sh", "-c", "echo; read _"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={proc.TOOL_MARK: marks[owner]}
    ) as tool:
        assert tool.stdout is not None
        tool.stdout.readline()
        end_leftover_tools()
        assert tool.poll() == (-signal.SIGKILL if owner == "dead" else None)
        tool.kill()


def test_a_tool_that_is_being_executed_at_the_first_look_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace, pid, started = proc.tool_owner().split(".")
    mark = {proc.TOOL_MARK: f"{namespace}.{pid}.{int(started) - 1}"}
    with subprocess.Popen(["sh", "-c", "read _"], stdin=subprocess.PIPE, env=mark) as tool:
        monkeypatch.setattr(processes, "environment_unless_executing", none_at_first(tool.pid))
        end_leftover_tools()
        assert tool.poll() == -signal.SIGKILL


def none_at_first(executing: int) -> Callable[[int, str], Mapping[str, str] | None]:
    looks = count()
    real = processes.environment_unless_executing
    return lambda pid, prefix: None if pid == executing and next(looks) == 0 else real(pid, prefix)


_RECONCILER = """
import sys
from reconciler import proc
proc.run(["sh", "-c", "sleep 300 & echo $!; wait"], stdout=sys.stdout.buffer)
"""


def test_children_of_a_tool_of_a_killed_reconciler_are_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", _RECONCILER], stdout=subprocess.PIPE) as reconciler:
        assert reconciler.stdout is not None
        child = processes.look(int(reconciler.stdout.readline()))
        assert child is not None
        with processes.Handle(child) as handle:
            assert not handle.ended_within(0)
            reconciler.kill()
            reconciler.wait()
            end_leftover_tools()  # or another reconciler of this host has ended it just now
            assert handle.ended_within(10)
