"""Every piece of YAML in the pages that is no whole document fits where its page says that it belongs."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest
import yaml

from reconciler.spec.documents import SpecFile
from reconciler.spec.loader import load, load_config
from tests.docs.test_pages import PAGES, blocks

if TYPE_CHECKING:
    from pathlib import Path

POLICY = "  key: {secret: key}\n  rules: [{table: public.t, columns: {c: keep}}]\n"
OF_OTHERS = ("# compose.yaml", "name: specs", "specs:", "repos:")
"""How those begin that other programs read: tests/actions holds them to the schemas of these, but for compose."""
FRAGMENTS = [
    (page, text)
    for page in PAGES
    for text in blocks(page, "yaml")
    if not text.startswith(("apiVersion", "# yaml-language-server"))
]
ELSEWHERE = frozenset({"R020", "R021"})
"""Codes of what a fragment refers to and its page does not show."""


@pytest.mark.parametrize(
    ("page", "text"), FRAGMENTS, ids=[f"{page.stem}-{number}" for number, (page, _) in enumerate(FRAGMENTS)]
)
def test_a_fragment_belongs_where_its_page_says(page: Path, text: str, tmp_path: Path) -> None:
    if text.startswith(OF_OTHERS):
        assert yaml.safe_load(text)
        return
    if text.startswith("# reconciler.yaml"):
        (tmp_path / "reconciler.yaml").write_text(text)
        load_config(tmp_path / "reconciler.yaml")
        return
    found = load([SpecFile(page.name, _document(page, text).encode())]).diagnostics
    assert [str(one) for one in found if one.code not in ELSEWHERE] == []


def _document(page: Path, text: str) -> str:
    """Return the document that somebody has who writes the fragment where it belongs."""
    if text.startswith("# in a Clone"):
        inside = text.partition("spec:\n")[2]
        return _head("Clone") + "  image: shop\n" + inside
    if text.startswith("source:"):
        engine = page.stem if page.parent.name == "engines" else "postgres"
        return _head("Image") + f"  engine: {engine}\n  unmasked: {{reason: shown}}\n" + textwrap.indent(text, "  ")
    if text.lstrip().startswith("references:"):
        return _head("MaskingPolicy") + POLICY + text
    raise AssertionError(f"{page.name} shows YAML that nothing here knows the place of:\n{text}")


def _head(kind: str) -> str:
    return f"apiVersion: reconciler/v1\nkind: {kind}\nmetadata: {{name: shown}}\nspec:\n"
