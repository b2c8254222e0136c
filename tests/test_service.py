"""The systemd unit: valid to systemd, kind to clones, and never somebody else's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from reconciler import service as module
from reconciler.errors import RefusedError
from reconciler.service import MARK, Service, is_ours, remove, service_of, units_of, write
from reconciler.spec.config import Config


def a_service(tmp_path: Path, *, user: bool = True, **settings: object) -> Service:
    config = Config.model_validate({"state": str(tmp_path / "my state"), **settings}, context={"base": tmp_path})
    program = Path("/bin/true")
    return service_of(config, tmp_path / "reconciler.yaml", program=program, user=user, name="reconciler")


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(module, "_SYSTEM", tmp_path / "system")


@pytest.mark.parametrize("user", [False, True])
def test_systemd_takes_the_unit(tmp_path: Path, user: bool) -> None:  # noqa: FBT001
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: nobody can say whether the unit is valid")
    file = tmp_path / "reconciler.service"
    file.write_text(a_service(tmp_path, user=user, runtimes={"docker": {}}, sources={"roots": ["/backups"]}).text())
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(["--user"] if user else []), file],
        capture_output=True,
        text=True,
        check=False,
    )
    about = [line for line in checked.stderr.splitlines() if "reconciler" in line and "docker" not in line]
    assert about == []


def test_nothing_in_the_unit_ends_clones_or_hides_pools(tmp_path: Path) -> None:
    unit = a_service(tmp_path).text()
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    assert (settings["KillMode"], settings["OOMPolicy"], settings["Type"]) == ("process", "continue", "notify")
    spaces = ("Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "Bind", "Temporary", "Root", "Mount")
    assert [name for name in settings if name.startswith(spaces)] == []


def test_pools_are_mounted_before_and_the_file_of_a_loop_backed_one_as_well(tmp_path: Path) -> None:
    pools = {"default": {"path": "/srv/pool"}, "loop": {"driver": "btrfs", "size": "1Gi", "path": "/big/loop"}}
    unit = a_service(tmp_path, pools=pools).text()
    (line,) = [line for line in unit.splitlines() if line.startswith("RequiresMountsFor")]
    assert line == f'RequiresMountsFor="{tmp_path}/my state" /srv/pool /big'


def test_words_survive_systemd(tmp_path: Path) -> None:
    service = Service(program=Path("/opt/a b/100%/$x"), config=tmp_path / "c.yaml", mounts=())
    assert f'ExecStart="/opt/a b/100%%/$$x" --config {tmp_path}/c.yaml run' in service.text().splitlines()


def test_a_unit_is_written_once_and_removed_by_its_configuration(tmp_path: Path) -> None:
    service = a_service(tmp_path)
    assert write(service) is True
    assert write(service) is False
    assert service.file.stat().st_mode & 0o777 == 0o644
    assert units_of(tmp_path / "other.yaml") == ()
    assert units_of(service.config) == (service.file,)
    remove(service.file)
    assert units_of(service.config) == ()


def test_a_unit_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    service = a_service(tmp_path)
    service.file.parent.mkdir(parents=True)
    service.file.write_text("[Unit]\n")
    with pytest.raises(RefusedError, match="is not ours"):
        write(service)
    assert not is_ours(service.file)
    assert service.file.read_text() == "[Unit]\n"
    assert service.text().startswith(MARK)
