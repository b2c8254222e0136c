"""Editing spec files by program: comments, order and layout of everything else survive.

Used where the product writes specs itself (the demo, write-back). Reading goes through
the loader, which is some twenty times quicker; this is ruamel's round-trip mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from reconciler.errors import InputError

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
    """Return the text of a spec file without one of its documents.

    Raises:
        InputError: the file has no such document.

    """
    documents = _parse(text)
    gone = _find(documents, kind, name)
    return _dump([document for document in documents if document is not gone])


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
        if document.get("kind") == kind and document.get("metadata", {}).get("name") == name:
            return document
    raise InputError(f"there is no {kind} {name} in this file")


def _dump(documents: Sequence[Any]) -> str:
    out = StringIO()
    _yaml().dump_all(documents, out)
    return out.getvalue()
