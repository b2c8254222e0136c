"""Whatever the bytes, the loader answers with documents or diagnostics."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.spec.diagnostics import CODES, render_json, render_text
from reconciler.spec.documents import SpecFile
from reconciler.spec.loader import LoadResult, load

VALID = b"""\
apiVersion: reconciler/v1
kind: Image
metadata: {name: shop, labels: {team: payments}}
spec:
  engine: postgres
  version: "18"
  source:
    dump: {path: dumps/shop.sql, globals: dumps/roles.sql}
  scripts:
    - {path: sql/trim.sql, database: shop}
    - &s {inline: "INSERT INTO a", phase: afterMasking}
    - *s
  masking: [pii]
  refresh: {schedule: "0 2 * * *", timezone: Europe/Paris, jitter: 10m}
---
apiVersion: reconciler/v1
kind: MaskingPolicy
metadata: {name: pii}
spec:
  key: {secret: masking-key}
  rules:
    - table: public.customer
      columns: {email: email, first_name: {fake: first_name}, notes: "null", data: {json: {$.a: hash}}}
---
apiVersion: reconciler/v1
kind: Clone
metadata: {name: shop-dev}
spec: {image: shop, ttl: 8h, users: [{name: app, password: {secret: shop-app}}], snapshot: {at: 2026-11-20T12:00:00Z}}
"""
WORDS = st.sampled_from(
    re.findall(
        r"\S+",
        """
        apiVersion kind metadata name labels formerly spec engine version source dump path image empty masking unmasked
        users scripts inline columns rules table key secret refresh schedule retention resources snapshot at ttl expires
        Image Clone MaskingPolicy Config reconciler/v1 shop json fake bucket <plain> <fake> [key] null
        """,
    )
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), WORDS)
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(WORDS, st.text(max_size=8)), inner, max_size=6)
    ),
    max_leaves=20,
)
YAMLISH = st.text(st.sampled_from("ab:-? []{},&*!|>'\"%@`#\n\t \\0\u00e9\u2028\ufeff"), max_size=200)
quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def checked(data: bytes) -> LoadResult:
    result = load([SpecFile("fuzz.yaml", data)], config_allowed=True)
    for found in result.diagnostics:
        assert found.code in CODES
        assert found.line >= 1
        assert found.column >= 1
        assert len(found.summary) < 1000
        assert len("".join(found.snippet)) < 2000
    render_text(result.diagnostics)
    json.dumps(render_json(result.diagnostics))
    return result


def test_the_document_that_is_mutated_is_valid() -> None:
    assert checked(VALID).diagnostics == ()


@quick
@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    checked(data)


@quick
@given(YAMLISH)
def test_what_looks_like_yaml(text: str) -> None:
    checked(text.encode())


@quick
@given(st.data())
def test_mutations_of_valid_documents(data: st.DataObject) -> None:
    text = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text) - 1))
        end = min(len(text), start + data.draw(st.integers(0, 30)))
        text[start:end] = data.draw(
            st.one_of(st.binary(max_size=6), YAMLISH.map(str.encode), st.just(bytes(text[:40])))
        )
    checked(bytes(text))


@quick
@given(TREES, st.sampled_from(["Image", "Clone", "MaskingPolicy", "Config"]))
def test_any_structure_in_place_of_a_document(tree: Any, kind: str) -> None:  # noqa: ANN401 - anything
    wrapped = {"apiVersion": "reconciler/v1", "kind": kind, "metadata": {"name": "x"}, "spec": tree}
    checked(yaml.safe_dump_all([tree, wrapped], allow_unicode=True).encode("utf-8", "replace"))


@quick
@given(st.data())
def test_any_value_in_place_of_a_field(data: st.DataObject) -> None:
    documents = list(yaml.load_all(VALID, Loader=yaml.BaseLoader))
    node = data.draw(st.sampled_from(documents))
    while isinstance(node, dict | list):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not node[key] or not isinstance(node[key], dict | list) or data.draw(st.booleans()):
            node[key] = data.draw(TREES)
            break
        node = node[key]
    checked(yaml.safe_dump_all(documents, allow_unicode=True).encode("utf-8", "replace"))
