"""What is missing on a host, and how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler import plugins
from reconciler.doctor import Finding, examine
from reconciler.engines.memory import MemoryEngine
from reconciler.host import open_host
from reconciler.spec.config import Config
from tests.repository.shared import Remote

if TYPE_CHECKING:
    from pathlib import Path


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
