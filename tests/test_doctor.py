"""What is missing on a host, and how to get it."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from reconciler import plugins
from reconciler.doctor import Finding, examine
from reconciler.engines.memory import MemoryEngine
from reconciler.host import open_host
from reconciler.spec.config import Config
from reconciler.state.conditions import PASSES, Kind, ObjectKey, stalled
from tests.repository.shared import Remote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.host import Host


def test_an_engine_without_server_programs_says_how_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "specs").mkdir()
    document = {"repository": {"path": str(tmp_path / "specs")}, "state": str(tmp_path / "state")}
    absent = {name: MemoryEngine(name, majors=()) for name in plugins.names("engine")}
    with open_host(Config.model_validate(document, context={"base": tmp_path}), writes=False) as host:
        host.engines.update(absent)
        found = [finding for finding in examine(host) if finding.area == "engine"]
    assert found == [
        Finding("engine", "error", f"{name}: no server programs", engine.install_hint)
        for name, engine in absent.items()
    ]


def test_a_product_that_is_not_installed_is_no_error_where_another_one_is(tmp_path: Path) -> None:
    (tmp_path / "specs").mkdir()
    document = {"repository": {"path": str(tmp_path / "specs")}, "state": str(tmp_path / "state")}
    with open_host(Config.model_validate(document, context={"base": tmp_path}), writes=False) as host:
        host.engines.update({name: MemoryEngine(name, majors=()) for name in plugins.names("engine")})
        host.engines["postgres"] = MemoryEngine("postgres")
        levels = {finding.level for finding in examine(host) if finding.area == "engine"}
    assert levels == {"ok", "warning"}


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed: nothing is verified")
def test_a_commit_that_is_held_back_is_an_error(tmp_path: Path) -> None:
    remote = Remote(tmp_path)
    (tmp_path / "signers").write_text("")
    repository = {"url": str(remote.path), "path": "specs", "verify": {"allowedSigners": str(tmp_path / "signers")}}
    document = {"repository": repository, "state": str(tmp_path / "state")}
    with open_host(Config.model_validate(document, context={"base": tmp_path}), writes=False) as host:
        found = [finding for finding in examine(host) if finding.area == "repository"]
    assert [finding.level for finding in found] == ["error"]
    assert "is not signed" in found[0].message


def test_a_pool_of_zfs_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "specs").mkdir()
    document = {
        "repository": {"path": str(tmp_path / "specs")},
        "state": str(tmp_path / "state"),
        "pools": {"default": {"driver": "zfs", "dataset": "no-such-pool/reconciler"}},
    }
    with open_host(Config.model_validate(document, context={"base": tmp_path}), writes=False) as host:
        found = [finding for finding in examine(host) if finding.area == "pool"]
    assert [finding.level for finding in found] == ["error"]
    assert any(what in found[0].message for what in ("apt-get install", "needs root", "modprobe zfs", "zpool import"))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    (tmp_path / "specs").mkdir()
    document = {"repository": {"path": str(tmp_path / "specs")}, "state": str(tmp_path / "state")}
    with open_host(Config.model_validate(document, context={"base": tmp_path}), writes=True) as opened:
        opened.engines.update({name: MemoryEngine(name) for name in plugins.names("engine")})
        yield opened


def of(host: Host, area: str) -> list[tuple[str, str]]:
    return [(finding.level, finding.message) for finding in examine(host) if finding.area == area]


def test_server_programs_are_listed_newest_first_by_number(host: Host) -> None:
    host.engines["postgres"] = MemoryEngine("postgres", majors=("9.6", "3.9", "11", "3.10"))
    listed = [message.split()[1].rstrip(",") for _level, message in of(host, "engine") if "postgres " in message]
    assert [version.rpartition(".")[0] for version in listed] == ["11", "9.6", "3.10", "3.9"]


def test_a_runtime_that_does_not_answer_is_an_error_and_the_others_are_looked_at(host: Host) -> None:
    config = {**host.config.model_dump(include={"state"}), "runtimes": {"docker": {"socket": "/nonexistent/socket"}}}
    with open_host(Config.model_validate(config, context={"base": host.state.path}), writes=False) as looker:
        looker.engines.update(host.engines)
        found = of(looker, "runtime")
    assert ("error", "docker") in [(level, message.partition(":")[0]) for level, message in found]
    assert ("ok", "process: 0 of this installation's servers running") in found
    assert ("ok", "none: hands out files, which no server serves") in found


def test_a_loop_that_hangs_or_died_is_an_error_and_one_that_was_stopped_is_not(host: Host) -> None:
    host.state.beat()
    ((level, message),) = of(host, "loop")
    assert (level, "last pass" in message) == ("ok", True)

    long_ago = host.clock.now().timestamp() - 3600
    os.utime(host.state.path / "last-pass", (long_ago, long_ago))
    ((level, message),) = of(host, "loop")
    assert (level, "has completed no pass for 1 h" in message) == ("error", True)

    with open_host(host.config, writes=False) as looker:
        assert of(looker, "loop")[0][0] == "error"
    host.state.rest()
    assert of(host, "loop")[0][0] == "ok"


def test_a_loop_that_ended_by_itself_is_an_error(host: Host) -> None:
    assert host.held is not None
    host.state.beat()
    host.held.close()
    with open_host(host.config, writes=False) as looker:
        ((level, message),) = of(looker, "loop")
    assert (level, message.split(";")[0]) == ("error", "the loop ended without being stopped")


def test_passes_that_fail_are_an_error_and_objects_that_are_stalled_a_warning(host: Host) -> None:
    assert of(host, "objects") == [("ok", "0 known, none is stalled")]
    stuck = {ObjectKey(Kind.CLONE, f"c{number}"): (stalled("ScriptFailed", "no"),) for number in range(7)}
    host.store.write_conditions(host.clock.now(), None, {**stuck, PASSES: (stalled("InternalError", "see the log"),)})
    assert of(host, "objects") == [("warning", "stalled: Clone/c0, Clone/c1, Clone/c2, Clone/c3, Clone/c4 and 2 more")]
    assert ("error", "passes fail: see the log") in of(host, "loop")
