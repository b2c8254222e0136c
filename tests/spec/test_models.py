"""What each kind accepts and refuses, by small changes of valid documents."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from reconciler.spec.clone import Clone, SnapshotAt
from reconciler.spec.image import Image
from reconciler.spec.masking_policy import METHODS, Column, Fake, MaskingPolicy, ShiftDays, _method

IMAGE: dict[str, Any] = {
    "apiVersion": "reconciler/v1",
    "kind": "Image",
    "metadata": {"name": "shop", "labels": {"team": "payments"}},
    "spec": {"engine": "postgres", "source": {"dump": {"path": "dumps/shop.sql"}}, "masking": ["pii"]},
}
CLONE: dict[str, Any] = {
    "apiVersion": "reconciler/v1",
    "kind": "Clone",
    "metadata": {"name": "shop-dev"},
    "spec": {"image": "shop"},
}


def changed(document: dict[str, Any], **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any YAML value
    result = copy.deepcopy(document)
    result["spec"].update(fields)
    return result


def test_an_image_has_the_defaults_of_the_contract() -> None:
    spec = Image.model_validate(IMAGE).spec
    assert (spec.retention.keep, spec.retention.max_age, spec.pool, spec.runtime) == (3, None, "default", "process")
    assert (spec.source.kind, spec.masking, spec.refresh, spec.suspend) == ("dump", ("pii",), None, False)


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 18},
        {"version": "9.6"},
        {"source": {"empty": {}}, "masking": []},
        {"source": {"image": "base"}, "masking": []},
        {"source": {"primary": {"url": {"secret": "dsn"}, "method": "logical"}}},
        {"masking": [], "unmasked": {"reason": "public"}},
        {"scripts": [{"path": "a.sql.j2"}, {"inline": "SELECT 1", "phase": "afterMasking", "database": "shop"}]},
        {"refresh": {"schedule": "0 2 * * *", "timezone": "Europe/Paris", "jitter": "10m"}},
        {"refresh": {"suspend": True}},
        {"refresh": {"window": {"schedule": "0 22 * * *", "duration": "6h"}, "timezone": "Europe/Paris"}},
        {
            "refresh": {
                "window": [{"schedule": "0 22 * * *", "duration": "6h"}, {"schedule": "0 0 * * 6", "duration": "1d"}]
            }
        },
        {"refresh": {"timezone": "Europe/Paris"}, "retention": {"daily": 7}},
        {"retention": {"keep": 1, "daily": 7, "weekly": 4, "monthly": 6, "maxAge": "365d"}},
        {"verify": {"amcheck": True, "checks": [{"sql": "SELECT true", "database": "shop"}]}},
        {"verify": {}},
        {"parameters": {"work_mem": "64MB", "max_connections": 10, "jit": False}},
        {"retention": {"keep": 1, "maxAge": "30d"}},
    ],
)
def test_an_image_accepts(fields: dict[str, Any]) -> None:
    Image.model_validate(changed(IMAGE, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"version": "18.1"},
        {"version": 9.6},
        {"source": {}},
        {"source": {"empty": {}, "image": "base"}},
        {"source": {"dump": {"path": "../x"}}},
        {"masking": []},
        {"unmasked": {"reason": "public"}},
        {"masking": [], "unmasked": {"reason": ""}},
        {"masking": ["pii", "pii"]},
        {"databases": ["shop", "shop"]},
        {"databases": ["template1"]},
        {"databases": ["x" * 64]},
        {"scripts": [{"path": "a.sh"}]},
        {"scripts": [{}]},
        {"scripts": [{"path": "a.sql", "inline": "SELECT 1"}]},
        {"refresh": {"schedule": "@daily"}},
        {"refresh": {"schedule": "* * * * * *"}},
        {"refresh": {"schedule": "0 0 30 2 *"}},
        {"refresh": {"timezone": "Europe/Paris"}},
        {"refresh": {"schedule": "0 2 * * *", "timezone": "../etc"}},
        {"refresh": {"jitter": "10m", "window": {"schedule": "0 22 * * *", "duration": "6h"}}},
        {"refresh": {"window": {"schedule": "0 22 * * *"}}},
        {"refresh": {"window": {"schedule": "0 22 * * *", "duration": "30s"}}},
        {"refresh": {"window": {"schedule": "0 0 30 2 *", "duration": "6h"}}},
        {"refresh": {"window": "0 22 * * *"}},
        {"refresh": {"window": [{"schedule": "@daily", "duration": "6h"}]}},
        {"refresh": {"timezone": "Europe/Paris"}, "retention": {"keep": 7}},
        {"retention": {"daily": -1}},
        {"retention": {"yearly": 1}},
        {"verify": {"amcheck": "yes"}},
        {"verify": {"checks": [{}]}},
        {"retention": {"keep": 0}},
        {"retention": None},
        {"suspend": "no"},
        {"suspend": 0},
        {"unknown": 1},
    ],
)
def test_an_image_refuses(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Image.model_validate(changed(IMAGE, **fields))


def annotated(document: dict[str, Any], annotations: dict[str, Any]) -> dict[str, Any]:
    return {**document, "metadata": {**document["metadata"], "annotations": annotations}}


@pytest.mark.parametrize("value", ["2026-11-20", "1", "x" * 253, "because Ann asked: DB-17"])
def test_any_line_asks_for_a_refresh(value: str) -> None:
    Image.model_validate(annotated(IMAGE, {"reconciler/refresh": value, "ticket": "DB-17"}))


@pytest.mark.parametrize(
    "annotations",
    [
        {"reconciler/refresh": ""},
        {"reconciler/refresh": "x" * 254},
        {"reconciler/refresh": "two\nlines"},
        {"reconciler/refresh": 1},
        {"reconciler/refersh": "1"},
    ],
)
def test_an_annotation_that_would_never_be_read_is_refused(annotations: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Image.model_validate(annotated(IMAGE, annotations))


def test_only_images_are_asked_for_a_refresh() -> None:
    Clone.model_validate(annotated(CLONE, {"ticket": "DB-17"}))
    with pytest.raises(ValidationError, match="is not an annotation of this kind"):
        Clone.model_validate(annotated(CLONE, {"reconciler/refresh": "1"}))


def test_settings_become_the_text_that_servers_read() -> None:
    spec = Image.model_validate(changed(IMAGE, parameters={"a": 10, "b": 0.5, "c": True, "d": "off"})).spec
    assert spec.parameters == {"a": "10", "b": "0.5", "c": "true", "d": "off"}


def test_a_clone_has_the_defaults_of_the_contract() -> None:
    spec = Clone.model_validate(CLONE).spec
    assert (spec.snapshot, spec.runtime, spec.state, spec.on_refresh) == ("latest", "process", "running", "keep")
    assert (spec.port, spec.ttl, spec.expires, spec.protected) == (None, None, None, False)
    assert [(user.name, user.role) for user in spec.users] == [("app", "owner")]


def test_a_clone_is_read_with_its_values() -> None:
    fields = {"snapshot": {"at": "2026-11-20T12:00:00Z"}, "ttl": "8h", "resources": {"memory": "1Gi", "cpus": 1}}
    spec = Clone.model_validate(changed(CLONE, **fields)).spec
    assert spec.snapshot == SnapshotAt.model_validate({"at": datetime(2026, 11, 20, 12, tzinfo=UTC)})
    assert spec.ttl == timedelta(hours=8)
    assert (spec.resources.memory, spec.resources.cpus, spec.resources.disk) == (2**30, 1.0, None)


def test_a_number_too_long_for_a_schedule_is_said_in_our_words() -> None:
    with pytest.raises(ValidationError, match="this is not a cron schedule"):
        Image.model_validate(changed(IMAGE, refresh={"schedule": f"{'9' * 5000} * * * *"}))


@pytest.mark.parametrize(
    "fields",
    [
        {"ttl": "8h", "expires": "2026-11-20T12:00:00Z"},
        {"ttl": None},
        {"snapshot": "newest"},
        {"snapshot": "shop-20261122T020000Z-1a2b3c4d"},
        {"snapshot": {}},
        {"port": 80},
        {"port": "5601"},
        {"port": True},
        {"users": [{"name": "pg_app"}]},
        {"users": [{"name": "RECONCILER_x"}]},
        {"users": [{"name": "public"}]},
        {"users": [{"name": "a/b"}]},
        {"users": [{"name": "a" * 64}]},
        {"users": [{"name": "app"}, {"name": "app", "role": "readonly"}]},
        {"users": [{"name": "app", "password": "hunter2"}]},
        {"users": [{"name": "app", "password": {"secret": "../../etc/passwd"}}]},
        {"resources": {"cpus": 0}},
        {"resources": {"cpus": float("nan")}},
        {"scripts": [{"inline": "SELECT 1", "phase": "afterMasking"}]},
    ],
)
def test_a_clone_refuses(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Clone.model_validate(changed(CLONE, **fields))


@pytest.mark.parametrize("name", ["", "Shop", "-shop", "shop-", "a" * 64, "shop.dev", "shöp", 5, None])
def test_names_are_dns_labels(name: object) -> None:
    with pytest.raises(ValidationError):
        Clone.model_validate({**CLONE, "metadata": {"name": name}})


@pytest.mark.parametrize("labels", [{"a b": "x"}, {"a": "x y"}, {"a": 1}, {"": "x"}, {"a": "x" * 64}])
def test_labels_have_the_form_of_kubernetes(labels: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Clone.model_validate({**CLONE, "metadata": {"name": "a", "labels": labels}})


def policy(column: Any) -> MaskingPolicy:  # noqa: ANN401 - any YAML value
    return MaskingPolicy.model_validate(
        {
            "apiVersion": "reconciler/v1",
            "kind": "MaskingPolicy",
            "metadata": {"name": "pii"},
            "spec": {
                "key": {"secret": "masking-key"},
                "rules": [{"table": "public.customer", "columns": {"c": column}}],
            },
        }
    )


@pytest.mark.parametrize(
    "column",
    [
        *("keep", "null", "hash", "email", "preserve", "text", "shuffle"),
        {"fixed": 0},
        {"fixed": "x", "keep_null": False},
        {"hash": {"length": 12, "prefix": "c-"}},
        {"email": {"domain": "example.org"}},
        {"fake": "first_name", "locale": "de_DE"},
        {"preserve": "card"},
        {"partial": {"last": 4}},
        {"pattern": "??-####"},
        {"shift": "36h"},
        {"noise": "10%", "by": "account_id"},
        {"bucket": 1000},
        {"bucket": "month"},
        {"shuffle": {"within": "country"}},
        {"text": ["email", "phone"]},
        {"json": {"$.email": "email", "$.more": {"json": {"$.name": {"fake": "full_name"}}}}},
        {"sql": "upper(country)"},
    ],
)
def test_a_policy_accepts(column: Column) -> None:
    [rule] = policy(column).spec.rules
    assert set(rule.columns) == {"c"}


def test_methods_with_options_are_read() -> None:
    assert policy({"fake": "city"}).spec.rules[0].columns["c"] == Fake.model_validate({"fake": "city"})
    shifted = policy({"shift_days": 180, "by": "customer_id"}).spec.rules[0].columns["c"]
    assert shifted == ShiftDays.model_validate({"shift_days": 180, "by": "customer_id"})


@pytest.mark.parametrize(
    "column",
    [
        "emial",
        None,
        {},
        {"fake": "nose"},
        {"fake": "city", "hash": {}},
        {"by": "x"},
        {"shift_days": 0},
        {"bucket": -1},
        5,
    ],
)
def test_a_policy_refuses(column: object) -> None:
    with pytest.raises(ValidationError):
        policy(column)


def test_every_method_names_itself() -> None:
    assert {name: _method({name: None}) for name in METHODS} == {name: f"<{name}>" for name in METHODS}
