"""The lock of a state directory, with real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import BusyError, UnavailableError
from reconciler.status.lock import LockOwner, StateLock, lock_owner

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
HOLDER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from reconciler.status.lock import StateLock
lock = StateLock.take(Path(sys.argv[1]), "reconciler run", now=datetime(2026, 11, 22, 1, 0, tzinfo=UTC))
print("held", flush=True)
sys.stdin.read()
"""


def _holder(directory: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_second_writer_is_told_who_the_first_one_is(tmp_path: Path) -> None:
    holder = _holder(tmp_path)
    try:
        with pytest.raises(BusyError) as caught:
            StateLock.take(tmp_path, "reconciler apply", now=NOW)
    finally:
        _end(holder)
    expected = f"reconciler run (process {holder.pid} on {socket.gethostname()}, since 2026-11-22 01:00:00Z)"
    assert expected in caught.value.message


def test_the_owner_can_be_seen_without_taking_the_lock(tmp_path: Path) -> None:
    holder = _holder(tmp_path)
    try:
        owner = lock_owner(tmp_path)
    finally:
        _end(holder)
    assert owner == LockOwner(
        holder.pid, socket.gethostname(), "reconciler run", datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
    )


def test_the_lock_of_a_killed_owner_is_simply_taken(tmp_path: Path) -> None:
    holder = _holder(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert lock_owner(tmp_path) is None
    with StateLock.take(tmp_path, "reconciler apply", now=NOW) as lock:
        assert lock_owner(tmp_path) == lock.owner
        assert lock.owner.pid == os.getpid()


def test_a_released_lock_has_no_owner(tmp_path: Path) -> None:
    assert lock_owner(tmp_path) is None
    lock = StateLock.take(tmp_path, "reconciler run", now=NOW)
    lock.release()
    lock.release()
    assert lock_owner(tmp_path) is None


def test_within_one_process_a_second_lock_is_refused_too(tmp_path: Path) -> None:
    with StateLock.take(tmp_path, "a", now=NOW), pytest.raises(BusyError, match="a \\(process"):
        StateLock.take(tmp_path, "b", now=NOW)


def test_lookers_never_keep_anybody_from_taking_the_lock(tmp_path: Path) -> None:
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            lock_owner(tmp_path)

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(200):
            StateLock.take(tmp_path, "reconciler apply", now=NOW).release()
    finally:
        done.set()
        for looker in lookers:
            looker.join()


def test_a_child_process_does_not_inherit_the_lock(tmp_path: Path) -> None:
    lock = StateLock.take(tmp_path, "reconciler run", now=NOW)
    child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
    try:
        lock.release()
        StateLock.take(tmp_path, "reconciler apply", now=NOW).release()
    finally:
        child.communicate()


def test_a_damaged_owner_file_does_not_hide_that_the_lock_is_taken(tmp_path: Path) -> None:
    with StateLock.take(tmp_path, "reconciler run", now=NOW):
        (tmp_path / "lock-owner").write_bytes(b"{")
        with pytest.raises(BusyError, match="used by another process"):
            StateLock.take(tmp_path, "reconciler apply", now=NOW)


def test_an_owner_that_cannot_be_written_down_leaves_no_lock_behind(tmp_path: Path) -> None:
    (tmp_path / "lock-owner").mkdir()
    with pytest.raises(UnavailableError):
        StateLock.take(tmp_path, "reconciler run", now=NOW)
    (tmp_path / "lock-owner").rmdir()
    StateLock.take(tmp_path, "reconciler run", now=NOW).release()
