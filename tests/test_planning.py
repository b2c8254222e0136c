"""Planning against a host's observation takes the configuration as that host does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.errors import ConfigError, SpecError
from reconciler.ids import InstallationId
from reconciler.planning import plan_directory, plan_from_file
from reconciler.spec.config import Config
from reconciler.state.observed import Observed
from reconciler.status.observation import observed_to_json

if TYPE_CHECKING:
    from pathlib import Path


def configured(root: Path, **repository: Any) -> Config:  # noqa: ANN401 - as YAML
    document = {"repository": repository, "state": str(root / "none"), "secrets": {"directory": str(root)}}
    return Config.model_validate(document, context={"base": root})


@pytest.fixture
def observed(tmp_path: Path) -> Path:
    file = tmp_path / "status.json"
    file.write_text(json.dumps({"observed": observed_to_json(Observed(installation=InstallationId("host")))}))
    return file


def test_the_limits_of_the_repository_hold(tmp_path: Path, observed: Path) -> None:
    specs = tmp_path / "specs"
    specs.mkdir()
    for name in ("a.yaml", "b.yaml"):
        (specs / name).touch()
    assert plan_from_file(configured(tmp_path, path=str(specs)), observed, None).actions == ()
    with pytest.raises(SpecError, match="files"):
        plan_from_file(configured(tmp_path, path=str(specs), limits={"files": 1}), observed, None)


def test_a_status_of_another_format_is_refused(tmp_path: Path, observed: Path) -> None:
    observed.write_text(json.dumps({**json.loads(observed.read_text()), "format": 2}))
    with pytest.raises(ConfigError, match="another format"):
        plan_directory(tmp_path, observed)
    observed.write_text(json.dumps({**json.loads(observed.read_text()), "format": 1, "host": {"config": {}}}))
    with pytest.raises(ConfigError, match="does not have the expected form"):
        plan_directory(tmp_path, observed)


def test_a_checkout_without_the_specs_is_refused(tmp_path: Path, observed: Path) -> None:
    with pytest.raises(ConfigError, match="is not a directory"):
        plan_directory(tmp_path / "nowhere", observed)


def test_a_private_repository_is_asked_with_the_configured_secret(tmp_path: Path, observed: Path) -> None:
    config = configured(tmp_path, url="https://127.0.0.1:1/specs.git", credentials={"secret": "git"})
    with pytest.raises(SpecError, match="secret git was not found"):
        plan_from_file(config, observed, None)
