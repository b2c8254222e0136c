"""The state directory."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.errors import ConfigError, UnavailableError
from reconciler.ids import PoolName, ServerName, VolumeId
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.status.directory import StateDirectory

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
SERVER = ServerName("shop-dev.1")


def _modes(directory: Path) -> dict[str, int]:
    return {str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*")}


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_others_can_cross_it_and_read_nothing(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        StateDirectory(tmp_path / "lib" / "state")
    finally:
        os.umask(before)
    directory = tmp_path / "lib" / "state"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o711
    assert stat.S_IMODE(directory.parent.stat().st_mode) == 0o755
    modes = _modes(directory)
    assert {name for name, mode in modes.items() if mode == 0o711} == {"run", "work"}
    assert {mode for name, mode in modes.items() if name not in {"run", "work"}} == {0o700}


def test_an_installation_has_one_id_for_ever(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path).installation
    assert len(first) == 16
    assert StateDirectory(tmp_path).installation == first


def test_processes_that_start_together_agree_on_the_id(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from reconciler.status.directory import StateDirectory;"
        "sys.stdin.readline(); print(StateDirectory(Path(sys.argv[1])).installation)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    answers = {process.communicate("go\n")[0] for process in processes}
    assert answers == {f"{StateDirectory(tmp_path).installation}\n"}


@pytest.mark.parametrize("damage", [b"", b"{", b'{"installation": ""}', b'{"installation": 3}'])
def test_a_damaged_id_is_an_error_and_never_a_new_id(tmp_path: Path, damage: bytes) -> None:
    StateDirectory(tmp_path)
    (tmp_path / "installation.json").write_bytes(damage)
    with pytest.raises(ConfigError, match="installation"):
        _ = StateDirectory(tmp_path).installation
    assert (tmp_path / "installation.json").read_bytes() == damage


def test_a_lost_id_is_not_made_anew_while_pools_are_known(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    identity = state.installation
    state.known_pools.remember(PoolName("default"), "p1")
    (tmp_path / "installation.json").unlink()
    with pytest.raises(ConfigError, match="pools are in use"):
        _ = StateDirectory(tmp_path).installation
    (tmp_path / "installation.json").write_text(f'{{"installation": "{identity}"}}')
    assert StateDirectory(tmp_path).installation == identity


def test_the_fingerprint_key_is_random_private_and_kept(tmp_path: Path) -> None:
    key = StateDirectory(tmp_path / "a").fingerprint_key
    assert len(key) == 32
    assert key != StateDirectory(tmp_path / "b").fingerprint_key
    assert StateDirectory(tmp_path / "a").fingerprint_key == key
    assert stat.S_IMODE((tmp_path / "a" / "fingerprint.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", [b"", b"short"])
def test_a_damaged_fingerprint_key_is_an_error(tmp_path: Path, damage: bytes) -> None:
    StateDirectory(tmp_path)
    (tmp_path / "fingerprint.key").write_bytes(damage)
    with pytest.raises(ConfigError, match="32 bytes"):
        _ = StateDirectory(tmp_path).fingerprint_key


def test_a_server_always_has_the_same_run_directory_and_no_other_has_it(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert state.run_directory(SERVER) == StateDirectory(tmp_path).run_directory(SERVER)
    assert state.run_directory(SERVER) != state.run_directory(ServerName("shop-dev.2"))


def test_a_socket_fits_into_a_run_directory_however_long_the_path_of_the_state_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateDirectory(tmp_path / ("long" * 30))
    directory = state.run_directory(SERVER)
    base = directory.parent
    try:
        assert tmp_path not in directory.parents
        assert stat.S_IMODE(base.stat().st_mode) == 0o711
        directory.mkdir()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(directory / ".s.PGSQL.65535"))
        (directory / ".s.PGSQL.65535").unlink()
        directory.rmdir()
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        assert StateDirectory(tmp_path / ("long" * 30)).run_directory(SERVER) == directory
    finally:
        base.rmdir()


def test_a_run_directory_that_somebody_else_prepared_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 30)
    state = StateDirectory(path)
    trap = Path("/tmp") / f"reconciler-{state.installation}"
    (tmp_path / "elsewhere").mkdir()
    trap.symlink_to(tmp_path / "elsewhere")
    (path / "run-directory").write_bytes(os.fsencode(trap))
    try:
        with pytest.raises(UnavailableError, match="not a private directory"):
            state.run_directory(SERVER)
    finally:
        trap.unlink()


def test_run_directories_of_servers_that_are_gone_are_found(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    kept, gone = state.run_directory(SERVER), state.run_directory(ServerName("shop-old.1"))
    kept.mkdir()
    gone.mkdir()
    assert state.stale_run_directories({SERVER}) == (gone,)


def test_scratch_directories_of_builds_are_listed(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    volume = VolumeId("shop-20261122t020000z-1a2b3c4d")
    state.work_directory(volume).mkdir()
    assert state.work_directories() == (volume,)


def test_a_state_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match="cannot make"):
        StateDirectory(tmp_path / "file" / "state")


def test_deletions_are_remembered_across_restarts(tmp_path: Path) -> None:
    StateDirectory(tmp_path).record_deletion(ObjectKey(Kind.CLONE, "shop-dev"), NOW)
    assert StateDirectory(tmp_path).recent_deletions(NOW) == {"Clone/shop-dev": NOW}


def test_whatever_it_holds_is_removed_and_what_others_put_there_stays(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    assert state.installation
    for directory in (state.mirror, state.publishing_mirror, state.path / "repository-directory.git"):
        directory.mkdir()
        (directory / "HEAD").touch()
    state.status_file.touch()
    pool = state.path / "pools" / "fast"
    pool.mkdir(parents=True)
    (pool / "not-ours").touch()

    assert state.remove() == (state.path / "pools",)
    assert (pool / "not-ours").exists()

    (pool / "not-ours").unlink()
    pool.rmdir()
    assert state.remove() == ()
    assert not state.path.exists()


def test_a_start_is_known_as_unfinished_until_it_came_to_its_end(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    with state.starting(SERVER):
        assert StateDirectory(tmp_path).unfinished_starts() == {SERVER}
    assert state.unfinished_starts() == frozenset()
    with pytest.raises(KeyboardInterrupt), state.starting(SERVER):
        raise KeyboardInterrupt
    assert state.unfinished_starts() == {SERVER}
    state.forget_start(SERVER)
    state.forget_start(SERVER)
    assert state.unfinished_starts() == frozenset()
