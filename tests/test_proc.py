from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler import proc
from reconciler.errors import (
    CancelledError,
    CommandError,
    PermanentError,
    TimeoutExceededError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_pidfd_open = os.pidfd_open  # some tests take it away
NOBODY = proc.Account(65534, 65534)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: runs programs under another account")


@pytest.fixture(params=["setpriv", "no setpriv"])
def tools(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Also be on a host without util-linux's setpriv."""
    with tempfile.TemporaryDirectory() as place:
        if request.param == "no setpriv":
            Path(place).chmod(0o755)
            for name in ("sh", "sleep", "id", "env", "true"):
                (Path(place) / name).symlink_to(shutil.which(name) or name)
            monkeypatch.setenv("PATH", place)
        proc._setpriv.cache_clear()
        yield
        proc._setpriv.cache_clear()


@pytest.fixture(params=["pidfd", "no pidfd"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also look like a kernel before 5.3."""
    if request.param == "no pidfd":
        monkeypatch.delattr(os, "pidfd_open")


def ended(pid: int) -> bool:
    """Wait until a process, which need not be our child, has ended."""
    try:
        pidfd = _pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return proc.ended_within(pidfd, 10)
    finally:
        os.close(pidfd)


@pytest.mark.usefixtures("tools", "kernel")
def test_output_and_errors_of_a_command_are_returned() -> None:
    done = proc.run(["sh", "-c", "echo out; echo err >&2"])
    assert (done.text, done.stderr) == ("out\n", "err\n")


def test_undecodable_output_is_kept_and_readable_as_text() -> None:
    done = proc.run(["printf", r"\377"])
    assert (done.stdout, done.text) == (b"\xff", "\ufffd")


@pytest.mark.usefixtures("tools", "kernel")
def test_a_failure_carries_command_exit_code_and_errors() -> None:
    with pytest.raises(CommandError, match="exit code 3: broken") as caught:
        proc.run(["sh", "-c", "echo broken >&2; exit 3"])
    assert (caught.value.argv[0], caught.value.returncode) == ("sh", 3)


def test_a_failure_message_carries_no_arguments() -> None:
    with pytest.raises(CommandError) as caught:
        proc.run(["sh", "-c", "exit 1", "s3cret"])
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["no-such-program", "/no/such/program"])
@pytest.mark.usefixtures("tools")
def test_a_missing_program_is_named(name: str) -> None:
    with pytest.raises(UnsupportedError, match=name):
        proc.run([name])


def test_a_file_that_must_not_be_executed_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("#!/bin/sh\n")
    with pytest.raises(UnsupportedError, match="text"):
        proc.run([tmp_path / "text"])


def test_a_program_below_the_working_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho $PWD\n")
    (tmp_path / "tool").chmod(0o755)
    assert proc.run(["./tool"], cwd=tmp_path).text == f"{tmp_path}\n"


@pytest.mark.usefixtures("tools")
def test_a_missing_working_directory_is_not_taken_for_a_missing_program(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="gone") as caught:
        proc.run(["true"], cwd=tmp_path / "gone")
    assert not isinstance(caught.value, UnsupportedError)


def test_input_may_be_bytes_or_an_open_file(tmp_path: Path) -> None:
    assert proc.run(["cat"], stdin=b"from memory").stdout == b"from memory"
    (tmp_path / "input").write_bytes(b"from a file")
    with (tmp_path / "input").open("rb") as file:
        assert proc.run(["cat"], stdin=file).stdout == b"from a file"


def test_input_given_as_bytes_never_lies_on_a_disk() -> None:
    assert proc.run(["readlink", "/proc/self/fd/0"], stdin=b"secret").text.startswith("/memfd:")


def test_without_input_a_command_reads_nothing() -> None:
    assert proc.run(["cat"]).stdout == b""


def test_output_may_go_to_an_open_file(tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as file:
        assert proc.run(["echo", "much"], stdout=file).stdout == b""
    assert (tmp_path / "output").read_text() == "much\n"


def test_output_that_does_not_fit_in_memory_is_refused() -> None:
    with pytest.raises(PermanentError, match="head wrote 67108865 bytes"):
        proc.run(["head", "-c", str(64 * 1024 * 1024 + 1), "/dev/zero"])


def test_of_many_errors_the_end_is_kept() -> None:
    with pytest.raises(CommandError) as caught:
        proc.run(["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1"])
    assert len(caught.value.stderr) == 1024 * 1024
    assert caught.value.stderr.endswith("the end\n")


@pytest.mark.usefixtures("tools", "kernel")
def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    with (
        pytest.raises(TimeoutExceededError, match=r"sh took longer than 1 s"),
        (tmp_path / "child").open("wb") as told,
    ):
        proc.run(["sh", "-c", "sleep 300 & echo $!; wait"], timeout=1, stdout=told)
    assert ended(int((tmp_path / "child").read_text()))


@pytest.mark.usefixtures("tools", "kernel")
def test_a_cancelled_command_is_ended_with_its_children(tmp_path: Path) -> None:
    token = proc.CancelToken()
    os.mkfifo(tmp_path / "child")

    def cancel_once_it_runs() -> None:
        children.append(int((tmp_path / "child").read_text()))
        token.cancel()

    children: list[int] = []
    watcher = threading.Thread(target=cancel_once_it_runs)
    watcher.start()
    with pytest.raises(CancelledError):
        proc.run(["sh", "-c", f"sleep 300 & echo $! > {tmp_path / 'child'}; wait"], cancel=token, timeout=60)
    watcher.join()
    assert ended(children[0])


def test_a_command_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "_TERMINATE_GRACE_SECONDS", 0.1)
    with pytest.raises(TimeoutExceededError):
        proc.run(["sh", "-c", "trap '' TERM; while true; do sleep 1; done"], timeout=0.2)


@pytest.mark.usefixtures("kernel")
def test_what_a_command_left_running_ends_with_it() -> None:
    done = proc.run(["sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $!"])
    assert ended(int(done.text))


_RECONCILER = """
import sys
from reconciler import proc
account = proc.Account(65534, 65534) if sys.argv[1] == "nobody" else None
proc.run(["sh", "-c", "echo $$; exec sleep 300"], stdout=sys.stdout.buffer, account=account)
"""


@pytest.mark.parametrize("who", ["ourselves", pytest.param("nobody", marks=[pytest.mark.root, needs_root])])
def test_a_tool_ends_with_a_killed_reconciler(who: str) -> None:
    if proc._setpriv() is None:
        pytest.skip("needs setpriv of util-linux; without it a later reconciler ends such tools")
    with subprocess.Popen([sys.executable, "-c", _RECONCILER, who], stdout=subprocess.PIPE) as reconciler:
        assert reconciler.stdout is not None
        tool = int(reconciler.stdout.readline())
        reconciler.kill()
    assert ended(tool)


def test_a_tool_carries_the_mark_of_its_owner() -> None:
    assert proc.run(["printenv", proc.TOOL_MARK]).text == f"{proc.tool_owner()}\n"


def test_a_command_sees_only_a_small_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_TOKEN", "s3cret")
    assert "s3cret" not in proc.run(["env"]).text
    assert proc.environment({"PGDATABASE": "shop"})["PGDATABASE"] == "shop"


def test_descriptors_of_the_reconciler_are_not_inherited() -> None:
    with tempfile.TemporaryFile() as file:
        os.set_inheritable(file.fileno(), True)
        inode = str(os.fstat(file.fileno()).st_ino)
        assert inode not in proc.run(["sh", "-c", "stat -L -c %i /proc/self/fd/* 2>/dev/null; true"]).text.split()


@pytest.mark.root
@needs_root
@pytest.mark.usefixtures("tools")
def test_another_account_gets_its_ids_no_groups_and_nothing_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    told = proc.run(["sh", "-c", "id -u; id -g; id -G; pwd; env"], account=NOBODY).text
    assert told.startswith("65534\n65534\n65534\n/\n")
    assert "HOME=" not in told
    assert "SSH_AUTH_SOCK" not in told


def test_only_root_can_use_other_accounts() -> None:
    before = os.geteuid()
    proc.run(["true"])  # what it imports may be out of reach for another account
    if before == 0:
        os.seteuid(NOBODY.uid)
    try:
        with pytest.raises(UnsupportedError, match="cannot run a program as user id 12345"):
            proc.run(["true"], account=proc.Account(12345, 12345))
    finally:
        os.seteuid(before)


def spawned(tmp_path: Path, script: str) -> subprocess.Popen[bytes]:
    return proc.spawn(["sh", "-c", script], log=tmp_path / "log", env=proc.environment(), cwd=tmp_path)


def test_a_spawned_server_has_its_own_session_and_a_private_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    (tmp_path / "log").chmod(0o600)
    server = spawned(tmp_path, "echo out; echo err >&2; touch made; ps -o sid= -p $$; env")
    server.wait()
    told = (tmp_path / "log").read_text()
    assert told.startswith("before\nout\nerr\n")
    assert int(told.splitlines()[3]) == server.pid
    assert proc.TOOL_MARK not in told
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o600


def test_a_spawned_server_outlives_the_thread_and_the_process_that_started_it(tmp_path: Path) -> None:
    program = f"""
import os, signal, threading
from pathlib import Path
from reconciler import proc
place = Path({str(tmp_path)!r})
def start():
    server = proc.spawn(["sleep", "300"], log=place / "log", env=proc.environment(), cwd=place)
    print(server.pid, flush=True)
thread = threading.Thread(target=start)
thread.start()
thread.join()
os.killpg(0, signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True, check=False)
    assert done.returncode == -signal.SIGKILL
    server = int(done.stdout)
    pidfd = os.pidfd_open(server)
    assert not proc.ended_within(pidfd, 0)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert proc.ended_within(pidfd, 10)
    os.close(pidfd)


def test_a_spawned_server_that_ended_is_reaped_even_if_nobody_kept_it(tmp_path: Path) -> None:
    pid = spawned(tmp_path, "exit 0").pid
    assert ended(pid)
    proc.reap()
    assert not Path(f"/proc/{pid}").exists()


def test_a_log_that_is_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        spawned(tmp_path, "true")
    assert not (tmp_path / "elsewhere").exists()


def test_a_cancelled_token_stops_the_work_at_its_next_look() -> None:
    token = proc.CancelToken()
    token.check()
    token.cancel()
    assert token.cancelled
    with pytest.raises(CancelledError):
        token.check()
