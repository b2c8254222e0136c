"""Whatever the bytes, the loader answers with documents or diagnostics, and what it finds valid can be planned."""

from __future__ import annotations

import json
import re
from datetime import MAXYEAR, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from reconciler.plan.policy import judge
from reconciler.plan.render import plan_json, plan_text
from reconciler.plan.settings import PlanSettings, PolicySettings
from reconciler.plan.timers import next_due
from reconciler.repository import DirectoryTree
from reconciler.spec.codes import CODES
from reconciler.spec.diagnostics import render_json, render_text
from reconciler.spec.documents import SpecFile
from reconciler.spec.loader import LoadResult, load
from reconciler.spec.values import DURATION_OR_ZERO_PATTERN
from reconciler.state.observed import Input
from reconciler.state.resolve import resolve
from tests.plan.world import INPUT, World, a_pool, planned, seen

if TYPE_CHECKING:
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Observed

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
spec: {image: shop, ttl: 8h, users: [{name: app, password: {secret: shop-app}}], snapshot: {at: 2026-12-20T12:00:00Z}}
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
TIMES = st.one_of(
    st.builds("{0:%Y-%m-%dT%H:%M:%S}{1}".format, st.datetimes(), st.sampled_from(["Z", "+14:00", "-12:00", "+23:59"])),
    st.sampled_from(["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+14:00"]),
)
DURATIONS = st.one_of(st.from_regex(DURATION_OR_ZERO_PATTERN), st.sampled_from(["36500d", "1s"]))
MINUTES, HOURS, DAYS, MONTHS, WEEKDAYS = (
    st.sampled_from(["*", "*/7", "1", "1,2", *others])
    for others in (["59"], ["23"], ["29", "31", "*/31", "L", "LW", "L/2"], ["2", "FEB"], ["MON", "5L", "1#5", "*/7"])
)
SCHEDULES = st.tuples(MINUTES, HOURS, DAYS, MONTHS, WEEKDAYS).map(" ".join)
ZONES = st.sampled_from(["UTC", "Europe/Paris", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Monrovia"])
SETTINGS = PlanSettings()

quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> DirectoryTree:
    root = tmp_path_factory.mktemp("specs")
    for path in ("dumps/shop.sql", "dumps/roles.sql", "sql/trim.sql"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text("SELECT 1;")
    return DirectoryTree(root)


def checked(data: bytes, tree: DirectoryTree) -> LoadResult:
    result = load([SpecFile("fuzz.yaml", data)], config_allowed=True)
    for found in result.diagnostics:
        assert found.code in CODES
        assert found.line >= 1
        assert found.column >= 1
        assert len(found.summary) < 1000
        assert len("".join(found.snippet)) < 2000
    render_text(result.diagnostics)
    json.dumps(render_json(result.diagnostics))
    if result.valid:
        desired = resolve(result.documents, tree).desired
        if desired is not None:
            planned_on_and_on(desired)
    return result


def planned_on_and_on(desired: Desired) -> None:
    """Plan and apply from an empty host on, each time when the next timer is due."""
    world = World(desired, empty_host(desired))
    for _pass in range(4):
        made = planned(desired, world.observed, now=world.now, settings=SETTINGS)
        made = judge(made, desired, world.observed, world.now, settings=PolicySettings())
        plan_text(made)
        json.dumps(plan_json(made))
        world.run(made)
        due = next_due(desired, world.observed, world.now, settings=SETTINGS)
        if due is None and world.now.year == MAXYEAR:
            return  # nothing comes after the end of the calendar
        world.now = due or world.now + timedelta(days=400)


def empty_host(desired: Desired) -> Observed:
    names = {user.password for clone in desired.clones.values() for user in clone.users if user.password is not None}
    names |= {key for image in desired.images.values() for key in image.masking_keys}
    return seen(
        *(a_pool(image.pool) for image in desired.images.values()),
        secrets={name: f"fingerprint of {name}" for name in names},
        inputs=dict.fromkeys(desired.images, Input(INPUT)),
    )


def test_the_document_that_is_mutated_is_valid(tree: DirectoryTree) -> None:
    assert checked(VALID, tree).diagnostics == ()


@quick
@given(st.binary(max_size=300))
def test_random_bytes(tree: DirectoryTree, data: bytes) -> None:
    checked(data, tree)


@quick
@given(YAMLISH)
def test_what_looks_like_yaml(tree: DirectoryTree, text: str) -> None:
    checked(text.encode(), tree)


@quick
@given(st.data())
def test_mutations_of_valid_documents(tree: DirectoryTree, data: st.DataObject) -> None:
    text = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text) - 1))
        end = min(len(text), start + data.draw(st.integers(0, 30)))
        text[start:end] = data.draw(
            st.one_of(st.binary(max_size=6), YAMLISH.map(str.encode), st.just(bytes(text[:40])))
        )
    checked(bytes(text), tree)


@quick
@given(TREES, st.sampled_from(["Image", "Clone", "MaskingPolicy", "Config"]))
def test_any_structure_in_place_of_a_document(tree: DirectoryTree, found: Any, kind: str) -> None:  # noqa: ANN401
    wrapped = {"apiVersion": "reconciler/v1", "kind": kind, "metadata": {"name": "x"}, "spec": found}
    checked(yaml.safe_dump_all([found, wrapped], allow_unicode=True).encode("utf-8", "replace"), tree)


@quick
@given(st.data())
def test_any_value_in_place_of_a_field(tree: DirectoryTree, data: st.DataObject) -> None:
    documents = list(yaml.load_all(VALID, Loader=yaml.BaseLoader))
    node = data.draw(st.sampled_from(documents))
    while isinstance(node, dict | list):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not node[key] or not isinstance(node[key], dict | list) or data.draw(st.booleans()):
            node[key] = data.draw(TREES)
            break
        node = node[key]
    checked(yaml.safe_dump_all(documents, allow_unicode=True).encode("utf-8", "replace"), tree)


@quick
@given(st.data())
def test_any_time_duration_and_schedule(tree: DirectoryTree, data: st.DataObject) -> None:
    image, policy, clone = yaml.load_all(VALID, Loader=yaml.BaseLoader)
    wishes: list[tuple[Any, str, st.SearchStrategy[str]]] = [
        (image["spec"]["refresh"], "schedule", SCHEDULES),
        (image["spec"]["refresh"], "timezone", ZONES),
        (image["spec"]["refresh"], "jitter", DURATIONS),
        (image["spec"].setdefault("retention", {}), "maxAge", DURATIONS),
        (clone["spec"]["snapshot"], "at", TIMES),
        (clone["spec"], "ttl", DURATIONS),
        (clone["spec"], "expires", TIMES),
    ]
    for place, field, values in data.draw(st.permutations(wishes))[:2]:
        place[field] = data.draw(values)
    if "expires" in clone["spec"]:
        clone["spec"].pop("ttl")
    assume(checked(yaml.safe_dump_all([image, policy, clone]).encode(), tree).valid)
