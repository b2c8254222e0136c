from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.runtimes import processes
from reconciler.runtimes.processes import Handle, Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@contextmanager
def running(program: str | Path = "sh", env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a shell that says that it runs, so that nobody looks while it is still being executed, and waits."""
    words = [program, "-c", "echo; read _"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=env
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with running(env={"REC_A": "1", "OTHER": "2"}) as process:
        yield process


def seen(process: subprocess.Popen[bytes]) -> Process:
    found = processes.look(process.pid)
    assert found is not None
    return found


def test_a_live_process_is_seen_with_parent_and_session(sleeper: subprocess.Popen[bytes]) -> None:
    process = seen(sleeper)
    assert (process.pid, process.parent, process.leads_session) == (sleeper.pid, os.getpid(), True)
    assert process in set(processes.live())


def test_a_zombie_has_ended(sleeper: subprocess.Popen[bytes]) -> None:
    process = seen(sleeper)
    sleeper.kill()
    with Handle(process) as handle:
        assert handle.ended_within(10)
    assert Path(f"/proc/{sleeper.pid}").exists()
    assert processes.look(sleeper.pid) is None


def test_a_name_full_of_parentheses_and_spaces_does_not_shift_the_fields(tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 (b"
    program.symlink_to("/bin/sh")
    with running(program) as process:
        assert seen(process).parent == os.getpid()
        assert processes.title(process.pid) == "a) Z 1 (b"


def test_only_variables_with_the_prefix_are_returned(sleeper: subprocess.Popen[bytes]) -> None:
    assert processes.environment(sleeper.pid, "REC_") == {"REC_A": "1"}


def test_an_environment_larger_than_a_page_is_read_whole() -> None:
    with running(env={"A": "x" * 100_000, "REC_LAST": "seen"}) as process:
        assert processes.environment(process.pid, "REC_") == {"REC_LAST": "seen"}


def test_a_process_that_is_gone_has_no_properties(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    sleeper.kill()
    sleeper.wait()
    assert processes.look(sleeper.pid) is None
    assert processes.environment(sleeper.pid, "REC_") == {}
    assert processes.directory(sleeper.pid) == ""
    assert not processes.writes_errors_to(sleeper.pid, tmp_path.stat())
    assert processes.title(sleeper.pid) == "unknown"


def test_the_file_behind_standard_error_is_recognised_under_any_path(tmp_path: Path) -> None:
    log, link = tmp_path / "log", tmp_path / "link"
    with log.open("wb") as out, subprocess.Popen(["sleep", "300"], stderr=out) as process:
        link.hardlink_to(log)
        assert processes.writes_errors_to(process.pid, link.stat())
        assert not processes.writes_errors_to(process.pid, tmp_path.stat())
        process.kill()


@pytest.fixture(params=["pidfd", "no pidfd"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also look like a kernel before 5.3."""
    if request.param == "no pidfd":
        monkeypatch.delattr(os, "pidfd_open")


@pytest.mark.usefixtures("kernel")
def test_a_signal_reaches_its_process(sleeper: subprocess.Popen[bytes]) -> None:
    with Handle(seen(sleeper)) as handle:
        assert not handle.ended_within(0)
        handle.send(signal.SIGTERM)
        assert handle.ended_within(10)
        handle.send(signal.SIGTERM)
    assert sleeper.wait() == -signal.SIGTERM


@pytest.mark.usefixtures("kernel")
def test_a_signal_never_reaches_another_process_that_got_the_number(sleeper: subprocess.Popen[bytes]) -> None:
    former = replace(seen(sleeper), started=seen(sleeper).started - 1)
    with Handle(former) as handle:
        handle.send(signal.SIGKILL)
        assert handle.ended_within(0)
    assert sleeper.poll() is None


@pytest.mark.usefixtures("kernel")
def test_a_process_that_ended_before_it_was_bound_has_ended(sleeper: subprocess.Popen[bytes]) -> None:
    former = seen(sleeper)
    sleeper.kill()
    sleeper.wait()
    with Handle(former) as handle:
        handle.send(signal.SIGKILL)
        assert handle.ended_within(0)


def test_the_start_time_agrees_with_the_wall_clock() -> None:
    program = "import time; print(time.time(), flush=True); time.sleep(300)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = float(process.stdout.readline())
        assert abs(processes.boot_time() + seen(process).started_seconds - said) < 30
        process.kill()
