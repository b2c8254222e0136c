"""Writes that a killed process left unfinished."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.status.directory import StateDirectory

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def test_unfinished_writes_of_dead_processes_go_with_the_lock_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    state = StateDirectory(tmp_path / "state")
    passwords = state.path / "credentials" / "dev"
    passwords.mkdir()
    answers = state.path / "images"
    answers.mkdir()
    places = (state.path, state.requests.directory, passwords, answers)
    left = [directory / f".tmp-{ended.pid}-00" for directory in places]
    being_written = state.requests.directory / f".tmp-{os.getppid()}-00"
    for path in (*left, being_written):
        path.write_bytes(b"part of a passw")
    with state.lock("test", now=NOW):
        assert [path for path in (*left, being_written) if path.exists()] == [being_written]
