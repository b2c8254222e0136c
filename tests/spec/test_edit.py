"""Documents are cut out of files; every byte of the others stays."""

from __future__ import annotations

import pytest

from reconciler.errors import InputError
from reconciler.spec.edit import remove_document

HEADER = "# yaml-language-server: $schema=x\n\n"
FIRST = """\
# for Anna   until Friday
kind:   Clone       # aligned   by hand
metadata: {name: 'anna',labels: {a: "b",}}
spec:
  scripts:
  - inline: |
      SELECT 1;

      # part of the script
    # indented less
  expires: 2026-12-01T00:00:00Z
# still the first one

"""
SECOND = "# the second\n--- # here\nkind: Clone\nmetadata:\n    name: bea\n"
THIRD = "---\nkind: Image\nmetadata: {name: bea}\nspec: {a: &x [1,\n# within\n2], b: *x}\n...\n"
FOURTH = "%YAML 1.2\n---\n{kind: Clone, metadata: {name: dora}}\n\n"
FOOTER = "# vim: set et\n"
PARTS = {"anna": FIRST, "bea": SECOND, "dora": FOURTH}
WHOLE = (HEADER, FIRST, SECOND, THIRD, FOURTH, FOOTER)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("line", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_document_goes_with_its_comments_and_nothing_else_changes(name: str, line: str, start: str) -> None:
    whole, left = ("".join(p for p in WHOLE if p != gone) for gone in ("", PARTS[name]))

    removed = remove_document(start + whole.replace("\n", line), "Clone", name)

    assert removed == start + left.replace("\n", line)


def test_all_can_go_one_by_one_and_then_the_file_is_empty() -> None:
    text = "".join(WHOLE)
    for kind, name in (("Clone", "bea"), ("Image", "bea"), ("Clone", "dora"), ("Clone", "anna")):
        text = remove_document(text, kind, name)
    assert text == ""


def test_comments_without_a_line_between_belong_to_the_document_above() -> None:
    text = "kind: Clone\nmetadata: {name: a}\n# of a\n---\n# of b\nkind: Clone\nmetadata: {name: b}\n"

    assert remove_document(text, "Clone", "b") == "kind: Clone\nmetadata: {name: a}\n# of a\n"
    assert remove_document(text, "Clone", "a") == "---\n# of b\nkind: Clone\nmetadata: {name: b}\n"


def test_empty_documents_and_a_missing_last_newline_are_no_obstacle() -> None:
    text = "---\n---\nkind: Clone\nmetadata: {name: a}\n---\n# nothing\n---\nkind: Clone\nmetadata: {name: b}"

    assert remove_document(text, "Clone", "a") == "---\n---\n# nothing\n---\nkind: Clone\nmetadata: {name: b}"
    assert remove_document(text, "Clone", "b") == "---\n---\nkind: Clone\nmetadata: {name: a}\n---\n# nothing\n"


def test_text_that_looks_like_a_comment_is_never_lost() -> None:
    text = 'kind: Clone\nspec: "x\n\n# y"\n---\nkind: Clone\nmetadata: {name: b}\n'

    with pytest.raises(InputError, match="cannot be cut out"):
        remove_document(text, "Clone", "b")


@pytest.mark.parametrize("text", ["", "kind: Image\nmetadata: {name: a}\n", "[1]\n", "kind: Clone\nmetadata: [\n"])
def test_what_is_not_there_is_told(text: str) -> None:
    with pytest.raises(InputError, match="there is no Clone a"):
        remove_document(text, "Clone", "a")
