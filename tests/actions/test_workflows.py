"""Workflows, the action and the hooks are what GitHub and pre-commit take, with no more rights than they need."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from tests.support import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").iterdir())
ACTIONS = sorted((ROOT / ".github/actions").glob("*/action.yml"))
WRITES = {("specs.yml", "specs", "pull-requests")}
"""Every permission to write that a job may have."""


def parsed(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = YAML(typ="safe").load(path)
    return document


def steps(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for job in document.get("jobs", {}).values():
        yield from job.get("steps", ())
    yield from document.get("runs", {}).get("steps", ())


def shown(start: str) -> list[str]:
    """Return the YAML blocks of the page about pull requests that begin so."""
    page = (ROOT / "docs/pull-requests.md").read_text()
    return [
        text for text in re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if text.startswith(start)
    ]


@pytest.mark.parametrize(
    ("schema", "files", "documents"),
    [
        ("vendor.github-workflows", WORKFLOWS, 2),
        ("vendor.github-actions", ACTIONS, 0),
        ("vendor.gitlab-ci", [], 1),
        ("vendor.dependabot", [ROOT / ".github/dependabot.yml"], 0),
    ],
)
def test_the_schema_of_the_host_takes_it(schema: str, files: list[Path], documents: int, tmp_path: Path) -> None:
    texts = {"vendor.github-workflows": shown("name: specs"), "vendor.gitlab-ci": shown("specs:")}.get(schema, [])
    assert len(texts) == documents
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.yml").write_text(text)
    words = [str(PROGRAM.with_name("check-jsonschema")), "--builtin-schema", schema]
    done = subprocess.run([*words, *files, *tmp_path.iterdir()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.name)
def test_what_others_made_is_pinned_by_its_commit_and_says_its_version(path: Path) -> None:
    used = re.findall(r"^\s*-?\s*uses: (.+)$", path.read_text(), re.MULTILINE)
    others = [use for use in used if not use.startswith("$/")]
    assert len(used) == len([step for step in steps(parsed(path)) if "uses" in step])
    assert [use for use in others if not re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)] == []
    pins = {tuple(use.split("@")) for use in re.findall(r"uses: ([^$\s]\S+)", "".join(map(_text, WORKFLOWS)))}
    assert len(pins) == len({name for name, _commit in pins}), "one action, one commit"


def test_the_pages_pin_what_they_show_as_the_workflows_do() -> None:
    pins = set(re.findall(r"uses: (actions/\S+@\S+ # \S+)", "".join(map(_text, WORKFLOWS))))
    page = (ROOT / "docs/pull-requests.md").read_text()
    assert set(re.findall(r"uses: (actions/\S+@\S+ # \S+)", page)) <= pins
    inputs = {
        **parsed(ACTIONS[0])["inputs"],
        **parsed(ROOT / ".github/workflows/specs.yml")["on"]["workflow_call"]["inputs"],
    }
    assert [name for name in inputs if not re.search(rf"\b{name}\b", page)] == []


def _text(path: Path) -> str:
    return path.read_text()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_no_more_rights_than_its_jobs_need(path: Path) -> None:
    document = parsed(path)
    assert set(document["permissions"].items()) <= {("contents", "read")}
    for name, job in document["jobs"].items():
        rights = job.get("permissions", {})
        assert {(path.name, name, right) for right, access in rights.items() if access != "read"} <= WRITES
        assert job["timeout-minutes"] <= 120
    assert "pull_request_target" not in document["on"]
    checkouts = [step for step in steps(document) if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.name)
def test_no_script_is_put_together_from_values_of_others(path: Path) -> None:
    assert [step["name"] for step in steps(parsed(path)) if "${{" in step.get("run", "")] == []


def test_the_tests_run_on_every_version_of_python_that_is_supported() -> None:
    matrix = parsed(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()


def test_pre_commit_runs_the_hook_and_shows_what_it_finds(tmp_path: Path) -> None:
    """The hook of an installed program, from a repository of its own: the other one would download it all."""
    hooks, specs = tmp_path / "hooks", tmp_path / "specs"
    for place, files in (
        (hooks, {".pre-commit-hooks.yaml": (ROOT / ".pre-commit-hooks.yaml").read_text()}),
        (
            specs,
            {"db/shop.yaml": "apiVersion: reconciler/v1\nkind: Image\nmetadata: {name: shop}\nspec: {enigne: x}\n"},
        ),
    ):
        for name, text in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
        for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=all"]):
            subprocess.run(["git", "-c", "user.name=Ada", "-c", "user.email=a@b.c", *words], cwd=place, check=True)
    env = {"PATH": f"{PROGRAM.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=hooks, check=True, capture_output=True, text=True).stdout
    (specs / ".pre-commit-config.yaml").write_text(
        f"repos: [{{repo: '{hooks}', rev: {head.strip()}, hooks: [{{id: reconciler-validate-system, args: [db]}}]}}]\n"
    )
    words = [str(PROGRAM.with_name("pre-commit")), "run", "--all-files", "--color=never"]
    done = subprocess.run(words, cwd=specs, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert 'unknown field "enigne"' in done.stdout
    assert "did you mean" in done.stdout
    (specs / "db/shop.yaml").write_text(
        "apiVersion: reconciler/v1\nkind: Clone\nmetadata: {name: a}\nspec: {image: b}\n"
    )
    (specs / "db/b.yaml").write_text(
        "apiVersion: reconciler/v1\nkind: Image\nmetadata: {name: b}\nspec: {engine: postgres, source: {empty: {}}}\n"
    )
    subprocess.run(["git", "add", "."], cwd=specs, check=True)
    done = subprocess.run(words, cwd=specs, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_week_the_long_tests_run_and_properties_are_tried_with_new_examples() -> None:
    job = parsed(ROOT / ".github/workflows/long.yml")["jobs"]["long"]
    assert job["steps"][-2:] == [{"run": "sudo make test PROFILE=default"}, {"run": "sudo make test-long"}]
