"""The JSON Schemas: fresh, valid, and of one mind with the loader."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its types are a package of their own, for this file only
import pytest

from reconciler import schema
from reconciler.spec.documents import SpecFile
from reconciler.spec.loader import load
from reconciler.spec.yaml12 import parse

ROOT = Path(__file__).parents[1]
SCHEMAS = schema.schemas()
COMBINED = jsonschema.Draft202012Validator(SCHEMAS["reconciler.schema.json"])
EXAMPLES = sorted((ROOT / "specs").rglob("*.yaml"))

IMAGE = "apiVersion: reconciler/v1\nkind: Image\nmetadata: {name: a}\nspec: "
CLONE = "apiVersion: reconciler/v1\nkind: Clone\nmetadata: {name: a}\nspec: "
POLICY = "apiVersion: reconciler/v1\nkind: MaskingPolicy\nmetadata: {name: a}\nspec: "
CONFIG = "apiVersion: reconciler/v1\nkind: Config\n"
GOOD = [
    IMAGE + "{engine: postgres, source: {empty: {}}}",
    IMAGE + "{engine: postgres, version: 18, source: {image: b}}",
    IMAGE + "{engine: mysql, version: '8.4', source: {dump: {path: a.sql}}, masking: [pii]}",
    IMAGE
    + "{engine: postgres, source: {backup: {path: /b}}, unmasked: {reason: x}, parameters: {a: 1, b: 0.5, c: true}}",
    IMAGE + "{engine: postgres, source: {empty: {}}, scripts: [{path: a.sql.j2}, {inline: x, phase: afterMasking}]}",
    IMAGE
    + "{engine: postgres, source: {empty: {}}, refresh: {schedule: 0 2 * * *, jitter: 10m}, retention: {maxAge: 3d}}",
    CLONE + "{image: a, snapshot: latest, ttl: 8h}",
    CLONE + "{image: a, snapshot: {at: 2026-11-20T12:00:00Z}, expires: 2026-11-20T12:00:00+01:00}",
    CLONE + "{image: a, snapshot: shop-20261122t020000z-1a2b3c4d, resources: {memory: 1Gi, cpus: 0.5, disk: 1024}}",
    CLONE + "{image: a, users: [{name: app, password: {secret: x}}], port: 5601, protected: true}",
    POLICY + "{key: {secret: k}, rules: [{table: public.a, columns: {a: email, b: 'null', c: {fake: city}}}]}",
    POLICY + "{key: {secret: k}, rules: [{table: '*.*', columns: {a: {shift_days: 3, by: id}, b: {bucket: month}}}]}",
    POLICY
    + "{key: {secret: k}, rules: [{table: a.b, columns: {a: {json: {$.x: {hash: {length: 8}}}}, b: {fixed: 0}}}]}",
    CONFIG,
    CONFIG + "pools: {default: {driver: btrfs, size: 50Gi, reserve: 5%}}\nprune: {maxDeletePercent: 20}\n",
    CONFIG + "repository: {url: https://git.example/x.git, interval: 30s}\nruntimes: {process: {ports: 5600-5700}}\n",
]
BAD = [
    IMAGE + "{engine: postgres}",
    IMAGE + "{engine: postgrs, source: {empty: {}}}",
    IMAGE + "{engine: postgres, source: {}}",
    IMAGE + "{engine: postgres, source: {empty: {}, image: b}}",
    IMAGE + "{engine: postgres, source: {dump: {path: a.sql}}}",
    IMAGE + "{engine: postgres, source: {dump: {path: a.sql}}, masking: []}",
    IMAGE + "{engine: postgres, source: {dump: {path: a.sql}}, masking: [a], unmasked: {reason: x}}",
    IMAGE + "{engine: postgres, source: {empty: {}}, scripts: [{path: a.sql, inline: x}]}",
    IMAGE + "{engine: postgres, source: {empty: {}}, scripts: [{path: a.sh}]}",
    IMAGE + "{engine: postgres, source: {empty: {}}, suspend: no}",
    IMAGE + "{engine: postgres, source: {empty: {}}, version: 9.6}",
    IMAGE + "{engine: postgres, source: {empty: {}}, params: }",
    CLONE + "{}",
    CLONE + "{image: A}",
    CLONE + "{image: a, ttl: 8}",
    CLONE + "{image: a, ttl: }",
    CLONE + "{image: a, ttl: 8h, expires: 2026-11-20T12:00:00Z}",
    CLONE + "{image: a, snapshot: newest}",
    CLONE + "{image: a, port: '5601'}",
    CLONE + "{image: a, port: 80}",
    CLONE + "{image: a, users: [{name: app, password: x}]}",
    CLONE + "{image: a, resources: {memory: 1GB}}",
    CLONE + "{image: a, extra: 1}",
    POLICY + "{key: {secret: k}, rules: [{table: public.a, columns: {a: emial}}]}",
    POLICY + "{key: {secret: k}, rules: [{table: public.a, columns: {a: null}}]}",
    POLICY + "{key: {secret: k}, rules: [{table: public.a, columns: {a: {fake: city, hash: {}}}}]}",
    POLICY + "{key: k, rules: []}",
    CONFIG + "pools: {Default: {}}\n",
    CONFIG + "limits: {memory: lots}\n",
    CONFIG + "concurrency: 0\n",
    CONFIG + "spec: {}\n",
]


def data(text: str) -> Any:  # noqa: ANN401 - whatever YAML gives
    [document] = parse(text.encode())[0]
    return document.data


def loads(text: str) -> bool:
    found = load([SpecFile("a.yaml", text.encode())], config_allowed=True).diagnostics
    return not [item for item in found if item.code != "R021"]


def test_the_files_in_the_repository_are_fresh() -> None:
    assert schema.stale(ROOT / "schemas") == []


def test_stale_files_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert schema.main(["--out", str(tmp_path), "--check"]) == 1
    assert schema.main(["--out", str(tmp_path)]) == 0
    assert schema.main(["--out", str(tmp_path), "--check"]) == 0
    (tmp_path / "image.schema.json").write_text("{}")
    assert schema.main(["--out", str(tmp_path), "--check"]) == 1
    assert "image.schema.json is stale" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_schemas_follow_their_dialect(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["$schema"] == schema.DIALECT
    assert len({found["$id"] for found in SCHEMAS.values()}) == len(SCHEMAS)


@pytest.mark.parametrize("text", GOOD)
def test_what_the_loader_accepts_the_schemas_accept(text: str) -> None:
    assert loads(text)
    own = SCHEMAS[f"{data(text)['kind'].lower()}.schema.json"]
    assert [error.message for error in COMBINED.iter_errors(data(text))] == []
    assert [error.message for error in jsonschema.Draft202012Validator(own).iter_errors(data(text))] == []


@pytest.mark.parametrize("text", BAD)
def test_what_the_loader_refuses_the_schemas_refuse(text: str) -> None:
    assert not loads(text)
    assert not COMBINED.is_valid(data(text))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_fit_their_schemas(path: Path) -> None:
    documents, problems = parse(path.read_bytes())
    assert documents
    assert problems == []
    assert [error.message for document in documents for error in COMBINED.iter_errors(document.data)] == []


def test_there_are_examples() -> None:
    assert EXAMPLES


def test_an_unknown_kind_is_refused() -> None:
    assert not COMBINED.is_valid({"apiVersion": "reconciler/v1", "kind": "Imge"})


def test_every_field_is_described() -> None:
    missing = [
        f"{name}.{field}"
        for name, definition in SCHEMAS["reconciler.schema.json"]["$defs"].items()
        for field, found in definition.get("properties", {}).items()
        if not found.get("description") and "$ref" not in found
    ]
    assert missing == []


def test_defaults_are_valid_values() -> None:
    wrong = [
        f"{name}.{field}: {error.message}"
        for name, definition in SCHEMAS["reconciler.schema.json"]["$defs"].items()
        for field, found in definition.get("properties", {}).items()
        if "default" in found
        for error in validator(found).iter_errors(found["default"])
    ]
    assert wrong == []


def test_the_examples_of_fields_are_valid_values() -> None:
    wrong = [
        f"{name}.{field}: {error.message}"
        for name, definition in SCHEMAS["reconciler.schema.json"]["$defs"].items()
        for field, found in definition.get("properties", {}).items()
        for example in found.get("examples", ())
        for error in validator(found).iter_errors(example)
    ]
    assert wrong == []


def validator(part: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**part, "$defs": SCHEMAS["reconciler.schema.json"]["$defs"]})


def test_nothing_of_the_schemas_depends_on_the_host() -> None:
    assert not re.search(r"/(root|home)/", json.dumps(SCHEMAS))
