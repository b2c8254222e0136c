"""The demo tells its story to the end and leaves nothing behind, also when it is interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support import PROGRAM, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.postgres


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary directory of the test's own, which every account may use."""
    directory = Path(tempfile.mkdtemp(prefix="demo-", dir="/tmp"))
    directory.chmod(0o1777)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def test_demo_tells_the_whole_story_and_removes_everything(temporary: Path) -> None:
    result = run_demo(temporary)
    assert result.returncode == 0, result.stdout + result.stderr
    for told in (
        "built and sealed, two clones delivered",
        "shop-dev has 0 orders, shop-test has 20000 orders",
        '= help: did you mean "owner"?',
        "shop-qa answers again",
        "shop-dev has 20000 orders again",
        "0 volumes and servers left",
        "Everything was removed.",
    ):
        assert told in result.stdout
    assert remains(temporary) == []


@pytest.mark.root
def test_demo_of_an_ordinary_user_tells_the_same(temporary: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user; as an ordinary user the test above is the same")
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    reachable = subprocess.run([*become, PROGRAM, "--version"], check=False, capture_output=True, cwd="/")
    if reachable.returncode != 0:
        pytest.skip(f"another user cannot run {PROGRAM}: {reachable.stderr.decode()[-200:].strip()}")
    result = run_demo(temporary, *become)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Everything was removed." in result.stdout
    assert remains(temporary) == []


def test_interrupted_demo_leaves_nothing_behind(temporary: Path) -> None:
    # A test run in the background of a script has SIGINT ignored, and so would its children.
    command = ["env", "--default-signal=INT", str(PROGRAM), "demo"]
    process = subprocess.Popen(
        command, env=environment(temporary), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        until(lambda: list(temporary.glob("reconciler-demo-*/state/run")), what="the first build")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, output
    assert remains(temporary) == []


def run_demo(temporary: Path, *become: str) -> subprocess.CompletedProcess[str]:
    argv = [*become, str(PROGRAM), "demo"]
    return subprocess.run(
        argv, env=environment(temporary), cwd="/", capture_output=True, text=True, timeout=240, check=False
    )


def environment(temporary: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(temporary), "HOME": str(temporary), "COLUMNS": "60"}


def remains(temporary: Path) -> list[str]:
    """Return what the demo left: files, mounts, processes."""
    found = [str(path) for path in temporary.iterdir()]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(temporary) in line]
    for process in psutil.process_iter():
        try:
            if str(temporary) in " ".join(process.cmdline()):
                found.append(f"{process.pid} {process.cmdline()}")
        except psutil.Error:
            continue
    return found
