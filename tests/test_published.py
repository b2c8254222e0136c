"""What is published of a host: all that plans need, and no text that others wrote."""

from __future__ import annotations

import json
from datetime import timedelta

from reconciler.host import policy_settings
from reconciler.ids import ImageName, RuntimeName, VolumeId
from reconciler.plan.settings import PlanSettings, PolicySettings
from reconciler.published import HostFacts, host_facts, published_document, read_published
from reconciler.spec.config import Config
from reconciler.state.conditions import Kind, ObjectKey, not_ready, ready
from reconciler.state.observed import Activity, Failure, Input, Observed, Quarantine
from tests.plan.world import (
    NOW,
    POOL,
    a_clone,
    a_generation,
    a_look,
    a_mirror,
    a_pool,
    a_request,
    a_snapshot,
    clone_key,
    following,
    image_key,
    seen,
    served,
)

CANARY = "Ada Lovelace, +44 20 7946 0000"
FACTS = HostFacts(pools=frozenset({POOL}), runtimes={}, missing=frozenset())


def everything() -> Observed:
    """Return an observation with a text of somebody else in every place that can hold one."""
    withheld = Quarantine(NOW, CANARY, CANARY)
    request = a_request("refresh", "shop", requested_by=CANARY, note=CANARY)
    return seen(
        a_snapshot(quarantine=withheld, notes=(CANARY,), source_notes=(CANARY,)),
        a_mirror(following("store"), lost=CANARY),
        *served(a_generation(a_clone())),
        a_pool(message=CANARY),
        request,
        unknown_runtimes={RuntimeName("docker"): CANARY},
        inputs={ImageName("shop"): Input(None, CANARY, notes=(CANARY,))},
        mirrors={ImageName("store"): a_look(problem=CANARY, lost=CANARY, behind=CANARY)},
        failures={
            image_key("shop"): (Failure("X", CANARY, permanent=True, fingerprint="build:1", attempts=1, at=NOW),)
        },
        activity={VolumeId("dev.1"): Activity(1, NOW, (CANARY,))},
    )


def document(observed: Observed, facts: HostFacts = FACTS) -> dict[str, object]:
    conditions = {clone_key("dev"): (not_ready("X", CANARY), ready("Y", CANARY))}
    return published_document(observed, facts, conditions, revision="main@sha1:1")


def test_no_text_of_others_is_in_it_and_what_plans_look_at_is() -> None:
    text = json.dumps(document(everything()))
    assert "Lovelace" not in text
    observed, facts = read_published(text.encode())
    assert facts == FACTS
    assert observed.mirrors[ImageName("store")].lost, "that there is a text counts"
    assert [volume.id for volume in observed.volumes] == [volume.id for volume in everything().volumes]
    assert observed.failures.keys() == {ObjectKey(Kind.IMAGE, "shop")}


def test_the_digest_changes_with_what_there_is_and_not_with_time() -> None:
    before = seen(a_snapshot(), a_pool(total_bytes=1000, free_bytes=905), last_used={VolumeId("dev.1"): NOW})
    later = seen(
        a_snapshot(), a_pool(total_bytes=1000, free_bytes=901), last_used={VolumeId("dev.1"): NOW + timedelta(hours=1)}
    )
    assert document(before)["digest"] == document(later)["digest"]
    for other in (
        seen(a_snapshot(), a_snapshot("store")),
        seen(a_snapshot(), a_pool(total_bytes=1000, free_bytes=500)),
        seen(a_snapshot(), a_pool(available=False)),
    ):
        assert document(other)["digest"] != document(before)["digest"]
    assert document(before, HostFacts(pools=frozenset(), runtimes={}))["digest"] != document(before)["digest"]


def test_the_policy_of_a_configuration_is_the_same_when_it_is_read_back() -> None:
    config = Config.model_validate(
        {
            "suspend": True,
            "windows": [
                {"kind": "allow", "schedule": "0 22 * * *", "duration": "8h", "actions": ["heavy"]},
                {
                    "kind": "deny",
                    "schedule": "0 2 * * 6",
                    "duration": "90m",
                    "timezone": "Europe/Paris",
                    "only": ["Clone/*"],
                },
            ],
            "prune": {"maxDelete": 3, "maxDeletePercent": 20},
            "masking": {"unmasked": "deny"},
            "pools": {"default": {"requireAttestation": "signed"}},
            "runtimes": {"process": {"requireAttestation": "any"}},
            "attestation": {"key": {"secret": "key"}},
        }
    )
    facts = host_facts(config, PlanSettings(), PolicySettings(), missing=frozenset())
    _observed, read = read_published(json.dumps(document(seen(), facts)).encode())
    assert read is not None
    assert policy_settings(Config.model_validate(read.config)) == policy_settings(config)


def test_no_program_file_or_name_of_a_key_of_the_host_is_in_it() -> None:
    config = Config.model_validate(
        {
            "repository": {"url": "https://git.example/s.git", "credentials": {"secret": "git-canary"}},
            "state": "/canary/state",
            "secrets": {"directory": "/canary/secrets"},
            "sources": {"roots": ["/backups"], "repositories": {"r": {"tool": "wal-g", "config": "/canary/w.json"}}},
            "masking": {"maskers": {"m": {"argv": ["/canary/m", "--token=canary"]}}},
            "attestation": {"key": {"secret": "key-canary"}, "publicKeys": ["/canary/a.pub"]},
            "runtimes": {"process": {"advertise": "canary.example"}},
        }
    )
    facts = host_facts(config, PlanSettings(), PolicySettings(), missing=frozenset())
    assert "canary" not in json.dumps(document(seen(), facts))
    assert "/backups" in json.dumps(document(seen(), facts))
