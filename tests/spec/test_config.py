"""The host configuration: every value has a default, paths belong to the file."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from reconciler.errors import ConfigError
from reconciler.spec.config import Config
from reconciler.spec.loader import load_config
from reconciler.spec.values import Amount, NumberRange

BASE = Path("/srv/host")


def config(**fields: Any) -> Config:  # noqa: ANN401 - any YAML value
    return Config.model_validate(fields, context={"base": BASE})


@pytest.mark.parametrize("text", ["{}", "", "# nothing\n", "apiVersion: reconciler/v1\nkind: Config\n"])
def test_an_empty_configuration_is_valid(tmp_path: Path, text: str) -> None:
    file = tmp_path / "reconciler.yaml"
    file.write_text(text)
    assert load_config(file) == Config.model_validate({}, context={"base": tmp_path.resolve()})


def test_the_defaults_are_those_of_the_contract() -> None:
    found = config()
    assert (found.repository.url, found.repository.branch, found.repository.path) == (None, "main", "/srv/host")
    assert found.repository.interval == timedelta(minutes=1)
    assert found.pools["default"].driver == "auto"
    assert found.pools["default"].directory == found.state / "pool"
    assert found.pools["default"].reserve == Amount(percent=10.0)
    process = found.runtimes.process
    assert (process.ports, process.host, process.allow) == (NumberRange(5600, 5999), "127.0.0.1", ())
    assert (process.accounts.build, process.accounts.clone) == ("reconciler-build", "reconciler-clone")
    assert process.accounts.own == NumberRange(70_000, 79_999)
    assert (found.prune.max_delete, found.prune.max_delete_percent, found.concurrency) == (10, 50.0, 4)
    assert (found.limits.memory, found.undo.grace) == (Amount(percent=80.0), timedelta(hours=1))
    assert (found.grants, found.masking.unmasked, found.sources.roots) == (None, "allow", ())


def test_the_state_of_an_ordinary_user_is_in_the_home_directory() -> None:
    expected = Path("/var/lib/reconciler") if os.geteuid() == 0 else Path.home()
    assert config().state.is_relative_to(expected)


def test_relative_paths_belong_to_the_file() -> None:
    found = config(
        repository={"path": "specs"},
        state="var",
        pools={"default": {}, "fast": {}, "big": {"path": "../big"}},
        sources={"roots": ["backups"]},
        secrets={"directory": "secrets"},
        grants=[{"roots": ["backups/shop"]}],
    )
    assert found.repository.path == "/srv/host/specs"
    assert [str(pool.directory) for pool in found.pools.values()] == [
        "/srv/host/var/pool",
        "/srv/host/var/pools/fast",
        "/srv/big",
    ]
    assert found.sources.roots == (BASE / "backups",)
    assert found.secrets.directory == BASE / "secrets"
    assert found.grants is not None
    assert found.grants[0].roots == (BASE / "backups/shop",)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://git.example/specs.git", "https://git.example/specs.git"),
        ("ssh://git@git.example/specs.git", "ssh://git@git.example/specs.git"),
        ("git@git.example:specs.git", "git@git.example:specs.git"),
        ("file:///srv/specs.git", "file:///srv/specs.git"),
        ("specs.git", "/srv/host/specs.git"),
        ("/srv/specs.git", "/srv/specs.git"),
    ],
)
def test_urls_of_repositories(url: str, expected: str) -> None:
    assert config(repository={"url": url}).repository.url == expected


@pytest.mark.parametrize(
    "repository",
    [
        {"url": "http://git.example/specs.git"},
        {"url": "ext::sh -c id"},
        {"url": "git://git.example/specs.git"},
        {"url": "--upload-pack=id"},
        {"url": "https://user:password@git.example/specs.git"},
        {"url": "https://git.example/specs.git", "path": "../x"},
        {"url": "https://git.example/specs.git", "path": "/etc"},
        {"branch": "--all"},
        {"branch": "a..b"},
        {"path": ""},
        {"interval": 60},
    ],
)
def test_repositories_that_are_refused(repository: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(repository=repository)


@pytest.mark.parametrize(
    "fields",
    [
        {"pools": {}},
        {"pools": {"Default": {}}},
        {"pools": {"default": {"driver": "auto", "size": "50Gi"}}},
        {"pools": {"default": {"driver": "auto", "dataset": "tank/reconciler"}}},
        {"pools": {"default": {"driver": "zfs", "dataset": "/tank/reconciler"}}},
        {"pools": {"default": {"driver": "zfs", "dataset": "tank/-o"}}},
        {"pools": {"one": {"path": "/srv/pool"}, "two": {"path": "/srv/pool/"}}},
        {"pools": {"one": {"path": "/srv/pool/two"}, "two": {"path": "/srv/pool"}}},
        {"runtimes": {"process": {"ports": "5600-6100"}}},
        {"runtimes": {"process": {"allow": ["10.0.0.1/8"]}}},
        {"runtimes": {"process": {"accounts": {"own": "0-10"}}}},
        {"masking": {"maskers": {"optim": {"argv": []}}}},
        {"prune": {"maxDeletePercent": 101}},
        {"concurrency": 0},
        {"selector": {"host": 5}},
        {"limits": {"memory": "lots"}},
        {"sources": {"repositories": {"shop": {"tool": "pgbackrest", "config": "/etc/pgbackrest.conf"}}}},
        {"sources": {"repositories": {"shop": {"tool": "wal-g", "stanza": "main", "config": "/etc/walg.json"}}}},
        {"state": ""},
        {"runtimes": {"instance": {"one": {"url": {"secret": "dsn"}, "dataDirectory": "/var/lib/postgresql"}}}},
    ],
)
def test_values_that_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**fields)


def test_an_invalid_configuration_shows_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "reconciler.yaml"
    file.write_text("poolz: {}\nconcurrency: many\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert 'did you mean "pools"?' in str(caught.value)
    assert "2 errors" in str(caught.value)


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml cannot be read: No such file"):
        load_config(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    "text", ["apiVersion: reconciler/v1\nkind: Clone\nmetadata: {name: a}\nspec: {image: a}\n", "{}\n---\n{}\n", "[]"]
)
def test_another_document_is_no_configuration(tmp_path: Path, text: str) -> None:
    file = tmp_path / "reconciler.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_config(file)


def test_a_pool_of_zfs_has_a_dataset() -> None:
    pool = config(pools={"default": {"driver": "zfs", "dataset": "tank/reconciler"}}).pools["default"]
    assert (pool.driver, pool.dataset) == ("zfs", "tank/reconciler")


def test_a_driver_that_there_is_none_of_is_refused_with_the_reason() -> None:
    with pytest.raises(ValidationError, match=r"no driver lvmthin \(not yet\): .* device-mapper"):
        config(pools={"default": {"driver": "lvmthin"}})


def test_pools_and_runtimes_can_ask_for_attestations() -> None:
    found = config(
        pools={"default": {"requireAttestation": "signed"}, "lab": {"path": "lab"}},
        runtimes={"process": {"requireAttestation": "any"}},
        attestation={"key": {"secret": "signing"}, "publicKeys": ["keys/old.pub"]},
    )
    assert (found.pools["default"].require_attestation, found.pools["lab"].require_attestation) == ("signed", None)
    assert (found.runtimes.process.require_attestation, found.runtimes.docker.require_attestation) == ("any", None)
    assert found.attestation.public_keys == (BASE / "keys/old.pub",)


def test_write_back_is_off_and_its_author_has_a_name() -> None:
    found = config(repository={"url": "https://git.example/specs.git", "writeBack": {"enabled": True}}).repository
    assert config().repository.write_back.enabled is False
    assert (found.write_back.name, found.write_back.email) == ("reconciler", "reconciler@localhost")
    assert found.write_back.signing_key is None


@pytest.mark.parametrize("value", ["", "a <b", "two\nlines", "ends with a dot.", '"quoted"'])
@pytest.mark.parametrize("field", ["name", "email"])
def test_what_git_cannot_write_into_a_commit_is_no_author(field: str, value: str) -> None:
    with pytest.raises(ValidationError):
        config(repository={"url": "https://git.example/specs.git", "writeBack": {"enabled": True, field: value}})


def test_nothing_is_written_back_to_a_plain_directory(tmp_path: Path) -> None:
    file = tmp_path / "reconciler.yaml"
    file.write_text("repository:\n  path: specs\n  writeBack: {enabled: true}\n")
    with pytest.raises(ConfigError, match=r"(?s)nothing is written back to a plain directory.*yaml:3:14"):
        load_config(file)
    file.write_text("repository:\n  path: specs\n  writeBack: {enabled: false}\n")
    assert load_config(file).repository.url is None


def test_the_status_goes_to_a_branch_that_is_not_that_of_the_specs(tmp_path: Path) -> None:
    file = tmp_path / "reconciler.yaml"
    url = "repository: {url: 'https://git.example/specs.git'}\n"
    for ref, full in (("state", "refs/heads/state"), ("refs/reconciler/status", "refs/reconciler/status")):
        file.write_text(f"{url}status: {{publish: {{ref: {ref}}}}}\n")
        assert load_config(file).status.publish.full_ref == full
    for text, message in (
        (f"{url}status: {{publish: {{ref: refs/heads/main}}}}\n", "this is the branch of the specs"),
        (f"{url}status: {{publish: {{ref: main}}}}\n", "this is the branch of the specs"),
        (f"{url}status: {{publish: {{ref: -f}}}}\n", "not the name of a branch"),
        ("status: {publish: {ref: x}}\n", "a plain directory has no refs"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_config(file)


def test_the_status_is_not_written_among_the_specs_which_it_would_change(tmp_path: Path) -> None:
    file = tmp_path / "reconciler.yaml"
    (tmp_path / "elsewhere").symlink_to(tmp_path / "specs")
    for place in ("specs/status.json", "specs/www/status.json", "elsewhere/status.json"):
        file.write_text(f"repository: {{path: specs}}\nstatus: {{publish: {{file: {place}}}}}\n")
        with pytest.raises(ConfigError, match="this is among the specs"):
            load_config(file)
    for place in ("status.json", "specs/.www/status.json", "specs-www/status.json"):
        file.write_text(f"repository: {{path: specs}}\nstatus: {{publish: {{file: {place}}}}}\n")
        assert load_config(file).status.publish.file == tmp_path / place
    file.write_text("repository: {url: ., path: specs}\nstatus: {publish: {file: specs/status.json}}\n")
    assert load_config(file).repository.url == str(tmp_path)


GIT = {"url": "https://git.example/specs.git"}


def test_signers_are_files_of_the_host() -> None:
    found = config(repository={**GIT, "verify": {"allowedSigners": "signers", "gpgKeys": ["keys/ann.asc"]}}).repository
    assert found.verify is not None
    assert (found.verify.allowed_signers, found.verify.gpg_keys) == (BASE / "signers", (BASE / "keys/ann.asc",))
    assert config(repository=GIT).repository.verify is None


@pytest.mark.parametrize(
    "repository",
    [
        {**GIT, "verify": {}},
        {**GIT, "verify": {"revokedKeys": "revoked"}},
        {**GIT, "verify": {"gpgKeys": ["ann.asc"], "gnupgHome": "keys"}},
        {"path": "specs", "verify": {"allowedSigners": "signers"}},
        {**GIT, "verify": {"allowedSigners": "signers"}, "writeBack": {"enabled": True}},
    ],
)
def test_verification_that_could_never_succeed_is_refused(repository: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(repository=repository)


def test_windows_are_about_everything_unless_they_say_less() -> None:
    night = {"kind": "allow", "schedule": "0 22 * * *", "duration": "8h"}
    (found,) = config(windows=[night]).windows
    assert (found.timezone, found.actions, found.only) == ("UTC", ("destructive", "heavy"), ("*",))
    assert config().windows == ()


@pytest.mark.parametrize(
    "wrong", [{"kind": "maybe"}, {"schedule": "at night"}, {"duration": "1s"}, {"timezone": "Nowhere"}, {"only": []}]
)
def test_windows_that_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(windows=[{"kind": "allow", "schedule": "0 22 * * *", "duration": "8h", **wrong}])
