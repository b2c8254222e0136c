"""Paths into JSON documents: read from a policy, gathered into a tree, applied to a document, looked up in one.

``$`` is the document, ``.key`` or ``."any key"`` a member, ``[*]`` every element of an
array, ``[2]`` one of them. The tree is what engines turn into one expression; applying it
here is the reference.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from reconciler.spec.masking_policy import Column as Method

Step = str | int | None
"""A member's key, an element's number, or every element."""
_STEP = re.compile(r'\.(?P<key>[^."\[\]\s]+)|\."(?P<quoted>(?:[^"\\]|\\.)+)"|\[(?:(?P<at>\d{1,9})|\*)\]')


@dataclass(slots=True)
class Node:
    """What happens below one place: a method for the value itself, or more steps."""

    method: Method | None = None
    steps: dict[Step, Node] = field(default_factory=dict)


def parse(path: str) -> tuple[Step, ...] | None:
    """Return the steps of a path, or None when it is not one."""
    if not path.startswith("$"):
        return None
    steps: list[Step] = []
    at = 1
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None:
            return None
        steps.append(_step(found))
        at = found.end()
    return tuple(steps)


def _step(found: re.Match[str]) -> Step:
    if found["key"] is not None:
        return found["key"]
    if found["quoted"] is not None:
        return re.sub(r"\\(.)", r"\1", found["quoted"])
    return None if found["at"] is None else int(found["at"])


def tree(rules: Mapping[str, Method]) -> Node | None:
    """Return the rules as a tree, or None when one is below another or a path is not one."""
    root = Node()
    for path, method in rules.items():
        steps = parse(path)
        if steps is None:
            return None
        node = root
        for step in steps:
            node = node.steps.setdefault(step, Node())
        if node.method is not None:
            return None
        node.method = method
    return None if _overlaps(root) else root


def _overlaps(node: Node) -> bool:
    elements = [step for step in node.steps if not isinstance(step, str)]
    if (node.method is not None and node.steps) or (None in elements and len(elements) > 1):
        return True
    return any(map(_overlaps, node.steps.values()))


def apply(node: Node, document: Any, leaf: Callable[[Method, Any], Any]) -> Any:  # noqa: ANN401 - JSON
    """Return the document with ``leaf`` applied at the tree's methods; places that are not there are passed over."""
    if node.method is not None:
        return leaf(node.method, document)
    result = document
    for step, inner in node.steps.items():
        if isinstance(step, str):
            if isinstance(result, dict) and step in result:
                result = result | {step: apply(inner, result[step], leaf)}
        elif isinstance(result, list):
            chosen = range(len(result)) if step is None else [step]
            result = [apply(inner, one, leaf) if at in chosen else one for at, one in enumerate(result)]
    return result


def strings(paths: Iterable[str], text: str | bytes) -> Iterator[str]:
    """Yield the strings that a document, as it is stored, has at some paths; nothing of what is no document."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return
    for path in paths:
        yield from _strings(document, parse(path) or ())


def _strings(value: Any, steps: Sequence[Step]) -> Iterator[str]:  # noqa: ANN401 - JSON
    if not steps:
        if isinstance(value, str):
            yield value
        return
    step, rest = steps[0], steps[1:]
    if isinstance(step, str):
        if isinstance(value, dict) and step in value:
            yield from _strings(value[step], rest)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            if step is None or step == number:
                yield from _strings(one, rest)
