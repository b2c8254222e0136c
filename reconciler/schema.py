"""JSON Schemas of the kinds, for editors and other tools; generated from the models.

``python -m reconciler.schema`` writes ``schemas/``; with ``--check`` it only says whether
the files there are stale. The command line's ``schema`` calls :func:`write`. Schemas say
what the loader says, as far as JSON Schema can: they judge plain YAML values, so
numbers and text are what YAML 1.2 makes of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import PydanticOmit

from reconciler.spec.clone import Clone
from reconciler.spec.config import Config
from reconciler.spec.image import Image
from reconciler.spec.masking_policy import MaskingPolicy
from reconciler.spec.values import Amount, NumberRange

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic_core import core_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DIRECTORY = Path("schemas")
KINDS: tuple[type[BaseModel], ...] = (Image, Clone, MaskingPolicy, Config)
_MODELINE = "# yaml-language-server: $schema=reconciler.schema.json"
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, with defaults as people write them."""

    def encode_default(self, dft: Any) -> Any:  # noqa: ANN401 - any default of a field
        match dft:
            case timedelta():
                seconds = int(dft.total_seconds())
                size, unit = next(
                    (size, unit) for size, unit in _UNITS if (seconds % size == 0 and seconds >= size) or size == 1
                )
                return f"{seconds // size}{unit}"
            case Amount() | NumberRange():
                return str(dft)
            case None | BaseModel() | Path():
                raise PydanticOmit
            case tuple() if any(isinstance(item, BaseModel) for item in dft):
                return [item.model_dump(mode="json", by_alias=True, exclude_none=True) for item in dft]
            case _:
                return super().encode_default(dft)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        try:
            return super().default_schema(schema)
        except PydanticOmit:
            return self.generate_inner(schema["schema"])

    def dict_schema(self, schema: core_schema.DictSchema) -> dict[str, Any]:
        """Refuse keys that are not the names that they have to be."""
        result = super().dict_schema(schema)
        return {**result, "additionalProperties": False} if "patternProperties" in result else result

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401 - a core schema
        """Titles of fields would only repeat their names."""
        del schema
        return False


def schemas() -> dict[str, dict[str, Any]]:
    """Return every schema by the name of its file."""
    _, combined = models_json_schema([(kind, "validation") for kind in KINDS], schema_generator=_Generator)
    everything: dict[str, Any] = combined["$defs"]
    used = set().union(*(_reachable(kind.__name__, everything) for kind in KINDS))
    definitions = {name: everything[name] for name in sorted(used)}
    result = {_file(kind.__name__): _of_kind(kind.__name__, definitions) for kind in KINDS}
    return {**result, _file("reconciler"): _of_all(definitions)}


def _file(name: str) -> str:
    return f"{name.lower()}.schema.json"


def _head(name: str, title: str) -> dict[str, Any]:
    return {"$schema": DIALECT, "$id": f"urn:reconciler:v1:{name.lower()}", "title": title}


def _of_kind(name: str, definitions: Mapping[str, Any]) -> dict[str, Any]:
    used = _reachable(name, definitions)
    rest = {key: definitions[key] for key in sorted(used - {name})}
    return {**_head(name, f"{name} (reconciler/v1)"), **_untitled(definitions[name]), "$defs": rest}


def _untitled(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "title"}


def _of_all(definitions: Mapping[str, Any]) -> dict[str, Any]:
    names = [kind.__name__ for kind in KINDS]
    branches = [
        {"if": {"properties": {"kind": {"const": name}}}, "then": {"$ref": f"#/$defs/{name}"}} for name in names
    ]
    return {
        **_head("reconciler", "Documents of the reconciler (reconciler/v1)"),
        "description": f"Every kind of document. In a file: {_MODELINE}",
        "type": "object",
        "properties": {
            "apiVersion": {"const": "reconciler/v1", "description": "Version of this format."},
            "kind": {"enum": names, "description": "Kind of this document."},
        },
        "required": ["apiVersion", "kind"],
        "allOf": branches,
        "$defs": dict(definitions),
    }


def _reachable(name: str, definitions: Mapping[str, Any]) -> set[str]:
    """Return the definitions that one needs, itself included."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(_references(definitions[current]))
    return found


def _references(schema: object) -> list[str]:
    if isinstance(schema, dict):
        own = [schema["$ref"].rsplit("/", 1)[1]] if isinstance(schema.get("$ref"), str) else []
        return own + [name for value in schema.values() for name in _references(value)]
    return [name for item in schema for name in _references(item)] if isinstance(schema, list) else []


def texts() -> dict[str, str]:
    """Return the content of every file by its name."""
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in schemas().items()}


def write(out: Path) -> list[Path]:
    """Write all schemas to a directory, which is made if needed; return the files."""
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in texts().items():
        path = out / name
        path.write_text(text, encoding="utf-8")
        files.append(path)
    return files


def stale(out: Path) -> list[Path]:
    """Return the files of a directory that are missing or differ from what :func:`write` would write."""
    return [
        out / name
        for name, text in texts().items()
        if not (out / name).is_file() or (out / name).read_text(encoding="utf-8") != text
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the schemas; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m reconciler.schema", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DIRECTORY, help="directory of the schemas")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    options = parser.parse_args(arguments)
    if not options.check:
        write(options.out)
        return 0
    outdated = stale(options.out)
    for path in outdated:
        sys.stderr.write(f"{path} is stale: run python -m reconciler.schema\n")
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())
