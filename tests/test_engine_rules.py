"""Server settings that documents may not have are errors of the commit, each at its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler import plugins
from reconciler.commits import Commits
from reconciler.engine_rules import refused_parameters
from reconciler.errors import UnsupportedError
from reconciler.repository import open_repository
from reconciler.spec.config import Config
from reconciler.spec.documents import SpecFile
from reconciler.spec.gaps import RUNTIME_GAPS
from reconciler.spec.loader import load
from reconciler.spec.products import WITHOUT_SERVER
from reconciler.validation import validate_paths

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.base import Engine

IMAGE = """\
apiVersion: reconciler/v1
kind: Image
metadata: {name: shop}
spec:
  engine: postgres
  source: {empty: {}}
  parameters:
    work_mem: 64MB
    archive_command: cp %p /srv
"""
CLONE = """\
---
apiVersion: reconciler/v1
kind: Clone
metadata: {name: dev}
spec:
  image: shop
  parameters: {ssl: "off"}
"""
PLACES = ["shop.yaml:9:22", "shop.yaml:16:21"]


def found(text: str) -> list[str]:
    documents = load([SpecFile("shop.yaml", text.encode())]).documents
    return [f"{d.code} {d.file}:{d.line}:{d.column}" for d in refused_parameters(documents)]


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    path = tmp_path / "specs"
    path.mkdir()
    (path / "shop.yaml").write_text(IMAGE + CLONE)
    return path


def test_each_refused_setting_of_images_and_clones_is_an_error_at_its_value() -> None:
    assert found(IMAGE + CLONE) == [f"R032 {place}" for place in PLACES]


def test_an_engine_that_this_version_does_not_have_refuses_nothing() -> None:
    assert found(IMAGE.replace("postgres", "oracle")) == []


@pytest.mark.parametrize("name", ["", "shop.yaml"])
def test_validate_finds_them_in_repositories_and_in_files(specs: Path, name: str) -> None:
    result = validate_paths([specs / name if name else specs])
    assert [str(d).startswith(str(specs / name if name else "shop.yaml")) for d in result.diagnostics] == [True, True]
    assert result.errors == 2


def test_a_commit_with_one_asks_for_nothing(specs: Path, tmp_path: Path) -> None:
    config = Config.model_validate({"repository": {"path": str(specs)}}, context={"base": tmp_path})
    commits = Commits(open_repository(mirror=tmp_path / "mirror.git", path=str(specs)), config)
    commit = commits.newest()
    assert commit.desired is None
    assert [f"{d.file}:{d.line}:{d.column}" for d in commit.diagnostics] == PLACES


FILE = """\
apiVersion: reconciler/v1
kind: Image
metadata: {name: shop}
spec:
  engine: sqlite
  source: {files: {path: shop.db}}
  unmasked: {reason: public}
"""
USED = """\
---
apiVersion: reconciler/v1
kind: Clone
metadata: {name: dev}
spec:
  image: shop
"""


def test_what_says_something_of_a_server_is_an_error_where_a_product_has_none() -> None:
    assert found(FILE + USED + "  runtime: none\n  users: []\n") == []
    for line in ("runtime: process", "port: 5601", "users: [{name: app}]", "idle: 30m", "state: stopped"):
        assert found(f"{FILE}{USED}  {line}\n") == [f"R032 shop.yaml:14:{5 + line.index(':')}"], line
    for source in ("backup: {path: /srv/shop}", "primary: {url: {secret: dsn}}"):
        assert len(found(FILE.replace("files: {path: shop.db}", source))) == 1


def test_a_clone_of_a_product_that_cannot_be_on_an_instance_is_refused_where_it_asks_for_that() -> None:
    image = "".join(line for line in IMAGE.splitlines(keepends=True) if not line.startswith("  parameters"))
    image = image.split("    work_mem")[0]
    clone = CLONE.replace('  parameters: {ssl: "off"}', "  runtime: instance\n  instance: shared")
    assert found(image + clone) == []
    assert found(image.replace("postgres", "mariadb") + clone) == []
    assert found(image.replace("postgres", "mysql") + clone) == ["R032 shop.yaml:13:12"]


def test_a_rate_is_refused_where_the_copy_of_a_primary_has_none() -> None:
    image = IMAGE.split("  parameters", maxsplit=1)[0] + "  unmasked: {reason: public}\n"
    limited = image.replace("{empty: {}}", "{primary: {url: {secret: dsn}, copyRate: 20Mi}}")
    assert found(limited) == []
    assert found(limited.replace("postgres", "mariadb")) == ["R032 shop.yaml:6:52"]


def test_a_runtime_that_cannot_serve_a_product_is_refused_where_it_is_written() -> None:
    image = IMAGE.split("  parameters", maxsplit=1)[0]
    other = image.replace("postgres", "mariadb")
    for given, runtime, places in (
        (image, "docker", []),
        (image, "none", ["R032 shop.yaml:13:12"]),
        (other, "process", []),
        (other, "docker", []),
        (other, "none", ["R032 shop.yaml:13:12"]),
        (other.replace("mariadb", "mysql"), "docker", ["R032 shop.yaml:13:12"]),
    ):
        clone = CLONE.replace('parameters: {ssl: "off"}', f"runtime: {runtime}")
        assert found(given + clone) == places, (given, runtime)
    untried = other.replace("mariadb", "mysql") + "  runtime: docker\n"
    assert found(untried) == ["R032 shop.yaml:7:12"]
    documents = load([SpecFile("shop.yaml", untried.encode())]).documents
    assert [one.hint for one in refused_parameters(documents)] == ["write runtime: process"]


def test_specs_know_what_the_engines_of_the_registry_can_do() -> None:
    for name in plugins.names("engine"):
        engine = plugins.load("engine", name)()
        assert _contained(engine) == ((name, "docker") not in RUNTIME_GAPS), name
        assert (engine.instances is not None) == ((name, "instance") not in RUNTIME_GAPS), name
        assert (engine.files is not None) == ((name, "none") not in RUNTIME_GAPS), name
        assert (name in WITHOUT_SERVER) == ((name, "process") in RUNTIME_GAPS), name


def _contained(engine: Engine) -> bool:
    try:
        engine.container_image(None)
    except UnsupportedError:
        return False
    return True
