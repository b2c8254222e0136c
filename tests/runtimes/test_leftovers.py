from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from reconciler import proc
from reconciler.runtimes import processes
from reconciler.runtimes.leftovers import end_leftover_tools


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
        if owner == "dead":
            assert tool.wait(10) == -signal.SIGKILL
        else:
            assert tool.poll() is None
        tool.kill()


_RECONCILER = """
import sys
from reconciler import proc
proc.run(["sh", "-c", "sleep 300 & echo $!; wait"], stdout=sys.stdout.buffer)
"""


def test_children_of_a_tool_of_a_killed_reconciler_are_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", _RECONCILER], stdout=subprocess.PIPE) as reconciler:
        assert reconciler.stdout is not None
        child = processes.look(int(reconciler.stdout.readline()))
        reconciler.kill()
        reconciler.wait()
    assert child is not None
    with processes.Handle(child) as handle:
        assert not handle.ended_within(0)
        end_leftover_tools()  # or another reconciler of this host has ended it just now
        assert handle.ended_within(10)
