"""``Observed`` as JSON and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.errors import ConfigError
from reconciler.ids import InstallationId, VolumeId
from reconciler.state import observed as state
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.status.observation import observed_from_json, observed_to_json

NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
INTEGERS = st.integers(0, 2**62)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - Hypothesis adds the zone
KEYS = st.builds(ObjectKey, st.sampled_from(Kind), NAMES)


def _mapping(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(NAMES, values, max_size=3)


def _some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(values, max_size=3).map(tuple)


TEXTS = _mapping(NAMES)
BUILDS = st.builds(
    state.BuildManifest,
    installation=NAMES,
    image=NAMES,
    snapshot=NAMES,
    engine=NAMES,
    spec_digest=NAMES,
    revision=NAMES,
    started_at=TIMES,
    runtime=NAMES,
)
SNAPSHOTS = st.builds(
    state.SnapshotManifest,
    installation=NAMES,
    image=NAMES,
    snapshot=NAMES,
    engine=NAMES,
    version=NAMES,
    major=NAMES,
    spec_digest=NAMES,
    input_id=NAMES,
    key_id=st.none() | NAMES,
    masked_by=_some(NAMES),
    notes=_some(NAMES),
    revision=NAMES,
    created_at=TIMES,
    data_as_of=st.none() | TIMES,
    base=st.none() | NAMES,
    databases=_some(NAMES),
    parameters=TEXTS,
    required=TEXTS,
    facts=TEXTS,
    attestation=st.none() | st.builds(state.Attestation, NAMES, st.none() | NAMES),
    quarantine=st.none() | st.builds(state.Quarantine, TIMES, NAMES, NAMES),
)
CLONES = st.builds(
    state.CloneManifest,
    installation=NAMES,
    clone=NAMES,
    generation=INTEGERS,
    phase=st.sampled_from(state.ClonePhase),
    image=NAMES,
    snapshot=NAMES,
    engine=NAMES,
    major=NAMES,
    runtime=NAMES,
    port=INTEGERS,
    revision=NAMES,
    created_at=TIMES,
    ready_at=st.none() | TIMES,
    owner=st.none() | NAMES,
    protected=st.booleans(),
    users=_some(st.builds(state.AppliedUser, NAMES, NAMES, NAMES)),
    scripts_digest=NAMES,
    settings_digest=NAMES,
    databases=_some(NAMES),
    facts=TEXTS,
    account=st.none() | INTEGERS,
)
VOLUMES = st.builds(state.Volume, NAMES, NAMES, st.sampled_from(state.VolumeState), BUILDS | SNAPSHOTS | CLONES)
POOLS = st.builds(state.ObservedPool, NAMES, NAMES, st.booleans(), NAMES, INTEGERS, INTEGERS, INTEGERS, st.booleans())
SERVERS = st.builds(
    state.ObservedServer,
    NAMES,
    NAMES,
    st.sampled_from(state.ServerState),
    st.none() | INTEGERS,
    st.none() | TIMES,
    st.booleans(),
)
FAILURES = st.builds(state.Failure, NAMES, NAMES, st.booleans(), NAMES, INTEGERS, TIMES, st.none() | TIMES)
REQUESTS = st.builds(
    state.Request,
    id=NAMES,
    verb=st.sampled_from(["apply", "refresh", "reset", "undo", "approve"]),
    target=NAMES,
    requested_at=TIMES,
    requested_by=NAMES,
    plan_hash=st.none() | NAMES,
    at_once=st.booleans(),
)
OBSERVED = st.builds(
    state.Observed,
    installation=NAMES,
    pools=_mapping(POOLS),
    volumes=_some(VOLUMES),
    servers=_mapping(SERVERS),
    unknown_runtimes=TEXTS,
    inputs=_mapping(st.builds(state.Input, st.none() | NAMES, st.none() | NAMES, NAMES)),
    secrets=TEXTS,
    tombstones=_mapping(st.builds(state.Tombstone, NAMES, NAMES, TIMES)),
    failures=st.dictionaries(KEYS, st.lists(FAILURES, min_size=1, max_size=2).map(tuple), max_size=3),
    in_flight=st.frozensets(KEYS, max_size=3),
    in_use=st.none() | st.frozensets(NAMES, max_size=3),
    requests=_some(REQUESTS),
    recent_deletions=_mapping(TIMES),
    refreshed=_mapping(TIMES),
    answered=TEXTS,
    skipped=_mapping(TIMES),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OBSERVED)
def test_what_was_observed_is_read_back_from_a_file_without_loss(observed: state.Observed) -> None:
    text = json.dumps(observed_to_json(observed))
    assert observed_from_json(text) == observed
    assert observed_from_json(json.dumps({"revision": "r", "observed": json.loads(text)}).encode()) == observed


def test_every_field_of_an_observation_is_covered_by_the_property() -> None:
    document = observed_to_json(state.Observed(installation=InstallationId("i")))
    assert document.keys() == set(state.Observed.__dataclass_fields__)


def test_the_same_observation_gives_the_same_text() -> None:
    keys = [ObjectKey(Kind.CLONE, f"c{number}") for number in range(20)]
    names = [VolumeId(f"c{number}.1") for number in range(20)]
    i = InstallationId("i")
    one = state.Observed(installation=i, in_flight=frozenset(keys), in_use=frozenset(names))
    two = state.Observed(installation=i, in_flight=frozenset(reversed(keys)), in_use=frozenset(reversed(names)))
    assert json.dumps(observed_to_json(one)) == json.dumps(observed_to_json(two))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"observed": 3}',
        '{"installation": "i", "volumes": [{}]}',
        '{"installation": "i", "failures": [{"kind": "Shoe"}]}',
        "[" * 100_000,
    ],
)
def test_anything_else_is_a_clear_error(text: str) -> None:
    with pytest.raises(ConfigError, match="the observation cannot be read"):
        observed_from_json(text)
