"""Values within JSON documents, by their paths.

Called by :mod:`.verdict`. A path that only one document has may be data itself (documents
by user name): such paths are told to nobody, their values are only looked at together.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reconciler.masking.classify.numbers import reaches_someone
from reconciler.masking.classify.profiles import LENGTH

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

_LOOKED_AT = 50
_RECURRING, _RARE = 2, 0.05
"""Documents, and share of them, from which a path is part of their form."""
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Parsed:
    """Text values of documents: of ``known`` paths as policies write them, and of others by how deep they are."""

    known: Mapping[str, Sequence[str]]
    others: Mapping[int, Sequence[str]]


def paths(texts: Sequence[str]) -> Parsed:
    """Return the values of documents by path; what is no JSON, because it was cut, is left out."""
    documents = [found for text in texts[:_LOOKED_AT] if (found := _values(text))]
    counts: dict[str, int] = defaultdict(int)
    for found in documents:
        for path in found:
            counts[path] += 1
    least = max(_RECURRING, round(_RARE * len(documents)))
    known: dict[str, list[str]] = defaultdict(list)
    others: dict[int, list[str]] = defaultdict(list)
    for found in documents:
        for path, values in found.items():
            if counts[path] >= least and not reaches_someone(path):
                known[path] += values
            else:
                others[path.count(".")] += values
    return Parsed(known, others)


def overlap(found: Collection[str]) -> bool:
    """Tell whether one path leads below another: a policy cannot name both."""
    return any(other != path and other.startswith((f"{path}.", f"{path}[")) for path in found for other in found)


def _values(text: str) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    try:
        for path, value in _leaves(json.loads(text), "$"):
            found[path].append(value)
    except (ValueError, RecursionError):
        return {}
    return found


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any document
    match value:
        case dict():
            for key, inner in value.items():
                yield from _leaves(inner, f"{path}.{_key(key)}")
        case list():
            for inner in value:
                yield from _leaves(inner, f"{path}[*]")
        case str():
            yield path, value[:LENGTH]
        case _:
            pass


def _key(key: str) -> str:
    return key if _PLAIN.fullmatch(key) else json.dumps(key, ensure_ascii=False)
