"""What digests cover, and that both sides of a comparison use the same."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.ids import SecretName
from reconciler.plan.fingerprints import (
    applied_users,
    changed_settings,
    effective_parameters,
    key_id,
    missing_secrets,
    settings_digest,
)
from reconciler.state.desired import Resources, User
from tests.plan.world import a_clone, a_policy, an_image

PASSWORD = User("app", password=SecretName("shop-app"))


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"parameters": {"work_mem": "8MB"}}, ("parameters",)),
        ({"resources": Resources(memory=1)}, ("resources",)),
        ({"container_image": "local/postgres:15"}, ("resources",)),
        ({"parameters": {"work_mem": "8MB"}, "resources": Resources(cpus=0.5)}, ("parameters", "resources")),
        ({"owner": "x", "port": 5700, "running": False}, ()),
    ],
)
def test_a_settings_digest_covers_parameters_and_resources(changed: dict[str, Any], names: tuple[str, ...]) -> None:
    before = settings_digest(a_clone(), an_image())
    assert changed_settings(before, settings_digest(a_clone(**changed), an_image())) == names


def test_a_settings_digest_depends_on_values_not_on_identity_or_order() -> None:
    one = settings_digest(a_clone(parameters={"a": "1", "b": "2"}), an_image())
    assert settings_digest(a_clone(parameters={"b": "2", "a": "1"}), an_image()) == one


def test_a_clones_own_parameters_win_over_its_images() -> None:
    image = an_image(parameters={"work_mem": "4MB", "jit": "off"})
    assert effective_parameters(a_clone(parameters={"work_mem": "8MB"}), image) == {"work_mem": "8MB", "jit": "off"}


def test_users_are_recorded_by_name_with_fingerprints_only() -> None:
    users = applied_users(a_clone(users=(User("zoe"), PASSWORD)), {SecretName("shop-app"): "f1"})
    assert [(user.name, user.password) for user in users] == [("app", "f1"), ("zoe", "generated")]


def test_missing_secrets_are_named() -> None:
    assert missing_secrets(a_clone(users=(PASSWORD,)), {}) == ("shop-app",)
    assert missing_secrets(a_clone(users=(PASSWORD,)), {SecretName("shop-app"): "f1"}) == ()


def test_the_key_id_follows_every_key() -> None:
    a, b = SecretName("a"), SecretName("b")
    assert key_id(an_image(), {}) is None
    assert key_id(an_image(masking=(a_policy(key=a),)), {a: "1"}) == "1"
    both = an_image(masking=(a_policy(key=a), a_policy("more", b)))
    assert key_id(both, {a: "1"}) is None
    assert key_id(both, {a: "1", b: "2"}) != key_id(both, {a: "1", b: "3"})
