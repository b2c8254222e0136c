"""From pydantic's errors to findings that a person understands: code, words, place, hint.

Called by the loader when a document does not fit its model; nothing here runs for valid
documents. Values are quoted only where they help, bounded, and never where a secret
reference should stand.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from reconciler.spec.suggest import did_you_mean, one_of
from reconciler.spec.types import Ruled, SecretRef

Path = tuple[str | int, ...]
_MAX_QUOTED = 60

_EXPECTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "tuple_type": "a sequence",
    "list_type": "a sequence",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_REASONS = {
    "value": "{message}",
    "greater_than_equal": "this must be at least {ge}",
    "less_than_equal": "this must be at most {le}",
    "greater_than": "this must be more than {gt}",
    "string_too_short": "this must not be empty",
    "too_short": "this must not be empty",
    "string_too_long": "this is longer than {max_length} characters",
    "string_pattern_mismatch": "this does not match {pattern}",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One error of a document. ``key``: the place is the key of ``path``, not its value."""

    code: str
    summary: str
    path: Path
    key: bool = False
    hint: str | None = None
    secret: bool = False


def explain(model: type[BaseModel], errors: Sequence[Mapping[str, Any]], data: object) -> Iterator[Finding]:
    """Yield a finding for each error, at most one for each place and code.

    Rules between fields are asked again about ``data``: pydantic asks them only where
    every field is valid.
    """
    seen: set[tuple[str, Path]] = set()
    for finding in chain((_finding(model, error) for error in errors), _contradictions([model], data, ())):
        if (finding.code, finding.path) not in seen:
            seen.add((finding.code, finding.path))
            yield finding


def _finding(model: type[BaseModel], error: Mapping[str, Any]) -> Finding:
    loc: Path = tuple(error["loc"])
    path = tuple(step for step in loc if not _is_tag(step))
    if path and path[-1] == "[key]":
        return Finding("R016", _reason(error), path[:-1], key=True, hint=error.get("ctx", {}).get("hint"))
    match error["type"]:
        case "value":
            return _own(error, path)
        case "extra_forbidden":
            return _unknown_field(path, _fields(model, loc[:-1]))
        case "missing":
            return _missing(path, _annotations(model, loc))
    if error["type"] == "literal_error" and (hint := _with_argument(error["input"], _annotations(model, path))):
        return Finding("R015", f"{_quoted(error['input'])} needs an argument", path, hint=hint)
    return _wrong(error, path, _annotations(model, loc))


def _with_argument(value: object, alternatives: Sequence[Any]) -> str | None:
    """Return how to write an alternative that was named without its argument."""
    for item in alternatives:
        if isinstance(item, type) and issubclass(item, BaseModel) and _own_name(item) == value:
            field = next(field for name, field in item.model_fields.items() if (field.alias or name) == value)
            return f"write {{{value}: {json.dumps((field.examples or ['…'])[0], ensure_ascii=False)}}}"
    return None


def _wrong(error: Mapping[str, Any], path: Path, annotations: Sequence[Any]) -> Finding:
    if SecretRef in annotations:
        return _no_reference(path)
    if error["input"] is None and error["type"] != "union_tag_not_found":
        hint = "give it a value, or remove it"
        return Finding("R014", f"{_label(path)} has no value", path, hint=_null_hint(annotations) or hint)
    return _wrong_value(error, path, annotations)


def _contradictions(annotations: Sequence[Any], data: object, path: Path) -> Iterator[Finding]:
    if isinstance(data, dict):
        for model in annotations:
            if isinstance(model, type) and issubclass(model, Ruled):
                for error in model.contradictions(data):
                    yield _own({"ctx": error.context, "input": data}, path)
    steps = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for step, value in steps:
        if isinstance(value, dict | list):
            inner = [found for item in annotations for found in _inside(item, step)]
            yield from _contradictions(inner, value, (*path, step))


def _is_tag(step: str | int) -> bool:
    return isinstance(step, str) and step.startswith("<") and step.endswith(">")


def _own(error: Mapping[str, Any], path: Path) -> Finding:
    context = error["ctx"]
    if error["input"] is None and path:
        return Finding("R014", f"{_label(path)} has no value", path, hint=context["hint"])
    return Finding(context["code"], context["message"], path + tuple(context["at"]), hint=context["hint"])


def _unknown_field(path: Path, fields: Sequence[str]) -> Finding:
    name = str(path[-1])
    hint = did_you_mean(name, fields) or (f"known here: {one_of(fields).removeprefix('one of ')}" if fields else None)
    return Finding("R012", f'unknown field "{_short(name)}"', path, key=True, hint=hint)


def _missing(path: Path, annotations: Sequence[Any]) -> Finding:
    name = path[-1]
    hint = "add secret: NAME" if name == "secret" else None
    choices = _choices(annotations)
    if choices:
        hint = f"add {name}: {choices[0]}" if len(choices) == 1 else f"add {name}: {one_of(choices)}"
    return Finding("R013", f'the field "{name}" is missing', path[:-1], key=True, hint=hint or f"add {name}")


def _no_reference(path: Path) -> Finding:
    hint = "write {secret: NAME}; the value belongs into the host's secrets, never into git"
    return Finding("R014", f"{_label(path)} must be a reference to a secret", path, hint=hint, secret=True)


def _wrong_value(error: Mapping[str, Any], path: Path, annotations: Sequence[Any]) -> Finding:
    kind, value = error["type"], error["input"]
    if kind == "literal_error":
        return _not_allowed(value, path, _choices(annotations))
    if kind in {"union_tag_not_found", "union_tag_invalid"}:
        return _unknown_method(value, path, annotations)
    if kind in _EXPECTED:
        expected = f"expected {_EXPECTED[kind]}, found {_type_name(value)}"
        return Finding("R014", expected, path, hint=_type_hint(kind, value))
    return Finding("R016", _reason(error), path)


def _not_allowed(value: object, path: Path, choices: Sequence[str]) -> Finding:
    near = did_you_mean(value, choices) if isinstance(value, str) else None
    return Finding(
        "R015", f"{_quoted(value)} is not allowed here", path, hint=near or (one_of(choices) if choices else None)
    )


def _unknown_method(value: object, path: Path, annotations: Sequence[Any]) -> Finding:
    """Explain a mapping without the key that says which alternative it is."""
    known = [_own_name(item) for item in annotations if isinstance(item, type) and issubclass(item, BaseModel)]
    keys = [key for key in value if isinstance(key, str)] if isinstance(value, dict) else []
    hint = did_you_mean(keys[0], known) if keys else None
    return Finding("R015", f"{_label(path)} names no known method", path, hint=hint or one_of(known))


def _own_name(model: type[BaseModel]) -> str:
    """Return the key that names an alternative: the field that its bases do not have."""
    inherited = {name for base in model.__mro__[1:] for name in getattr(base, "model_fields", {})}
    return next((field.alias or name for name, field in model.model_fields.items() if name not in inherited), "")


def _reason(error: Mapping[str, Any]) -> str:
    context: Mapping[str, Any] = error.get("ctx", {})
    template = _REASONS.get(error["type"])
    return template.format_map(context) if template else str(error["msg"])[:200]


def _type_name(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case str():
            return "text"
        case list():
            return "a sequence"
        case dict():
            return "a mapping"
        case _:
            return "nothing"


def _type_hint(kind: str, value: object) -> str | None:
    if kind == "string_type" and isinstance(value, int | float):
        return f'put it in quotes: "{str(value).lower() if isinstance(value, bool) else value}"'
    if kind == "bool_type" and isinstance(value, str):
        return "write true or false without quotes; yes, no, on and off are text in YAML 1.2"
    if kind == "int_type" and isinstance(value, str):
        return "write the number without quotes"
    if kind == "tuple_type":
        return "write [a, b], or one item per line after a hyphen"
    return None


def _null_hint(annotations: Sequence[Any]) -> str | None:
    return 'to set the column to NULL write "null" in quotes' if "null" in _choices(annotations) else None


def _label(path: Path) -> str:
    names = [step for step in path if isinstance(step, str)]
    return f'"{_short(names[-1])}"' if names else "the document"


def _quoted(value: object) -> str:
    return f'"{_short(value)}"' if isinstance(value, str) else _type_name(value)


def _short(text: str) -> str:
    return text if len(text) <= _MAX_QUOTED else text[: _MAX_QUOTED - 1] + "…"


def _fields(model: type[BaseModel], loc: Path) -> list[str]:
    """Return the names that a mapping may have at a place."""
    return [
        field.alias or name
        for item in _annotations(model, loc)
        if isinstance(item, type) and issubclass(item, BaseModel)
        for name, field in item.model_fields.items()
    ]


def _choices(annotations: Sequence[Any]) -> list[str]:
    return [str(choice) for item in annotations if get_origin(item) is Literal for choice in get_args(item)]


def _annotations(model: type[BaseModel], loc: Path) -> list[Any]:
    """Return the types that a place may have."""
    current: list[Any] = [model]
    for step in loc:
        if _is_tag(step):
            current = _tagged(current, str(step)[1:-1])
        else:
            current = [inner for item in current for inner in _inside(item, step)]
    return current


def _tagged(alternatives: list[Any], tag: str) -> list[Any]:
    chosen = [
        item
        for item in alternatives
        if isinstance(item, type) and issubclass(item, BaseModel) and _own_name(item) == tag
    ]
    return chosen or [item for item in alternatives if not (isinstance(item, type) and issubclass(item, BaseModel))]


def _inside(annotation: Any, step: str | int) -> Iterator[Any]:  # noqa: ANN401 - a type expression
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if step == (field.alias or name):
                yield from _flat(field.annotation)
    elif get_origin(annotation) is dict:
        yield from _flat(get_args(annotation)[1])
    elif get_origin(annotation) in {tuple, list}:
        yield from _flat(get_args(annotation)[0])


def _flat(annotation: Any) -> Iterator[Any]:  # noqa: ANN401 - a type expression
    """Yield the alternatives of a type, without what is annotated to them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _flat(get_args(annotation)[0])
    elif origin in {Union, types.UnionType}:
        for item in get_args(annotation):
            yield from _flat(item)
    elif isinstance(origin, types.GenericAlias) or annotation is not type(None):
        yield annotation
