"""Editing spec files by program: comments, order and layout of everything else survive.

Used where the product writes specs itself (the demo, write-back). A field is set, and a
document added, in ruamel's round-trip mode; a document is removed by cutting its lines
out, which keeps every byte of the others (ruamel would indent and wrap them anew).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import yaml
from ruamel.yaml import YAML

from reconciler.errors import InputError
from reconciler.spec.yaml12 import parse

Value = str | int | float | bool | None | Sequence["Value"] | Mapping[str, "Value"]


def set_field(text: str, kind: str, name: str, *, path: Sequence[str], value: Value) -> str:
    """Return the text of a spec file with one field of one document set; missing parents are made.

    Raises:
        InputError: the file has no such document.

    """
    documents = _parse(text)
    node: dict[str, Any] = _find(documents, kind, name)
    for step in path[:-1]:
        node = node.setdefault(step, {})
    node[path[-1]] = value
    return _dump(documents)


def add_document(text: str, document: Mapping[str, Value]) -> str:
    """Return the text of a spec file with one more document at its end."""
    return _dump([*_parse(text), dict(document)])


def remove_document(text: str, kind: str, name: str) -> str:
    """Return the text of a spec file without one of its documents; empty when it was the only one.

    A document reaches to where the next begins. Comments right above its ``---``, with an
    empty line before them, belong to it; those at the top and at the end of a file to no document.

    Raises:
        InputError: the file has no such document, or it cannot be cut out without a change of others.

    """
    documents, problems = parse(text.encode())
    gone = [document for document in documents if _is_called(document.data, kind, name)]
    if problems or len(gone) != 1:
        raise InputError(f"there is no {kind} {name} in this file")
    kept = [document.data for document in documents if document is not gone[0]]
    if not kept:
        return ""
    lines = text.splitlines(keepends=True)
    begin, end = [_head(lines, line) for line in (*_starts(text), len(lines))][gone[0].number :][:2]
    left = "".join((*lines[:begin], *lines[end:]))
    if [document.data for document in parse(left.encode())[0]] != kept:
        raise InputError(f"{kind} {name} cannot be cut out of its file without a change of the others")
    return left


def _starts(text: str) -> list[int]:
    """Return the line of each document's ``---`` (of its directives, or of its content where it has none)."""
    events = yaml.parse(text, Loader=yaml.CLoader)
    marks = [event.start_mark for event in events if isinstance(event, yaml.DocumentStartEvent)]
    return [mark.line for mark in marks if mark is not None]


def _head(lines: Sequence[str], start: int) -> int:
    """Return the line where the comments begin that belong to what starts at a line."""
    top = start
    while top and lines[top - 1].startswith("#"):
        top -= 1
    return top if top and lines[top - 1].isspace() else start


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _parse(text: str) -> list[Any]:
    return [document for document in _yaml().load_all(text) if document is not None]


def _find(documents: Sequence[Any], kind: str, name: str) -> Any:  # noqa: ANN401 - ruamel's own mapping type
    for document in documents:
        if _is_called(document, kind, name):
            return document
    raise InputError(f"there is no {kind} {name} in this file")


def _is_called(document: Any, kind: str, name: str) -> bool:  # noqa: ANN401 - whatever YAML gave
    if not isinstance(document, Mapping) or document.get("kind") != kind:
        return False
    metadata = document.get("metadata")
    return isinstance(metadata, Mapping) and metadata.get("name") == name


def _dump(documents: Sequence[Any]) -> str:
    out = StringIO()
    _yaml().dump_all(documents, out)
    return out.getvalue()
