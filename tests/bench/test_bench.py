"""The benchmarks run with tiny sizes; how fast anything is stays out of the tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.__main__ import main
from bench.figures import Figure, table
from reconciler.runtimes.processes import environment, live
from tests.conftest import require_root
from tests.support import until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory of the test's own that every account may pass through, on a disk: pools are some GiB."""
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


def on_btrfs(topic: str, scratch: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Run a topic that mounts a pool; return its figures."""
    require_root("btrfs", "mkfs.btrfs")
    main([topic, "--quick", "--json", "--scratch", str(scratch)])
    found = json.loads(capsys.readouterr().out)
    for why in found["skipped"].values():
        pytest.skip(why)
    figures: list[dict[str, Any]] = found["figures"]
    return figures


@pytest.mark.parametrize(("topic", "figures"), [("commands", 2), ("specs", 2), ("pull_requests", 2), ("loop", 1)])
def test_a_topic_prints_its_figures(topic: str, figures: int, capsys: pytest.CaptureFixture[str]) -> None:
    main([topic, "--quick", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["skipped"] == {}
    assert len(found["figures"]) == figures
    assert all(figure["ours"] > 0 for figure in found["figures"])


@pytest.mark.long
@pytest.mark.root
@pytest.mark.parametrize(("topic", "figures"), [("reaction", 3), ("resting", 2), ("loopback", 1)])
def test_a_topic_about_the_loop_at_work_prints_its_figures(
    topic: str, figures: int, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = on_btrfs(topic, scratch, capsys)
    assert len(measured) == figures
    assert all(figure["ours"] > 0 for figure in measured)


@pytest.mark.long
@pytest.mark.root
def test_a_benchmark_of_many_servers_that_is_terminated_leaves_nothing_behind(scratch: Path) -> None:
    require_root("btrfs", "mkfs.btrfs")
    argv = [sys.executable, "-m", "bench", "resting", "--quick", "--scratch", str(scratch)]
    running = subprocess.Popen(argv, start_new_session=True)
    try:
        until(lambda: servers_below(scratch), what="the first server")
        os.killpg(running.pid, signal.SIGTERM)  # as timeout(1) does
        assert running.wait(60) == 128 + signal.SIGTERM
        assert servers_below(scratch) == []
        assert list(scratch.iterdir()) == []
    finally:
        running.kill()
        running.wait()
        for pid in servers_below(scratch):
            os.kill(pid, signal.SIGKILL)


def servers_below(directory: Path) -> list[int]:
    """Return the processes that serve what lies below a directory."""
    found = ((process.pid, environment(process.pid, "RECONCILER_")) for process in live())
    return [pid for pid, marks in found if marks.get("RECONCILER_DIRECTORY", "").startswith(f"{directory}/")]


@pytest.mark.long
@pytest.mark.postgres
def test_every_masking_method_is_measured_on_every_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["masking", "--quick", "--json"])
    figures = json.loads(capsys.readouterr().out)["figures"]
    versions = {figure["name"].partition(":")[0] for figure in figures}
    assert len(figures) == 11 * len(versions)
    assert all(figure["ours"] >= 0 for figure in figures)
    assert any(figure["ratio"] for figure in figures)


@pytest.mark.postgres
def test_a_dump_is_restored_by_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    main(["restore", "--quick", "--json"])
    (figure,) = json.loads(capsys.readouterr().out)["figures"]
    assert figure["ours"] > 0
    assert figure["floor"] > 0


@pytest.mark.long
@pytest.mark.postgres
def test_the_proof_of_masking_is_measured_against_the_build(capsys: pytest.CaptureFixture[str]) -> None:
    main(["leaks", "--quick", "--json"])
    proof, memory, wide, search = json.loads(capsys.readouterr().out)["figures"]
    assert proof["ratio"] > 0
    assert memory["ours"] > 0
    assert wide["ours"] > 0
    assert search["floor"] > 0


@pytest.mark.long
def test_masking_of_mariadb_is_measured_against_a_rebuild_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    main(["mariadb-masking", "--quick", "--json"])
    found = json.loads(capsys.readouterr().out)
    for why in found["skipped"].values():
        pytest.skip(why)
    rebuilt, preserved, moved = found["figures"]
    assert all(figure["ours"] > 0 for figure in (rebuilt, preserved, moved))
    assert rebuilt["floor"] > 0


@pytest.mark.long
@pytest.mark.root
@pytest.mark.postgres
@pytest.mark.parametrize(
    ("topic", "figures"),
    [("clones", 4), ("mariadb", 1), ("moments", 2), ("swap", 1), ("bytes", 3), ("memory", 1)],
)
def test_clones_are_measured_against_what_is_made_by_hand(
    topic: str, figures: int, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = on_btrfs(topic, scratch, capsys)
    assert len(measured) == figures
    assert all(figure["ours"] > 0 for figure in measured)


@pytest.mark.long
@pytest.mark.root
@pytest.mark.postgres
def test_clones_in_containers_are_measured_against_what_is_made_by_hand(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = on_btrfs("docker", scratch, capsys)
    for one, many, memory in zip(*[iter(measured)] * 3, strict=True):
        assert one["ours"] > 0
        assert one["floor"] > 0
        assert many["ours"] > 0
        assert 0 < memory["ours"] <= memory["target"]


@pytest.mark.long
@pytest.mark.root
@pytest.mark.postgres
@pytest.mark.parametrize(("topic", "waits"), [("primary", 3), ("connections", 1)])
def test_what_others_wait_for_is_measured_with_and_without(
    topic: str, waits: int, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = on_btrfs(topic, scratch, capsys)
    seconds = [figure for figure in measured if figure["unit"] == "s"]
    assert len(seconds) == waits
    assert all(figure["ours"] > 0 and figure["floor"] > 0 for figure in seconds)
    assert [figure["ours"] for figure in measured if figure["unit"] == "connections"] in ([], [0])


def test_a_ratio_above_its_target_is_a_miss() -> None:
    assert Figure("slow", 3.0, 1.0, 2.0).ok is False
    assert Figure("fast", 1.9, 1.0, 2.0).ok is True


def test_an_amount_without_a_floor_is_held_to_its_limit() -> None:
    assert Figure("large", 2_000.0, None, 1_000.0, "B").ok is False
    assert Figure("small", 500.0, None, 1_000.0, "B").ok is True


def test_an_amount_that_must_be_nothing_is_held_to_it() -> None:
    assert Figure("none", 0, None, 0, "connections").ok is True
    assert Figure("one", 1, None, 0, "connections").ok is False


def test_a_figure_without_a_target_is_only_told() -> None:
    assert Figure("told", 2.0, 1.0, None).ok is None


def test_the_table_shows_ratio_target_and_verdict() -> None:
    lines = table([Figure("start", 3.0, 1.0, 2.0), Figure("bytes", 1024.0, None, 2048.0, "B", "and WAL")]).splitlines()
    assert lines[1].split() == ["start", "3.000", "s", "1.000", "s", "3.00", "≤", "2", "x", "NO"]
    assert lines[2].split() == ["bytes", "1", "KiB", "≤", "2", "KiB", "yes"]
    assert lines[-1] == "bytes: and WAL"
