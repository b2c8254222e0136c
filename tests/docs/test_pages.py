"""The documentation is true: its YAML is valid, its commands exist, and no field is missing from its page."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from reconciler import plugins
from reconciler.cli.main import app
from reconciler.spec.documents import SpecFile
from reconciler.spec.loader import load

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
KINDS = ("Image", "Clone", "MaskingPolicy", "Config")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined] # the program is a group of commands


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def fields(schema: dict[str, Any], node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the path of every field that a schema has, as pages write it."""
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    for name, child in node.get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from fields(schema, child, f"{prefix}{name}.")
    for choice in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from fields(schema, choice, prefix)
    if "items" in node:
        yield from fields(schema, node["items"], f"{prefix[:-1]}[].")
    named = [node.get("additionalProperties"), *node.get("patternProperties", {}).values()]
    for child in named if not prefix.endswith("columns.") else ():
        if isinstance(child, dict):
            yield from fields(schema, child, f"{prefix}NAME.")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_documents_in_yaml_blocks_are_valid(page: Path) -> None:
    documents = [block for block in blocks(page, "yaml") if block.startswith(("apiVersion", "# yaml-language-server"))]
    for text in documents:
        found = load([SpecFile(page.name, text.encode())], config_allowed=True).diagnostics
        assert [str(one) for one in found if one.code not in {"R020", "R021"}] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_that_is_shown_exists_with_its_options(page: Path) -> None:
    shown = [
        *(line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")),
        *re.findall(r"`(reconciler [a-z][^`]*)`", page.read_text()),
    ]
    for text in shown:
        for match in re.finditer(r"(?:^|[ (|])reconciler ((?:--?[\w-]+ \S+ )?[a-z-]+)([^|&)]*)", text):
            name = match[1].split()[-1]
            assert name in COMMANDS, text
            words = shlex.split(match[2].replace('"', "").replace("[=HASH]", "=HASH"), comments=True)
            known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
            used = {word.split("=")[0] for word in words if word.startswith("-")}
            assert used <= known | {"-h", "--help"}, text


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_on_the_page_of_its_kind(kind: str) -> None:
    page = (ROOT / "docs" / "kinds" / f"{kind.lower()}.md").read_text()
    schema = json.loads((ROOT / "schemas" / f"{kind.lower()}.schema.json").read_text())
    paths = {path.removeprefix("spec.") for path in fields(schema, schema)} - {"apiVersion", "kind", "metadata", "spec"}
    assert sorted(path for path in paths if f"`{path}`" not in page) == []


@pytest.mark.parametrize("kind", KINDS)
def test_page_of_a_kind_names_no_field_that_does_not_exist(kind: str) -> None:
    page = (ROOT / "docs" / "kinds" / f"{kind.lower()}.md").read_text()
    schema = json.loads((ROOT / "schemas" / f"{kind.lower()}.schema.json").read_text())
    known = {part.removesuffix("[]") for path in fields(schema, schema) for part in path.split(".")} | {"NAME", "spec"}
    table = page.split("| field | value |")[1].split("\n\n")[0]
    named = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(named) > 5
    assert [name for name in named if named.count(name) > 1] == []
    assert [path for path in named if not {part.removesuffix("[]") for part in path.split(".")} <= known] == []


@pytest.mark.parametrize("kind", KINDS)
def test_pages_have_one_order(kind: str) -> None:
    page = (ROOT / "docs" / "kinds" / f"{kind.lower()}.md").read_text()
    titles = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert titles == ["Example", "Writing a spec", "Working with it", "Status"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", page.read_text())]
    local = [target for target in targets if target and "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_nobody_is_told_to_install_what_others_have_under_our_name() -> None:
    hints = [plugin.hint for family in (plugins.ENGINES, plugins.RUNTIMES) for plugin in family.values()]
    told = [hint for hint in hints if hint] + [
        command for page in PAGES for command in re.findall(r"pip install [^`\n]+", page.read_text())
    ]
    assert "pip install 'docker>=7.1'" in told
    assert [command for command in told if re.search(r"[ '\"]reconciler\b", command)] == []


def test_every_engine_is_in_the_table_of_the_readme() -> None:
    table = (ROOT / "README.md").read_text().split("## Engines")[1].split("##")[0]
    rows = re.findall(r"^\| \[?(\w+)", table, re.MULTILINE)
    assert sorted(row.lower() for row in rows[1:]) == sorted(
        name.replace("postgres", "postgresql") for name in plugins.ENGINES
    )


def test_the_page_about_operations_says_where_its_commands_have_the_configuration_from() -> None:
    shown = (ROOT / "docs" / "operations.md").read_text()
    said = shown.index("export RECONCILER_CONFIG=/etc/reconciler/reconciler.yaml")
    assert said < min(match.start() for match in re.finditer(r"^(\$ )?reconciler ", shown, re.MULTILINE))
