"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from reconciler import durable

if TYPE_CHECKING:
    from pathlib import Path


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write(path, b"old and long")
    durable.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_threads_that_write_the_same_file_each_write_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = [bytes([letter]) * 100_000 for letter in b"abcd"]
    together = threading.Barrier(len(texts))

    def write(text: bytes) -> None:
        together.wait()
        for _ in range(20):
            durable.write(path, text, settle=False)

    with ThreadPoolExecutor(len(texts)) as pool:
        for done in [pool.submit(write, text) for text in texts]:
            done.result()
    assert path.read_bytes() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_umask_does_not_decide_who_can_read_a_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        durable.write(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inside").touch()
    with pytest.raises(OSError, match=os.strerror(errno.EISDIR)):
        durable.write(tmp_path / "file", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_whoever_comes_second_gets_what_the_first_one_made(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert durable.create_once(path, b"first") == b"first"
    assert durable.create_once(path, b"second") == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_writers_that_died_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in (f".tmp-{ended.pid}-00", f".tmp-{os.getppid()}-00", "file"):
        (tmp_path / name).touch()
    durable.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f".tmp-{os.getppid()}-00", "file"}
