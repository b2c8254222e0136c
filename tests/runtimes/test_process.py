from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler import proc
from reconciler.errors import BusyError, TimeoutExceededError, TransientError, UnsupportedError
from reconciler.ids import InstallationId, ServerName
from reconciler.runtimes import processes
from reconciler.testing.runtime import RuntimeSuite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.runtimes.process import ProcessRuntime
    from reconciler.runtimes.processes import Process
    from reconciler.state.servers import ServerSpec
    from tests.runtimes.conftest import ProcessHarness

SHOP = ServerName("shop.1")
ONE = InstallationId("one")
NOBODY = proc.Account(65534, 65534)


class TestProcessRuntime(RuntimeSuite):
    @pytest.fixture
    def harness(self, harness: ProcessHarness) -> ProcessHarness:
        return harness


@pytest.fixture
def runtime(harness: ProcessHarness) -> ProcessRuntime:
    return harness.runtime(ONE)


@pytest.fixture
def stranger(short_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process of somebody else inside the server's directory."""
    place = short_path / SHOP
    place.mkdir(exist_ok=True)
    with subprocess.Popen(["sleep", "300"], cwd=place) as process:
        yield process
        process.kill()


def leader(runtime: ProcessRuntime, name: ServerName = SHOP) -> Process:
    (found,) = runtime._discovery.find(name)
    return found.process


def child_of(spec: ServerSpec) -> int:
    return int((spec.directory / "child").read_text())


def kill(process: Process) -> None:
    """Kill a process and wait for its end."""
    with processes.Handle(process) as handle:
        handle.send(signal.SIGKILL)
        assert handle.ended_within(10)


def test_servers_survive_a_killed_reconciler_and_are_adopted_by_the_next(
    harness: ProcessHarness, runtime: ProcessRuntime
) -> None:
    spec = harness.server(SHOP, options=("--child", "group"))
    program = f"""
import os, signal
from pathlib import Path
from reconciler.ids import InstallationId, RuntimeName, ServerName
from reconciler.runtimes.accounts import AccountSettings
from reconciler.runtimes.process import ProcessRuntime
from reconciler.state.servers import ServerSpec
place = Path({str(spec.directory)!r})
runtime = ProcessRuntime(
    RuntimeName("process"), installation=InstallationId({runtime._discovery.installation!r}),
    key={runtime._discovery.key!r},
    logs=Path({str(harness.logs / ONE)!r}), ports=range(1, 2), accounts=AccountSettings("build", "clone", range(1)),
)
runtime.start(ServerSpec(
    name=ServerName("shop.1"), argv={spec.argv!r}, directory=place, ready=(place / "socket").exists
))
os.killpg(0, signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program], start_new_session=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert set(runtime.servers()) == {SHOP}
    child = child_of(spec)
    runtime.stop(SHOP)
    assert runtime.servers() == {}
    assert processes.look(child) is None


def test_a_server_that_ends_while_starting_is_an_error_with_the_end_of_its_log(
    harness: ProcessHarness, runtime: ProcessRuntime
) -> None:
    runtime.start(harness.server(SHOP))
    runtime.stop(SHOP)
    with pytest.raises(TransientError, match=r"exit code 1(.|\n)*bad setting on line 7") as caught:
        runtime.start(harness.server(SHOP, options=("--die", "x" * 10_000 + "bad setting on line 7")))
    assert len(str(caught.value)) < 3000
    assert "served" not in str(caught.value)
    assert runtime.servers() == {}


@pytest.mark.parametrize(("name", "hint"), [("SIGTERM", None), ("SIGKILL", "out of memory?")])
def test_a_server_that_was_ended_from_outside_while_starting_may_be_tried_again(
    harness: ProcessHarness, runtime: ProcessRuntime, name: str, hint: str | None
) -> None:
    with pytest.raises(TransientError, match=f"ended by {name}") as caught:
        runtime.start(harness.server(SHOP, options=("--kill-self", name)))
    assert (caught.value.reason, caught.value.hint) == ("ServerStartFailed", hint)


def test_a_server_that_lost_the_race_for_its_port_is_busy_not_broken(
    harness: ProcessHarness, runtime: ProcessRuntime
) -> None:
    port = runtime.free_port(frozenset())
    with socket.socket() as other:

        def taken_meanwhile() -> bool:
            if other.getsockname()[1] == 0:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind(("127.0.0.1", port))
                other.listen()
            return False

        with pytest.raises(BusyError, match=str(port)):
            runtime.start(replace(harness.server(SHOP, port, options=("--die", "no port")), ready=taken_meanwhile))


def test_an_answer_of_somebody_else_is_not_taken_for_the_servers(
    harness: ProcessHarness, runtime: ProcessRuntime
) -> None:
    spec = harness.server(SHOP, options=("--die", "gone"))

    def answers_once_the_server_is_gone() -> bool:
        alive = [process for process in processes.live() if process.parent == os.getpid()]
        return "gone" in "".join(runtime.logs(SHOP)) and not alive

    with pytest.raises(TransientError, match="gone"):
        runtime.start(replace(spec, ready=answers_once_the_server_is_gone))


def test_a_missing_program_is_named(harness: ProcessHarness, runtime: ProcessRuntime) -> None:
    with pytest.raises(UnsupportedError, match="/nowhere/postgres"):
        runtime.start(replace(harness.server(SHOP), argv=("/nowhere/postgres",)))


def test_a_server_that_ignores_its_stop_signals_is_killed_in_the_end(
    harness: ProcessHarness, runtime: ProcessRuntime
) -> None:
    spec = replace(
        harness.server(SHOP, options=("--ignore-term",)), stop_signals=((signal.SIGTERM, 0.05), (signal.SIGTERM, 0.05))
    )
    runtime.start(spec)
    runtime.stop(SHOP, spec=spec)
    assert runtime.servers() == {}


@pytest.mark.parametrize("kind", ["group", "session", "bare"])
def test_children_end_with_their_server_wherever_they_moved(
    harness: ProcessHarness, runtime: ProcessRuntime, kind: str
) -> None:
    spec = harness.server(SHOP, options=("--child", kind))
    runtime.start(spec)
    assert set(runtime.servers()) == {SHOP}
    assert processes.look(child_of(spec)) is not None
    runtime.stop(SHOP, spec=spec)
    assert processes.look(child_of(spec)) is None


@pytest.mark.parametrize("kind", ["group", "session", "bare"])
def test_what_a_killed_server_left_behind_is_ended_before_the_next_start(
    harness: ProcessHarness, runtime: ProcessRuntime, kind: str
) -> None:
    spec = harness.server(SHOP, options=("--child", kind))
    runtime.start(spec)
    kill(leader(runtime))
    orphan = child_of(spec)
    assert processes.look(orphan) is not None
    assert runtime.servers() == {}
    runtime.start(replace(spec, argv=harness.server(SHOP).argv))
    assert processes.look(orphan) is None


def test_what_a_killed_server_left_behind_can_be_stopped(harness: ProcessHarness, runtime: ProcessRuntime) -> None:
    spec = harness.server(SHOP, options=("--child", "session"))
    runtime.start(spec)
    kill(leader(runtime))
    runtime.stop(SHOP)
    assert processes.look(child_of(spec)) is None


def test_a_server_killed_under_load_is_seen_as_gone_and_starts_again(
    harness: ProcessHarness, runtime: ProcessRuntime
) -> None:
    port = runtime.free_port(frozenset())
    spec = harness.server(SHOP, port)
    runtime.start(spec)
    with ThreadPoolExecutor(4) as pool:
        load = [pool.submit(lambda: [spec.ready() for _ in range(200)]) for _ in range(4)]
        kill(leader(runtime))
        assert runtime.servers() == {}
        assert any(future.result() for future in load)
    runtime.start(spec)
    assert spec.ready()


def test_a_foreign_process_in_the_directory_is_named_and_left_alone(
    harness: ProcessHarness, runtime: ProcessRuntime, stranger: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(BusyError, match=rf"process {stranger.pid} \(sleep\)"):
        runtime.start(harness.server(SHOP))
    assert stranger.poll() is None
    assert runtime.servers() == {}


def test_a_foreign_process_in_the_directory_does_not_disturb_a_running_server(
    harness: ProcessHarness, runtime: ProcessRuntime, short_path: Path
) -> None:
    spec = harness.server(SHOP)
    runtime.start(spec)
    with subprocess.Popen(["sleep", "300"], cwd=short_path / SHOP) as stranger:
        runtime.start(spec)
        runtime.stop(SHOP)
        assert stranger.poll() is None
        stranger.kill()


def test_a_foreign_process_with_a_similar_directory_name_does_not_matter(
    harness: ProcessHarness, runtime: ProcessRuntime, short_path: Path
) -> None:
    (short_path / "shop.10").mkdir()
    with subprocess.Popen(["sleep", "300"], cwd=short_path / "shop.10") as neighbour:
        runtime.start(harness.server(SHOP))
        neighbour.kill()
    assert set(runtime.servers()) == {SHOP}


def test_stale_files_are_removed_and_a_process_number_in_them_means_nothing(
    harness: ProcessHarness, runtime: ProcessRuntime
) -> None:
    spec = harness.server(SHOP)
    pid_file = spec.directory / "server.pid"
    with subprocess.Popen(["sleep", "300"]) as unrelated:
        pid_file.write_text(str(unrelated.pid))
        (spec.directory / "socket").write_text("stale")
        runtime.start(replace(spec, stale_files=(*spec.stale_files, pid_file)))
        assert unrelated.poll() is None
        unrelated.kill()
    assert not pid_file.exists()


def test_stale_files_of_a_running_server_are_left_alone(harness: ProcessHarness, runtime: ProcessRuntime) -> None:
    spec = harness.server(SHOP)
    runtime.start(spec)
    runtime.start(spec)
    assert (spec.directory / "socket").exists()


def test_a_running_server_that_stopped_answering_is_reported_but_not_stopped(
    harness: ProcessHarness, runtime: ProcessRuntime
) -> None:
    spec = harness.server(SHOP)
    runtime.start(spec)
    with pytest.raises(TimeoutExceededError):
        runtime.start(replace(spec, ready=lambda: False, ready_timeout=0.05))
    assert set(runtime.servers()) == {SHOP}


def test_a_port_taken_by_a_stranger_is_refused_with_its_owner(harness: ProcessHarness, runtime: ProcessRuntime) -> None:
    port = runtime.free_port(frozenset())
    with socket.create_server(("127.0.0.1", port)), pytest.raises(BusyError, match=rf"{port} .*process {os.getpid()}"):
        runtime.start(harness.server(SHOP, port))


def test_a_port_in_use_is_not_offered(harness: ProcessHarness, runtime: ProcessRuntime) -> None:
    port = runtime.free_port(frozenset())
    with socket.create_server(("0.0.0.0", port)):
        assert harness.runtime(ONE, range(port, port + 20)).free_port(frozenset()) > port


def test_runtimes_of_different_names_do_not_see_each_others_servers(
    harness: ProcessHarness, runtime: ProcessRuntime
) -> None:
    runtime.start(harness.server(SHOP))
    assert harness.runtime(ONE, name="other").servers() == {}


def test_an_inherited_mark_does_not_make_a_child_a_server(harness: ProcessHarness, runtime: ProcessRuntime) -> None:
    spec = harness.server(SHOP, options=("--child", "session"))
    runtime.start(spec)
    child = processes.look(child_of(spec))
    assert child is not None
    assert child.leads_session
    assert leader(runtime).pid != child.pid


def test_no_zombie_stays_of_a_server_that_died(harness: ProcessHarness, runtime: ProcessRuntime) -> None:
    runtime.start(harness.server(SHOP))
    process = leader(runtime)
    kill(process)
    runtime.servers()
    assert not Path(f"/proc/{process.pid}").exists()


def test_what_works_in_the_background_gives_way_to_everything_else(
    harness: ProcessHarness, runtime: ProcessRuntime
) -> None:
    clone, build = ServerName("shop.2"), ServerName("shop.build")
    runtime.start(harness.server(clone))  # without TCP, as one that is being made
    runtime.start(replace(harness.server(build), background=True))
    ranks = {name: Path(f"/proc/{leader(runtime, name).pid}") for name in (clone, build)}
    assert {name: os.getpriority(os.PRIO_PROCESS, int(path.name)) for name, path in ranks.items()} == {
        clone: os.getpriority(os.PRIO_PROCESS, 0),
        build: processes._BEHIND,
    }
    if (ranks[build] / "autogroup").exists():
        assert (ranks[build] / "autogroup").read_text().split()[-1] == str(processes._BEHIND)


def test_logs_are_private_and_appended_over_restarts(harness: ProcessHarness, runtime: ProcessRuntime) -> None:
    spec = harness.server(SHOP)
    for _ in range(2):
        runtime.start(spec)
        runtime.stop(SHOP)
    assert runtime.logs(SHOP).count("starting") == 2
    log = harness.logs / ONE / "shop.1.log"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_servers_files_are_private_and_its_environment_is_only_what_it_needs(
    harness: ProcessHarness, runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOY_TOKEN", "not for servers")
    spec = harness.server(SHOP, options=("--child", "group"))
    runtime.start(replace(spec, env={"PGTZ": "UTC"}))
    content = Path(f"/proc/{leader(runtime).pid}/environ").read_bytes()
    assert b"PGTZ=UTC" in content
    assert b"DEPLOY_TOKEN" not in content
    assert b"RECONCILER_TOOL" not in content
    assert stat.S_IMODE((spec.directory / "child").stat().st_mode) == 0o600


@pytest.mark.root
def test_a_server_runs_under_its_account_and_cannot_gain_rights(
    harness: ProcessHarness, runtime: ProcessRuntime
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: run servers under another account")
    spec = replace(harness.server(SHOP), account=NOBODY, argv=("/bin/sh", "-c", "touch socket; exec sleep 300"))
    os.chown(spec.directory, NOBODY.uid, NOBODY.gid)
    runtime.start(replace(spec, ready=(spec.directory / "socket").exists))
    status = Path(f"/proc/{leader(runtime).pid}/status").read_text()
    assert f"Uid:\t{NOBODY.uid}\t{NOBODY.uid}\t{NOBODY.uid}\t{NOBODY.uid}\n" in status
    assert "NoNewPrivs:\t1\n" in status
    runtime.stop(SHOP)
    assert runtime.servers() == {}


def test_a_process_that_gives_itself_our_marks_is_nobody_s(harness: ProcessHarness, runtime: ProcessRuntime) -> None:
    spec = harness.server(SHOP)
    marks = runtime._discovery.marks(spec)
    forged = {**marks, "RECONCILER_PORT": "1"}
    command = runtime._discovery.command([sys.executable, "-c", "import time; time.sleep(60)"])
    impostors = [
        subprocess.Popen(command, env=environment, start_new_session=True)
        for environment in (forged, {key: value for key, value in marks.items() if key != "RECONCILER_PROOF"})
    ]
    try:
        assert runtime.servers() == {}
    finally:
        for impostor in impostors:
            impostor.kill()
            impostor.wait()


def test_a_server_is_stopped_by_the_signals_that_its_start_named(
    harness: ProcessHarness, runtime: ProcessRuntime
) -> None:
    spec = replace(harness.server(SHOP, options=("--ignore-term",)), stop_signals=((signal.SIGUSR1, 60.0),))
    runtime.start(spec)
    runtime.stop(SHOP)
    assert runtime.servers() == {}
    assert "stopping as asked" in runtime.logs(SHOP)


def test_a_server_whose_data_is_thrown_away_gets_the_last_of_its_signals_only(
    harness: ProcessHarness, runtime: ProcessRuntime
) -> None:
    signals = ((signal.SIGTERM, 60.0), (signal.SIGUSR1, 60.0))
    spec = replace(harness.server(SHOP, options=("--ignore-term",)), stop_signals=signals)
    runtime.start(spec)
    runtime.stop(SHOP, at_once=True)
    assert runtime.logs(SHOP)[-1] == "stopping as asked"
